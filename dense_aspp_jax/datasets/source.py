"""Opens one split of a dataset as a random-access sequence of encoded examples.

A dataset is either one of `BUILDERS`, prepared beforehand by `dense-aspp prepare` and read through
tfds, or `folder:PATH`, one's own labelled folder, read as it is. TensorFlow is not needed.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dense_aspp_jax.datasets.examples import (
  FOLDER_PREFIX,
  HELD_OUT,
  TRAIN_AND_VALIDATION,
  Example,
  Pair,
  SplitSource,
)
from dense_aspp_jax.datasets.selected_split import ConcatenatedSplit, SelectedSplit
from dense_aspp_jax.errors import InputError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


def _cityscapes() -> type[tfds.core.GeneratorBasedBuilder]:
  from dense_aspp_jax.datasets.cityscapes import Cityscapes

  return Cityscapes


def _camvid() -> type[tfds.core.GeneratorBasedBuilder]:
  from dense_aspp_jax.datasets.camvid import CamVid

  return CamVid


def _street_scenes() -> type[tfds.core.GeneratorBasedBuilder]:
  from dense_aspp_jax.datasets.street_scenes.builder import StreetScenes

  return StreetScenes


# Name of a dataset -> its tfds builder class, imported when it is asked for.
BUILDERS: dict[str, Callable[[], type[tfds.core.GeneratorBasedBuilder]]] = {
  'cityscapes': _cityscapes,
  'camvid': _camvid,
  'street_scenes': _street_scenes,
}

# The label set that a dataset is stored with: all ids that may occur.
LABEL_SET_OF = {'cityscapes': 'cityscapes20', 'camvid': 'camvid11', 'street_scenes': 'cityscapes20'}


def open_split(
  dataset: str, split: str, data_dir: str | None = None, held_out: Sequence[str] = ()
) -> SplitSource:
  """Opens a split for reading.

  Images of the training split can be held out of training, to choose by, by the beginnings of their ids (a
  drive of CamVid, a city of Cityscapes): then neither 'train' nor 'train+validation' has them.

  Args:
    dataset: A name in `BUILDERS`, or 'folder:PATH' (layout: docs/own_data.md).
    split: 'train', 'validation' or 'test'; 'held_out', the images held out; 'train+validation'.
    data_dir: Where tfds keeps prepared datasets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
      A folder does not use it.
    held_out: Beginnings of the image ids held out; (): none are, and 'train' is as it is stored.

  Raises:
    InputError: Unknown dataset or split, not prepared, prepared in a format without random access, a
      split without examples, or prefixes that do not fit.
  """
  if split == HELD_OUT:
    if not held_out:
      raise InputError(
        f'split {HELD_OUT!r}: no images are held out of training; set config.data.held_out to the beginnings '
        "of their image ids, such as ('0006R0',)"
      )
    return SelectedSplit(_open_stored(dataset, 'train', data_dir), held_out, keep=True)
  if split == TRAIN_AND_VALIDATION:
    train = open_split(dataset, 'train', data_dir, held_out)
    validation = _open_stored(dataset, 'validation', data_dir)
    return ConcatenatedSplit(train, validation, f'{train.name}+validation')
  source = _open_stored(dataset, split, data_dir)
  return SelectedSplit(source, held_out, keep=False) if split == 'train' and held_out else source


def _open_stored(dataset: str, split: str, data_dir: str | None) -> SplitSource:
  if dataset.startswith(FOLDER_PREFIX):
    from dense_aspp_jax.datasets.folder import FolderSplit

    return FolderSplit(pathlib.Path(dataset.removeprefix(FOLDER_PREFIX)), split)
  builder = prepared_builder(dataset, data_dir)
  if builder is None:
    at = '' if data_dir is None else f' --data-dir {data_dir}'
    raise InputError(
      f'dataset {dataset!r} is not prepared in {make_builder(dataset, data_dir).data_dir}; '
      f'prepare it with: dense-aspp prepare {dataset}{at}'
    )
  return TfdsSplit(dataset, builder, split)


def make_builder(dataset: str, data_dir: str | None) -> tfds.core.GeneratorBasedBuilder:
  """Constructs the builder of `dataset`, prepared or not.

  Raises:
    InputError: No dataset of that name.
  """
  if dataset not in BUILDERS:
    raise InputError(
      f'unknown dataset {dataset!r}; expected one of {", ".join(BUILDERS)}, '
      f"or '{FOLDER_PREFIX}PATH' for a labelled folder"
    )
  return BUILDERS[dataset]()(data_dir=None if data_dir is None else os.path.expanduser(data_dir))


def prepared_builder(dataset: str, data_dir: str | None) -> tfds.core.GeneratorBasedBuilder | None:
  """The builder of `dataset` if it is prepared and can be read, None if it is not prepared.

  Raises:
    InputError: No dataset of that name, or it is prepared in a format without random access.
  """
  builder = make_builder(dataset, data_dir)
  if not (pathlib.Path(builder.data_dir) / 'dataset_info.json').is_file():  # tfds writes it last
    return None
  stored = builder.info.file_format.value
  if stored != 'array_record':
    raise InputError(
      f'{builder.data_dir}: prepared in the format {stored}, which has no random access; expected '
      'array_record. Use another data directory (--data-dir, or config.data.data_dir) and prepare there'
    )
  return builder


class TfdsSplit:
  """A split of a prepared tfds dataset; images and labels stay encoded, as stored."""

  def __init__(self, dataset: str, builder: tfds.core.GeneratorBasedBuilder, split: str):
    """Opens `split` of a prepared `builder`; `dataset` is its name in messages. Raises InputError."""
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    if split not in splits:
      raise InputError(
        f'{builder.data_dir}: no split {split!r}; dataset {dataset!r} was prepared with {", ".join(splits)} '
        f'({HELD_OUT!r} and {TRAIN_AND_VALIDATION!r} are made of these)'
      )
    if not splits[split].num_examples:
      raise InputError(f'{builder.data_dir}: split {split!r} has no examples; prepare the dataset again')
    self.name = f'{dataset}/{split}'
    self.fingerprint = _fingerprint(builder, split)
    # tfds calls the image of Cityscapes by its camera.
    self._image = 'image_left' if 'image_left' in builder.info.features else 'image'
    self._examples = builder.as_data_source(
      split,
      decoders={
        self._image: tfds.decode.SkipDecoding(),
        'segmentation_label': tfds.decode.SkipDecoding(),
      },
    )

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'{self.name}: index {index}; expected 0 <= index < {len(self)}')
    example = self._examples[index]
    return Example(example['image_id'].decode(), example[self._image], example['segmentation_label'])

  def pair(self, index: int) -> Pair:
    """The example at `index` with its place."""
    return Pair.in_memory(self[index], self.name)


def _fingerprint(builder: tfds.core.GeneratorBasedBuilder, split: str) -> str:
  """Digest of the dataset's description and of the names and sizes of the split's files."""
  folder = pathlib.Path(builder.data_dir)
  digest = hashlib.sha256(f'{builder.name} {builder.version} {split}'.encode())
  digest.update((folder / 'dataset_info.json').read_bytes())
  for path in sorted(builder.info.splits[split].filepaths):
    try:
      digest.update(f'\n{path.name} {path.stat().length}'.encode())
    except OSError as error:
      raise InputError(f'{path}: missing; remove {folder} and prepare the dataset again') from error
  return digest.hexdigest()
