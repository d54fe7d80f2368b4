"""Opens a split of a data set by name: a stored one, or one made of stored ones."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, HELD_OUT, Pair, Split
from dense_aspp_jax.datasets.folder import open_folder
from dense_aspp_jax.datasets.prepare import find_dataset
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.progress import progress

_NAMES_SHOWN = 5
_PREFIXES_SHOWN = 40  # characters; caches are kept in folders of the split's name


def open_split(dataset: str, split: str, data_dir: str | None = None, held_out: Sequence[str] = ()) -> Split:
  """Opens a split; nothing is decoded yet.

  Images can be held out of training by the beginnings of their ids (a drive of CamVid, a city of Cityscapes),
  to choose settings on them; neither 'train' nor 'train+validation' then has them.

  Args:
    dataset: A name in `prepare.DATASETS`, or 'folder:PATH' (layout: docs/own_data.md).
    split: 'train', 'validation' or 'test'; 'train_extra' of cityscapes_coarse; 'held_out', the images held
      out; 'train+validation', or 'train+' another split.
    data_dir: Where tfds keeps prepared data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      A folder does not use it.
    held_out: Beginnings of the image ids held out; (): none are, and 'train' is as it is stored.

  Raises:
    InputError: Unknown data set or split, not prepared, prepared in a format without random access, a
      split without examples, or prefixes that do not fit.
  """

  def stored(name: str) -> Split:
    if dataset.startswith(FOLDER_PREFIX):
      return open_folder(pathlib.Path(dataset.removeprefix(FOLDER_PREFIX)), name)
    return find_dataset(dataset).open_split(name, data_dir)

  if split == HELD_OUT and not held_out:
    raise InputError(
      f'split {HELD_OUT!r}: no images are held out of training; set config.data.held_out to the beginnings '
      "of their image ids, such as ('0006R0',)"
    )
  other = split.removeprefix('train+')
  if split not in ('train', HELD_OUT, f'train+{other}'):
    return stored(split)
  train = stored('train')
  if held_out:
    train = _select(train, held_out, keep=split == HELD_OUT)
  return _concatenate(train, stored(other), other) if other != split else train


@dataclasses.dataclass(frozen=True)
class _Picked(Sequence[Pair]):
  """Pairs of other splits; `places` has the split and the index of each."""

  places: list[tuple[Split, int]]
  image_ids: list[str]

  def __len__(self) -> int:
    return len(self.places)

  def __getitem__(self, index: int) -> Pair:
    split, index = self.places[index]
    return split[index]


def _select(split: Split, prefixes: Sequence[str], keep: bool) -> Split:
  """The pairs whose image id begins with one of `prefixes`, or, without `keep`, all others; in order."""
  image_ids = _read_image_ids(split)
  if unknown := [prefix for prefix in prefixes if not any(i.startswith(prefix) for i in image_ids)]:
    raise InputError(
      f'{split.name}: no image id begins with {_quoted(unknown)}; the ids go from {min(image_ids)!r} to '
      f'{max(image_ids)!r}. Correct config.data.held_out'
    )
  indices = [i for i, image_id in enumerate(image_ids) if image_id.startswith(tuple(prefixes)) == keep]
  if len(indices) in (0, len(split)):
    raise InputError(
      f'{split.name}: all {len(split)} image ids begin with {_quoted(prefixes)}, which leaves none to '
      'train on. Correct config.data.held_out'
    )
  picked = _Picked([(split, i) for i in indices], [image_ids[i] for i in indices])
  shown = ','.join(prefixes)
  if len(shown) > _PREFIXES_SHOWN:
    shown = f'{len(prefixes)} prefixes {_digest(*prefixes)[:8]}'
  name = f'{split.name} {"only" if keep else "without"} {shown}'
  return _derived(name, picked, [split], picked.image_ids)


def _concatenate(train: Split, other: Split, name: str) -> Split:
  """The pairs of both splits, one after the other. Raises InputError for an image id that both have."""
  first, second = _read_image_ids(train), _read_image_ids(other)
  if both := sorted(set(first) & set(second)):
    raise InputError(
      f'{train.name} and {other.name}: {len(both)} image ids are in both, such as '
      f'{_quoted(both[:_NAMES_SHOWN])}; rename or remove these images in one of the splits'
    )
  places = [(split, index) for split in (train, other) for index in range(len(split))]
  return _derived(f'{train.name}+{name}', _Picked(places, first + second), [train, other])


def _derived(name: str, picked: _Picked, splits: Sequence[Split], image_ids: Sequence[str] = ()) -> Split:
  """A split of pairs of others; `image_ids` are those that were picked, if not all."""
  fingerprint = _digest(*(split.fingerprint for split in splits), *image_ids)
  former = [split.former_fingerprint for split in splits]
  return Split(name, fingerprint, picked, _digest(*former, *image_ids) if all(former) else '')


def _read_image_ids(split: Split) -> list[str]:
  """The image id of every pair; of a prepared data set, this reads all records, with a progress bar."""
  if isinstance(split.pairs, _Picked):
    return split.pairs.image_ids
  image_ids = map_in_threads(lambda index: split[index].image_id, range(len(split)))
  return list(progress(image_ids, f'image ids of {split.name}', len(split), 'image'))


def _digest(*texts: str) -> str:
  return hashlib.sha256('\n'.join(texts).encode(errors='surrogateescape')).hexdigest()


def _quoted(texts: Sequence[str]) -> str:
  return ', '.join(map(repr, texts))
