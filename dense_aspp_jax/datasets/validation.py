"""Checks of a dataset before it is stored: pairs, counts, sizes, damage, label ids.

Every failure is one `InputError` that names the files. What a user may permit (`allow_partial`)
becomes a warning on stderr.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dense_aspp_jax.datasets import images
from dense_aspp_jax.datasets.source import Example
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import LabelSet

_NAMES_SHOWN = 5


class Pair(NamedTuple):
  """An image and its label map, not read yet."""

  image_id: str
  image: StoredFile
  label: StoredFile


def pair_files(
  image_files: Mapping[str, StoredFile], label_files: Mapping[str, StoredFile], where: str
) -> list[Pair]:
  """Pairs images with labels by image id, sorted by it.

  Args:
    image_files: Image id -> file.
    label_files: Image id -> file.
    where: The split's place, for the message.

  Raises:
    InputError: Images without label or labels without image: how many, and the first of them.
  """
  problems = []
  for what, files, others in (
    ('images without label', image_files, label_files),
    ('labels without image', label_files, image_files),
  ):
    alone = [f.where for image_id, f in sorted(files.items()) if image_id not in others]
    if alone:
      problems.append(f'{len(alone)} {what}: {name_some(alone)}')
  if problems:
    raise InputError(f'{where}: {"; ".join(problems)}. Add what is missing, or remove the other half')
  return [Pair(i, image_files[i], label_files[i]) for i in sorted(image_files)]


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


def check_sizes(pairs: Sequence[Pair], size: tuple[int, int], where: str, allow_partial: bool) -> None:
  """Compares every image's header with its label's and with the published size.

  Only headers are read, so this is quick, and comes before the long work.

  Args:
    pairs: All pairs.
    size: Published (height, width).
    where: The dataset's place, for the message.
    allow_partial: Whether other sizes are permitted, with a warning, where image and label agree.

  Raises:
    InputError: An image is no 8-bit RGB PNG, a label no 8-bit grey PNG, a label has another size than
      its image, or a size other than `size` that is not permitted.
  """
  others: Counter[tuple[int, int]] = Counter()
  first = None
  for pair in pairs:
    image = images.read_png_header(pair.image.read(images.PNG_HEADER_BYTES), pair.image.where)
    label = images.read_png_header(pair.label.read(images.PNG_HEADER_BYTES), pair.label.where)
    if (image.bit_depth, image.color_type) != (8, 2):
      raise InputError(f'{pair.image.where}: {image.description} PNG; expected 8-bit RGB, as published')
    if (label.bit_depth, label.color_type) != (8, 0):
      raise InputError(
        f'{pair.label.where}: {label.description} PNG; expected label ids as 8-bit grey, as published'
      )
    if label[:2] != image[:2]:
      raise InputError(
        f'{pair.label.where}: label of {label.width}x{label.height} pixels for an image of '
        f'{image.width}x{image.height} ({pair.image.where}); expected equal sizes'
      )
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


def read_pair(pair: Pair, label_set: LabelSet) -> Example:
  """Reads a pair whole and checks every byte.

  Args:
    pair: Image and label, both PNG.
    label_set: The label ids that may occur.

  Raises:
    InputError: Truncated or damaged, or label ids unknown to `label_set`.
  """
  image, label = pair.image.read(), pair.label.read()
  images.check_png(image, pair.image.where)
  label_set.encode(images.decode_label(label, pair.label.where), pair.label.where)
  return Example(pair.image_id, image, label)


def name_some(names: Sequence[str]) -> str:
  """The first few names, for messages."""
  return ', '.join(names[:_NAMES_SHOWN]) + (', ...' if len(names) > _NAMES_SHOWN else '')


def _permit(allowed: bool, finding: str) -> None:
  if not allowed:
    raise InputError(f'{finding}. Complete the dataset, or use --allow-partial to accept it as it is')
  print(f'warning: {finding}', file=sys.stderr)
