"""Cityscapes as tfds has it, prepared from the official zips or from extracted trees.

The directories are those of the tfds data set `cityscapes`: same names, configs, version, features and record
order, so either can read the other's. Unlike the stock builder, this one neither unpacks the zips nor needs
TensorFlow, and it checks what it stores.

A file is known by its name, `<city>_<seq>_<frame>_<kind>.png`, and its split by the innermost folder named
train, val, validation, test or train_extra above it, else by its city. Nothing else in its path matters.

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
https://www.cityscapes-dataset.com; names and ids: https://github.com/mcordts/cityscapesScripts.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping

import numpy as np
from etils import epath
from tensorflow_datasets.core import registered
from tensorflow_datasets.datasets.cityscapes import cityscapes_dataset_builder as stock

from dense_aspp_jax.datasets.image_formats import open_image
from dense_aspp_jax.datasets.images import decode_label
from dense_aspp_jax.datasets.listing import Listing, Listings, pair_files
from dense_aspp_jax.datasets.png import GREY, read_png_header
from dense_aspp_jax.datasets.published_files import (
  SECOND_COPY,
  TranslatedFile,
  find_files,
  split_of,
)
from dense_aspp_jax.datasets.stored_files import StoredFile, describe_left
from dense_aspp_jax.datasets.tfds_store import ExampleBuilder, PublishedDataset
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_tables import CITYSCAPES as LABELS
from dense_aspp_jax.labels import NUM_CITYSCAPES_IDS, count_ids

_NAME = re.compile(
  r'((?:[^\W_]|-)+_\d+_\d+)_(leftImg8bit|gtFine_\w+|gtCoarse_\w+)\.(?i:png|(?<=polygons\.)json)'
)
_OTHER_PACKAGE = re.compile(r'leftImg8bit_(?!train)\w+')  # such as leftImg8bit_sequence, whole videos
_CITIES = {
  'train': 'aachen bochum bremen cologne darmstadt dusseldorf erfurt hamburg hanover jena krefeld '
  'monchengladbach strasbourg stuttgart tubingen ulm weimar zurich',
  'validation': 'frankfurt lindau munster',
  'test': 'berlin bielefeld bonn leverkusen mainz munich',
}
_SPLIT_OF_CITY = {city: split for split, cities in _CITIES.items() for city in cities.split()}
_IMAGES, _EXTRA_IMAGES = 'leftImg8bit_trainvaltest.zip', 'leftImg8bit_trainextra.zip'
_FINE_LABELS, _COARSE_LABELS = 'gtFine_trainvaltest.zip', 'gtCoarse.zip'
# Not read and not counted: what the zips hold besides, and the zips of the other data set.
_COMPANIONS = ('README', 'license.txt', _EXTRA_IMAGES, _FINE_LABELS, _COARSE_LABELS)


def _ids_of_train_ids(data: bytes, where: str) -> np.ndarray:
  """Label ids of the 19 classes; all that is not trained becomes 0, unlabeled."""
  train_ids = decode_label(data, where)
  id_of = np.full(256, 255, np.uint8)
  id_of[255] = 0
  for label in LABELS:
    if 0 <= label.train_id < 255:
      id_of[label.train_id] = label.id
  ids = id_of[train_ids]
  if (ids == 255).any():
    found = count_ids(train_ids[ids == 255])
    raise InputError(
      f'{where}: train ids {found}; expected 0..18, and 255 for what is not trained. If these are label ids, '
      'name the files *_labelIds.png'
    )
  return ids


def _ids_of_instance_ids(data: bytes, where: str) -> np.ndarray:
  """Label ids: an instance is id * 1000 + its number, everything else its id."""
  header = read_png_header(data, where)
  if header.color_type != GREY:
    raise InputError(f'{where}: {header.description} PNG; expected instance ids as 16-bit grey')
  instances = np.asarray(open_image(data, where).image).astype(np.uint32)
  ids = np.where(instances < 1000, instances, instances // 1000)
  if ids.max(initial=0) >= NUM_CITYSCAPES_IDS:
    found = count_ids(instances[ids >= NUM_CITYSCAPES_IDS])
    raise InputError(f'{where}: instance ids {found}; expected ids 0..33, or such an id * 1000 + number')
  return ids.astype(np.uint8)


# How labels are stored, the best first -> what makes label ids of them, and what a user should know.
_LABEL_KINDS: dict[str, tuple[Callable[[bytes, str], np.ndarray] | None, str]] = {
  'labelIds': (None, ''),
  'instanceIds': (_ids_of_instance_ids, 'instance ids became label ids'),
  'labelTrainIds': (_ids_of_train_ids, 'train ids became label ids; all that is not trained is 0, unlabeled'),
}


@dataclasses.dataclass(frozen=True)
class _Annotations:
  """Fine or coarse annotations.

  Attributes:
    name: As in file names, 'gtFine' or 'gtCoarse'.
    dataset: The data set that has them.
    splits: Its splits.
    zips: The official zips that it needs.
  """

  name: str
  dataset: str
  splits: tuple[str, ...]
  zips: tuple[str, ...]

  def list_files(self, source: pathlib.Path) -> Listings:
    """Lists the files of every split that has images and labels.

    Args:
      source: A folder with the official zips, the trees extracted from them, or both; or one zip of all. Of
        a file that is in a zip and in a tree, the zip's is taken.

    Raises:
      InputError: All images or all labels are missing, or an archive cannot be read.
    """
    if not source.exists():
      raise InputError(f'{shown(source)}: not found. {self._needed(source)}')
    names = '|'.join(re.escape(name.removesuffix('.zip')) for name in self.zips)
    files = find_files(source, rf'({names}|cityscapes)\b.*\.zip')
    found: dict[tuple[str, str], dict[str, StoredFile]] = {}  # split, kind -> image id -> file
    left, unread = list(files.left), set()
    in_split = {name: split_of(pathlib.PurePosixPath(name).parts[:-1]) for name in files.taken}
    for name, file in sorted(files.taken.items(), key=lambda item: in_split[item[0]] is None):
      *folders, file_name = pathlib.PurePosixPath(name).parts
      match = _NAME.fullmatch(file_name)
      split = in_split[name] or (match and _SPLIT_OF_CITY.get(match[1].split('_')[0]))
      if not match:
        if file_name not in _COMPANIONS:
          left.append(file.left('PNG of another name' if file_name.lower().endswith('.png') else None))
      elif any(map(_OTHER_PACKAGE.fullmatch, folders)):
        left.append(file.left('of another package'))
      elif kind := self._kind(match[2]):
        images = found.setdefault((split, kind), {})
        if split not in self.splits:
          left.append(file.left(f'of split {split}' if split else 'in no folder train, val or test'))
        elif images.setdefault(match[1], file) is not file:
          left.append(file.left(SECOND_COPY))
      else:
        unread.add(match[2])
    return self._pair(source, found, left, unread)

  def _kind(self, kind: str) -> str | None:
    """'image' or one of `_LABEL_KINDS`; None for files that are not read."""
    if kind == 'leftImg8bit':
      return 'image'
    annotations, _, kind = kind.partition('_')
    return kind if annotations == self.name and kind in _LABEL_KINDS else None

  def _pair(
    self,
    source: pathlib.Path,
    found: Mapping[tuple[str, str], dict[str, StoredFile]],
    left: list[str],
    unread: Collection[str],
  ) -> Listings:
    splits, notes = {}, []
    for split in self.splits:
      images, labels, kinds = found.get((split, 'image'), {}), {}, Counter()
      for kind, (decode, _) in _LABEL_KINDS.items():
        for image_id, file in found.get((split, kind), {}).items():
          if image_id not in labels:
            labels[image_id] = TranslatedFile.of(file, decode) if decode else file
            kinds[kind] += 1
      if bool(images) != bool(labels):
        there, missing = ('images', 'labels') if images else ('labels', 'images')
        notes.append(f'split {split} left out: it has {len(images or labels)} {there}, but no {missing}')
      elif images:
        splits[split] = Listing(f'{shown(source)}, split {split}', *pair_files(images, labels), [])
        for kind, count in kinds.items():
          if what := _LABEL_KINDS[kind][1]:
            notes.append(
              f'split {split}: {count} of {len(labels)} labels from *_{self.name}_{kind}.png; {what}'
            )
    if not splits:
      kinds = f'files *_{", *_".join(sorted(unread))} are not read' if unread else ''
      others = ''.join(f'. {line}' for line in (*notes, kinds, describe_left(left)) if line)
      raise InputError(f'{shown(source)}: no images with labels found{others}. {self._needed(source)}')
    return Listings(splits, left, notes)

  def _needed(self, source: pathlib.Path) -> str:
    return (
      f'{self.dataset} needs {" and ".join(self.zips)}, or trees of the files *_leftImg8bit.png and '
      f'*_{self.name}_labelIds.png with a folder for each split (train, val, ...). Register at '
      'https://www.cityscapes-dataset.com, download the zips (no need to unpack them), put them into '
      f'{shown(source)} or another folder, and run: dense-aspp prepare {self.dataset} --source FOLDER'
    )


with registered.skip_registration():  # tfds knows a `cityscapes` already

  class Cityscapes(ExampleBuilder, stock.Builder):
    """The tfds builder."""

    name = 'cityscapes'
    pkg_dir_path = epath.Path(stock.__file__).parent  # description and citation
    IMAGE = 'image_left'
    _info = stock.Builder._info


_FINE = _Annotations('gtFine', 'cityscapes', ('train', 'validation', 'test'), (_IMAGES, _FINE_LABELS))
_COARSE = _Annotations(
  'gtCoarse',
  'cityscapes_coarse',
  ('train', 'train_extra', 'validation'),
  (_IMAGES, _EXTRA_IMAGES, _COARSE_LABELS),
)
CITYSCAPES = PublishedDataset(
  name=_FINE.dataset,
  builder=Cityscapes,
  counts={'train': 2975, 'validation': 500, 'test': 1525},
  optional_splits=('test',),  # its labels are dummies
  image_size=(1024, 2048),
  terms='Cityscapes has terms of its own, for non-commercial use (<https://www.cityscapes-dataset.com/license/>).',
  files='a folder with the official zips, or with the extracted leftImg8bit/ and gtFine/',
  list_files=_FINE.list_files,
)
CITYSCAPES_COARSE = dataclasses.replace(
  CITYSCAPES,
  name=_COARSE.dataset,
  config='semantic_segmentation_extra',  # in tfds
  counts={'train': 2975, 'train_extra': 19998, 'validation': 500},
  optional_splits=('train_extra',),  # 44 GB
  files='the same with gtCoarse/ and, for the split train_extra, its images',
  list_files=_COARSE.list_files,
)
