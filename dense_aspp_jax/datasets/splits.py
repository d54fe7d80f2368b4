"""Splits made of stored ones: selected by the beginnings of image ids, and concatenated."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence

from dense_aspp_jax.datasets.examples import Example, Pair, SplitSource
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.progress import progress

_NAMES_SHOWN = 5
_PREFIXES_SHOWN = 40  # characters; caches are kept in folders of the split's name


class SelectedSplit:
  """The examples of a split whose image id begins with a prefix, or all others, in the split's order.

  Attributes:
    name: Such as 'camvid/train without 0006R0' and 'camvid/train only 0006R0'.
    fingerprint: Digest of the split's fingerprint and of `image_ids`.
    image_ids: That of each example.
  """

  def __init__(self, source: SplitSource, prefixes: Sequence[str], keep: bool):
    """Reads all image ids, of a tfds data set with their records, under a progress bar.

    Args:
      source: The split to select from.
      prefixes: Beginnings of image ids, at least one.
      keep: Whether those are kept; otherwise they are left out.

    Raises:
      InputError: A prefix that no image id has, or every image has one of them.
    """
    image_ids = read_image_ids(source)
    unknown = [prefix for prefix in prefixes if not any(i.startswith(prefix) for i in image_ids)]
    if unknown:
      raise InputError(
        f'{source.name}: no image id begins with {_quoted(unknown)}; the ids go from {min(image_ids)!r} to '
        f'{max(image_ids)!r}. Correct config.data.held_out'
      )
    is_selected = [image_id.startswith(tuple(prefixes)) == keep for image_id in image_ids]
    if all(is_selected) or not any(is_selected):
      raise InputError(
        f'{source.name}: all {len(image_ids)} image ids begin with {_quoted(prefixes)}, which leaves none to '
        'train on. Correct config.data.held_out'
      )
    self._source = source
    self._indices = [index for index, selected in enumerate(is_selected) if selected]
    self.image_ids = [image_ids[index] for index in self._indices]
    self.name = f'{source.name} {"only" if keep else "without"} {_short(prefixes)}'
    self.fingerprint = _digest(source.fingerprint, *self.image_ids)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Example:
    return self._source[self._index(index)]

  def pair(self, index: int) -> Pair:
    """The example at `index`, not read yet."""
    return self._source.pair(self._index(index))

  def _index(self, index: int) -> int:
    _check_index(self, index)
    return self._indices[index]


class ConcatenatedSplit:
  """The examples of one split, then those of another.

  Attributes:
    name: Such as 'camvid/train+validation'.
    fingerprint: Digest of both fingerprints.
  """

  def __init__(self, first: SplitSource, second: SplitSource, name: str):
    """Reads all image ids, as `SelectedSplit` does.

    Args:
      first: One split.
      second: The other.
      name: Of both together.

    Raises:
      InputError: An image id that both have.
    """
    both = sorted(set(read_image_ids(first)) & set(read_image_ids(second)))
    if both:
      raise InputError(
        f'{first.name} and {second.name}: {len(both)} image ids are in both, such as '
        f'{_quoted(both[:_NAMES_SHOWN])}; rename or remove these images in one of the splits'
      )
    self._first = first
    self._second = second
    self.name = name
    self.fingerprint = _digest(first.fingerprint, second.fingerprint)

  def __len__(self) -> int:
    return len(self._first) + len(self._second)

  def __getitem__(self, index: int) -> Example:
    source, index = self._place(index)
    return source[index]

  def pair(self, index: int) -> Pair:
    """The example at `index`, not read yet."""
    source, index = self._place(index)
    return source.pair(index)

  def _place(self, index: int) -> tuple[SplitSource, int]:
    _check_index(self, index)
    behind = index - len(self._first)
    return (self._first, index) if behind < 0 else (self._second, behind)


def read_image_ids(source: SplitSource) -> list[str]:
  """The image id of every example, in order; nothing is decoded."""
  if isinstance(source, SelectedSplit):
    return source.image_ids
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
    image_ids = executor.map(lambda index: source.pair(index).image_id, range(len(source)))
    return list(progress(image_ids, f'image ids of {source.name}', len(source), 'image'))


def _check_index(split: SplitSource, index: int) -> None:
  if not 0 <= index < len(split):
    raise IndexError(f'{split.name}: index {index}; expected 0 <= index < {len(split)}')


def _short(prefixes: Sequence[str]) -> str:
  """The prefixes; where they are long, how many there are and a digest."""
  text = ','.join(prefixes)
  return text if len(text) <= _PREFIXES_SHOWN else f'{len(prefixes)} prefixes {_digest(*prefixes)[:8]}'


def _digest(*texts: str) -> str:
  return hashlib.sha256('\n'.join(texts).encode()).hexdigest()


def _quoted(texts: Sequence[str]) -> str:
  return ', '.join(map(repr, texts))
