"""One's own labelled folder, read as it is; the layout is described in docs/own_data.md."""

from __future__ import annotations

import pathlib
import unicodedata

from dense_aspp_jax.datasets.examples import SPLITS, Split
from dense_aspp_jax.datasets.fingerprint import content_fingerprint, former_fingerprint
from dense_aspp_jax.datasets.images import IMAGE_EXTENSIONS, LABEL_EXTENSIONS
from dense_aspp_jax.datasets.listing import Listing, pair_files
from dense_aspp_jax.datasets.stored_files import StoredFile, files_of_folder
from dense_aspp_jax.errors import InputError

# Labels in formats of images are listed too: reading one says what is wrong with it.
_EXTENSIONS = {'images': IMAGE_EXTENSIONS, 'labels': (*LABEL_EXTENSIONS, *IMAGE_EXTENSIONS)}
_FIRST_CHOICE = ('.png', '.jpg', '.jpeg')  # before files of the same name with other suffixes


def list_folder(folder: pathlib.Path, split: str) -> Listing:
  """Lists FOLDER/SPLIT/images/NAME with FOLDER/SPLIT/labels/NAME, suffixes aside.

  NAME may contain subfolders and is the image id. Names are compared in Unicode's composed form
  (NFC), because one name may be spelled differently by two file systems. Of two files of one name, a PNG
  or JPEG is taken. Files with other extensions, files beside the two folders and what is no file are listed
  as ignored.

  Raises:
    InputError: No such folder or split.
  """
  folder = folder.expanduser()
  if not (folder / split / 'images').is_dir() or not (folder / split / 'labels').is_dir():
    raise InputError(_missing(folder, split))
  by_image_id: dict[str, dict[str, StoredFile]] = {'images': {}, 'labels': {}}
  found = files_of_folder(folder / split)
  problems, ignored = [], list(found.left)
  paths = {pathlib.PurePosixPath(name): file for name, file in found.taken.items()}
  for path in sorted(paths, key=lambda path: path.suffix.lower() not in _FIRST_CHOICE):
    file, kind, suffix = paths[path], path.parts[0], path.suffix.lower()
    if suffix not in _EXTENSIONS.get(kind, ()):
      ignored.append(file.left())
      continue
    files = by_image_id[kind]
    image_id = unicodedata.normalize('NFC', path.relative_to(kind).with_suffix('').as_posix())
    if image_id in files and suffix not in _FIRST_CHOICE:
      ignored.append(file.left())
    elif image_id in files:
      problems.append(
        f'{file.where}: same name as {files[image_id].where}; names without extension must differ. Rename one'
      )
    else:
      files[image_id] = file
  pairs, alone = pair_files(by_image_id['images'], by_image_id['labels'])
  if not pairs and not alone:
    problems.append(
      f'{folder / split}: no images; expected files {", ".join(IMAGE_EXTENSIONS)} in images/ and '
      f'{", ".join(LABEL_EXTENSIONS)} in labels/. Add them'
    )
  return Listing(str(folder / split), pairs, problems + alone, ignored)


def open_folder(folder: pathlib.Path, split: str) -> Split:
  """Opens a split; its fingerprint is of the content of its files, wherever the folder lies.

  Raises:
    InputError: No such folder or split, no files, files without their other half, or two files of
      the same name.
  """
  folder = folder.expanduser()
  listing = list_folder(folder, split)
  pairs = listing.require()
  return Split(listing.where, content_fingerprint(pairs), pairs, former_fingerprint(pairs, folder))


def _missing(folder: pathlib.Path, split: str) -> str:
  if not folder.is_dir():
    return f'{folder}: no such folder; expected a labelled folder (docs/own_data.md)'
  there = [s for s in SPLITS if (folder / s / 'images').is_dir() and (folder / s / 'labels').is_dir()]
  found = f'it has {", ".join(there)}' if there else 'it has no split at all'
  return (
    f'{folder}: no split {split!r} ({found}); expected {split}/images/ and {split}/labels/ (docs/own_data.md)'
  )
