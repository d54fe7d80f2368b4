"""Cityscapes as tfds has it, prepared from the official zips or from extracted trees.

The directory is that of the tfds data set `cityscapes` (config semantic_segmentation): same name, config,
version, features and record order, so either can read the other's. Unlike the stock builder, this one neither
unpacks the zips nor needs TensorFlow, and it checks what it stores.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
https://www.cityscapes-dataset.com.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

from etils import epath
from tensorflow_datasets.core import registered
from tensorflow_datasets.datasets.cityscapes import cityscapes_dataset_builder as stock

from dense_aspp_jax.datasets.listing import Listing, pair_files
from dense_aspp_jax.datasets.stored_files import StoredFile, files_of_folder, files_of_zip
from dense_aspp_jax.datasets.tfds_store import ExampleBuilder, PublishedDataset
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import CITYSCAPES_20

# For images and for labels: the zip, the folder in it, and how file names go on after the image id.
_IMAGES = ('leftImg8bit_trainvaltest.zip', 'leftImg8bit', 'leftImg8bit')
_LABELS = ('gtFine_trainvaltest.zip', 'gtFine', 'gtFine_labelIds')
_FOLDERS = {'train': 'train', 'validation': 'val', 'test': 'test'}
# Other files in gtFine/, which are not read.
_COMPANIONS = re.compile(r'.*_gtFine_(color\.png|instanceIds\.png|labelTrainIds\.png|polygons\.json)')


def list_files(source: pathlib.Path) -> dict[str, Listing]:
  """Lists the files of every split that has any.

  Args:
    source: A folder with the two official zips, the trees leftImg8bit/ and gtFine/, or one of each. Where
      both are there, the zip is read.

  Raises:
    InputError: All images or all labels are missing, or an archive cannot be read.
  """
  image_files, label_files = (_files_of(source, kind) for kind in (_IMAGES, _LABELS))
  splits = {}
  for split, folder in _FOLDERS.items():
    images, other_images = _by_image_id(image_files, folder, _IMAGES)
    labels, other_labels = _by_image_id(label_files, folder, _LABELS)
    pairs, problems = pair_files(images, labels)
    if pairs or problems:
      splits[split] = Listing(f'{source}, split {split}', pairs, problems, other_images + other_labels)
  return splits


with registered.skip_registration():  # tfds knows a `cityscapes` already

  class Cityscapes(ExampleBuilder, stock.Builder):
    """The tfds builder."""

    name = 'cityscapes'
    pkg_dir_path = epath.Path(stock.__file__).parent  # description and citation
    IMAGE = 'image_left'
    _info = stock.Builder._info


CITYSCAPES = PublishedDataset(
  builder=Cityscapes,
  label_set=CITYSCAPES_20,
  counts={'train': 2975, 'validation': 500, 'test': 1525},
  image_size=(1024, 2048),
  terms='Cityscapes has terms of its own, for non-commercial use (<https://www.cityscapes-dataset.com/license/>).',
  files='a folder with the two official zips or the trees leftImg8bit/ and gtFine/',
  list_files=list_files,
)


def _files_of(source: pathlib.Path, kind: tuple[str, str, str]) -> dict[str, StoredFile]:
  zip_name, top, _ = kind
  if (source / zip_name).is_file():
    return files_of_zip(source / zip_name).taken
  if (source / top).is_dir():
    return {f'{top}/{name}': file for name, file in files_of_folder(source / top).taken.items()}
  raise InputError(
    f'{source}: neither {zip_name} nor a folder {top}/ found. Cityscapes needs {_IMAGES[0]} and '
    f'{_LABELS[0]}: register at https://www.cityscapes-dataset.com, download both (no need to unpack '
    f'them), put them into {source} or another folder, and run: dense-aspp prepare cityscapes --source FOLDER'
  )


def _by_image_id(
  files: Mapping[str, StoredFile], folder: str, kind: tuple[str, str, str]
) -> tuple[dict[str, StoredFile], list[str]]:
  """The files of one kind and split, by image id such as 'aachen_000000_000019', and the others' paths."""
  _, top, suffix = kind
  pattern = re.compile(rf'{top}/{folder}/([a-z\-]+)/(\1_\d+_\d+)_{suffix}\.png')
  found, others = {}, []
  for name, file in files.items():
    if match := pattern.fullmatch(name):
      found[match[2]] = file
    elif name.startswith(f'{top}/{folder}/') and not _COMPANIONS.fullmatch(name):
      others.append(file.left())
  return found, others
