"""Checks of a dataset's files before and while it is stored: pairs, counts, sizes, every byte.

Every failure is one `InputError` that names the files. What a user may permit (`allow_partial`,
`skip_bad`) becomes a warning on stderr.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dense_aspp_jax.datasets import images
from dense_aspp_jax.datasets.bad_pairs import BadPairs, map_good
from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.pair_check import check_pair, check_published_headers
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import LabelSet

_NAMES_SHOWN = 5


class Listing(NamedTuple):
  """The files of a split; none of the pairs is read yet.

  Attributes:
    where: The split's place, for messages.
    pairs: Image with label, sorted by image id.
    problems: What does not fit together, such as an image without label; a message each.
    ignored: Paths of files that do not belong to the dataset.
  """

  where: str
  pairs: list[Pair]
  problems: list[str]
  ignored: list[str]

  def require(self) -> list[Pair]:
    """The pairs. Raises InputError, which lists the first problems, if there is any."""
    if self.problems:
      shown = ''.join(f'\n  {problem}' for problem in self.problems[:_NAMES_SHOWN])
      more = len(self.problems) - _NAMES_SHOWN
      rest = f'\n  and {more} more; `dense-aspp check-data` lists them all' if more > 0 else ''
      raise InputError(f'{self.where}: {len(self.problems)} problems:{shown}{rest}')
    return self.pairs


def pair_files(
  image_files: Mapping[str, StoredFile], label_files: Mapping[str, StoredFile]
) -> tuple[list[Pair], list[str]]:
  """Pairs images with labels by image id, sorted by it.

  Args:
    image_files: Image id -> file.
    label_files: Image id -> file.

  Returns:
    The pairs, and a message for each file without its other half.
  """
  problems = [
    f'{file.where}: image without label; expected a label named {image_id}. Add it, or remove the image'
    for image_id, file in sorted(image_files.items())
    if image_id not in label_files
  ] + [
    f'{file.where}: label without image; expected an image named {image_id}. Add it, or remove the label'
    for image_id, file in sorted(label_files.items())
    if image_id not in image_files
  ]
  both = sorted(image_files.keys() & label_files.keys())
  return [Pair(i, image_files[i], label_files[i]) for i in both], problems


def check_counts(
  splits: Mapping[str, Sequence[Pair]], expected: Mapping[str, int], where: str, allow_partial: bool
) -> None:
  """Compares the number of pairs per split with the published one.

  Args:
    splits: Split -> pairs.
    expected: Split -> published number, for the splits that must be there.
    where: The dataset's place, for the message.
    allow_partial: Whether other numbers are permitted, with a warning.

  Raises:
    InputError: Nothing at all, or other numbers than `expected` that are not permitted.
  """
  found = {split: len(splits.get(split, ())) for split in expected}
  if not any(found.values()):
    raise InputError(f'{where}: no images found; check that this is the right folder')
  if found != dict(expected):
    numbers = ', '.join(f'{split} {found[split]} (published: {expected[split]})' for split in expected)
    _permit(allow_partial, f'{where}: number of images: {numbers}')


def check_headers(
  splits: Mapping[str, Sequence[Pair]],
  size: tuple[int, int],
  where: str,
  allow_partial: bool,
  bad: Mapping[str, BadPairs],
) -> dict[str, list[Pair]]:
  """Compares every image's header with its label's and with the published format and size.

  Only headers are read, so this is quick, and comes before the long work.

  Args:
    splits: Split -> pairs.
    size: Published (height, width).
    where: The dataset's place, for the message.
    allow_partial: Whether other sizes are permitted, with a warning, where image and label agree.
    bad: Split -> what takes its bad pairs.

  Returns:
    The pairs that are right so far.

  Raises:
    InputError: An image is no 8-bit RGB PNG, a label no 8-bit grey PNG, a label has another size than
      its image, and they are too many; or a size other than `size` that is not permitted.
  """
  good: dict[str, list[Pair]] = {}
  others: Counter[tuple[int, int]] = Counter()
  first = None
  for split, pairs in splits.items():
    good[split] = []
    for pair in pairs:
      try:
        image = images.read_png_header(pair.image.read(images.PNG_HEADER_BYTES), pair.image.where)
        label = images.read_png_header(pair.label.read(images.PNG_HEADER_BYTES), pair.label.where)
        check_published_headers(image, label, pair)
      except InputError as error:
        bad[split].add(error)
        continue
      good[split].append(pair)
      if image[:2] != tuple(size):
        others[image[:2]] += 1
        first = first or pair.image.where
  if others:
    sizes = ', '.join(f'{n} of {w}x{h}' for (h, w), n in sorted(others.items()))
    _permit(
      allow_partial,
      f'{where}: {others.total()} images not of {size[1]}x{size[0]} pixels, as published, but {sizes}; '
      f'the first is {first}',
    )
  return good


def read_pairs(pairs: Sequence[Pair], label_set: LabelSet, bad: BadPairs) -> Iterator[Example]:
  """Reads published pairs whole, checks every byte, and leaves out what is bad.

  Raises:
    InputError: More bad pairs than `bad` takes, or nothing is left.
  """
  total = len(pairs) + len(bad.messages)
  number = 0
  for example in map_good(lambda pair: read_pair(pair, label_set), pairs, bad):
    yield example
    number += 1
  if not number:
    raise InputError(f'{bad.name}: none of {total} pairs can be used; correct them')
  bad.say(total)


def read_pair(pair: Pair, label_set: LabelSet) -> Example:
  """Reads a published pair whole and checks it. Raises InputError; see `check_pair`."""
  return check_pair(pair, label_set, published=True).example


def name_some(names: Sequence[str]) -> str:
  """The first few names, for messages."""
  return ', '.join(names[:_NAMES_SHOWN]) + (', ...' if len(names) > _NAMES_SHOWN else '')


def _permit(allowed: bool, finding: str) -> None:
  if not allowed:
    raise InputError(f'{finding}. Complete the dataset, or use --allow-partial to accept it as it is')
  print(f'warning: {finding}', file=sys.stderr)
