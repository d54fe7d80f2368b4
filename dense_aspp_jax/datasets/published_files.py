"""Finds the files of a published data set wherever its archives and folders were put."""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import BinaryIO

import numpy as np

from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.stored_files import Files, StoredFile, files_of_folder, files_of_zip

SECOND_COPY = 'second copy'  # why a file is left out
# Folder, in lower case -> split; what torchvision, mmsegmentation and Kaggle call them.
_SPLITS = {
  'train': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'test': 'test',
  'train_extra': 'train_extra',
}


@dataclasses.dataclass(frozen=True)
class TranslatedFile(StoredFile):
  """Labels stored as something else than label ids, which reads as a PNG of label ids.

  Attributes:
    original: The file as it is stored.
  """

  original: StoredFile = dataclasses.field(kw_only=True)

  @classmethod
  def of(cls, original: StoredFile, decode: Callable[[bytes, str], np.ndarray]) -> TranslatedFile:
    """`decode` takes the file's bytes and its place, for messages, and gives label ids, uint8 `[h, w]`."""
    return cls(original.where, functools.partial(_translate, original, decode), original=original)


def _translate(original: StoredFile, decode: Callable[[bytes, str], np.ndarray]) -> BinaryIO:
  return io.BytesIO(encode_png(decode(original.read(), original.where)))


def find_files(source: pathlib.Path, archives: str) -> Files:
  """Lists a zip archive, or a folder with the zip archives in it.

  Args:
    source: A zip archive, or a folder.
    archives: Regular expression for the names of the archives that belong to the data set, in upper or lower
      case. They are read without unpacking, and come before the folder's other files.

  Returns:
    Path relative to `source` -> file. The paths of an archive's members begin with the archive's path.

  Raises:
    InputError: `source` or an archive cannot be read.
  """
  if source.is_file():
    return files_of_zip(source)
  folder = files_of_folder(source)
  members, others, left = {}, {}, list(folder.left)
  for name, file in folder.taken.items():
    if re.fullmatch(archives, file.path.name, re.IGNORECASE):
      archive = files_of_zip(file.path)
      members |= {f'{name}/{member}': file for member, file in archive.taken.items()}
      left += archive.left
    else:
      others[name] = file
  return Files(members | others, left)


def split_of(folders: Iterable[str]) -> str | None:
  """The split that the innermost of `folders` with the name of a split stands for."""
  return next((_SPLITS[name] for name in map(str.lower, reversed(tuple(folders))) if name in _SPLITS), None)
