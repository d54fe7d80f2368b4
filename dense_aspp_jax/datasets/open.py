"""Opens a split of a data set by the data set's name, as it is stored."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, HELD_OUT, TRAIN_AND_VALIDATION, SplitSource
from dense_aspp_jax.datasets.folder import FolderSplit
from dense_aspp_jax.datasets.prepare import find_dataset
from dense_aspp_jax.datasets.splits import ConcatenatedSplit, SelectedSplit
from dense_aspp_jax.errors import InputError


def open_split(
  dataset: str, split: str, data_dir: str | None = None, held_out: Sequence[str] = ()
) -> SplitSource:
  """Opens a split as it is stored.

  Images of the training split can be held out of training, by the beginnings of their ids (a drive of CamVid,
  a city of Cityscapes), for choosing settings by them: neither 'train' nor 'train+validation' has them then.

  Args:
    dataset: A name in `prepare.DATASETS`, or 'folder:PATH' (layout: docs/own_data.md).
    split: 'train', 'validation' or 'test'; 'held_out', the images held out; 'train+validation'.
    data_dir: Where tfds keeps prepared data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      A folder does not use it.
    held_out: Beginnings of the image ids held out; (): none are, and 'train' is as it is stored.

  Raises:
    InputError: Unknown data set or split, not prepared, prepared in a format without random access, a
      split without examples, or prefixes that do not fit.
  """

  def stored(name: str) -> SplitSource:
    if dataset.startswith(FOLDER_PREFIX):
      return FolderSplit(pathlib.Path(dataset.removeprefix(FOLDER_PREFIX)), name)
    return find_dataset(dataset).open_split(name, data_dir)

  def train() -> SplitSource:
    return SelectedSplit(stored('train'), held_out, keep=False) if held_out else stored('train')

  if split == HELD_OUT:
    if not held_out:
      raise InputError(
        f'split {HELD_OUT!r}: no images are held out of training; set config.data.held_out to the beginnings '
        "of their image ids, such as ('0006R0',)"
      )
    return SelectedSplit(stored('train'), held_out, keep=True)
  if split == TRAIN_AND_VALIDATION:
    first = train()
    return ConcatenatedSplit(first, stored('validation'), f'{first.name}+validation')
  return train() if split == 'train' else stored(split)
