"""The one evaluation: every image of a split once, one confusion matrix over all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples, padded_batches
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix
from dense_aspp_jax.evaluation.predictor import BatchPredictor
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import progress_bar


def predict_split(
  predictor: BatchPredictor,
  split: Sequence[CachedExample],
  batch_size: int,
  before_batch: Callable[[], None] | None = None,
) -> Iterator[tuple[CachedExample, np.ndarray]]:
  """Predicts a process's share of a split, in order.

  Args:
    predictor: The network.
    split: Images at the network's input size with native label ids.
    batch_size: Images per call.
    before_batch: Called before each batch; it may raise, to end the loop.

  Yields:
    Each example with its prediction: class indices, uint8, at the size of its label.
  """
  examples = evaluation_examples(split, jax.process_index(), jax.process_count())
  for batch in padded_batches(examples, batch_size):
    if before_batch is not None:
      before_batch()
    count = len(batch.image_ids)  # what follows is padding
    images = batch.image if predictor.takes_padding else batch.image[:count]
    predictions = predictor.predict_resized(images, batch.labels[0].shape)[:count]
    for *example, prediction in zip(batch.image_ids, batch.image, batch.labels, predictions, strict=False):
      yield CachedExample(*example), prediction


def evaluate(
  predictor: BatchPredictor,
  split: Sequence[CachedExample],
  label_set: LabelSet,
  *,
  batch_size: int,
  show_progress: bool = True,
  before_batch: Callable[[], None] | None = None,
) -> ConfusionMatrix:
  """Predicts a split and compares with its labels at their native size.

  Each process predicts its own share; the counts are summed over the processes.

  Args:
    predictor: The network.
    split: Images at the network's input size with native label ids.
    label_set: The split's: its label ids as the classes that the network predicts.
    batch_size: Images per call; the result depends on it only where the predictor says so.
    show_progress: Whether there is a progress bar.
    before_batch: See `predict_split`.

  Raises:
    InputError: Nothing can be scored, which is found before anything is predicted.
  """
  _require_scorable(split, label_set)
  confusion = ConfusionMatrix(label_set)
  share = len(range(jax.process_index(), len(split), jax.process_count()))
  with progress_bar(share, 'evaluating', 'image', hidden=not show_progress) as bar:
    for example, prediction in predict_split(predictor, split, batch_size, before_batch):
      confusion.add(example.label, label_set.decode(prediction), example.image_id)
      bar.update()
  if jax.process_count() > 1:
    confusion.counts[...] = sum_over_processes(confusion.counts)
  return confusion


def _require_scorable(split: Sequence[CachedExample], label_set: LabelSet) -> None:
  """Reads examples up to the first with a pixel of a scored class; raises InputError if there is none."""
  confusion = ConfusionMatrix(label_set)
  for example in map(split.__getitem__, range(len(split))):  # not read ahead: mostly the first suffices
    confusion.add(example.label, label_set.decode(np.zeros_like(example.label)), example.image_id)
    with contextlib.suppress(InputError):
      confusion.scores()
      return
  confusion.scores()


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Sums int64 counts over all processes, exactly.

  As halves of 32 bits: JAX would cut int64 down to int32.
  """
  halves = np.ascontiguousarray(counts, np.int64).view(np.uint32)
  gathered: Sequence[np.ndarray] = np.asarray(multihost_utils.process_allgather(halves))
  return np.sum([np.ascontiguousarray(h).view(np.int64) for h in gathered], axis=0)
