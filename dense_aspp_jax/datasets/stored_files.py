"""Files of a folder or of a zip archive, read alike: a dataset is prepared without unpacking it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from dense_aspp_jax.errors import InputError

# What zipfile raises on damaged, encrypted or strangely packed members.
_READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)


@dataclasses.dataclass(frozen=True)
class StoredFile:
  """A file on disk or a member of an archive.

  Attributes:
    where: Its path, or 'ARCHIVE: member', for messages.
    open: Opens it for reading bytes.
  """

  where: str
  open: Callable[[], BinaryIO]

  def read(self, size: int = -1) -> bytes:
    """Reads the first `size` bytes, or all. Raises InputError where that fails."""
    try:
      with self.open() as file:
        return file.read(size)
    except _READ_ERRORS as error:
      raise InputError(f'{self.where}: cannot be read ({error}); get the file again') from error


def files_of_folder(folder: pathlib.Path) -> dict[str, StoredFile]:
  """Lists a folder with its subfolders.

  Returns:
    Path relative to `folder`, with forward slashes -> file; sorted; hidden files and folders left out.

  Raises:
    InputError: The folder cannot be listed.
  """

  def refuse(error: OSError) -> None:
    raise InputError(f'{error.filename}: cannot be listed ({error.strerror})') from error

  files = {}
  for parent, folders, names in os.walk(folder, onerror=refuse):
    folders[:] = [name for name in folders if not name.startswith('.')]
    for name in names:
      if not name.startswith('.'):
        path = pathlib.Path(parent, name)
        files[path.relative_to(folder).as_posix()] = StoredFile(str(path), functools.partial(path.open, 'rb'))
  return dict(sorted(files.items()))


@contextlib.contextmanager
def files_of_zip(path: pathlib.Path) -> Iterator[dict[str, StoredFile]]:
  """Lists a zip archive, which stays open inside the `with` block.

  Yields:
    Member name -> file; sorted.

  Raises:
    InputError: No readable zip archive, or member names that lead out of it.
  """
  try:
    archive = zipfile.ZipFile(path)
  except _READ_ERRORS as error:
    raise InputError(f'{path}: not a readable zip archive ({error}); get the file again') from error
  with archive:
    members = [m for m in archive.infolist() if not m.is_dir()]
    for member in members:
      if member.filename.startswith(('/', '\\')) or '..' in pathlib.PurePosixPath(member.filename).parts:
        raise InputError(f'{path}: unsafe member name {member.filename!r}; get the archive from its source')
    yield {
      m.filename: StoredFile(f'{path}: {m.filename}', functools.partial(archive.open, m))
      for m in sorted(members, key=lambda m: m.filename)
    }
