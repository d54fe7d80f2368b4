"""The input of evaluation: every example of a split once, in batches of one size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError

_EXAMPLES_AHEAD = 16


class EvaluationBatch(NamedTuple):
  """Examples of one shape, filled up to the batch size.

  Attributes:
    image_ids: Ids of the real examples, n <= batch size.
    image: RGB, uint8 `[batch, h, w, 3]`; zeros after the real ones.
    labels: uint8 label maps of the real examples, all of one shape.
    valid: bool `[batch]`, True for the real ones, which come first.
  """

  image_ids: list[str]
  image: np.ndarray
  labels: list[np.ndarray]
  valid: np.ndarray


def evaluation_examples(
  examples: Sequence[CachedExample], process_index: int = 0, process_count: int = 1
) -> Iterator[CachedExample]:
  """A process's share of a split, every `process_count`-th example in order, each exactly once.

  Args:
    examples: A `CacheSplit`, or a `DecodedSplit` to do without a cache; threads read ahead.
    process_index: Which share.
    process_count: How many shares.
  """
  share = grain.MapDataset.source(examples)[process_index::process_count]
  options = grain.ReadOptions(os.cpu_count() or 1, prefetch_buffer_size=_EXAMPLES_AHEAD)
  iterator = iter(share.to_iter_dataset(options))
  try:
    yield from iterator
  finally:
    iterator.close()


def padded_batches(examples: Iterable[CachedExample], batch_size: int) -> Iterator[EvaluationBatch]:
  """Groups consecutive examples of equal image and label shape into batches of exactly `batch_size`.

  A group that ends early, because the shape changes or the examples end, is filled with black images.
  """
  if batch_size < 1:
    raise InputError(f'batch_size: {batch_size}; expected at least 1')
  group: list[CachedExample] = []
  for example in examples:
    if group and (len(group) == batch_size or _shapes(example) != _shapes(group[0])):
      yield _padded(group, batch_size)
      group = []
    group.append(example)
  if group:
    yield _padded(group, batch_size)


def _padded(group: list[CachedExample], batch_size: int) -> EvaluationBatch:
  image = np.zeros((batch_size, *group[0].image.shape), np.uint8)
  image[: len(group)] = [example.image for example in group]
  return EvaluationBatch(
    image_ids=[example.image_id for example in group],
    image=image,
    labels=[example.label for example in group],
    valid=np.arange(batch_size) < len(group),
  )


def _shapes(example: CachedExample) -> tuple[tuple[int, ...], tuple[int, ...]]:
  return example.image.shape, example.label.shape
