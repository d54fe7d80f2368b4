"""The one evaluation: every image of a split once, one confusion matrix over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples, padded_batches
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix
from dense_aspp_jax.evaluation.pictures import comparison, gallery
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import progress_bar


class BatchPredictor(Protocol):
  """What predicts the batches of an evaluation.

  Attributes:
    takes_padding: Whether a batch may be filled up with black images, so that all have one size.
  """

  takes_padding: bool

  def predict_batch(self, images: np.ndarray, output_size: tuple[int, int]) -> np.ndarray:
    """Maps RGB images at the network's input size, uint8 `[b, h, w, 3]`, to class indices `[b, oh, ow]`."""
    ...


def evaluate(
  predictor: BatchPredictor,
  split: Sequence[CachedExample],
  label_set: LabelSet,
  *,
  batch_size: int,
  num_pictures: int = 0,
  show_progress: bool = True,
  before_batch: Callable[[], None] | None = None,
) -> tuple[ConfusionMatrix, np.ndarray | None]:
  """Predicts a split and compares with its labels at their native size.

  Each process predicts its own share; the counts are summed over the processes.

  Args:
    predictor: The network.
    split: Images at the network's input size with native label ids.
    label_set: What the network's class indices mean.
    batch_size: Images per call; the result depends on it only where the predictor says so.
    num_pictures: How many of this process's first images to draw.
    show_progress: Whether there is a progress bar.
    before_batch: Called in front of each batch; it may raise, to end the evaluation.

  Returns:
    The confusion matrix, and a picture of image, ground truth and prediction side by side (uint8
    `[h, w, 3]`; None if none was asked for).
  """
  confusion = ConfusionMatrix(label_set)
  rows = []
  examples = evaluation_examples(split, jax.process_index(), jax.process_count())
  share = len(range(jax.process_index(), len(split), jax.process_count()))
  with progress_bar(share, 'evaluating', 'image', hidden=not show_progress) as bar:
    for batch in padded_batches(examples, batch_size):
      if before_batch is not None:
        before_batch()
      real = slice(len(batch.image_ids))  # what follows is padding
      images = batch.image if predictor.takes_padding else batch.image[real]
      predictions = predictor.predict_batch(images, batch.labels[0].shape)
      for image, image_id, label_ids, prediction in zip(
        batch.image[real], batch.image_ids, batch.labels, predictions[real], strict=True
      ):
        confusion.add(label_ids, label_set.decode(prediction), image_id)
        if len(rows) < num_pictures:
          rows.append(_row(image, label_ids, prediction, label_set, image_id))
      bar.update(len(batch.image_ids))
  if jax.process_count() > 1:
    confusion.counts[...] = sum_over_processes(confusion.counts)
  return confusion, gallery(rows, label_set) if rows else None


def _row(
  image: np.ndarray, label_ids: np.ndarray, prediction: np.ndarray, label_set: LabelSet, image_id: str
) -> np.ndarray:
  return comparison(image, label_set.encode(label_ids, image_id), prediction, label_set)


def sum_over_processes(counts: np.ndarray) -> np.ndarray:
  """Sums int64 counts over all processes, exactly.

  As halves of 32 bits: JAX would cut int64 down to int32.
  """
  halves = np.ascontiguousarray(counts, np.int64).view(np.uint32)
  gathered: Sequence[np.ndarray] = np.asarray(multihost_utils.process_allgather(halves))
  return np.sum([np.ascontiguousarray(h).view(np.int64) for h in gathered], axis=0)
