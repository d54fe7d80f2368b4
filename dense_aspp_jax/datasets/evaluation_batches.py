"""The input of evaluation: every example of a split once, in batches of one size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError


class EvaluationBatch(NamedTuple):
  """Examples of one shape, filled up to the batch size.

  Attributes:
    image_ids: Ids of the real examples, n <= batch size.
    image: RGB, uint8 `[batch, h, w, 3]`; zeros after the real ones.
    labels: uint8 label maps of the real examples, all of one shape.
  """

  image_ids: list[str]
  image: np.ndarray
  labels: list[np.ndarray]


def evaluation_examples(
  examples: Sequence[CachedExample], process_index: int = 0, process_count: int = 1
) -> Iterator[CachedExample]:
  """A process's share of a split: every `process_count`-th example in order, read ahead by threads.

  Args:
    examples: A `CacheSplit`, or a `DecodedSplit` to do without a cache.
    process_index: Which share.
    process_count: How many shares.
  """
  return map_in_threads(examples.__getitem__, range(process_index, len(examples), process_count))


def padded_batches(examples: Iterable[CachedExample], batch_size: int) -> Iterator[EvaluationBatch]:
  """Groups consecutive examples of equal image and label shape into batches of exactly `batch_size`.

  Where the shape changes or the examples end, the batch is filled up with black images.

  Raises:
    InputError: The batch size is below 1.
  """
  if batch_size < 1:
    raise InputError(f'batch_size: {batch_size}; expected at least 1')
  for _, group in itertools.groupby(examples, lambda example: (example.image.shape, example.label.shape)):
    while part := list(itertools.islice(group, batch_size)):
      image_ids, images, labels = map(list, zip(*part, strict=True))
      image = np.zeros((batch_size, *images[0].shape), np.uint8)
      image[: len(part)] = images
      yield EvaluationBatch(image_ids, image, labels)
