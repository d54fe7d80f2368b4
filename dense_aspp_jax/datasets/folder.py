"""One's own labelled folder, read as it is; the layout is described in docs/own_data.md."""

from __future__ import annotations

import hashlib
import pathlib
import unicodedata

from dense_aspp_jax.datasets.examples import SPLITS, Split
from dense_aspp_jax.datasets.listing import Listing, pair_files
from dense_aspp_jax.datasets.stored_files import StoredFile, files_of_folder
from dense_aspp_jax.errors import InputError

EXTENSIONS = ('.png', '.jpg', '.jpeg')  # upper case too


def list_folder(folder: pathlib.Path, split: str) -> Listing:
  """Lists FOLDER/SPLIT/images/NAME.png or .jpg with FOLDER/SPLIT/labels/NAME.png.

  NAME may contain subfolders and is the image id. Names are compared in Unicode's composed form
  (NFC), because one name may be spelled differently by two file systems. Hidden files are ignored
  without a word, files with other extensions and files beside the two folders are listed as ignored.

  Raises:
    InputError: No such folder or split.
  """
  folder = folder.expanduser()
  if not (folder / split / 'images').is_dir() or not (folder / split / 'labels').is_dir():
    raise InputError(_missing(folder, split))
  by_image_id: dict[str, dict[str, StoredFile]] = {'images': {}, 'labels': {}}
  problems, ignored = [], []
  for name, file in files_of_folder(folder / split).items():
    path = pathlib.PurePosixPath(name)
    if path.parts[0] not in by_image_id or path.suffix.lower() not in EXTENSIONS:
      ignored.append(file.where)
      continue
    files = by_image_id[path.parts[0]]
    image_id = unicodedata.normalize('NFC', path.relative_to(path.parts[0]).with_suffix('').as_posix())
    if image_id in files:
      problems.append(
        f'{file.where}: same name as {files[image_id].where}; names without extension must differ. Rename one'
      )
    else:
      files[image_id] = file
  pairs, alone = pair_files(by_image_id['images'], by_image_id['labels'])
  if not pairs and not alone:
    problems.append(
      f'{folder / split}: no images; expected files {", ".join(EXTENSIONS)} in images/ and labels/. Add them'
    )
  return Listing(str(folder / split), pairs, problems + alone, ignored)


def open_folder(folder: pathlib.Path, split: str) -> Split:
  """Opens a split; its fingerprint is a digest of the names, sizes and modification times of its files.

  Raises:
    InputError: No such folder or split, no files, files without their other half, or two files of
      the same name.
  """
  folder = folder.expanduser()
  listing = list_folder(folder, split)
  pairs = listing.require()
  digest = hashlib.sha256()
  for file in (file for pair in pairs for file in (pair.image, pair.label)):
    path = pathlib.Path(file.where)
    stat = path.stat()
    digest.update(f'{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0'.encode())
  return Split(listing.where, digest.hexdigest(), pairs)


def _missing(folder: pathlib.Path, split: str) -> str:
  if not folder.is_dir():
    return f'{folder}: no such folder; expected a labelled folder (docs/own_data.md)'
  there = [s for s in SPLITS if (folder / s / 'images').is_dir() and (folder / s / 'labels').is_dir()]
  found = f'it has {", ".join(there)}' if there else 'it has no split at all'
  return (
    f'{folder}: no split {split!r} ({found}); expected {split}/images/ and {split}/labels/ (docs/own_data.md)'
  )
