"""The training splits of several data sets as one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample


@dataclasses.dataclass(frozen=True, eq=False)
class JoinedSplit(Sequence[CachedExample]):
  """The examples of several splits, one split after the other. Worker processes read a pickled copy.

  Attributes:
    parts: The splits (`CacheSplit` or `DecodedSplit`), of one image size.
    shares: How many images of each are in a batch.
  """

  parts: tuple[Sequence[CachedExample], ...]
  shares: tuple[int, ...]

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> CachedExample:
    if not 0 <= index < len(self):
      raise IndexError(f'{self.name}: example {index} of {len(self)}')
    number = int(np.searchsorted(self._ends, index, side='right'))
    return self.parts[number][index - self.starts[number]]

  @property
  def name(self) -> str:
    """The names of the parts, for messages."""
    return ' + '.join(part.name for part in self.parts)

  @property
  def starts(self) -> tuple[int, ...]:
    """The index of the first example of each part."""
    return (0, *self._ends[:-1])

  @property
  def class_pixels(self) -> np.ndarray:
    """Pixels of all labels by class index, int64 `[256]`; those at `IGNORE_LABEL` are ignored."""
    return np.sum([part.class_pixels for part in self.parts], axis=0)

  @property
  def image_weights(self) -> np.ndarray:
    """How often a batch has each example on average, float64 `[len(self)]`: share / length of its part."""
    lengths = [len(part) for part in self.parts]
    return np.repeat([share / n for share, n in zip(self.shares, lengths, strict=True)], lengths)

  @functools.cached_property
  def _ends(self) -> tuple[int, ...]:
    return tuple(np.cumsum([len(part) for part in self.parts]).tolist())


def parts_of(split: Sequence[CachedExample]) -> tuple[Sequence[CachedExample], ...]:
  """The split of each data set that a training split is made of."""
  return split.parts if isinstance(split, JoinedSplit) else (split,)
