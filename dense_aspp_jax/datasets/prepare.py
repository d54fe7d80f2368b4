"""Prepares a published data set: checks its files and stores it where tfds keeps it.

What is wrong with the files is one `InputError` that names them. What a user may permit (`allow_partial`,
`skip_bad`) becomes a warning on stderr.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from dense_aspp_jax.datasets.camvid import CAMVID
from dense_aspp_jax.datasets.camvid_full import CAMVID_FULL
from dense_aspp_jax.datasets.cityscapes import CITYSCAPES, CITYSCAPES_COARSE
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, Example, Pair
from dense_aspp_jax.datasets.listing import Listing
from dense_aspp_jax.datasets.pairs import BadPairs, check_pair, check_published_headers, map_good
from dense_aspp_jax.datasets.street_scenes.builder import STREET_SCENES, STREET_SCENES_LARGE
from dense_aspp_jax.datasets.tfds_store import PublishedDataset
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import remove_abandoned, shown
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.progress import say

# Name, as in `config.data.dataset` -> data set; others are 'folder:PATH'.
_DATASETS = (CITYSCAPES, CITYSCAPES_COARSE, CAMVID, CAMVID_FULL, STREET_SCENES, STREET_SCENES_LARGE)
DATASETS = {dataset.name: dataset for dataset in _DATASETS}
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
  """Prepares a data set, unless that is done already.

  It appears whole or not at all: tfds writes to a temporary folder that is renamed at the end. Such folders
  are removed where a killed process left them behind.

  Args:
    name: A name in `DATASETS`.
    source: Folder with the files of Cityscapes or CamVid. None for Cityscapes: downloads/manual in
      the data directory, as in tfds.
    data_dir: Where tfds keeps data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
    allow_partial: Whether to accept other counts and sizes than the published ones, with a warning on stderr.
    download: Whether to download CamVid instead of reading it from `source`.
    skip_bad: How many pairs of the training split may be left out because they cannot be used, with a
      warning on stderr that names them. Scores are taken on the other splits, so these stay whole.

  Returns:
    False if the data set was prepared before.

  Raises:
    InputError: Unknown data set, or the files are missing, damaged or not as published (see `check_pair`).
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

  def store(splits: Mapping[str, Iterable[Example]], counts: Mapping[str, int]) -> bool:
    try:
      dataset.store(splits, counts, str(root))
    except RunError:
      raise
    except (OSError, RuntimeError) as error:  # the latter from ArrayRecord
      if dataset.prepared_builder(data_dir) is not None:
        return False  # another process was quicker
      raise RunError(
        f'{shown(root)}: {name} cannot be written ({error}); check the space and the permissions'
      ) from error
    return True

  if dataset.generate:
    return store({s: dataset.generate(s, count) for s, count in dataset.counts.items()}, dataset.counts)
  with _find_files(dataset, source, download, root) as path:
    files = dataset.list_files(path)
    for line in files.describe():
      say(f'{shown(path)}: {line}')
    checked = check_listings(dataset, files.splits, shown(path), allow_partial, skip_bad)
    splits = {split: read_pairs(pairs, dataset.label_set, bad) for split, (pairs, bad) in checked.items()}
    return store(splits, {split: len(pairs) for split, (pairs, _) in checked.items()})


def check_listings(
  dataset: PublishedDataset,
  listings: Mapping[str, Listing],
  where: str,
  allow_partial: bool = False,
  skip_bad: int = 0,
) -> dict[str, tuple[list[Pair], BadPairs]]:
  """Compares listed files with the published data set by their numbers and headers, before the long work.

  What is permitted is as in `prepare`; `where` is the place of the files, for messages.

  Returns:
    By split: the pairs that are good so far, and the collector of the bad ones.

  Raises:
    InputError: No files at all, files that do not fit together, other numbers or sizes of images than the
      published ones, or too many bad pairs (`check_published_headers`).
  """

  def permit(finding: str) -> None:
    if not allow_partial:
      raise InputError(f'{finding}. Complete the dataset, or use --allow-partial to accept it as it is')
    say(f'warning: {finding}')

  pairs = {split: listing.require() for split, listing in listings.items()}
  if not any(pairs.values()):
    raise InputError(f'{where}: no images found; check that this is the right folder')
  if finding := other_counts(dataset, {split: len(found) for split, found in pairs.items()}):
    permit(f'{where}: {finding}')
  checked = {s: ([], BadPairs(f'{dataset.name}/{s}', skip_bad if s == 'train' else 0)) for s in pairs}
  sizes: Counter[tuple[int, int]] = Counter()
  first = None
  for split, (good, bad) in checked.items():
    for pair in pairs[split]:
      try:
        size = check_published_headers(pair)
      except InputError as error:
        bad.add(error)
        continue
      good.append(pair)
      sizes[size] += 1
      if size != dataset.image_size:
        first = first or pair.image.where
  if finding := other_sizes(dataset, sizes):
    permit(f'{where}: {finding}; the first is {first}')
  return checked


def other_counts(dataset: PublishedDataset, found: Mapping[str, int]) -> str:
  """Says how the number of images by split differs from the published one; '' if it does not."""
  expected = {s: n for s, n in dataset.counts.items() if found.get(s) or s not in dataset.optional_splits}
  counts = {split: found.get(split, 0) for split in expected}
  if counts == expected or (
    dataset.other_splits
    and counts.keys() == dataset.counts.keys()
    and sum(counts.values()) == sum(expected.values())
  ):
    return ''
  numbers = ', '.join(f'{split} {counts[split]} (published: {expected[split]})' for split in expected)
  return f'number of images: {numbers}'


def other_sizes(dataset: PublishedDataset, found: Mapping[tuple[int, int], int]) -> str:
  """Says how many images are not of the published size; '' if all are."""
  others = {size: n for size, n in sorted(found.items()) if size != dataset.image_size}
  if not others:
    return ''
  height, width = dataset.image_size
  sizes = ', '.join(f'{n} of {h}x{w}' for (h, w), n in others.items())
  published = f'{height}x{width} pixels (height x width), as published'
  return f'{sum(others.values())} images not of {published}, but {sizes}'


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


@contextlib.contextmanager
def _find_files(
  dataset: PublishedDataset, source: str | os.PathLike[str] | None, download: bool, root: pathlib.Path
) -> Iterator[pathlib.Path]:
  """The place of the files; a download is removed at the end of the `with` block."""
  if source is None and not dataset.download:
    yield root / 'downloads' / 'manual'  # where tfds expects them
  elif (source is None) != download:
    raise InputError(
      f'dataset {dataset.name}: expected either --source FOLDER ({dataset.files}) or --download'
    )
  elif source is not None:
    yield local_path(source)
  else:
    root.mkdir(parents=True, exist_ok=True)  # on the disk that has room for data sets
    # The archive is open as long as its files are referred to; NFS then keeps the folder.
    with tempfile.TemporaryDirectory(prefix=_DOWNLOAD_PREFIX, dir=root, ignore_cleanup_errors=True) as folder:
      yield dataset.download(pathlib.Path(folder))
