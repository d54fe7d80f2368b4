"""One's own labelled folder, read as it is; the layout is described in docs/own_data.md."""

from __future__ import annotations

import hashlib
import pathlib
import unicodedata

from dense_aspp_jax.datasets.source import SPLITS, Example
from dense_aspp_jax.datasets.stored_files import StoredFile, files_of_folder
from dense_aspp_jax.datasets.validation import name_some, pair_files
from dense_aspp_jax.errors import InputError

EXTENSIONS = ('.png', '.jpg', '.jpeg')  # upper case too


class FolderSplit:
  """A split of a folder: FOLDER/SPLIT/images/NAME.png or .jpg with FOLDER/SPLIT/labels/NAME.png.

  NAME may contain subfolders and is the image id. Names are compared in Unicode's composed form
  (NFC), because one name may be spelled differently by two file systems. Files with other extensions
  and hidden files are ignored.

  Attributes:
    name: 'FOLDER/SPLIT', for messages.
    fingerprint: Digest of names, sizes and modification times.
  """

  def __init__(self, folder: pathlib.Path, split: str):
    """Lists and pairs the files of a split.

    Raises:
      InputError: No such folder or split, no files, files without their other half, or two files of
        the same name.
    """
    folder = folder.expanduser()
    if not (folder / split / 'images').is_dir() or not (folder / split / 'labels').is_dir():
      raise InputError(_missing(folder, split))
    self.name = str(folder / split)
    self._pairs = pair_files(
      _by_image_id(folder / split / 'images'), _by_image_id(folder / split / 'labels'), self.name
    )
    if not self._pairs:
      raise InputError(
        f'{folder / split}: no images; expected files {", ".join(EXTENSIONS)} in images/ and labels/'
      )
    digest = hashlib.sha256()
    for pair in self._pairs:
      for file in (pair.image, pair.label):
        path = pathlib.Path(file.where)
        stat = path.stat()
        digest.update(f'{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0'.encode())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._pairs)

  def __getitem__(self, index: int) -> Example:
    if not 0 <= index < len(self):
      raise IndexError(f'{self.name}: index {index}; expected 0 <= index < {len(self)}')
    pair = self._pairs[index]
    return Example(pair.image_id, pair.image.read(), pair.label.read())


def _by_image_id(folder: pathlib.Path) -> dict[str, StoredFile]:
  files: dict[str, StoredFile] = {}
  for name, file in files_of_folder(folder).items():
    path = pathlib.PurePosixPath(name)
    if path.suffix.lower() in EXTENSIONS:
      image_id = unicodedata.normalize('NFC', str(path.with_suffix('')))
      if image_id in files:
        raise InputError(
          f'{file.where}: same name as {files[image_id].where}; names without extension must differ'
        )
      files[image_id] = file
  return files


def _missing(folder: pathlib.Path, split: str) -> str:
  if not folder.is_dir():
    return f'{folder}: no such folder; expected a labelled folder (docs/own_data.md)'
  there = [s for s in SPLITS if (folder / s / 'images').is_dir() and (folder / s / 'labels').is_dir()]
  found = f'it has {name_some(there)}' if there else 'it has no split at all'
  return (
    f'{folder}: no split {split!r} ({found}); expected {split}/images/ and {split}/labels/ (docs/own_data.md)'
  )
