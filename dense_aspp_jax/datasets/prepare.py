"""Prepares a published data set: checks its files and stores it where tfds keeps it.

Every failure is one `InputError` that names the files. What a user may permit (`allow_partial`, `skip_bad`)
becomes a warning on stderr.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from dense_aspp_jax.datasets.camvid import CAMVID
from dense_aspp_jax.datasets.cityscapes import CITYSCAPES
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, Example, Pair
from dense_aspp_jax.datasets.pairs import BadPairs, check_pair, check_published_headers, map_good
from dense_aspp_jax.datasets.street_scenes.builder import STREET_SCENES
from dense_aspp_jax.datasets.tfds_store import PublishedDataset
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import remove_abandoned
from dense_aspp_jax.labels import LabelSet

# Name, as in `config.data.dataset` -> data set; others are 'folder:PATH'.
DATASETS = {dataset.name: dataset for dataset in (CITYSCAPES, CAMVID, STREET_SCENES)}
_DOWNLOAD_PREFIX = 'camvid_download_'


def find_dataset(name: str) -> PublishedDataset:
  """The data set of that name. Raises InputError if there is none."""
  if name not in DATASETS:
    raise InputError(
      f'unknown dataset {name!r}; expected one of {", ".join(DATASETS)}, '
      f"or '{FOLDER_PREFIX}PATH' for a labelled folder"
    )
  return DATASETS[name]


def prepare(
  name: str,
  source: str | os.PathLike[str] | None = None,
  data_dir: str | None = None,
  allow_partial: bool = False,
  download: bool = False,
  skip_bad: int = 0,
) -> bool:
  """Prepares a dataset, unless that is done already.

  It appears whole or not at all: tfds writes to a temporary folder that is renamed at the end. Such folders
  that a killed process left behind are removed.

  Args:
    name: A name in `DATASETS`.
    source: Folder with the files of Cityscapes or CamVid. None for Cityscapes: downloads/manual in
      the data directory, as in tfds.
    data_dir: Where tfds keeps datasets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
    allow_partial: Accept other counts and sizes than the published ones, with a warning on stderr.
    download: Download CamVid instead of reading it from `source`.
    skip_bad: How many pairs of the training split may be left out because they cannot be used, with a
      warning on stderr that names them. Scores are taken on the other splits, so these stay whole.

  Returns:
    Whether there was something to do: False if the dataset was prepared before.

  Raises:
    InputError: Unknown dataset, or the files are missing, damaged or not as published (see `check_pair`).
    RunError: The download failed, or the result cannot be written.
  """
  dataset = find_dataset(name)
  builder = dataset.make_builder(data_dir)
  root = pathlib.Path(builder.data_dir_root)
  remove_abandoned(pathlib.Path(builder.data_dir).parent, f'{tfds.core.constants.INCOMPLETE_PREFIX}*')
  remove_abandoned(root, f'{_DOWNLOAD_PREFIX}*')
  if dataset.prepared_builder(data_dir) is not None:
    return False
  if download and not dataset.download:
    raise InputError(f'dataset {name!r} cannot be downloaded here; --download is for camvid')
  if source is not None and dataset.generate:
    raise InputError(f'dataset {name} is generated and has no source; leave out --source')
  try:
    with contextlib.ExitStack() as stack:
      if dataset.generate:
        counts = dataset.counts
        splits = {split: dataset.generate(split, count) for split, count in counts.items()}
      else:
        path = _find_files(dataset, source, download, root, stack)
        pairs, bad = _open_pairs(dataset, path, allow_partial, skip_bad, stack)
        counts = {split: len(p) for split, p in pairs.items()}
        splits = {split: read_pairs(p, dataset.label_set, bad[split]) for split, p in pairs.items()}
      dataset.store(splits, counts, str(root))
  except OSError as error:
    if dataset.prepared_builder(data_dir) is not None:
      return False  # another process was quicker
    raise RunError(
      f'{root}: {name} cannot be written ({error}); check the space and the permissions'
    ) from error
  return True


def _find_files(
  dataset: PublishedDataset,
  source: str | os.PathLike[str] | None,
  download: bool,
  root: pathlib.Path,
  stack: contextlib.ExitStack,
) -> pathlib.Path:
  if source is None and not dataset.download:
    return root / 'downloads' / 'manual'  # where tfds expects them
  if (source is None) != download:
    raise InputError(
      f'dataset {dataset.name}: expected either --source FOLDER ({dataset.files}) or --download'
    )
  if source is not None:
    return pathlib.Path(source).expanduser()
  root.mkdir(parents=True, exist_ok=True)
  # On the disk that has room for datasets, and gone afterwards.
  folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=_DOWNLOAD_PREFIX, dir=root))
  return dataset.download(pathlib.Path(folder))


def _open_pairs(
  dataset: PublishedDataset,
  path: pathlib.Path,
  allow_partial: bool,
  skip_bad: int,
  stack: contextlib.ExitStack,
) -> tuple[dict[str, list[Pair]], dict[str, BadPairs]]:
  """By split: the pairs whose headers are right, and what takes the others and those found out later."""
  listings = stack.enter_context(dataset.open_listings(path))
  pairs = {split: listing.require() for split, listing in listings.items()}
  expected = {s: n for s, n in dataset.counts.items() if s in pairs or s not in dataset.optional_splits}
  check_counts(pairs, expected, str(path), allow_partial)
  bad = {split: BadPairs(f'{dataset.name}/{split}', skip_bad if split == 'train' else 0) for split in pairs}
  return check_headers(pairs, dataset.image_size, str(path), allow_partial, bad), bad


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
  good: dict[str, list[Pair]] = {split: [] for split in splits}
  others: Counter[tuple[int, int]] = Counter()
  first = None
  for split, pair in ((split, pair) for split, pairs in splits.items() for pair in pairs):
    try:
      found = check_published_headers(pair)
    except InputError as error:
      bad[split].add(error)
      continue
    good[split].append(pair)
    if found != tuple(size):
      others[found] += 1
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
  yield from map_good(lambda pair: check_pair(pair, label_set, published=True).example, pairs, bad)
  if len(bad.messages) == total:
    raise InputError(f'{bad.name}: none of {total} pairs can be used; correct them')
  bad.say(total)


def _permit(allowed: bool, finding: str) -> None:
  if not allowed:
    raise InputError(f'{finding}. Complete the dataset, or use --allow-partial to accept it as it is')
  print(f'warning: {finding}', file=sys.stderr)
