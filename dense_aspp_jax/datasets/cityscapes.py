"""Cityscapes as tfds has it, prepared from the official zips or from extracted trees.

The directory this writes is the one of the tfds dataset `cityscapes` (config semantic_segmentation):
same name, config, version, features and record order, so either can read the other's. Unlike the
stock builder it neither unpacks the zips nor needs TensorFlow, and it checks what it stores.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
https://www.cityscapes-dataset.com.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from etils import epath
from tensorflow_datasets.core import registered
from tensorflow_datasets.datasets.cityscapes import cityscapes_dataset_builder as stock

from dense_aspp_jax.datasets import validation
from dense_aspp_jax.datasets.stored_files import StoredFile, files_of_folder, files_of_zip
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import CITYSCAPES_20

IMAGE_SIZE = (1024, 2048)  # height, width
COUNTS = {'train': 2975, 'validation': 500, 'test': 1525}
# What there is of each kind of file: (zip, its top folder, file name after the image id).
_IMAGES = ('leftImg8bit_trainvaltest.zip', 'leftImg8bit', 'leftImg8bit')
_LABELS = ('gtFine_trainvaltest.zip', 'gtFine', 'gtFine_labelIds')
_FOLDERS = {'train': 'train', 'validation': 'val', 'test': 'test'}


@contextlib.contextmanager
def open_pairs(source: pathlib.Path) -> Iterator[dict[str, list[validation.Pair]]]:
  """Finds the pairs of every split.

  Args:
    source: A folder with the two official zips, the trees leftImg8bit/ and gtFine/, or one of each.
      A zip goes before a tree.

  Yields:
    Split -> pairs, readable inside the `with` block; splits without files are left out. Files that
    do not belong to the dataset are ignored.

  Raises:
    InputError: Images or labels are missing.
  """
  with contextlib.ExitStack() as stack:
    image_files, label_files = (_open_files(source, kind, stack) for kind in (_IMAGES, _LABELS))
    splits = {}
    for split, folder in _FOLDERS.items():
      pairs = validation.pair_files(
        _by_image_id(image_files, folder, _IMAGES),
        _by_image_id(label_files, folder, _LABELS),
        f'{source}, split {split}',
      )
      if pairs:
        splits[split] = pairs
    yield splits


def check_pairs(
  splits: Mapping[str, Sequence[validation.Pair]], source: pathlib.Path, allow_partial: bool
) -> None:
  """Checks counts and sizes against the published ones; see `validation`. Raises InputError."""
  validation.check_counts(splits, COUNTS, str(source), allow_partial)
  validation.check_sizes([p for s in splits.values() for p in s], IMAGE_SIZE, str(source), allow_partial)


with registered.skip_registration():  # tfds knows a `cityscapes` already

  class Cityscapes(stock.Builder):
    """The tfds builder, given the pairs to store; without them it only reads."""

    name = 'cityscapes'
    pkg_dir_path = epath.Path(stock.__file__).parent  # description and citation

    def __init__(self, *, splits: Mapping[str, Sequence[validation.Pair]] | None = None, **kwargs):
      """Takes the pairs by split (`open_pairs`) and what every tfds builder takes."""
      super().__init__(**kwargs)
      self._splits = splits

    def _split_generators(self, dl_manager):
      del dl_manager  # nothing is downloaded or unpacked
      return {split: self._generate_examples(pairs) for split, pairs in self._splits.items()}

    def _generate_examples(self, pairs):
      for pair in pairs:
        example = validation.read_pair(pair, CITYSCAPES_20)
        yield (
          example.image_id,
          {
            'image_id': example.image_id,
            'image_left': example.image,
            'segmentation_label': example.label,
          },
        )


def _open_files(
  source: pathlib.Path, kind: tuple[str, str, str], stack: contextlib.ExitStack
) -> dict[str, StoredFile]:
  zip_name, top, _ = kind
  if (source / zip_name).is_file():
    return stack.enter_context(files_of_zip(source / zip_name))
  if (source / top).is_dir():
    return {f'{top}/{name}': file for name, file in files_of_folder(source / top).items()}
  raise InputError(
    f'{source}: neither {zip_name} nor a folder {top}/ found. Cityscapes needs {_IMAGES[0]} and '
    f'{_LABELS[0]}: register at https://www.cityscapes-dataset.com, download both (no need to unpack '
    f'them), put them into {source} or another folder, and run: dense-aspp prepare cityscapes --source FOLDER'
  )


def _by_image_id(
  files: Mapping[str, StoredFile], folder: str, kind: tuple[str, str, str]
) -> dict[str, StoredFile]:
  """The files of one kind and split, by image id such as 'aachen_000000_000019'."""
  _, top, suffix = kind
  pattern = re.compile(rf'{top}/{folder}/([a-z\-]+)/(\1_\d+_\d+)_{suffix}\.png')
  return {m[2]: file for name, file in files.items() if (m := pattern.fullmatch(name))}
