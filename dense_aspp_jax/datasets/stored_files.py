"""Files of a folder or of a zip archive, read alike: a data set is prepared without unpacking it."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import stat
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

from dense_aspp_jax.errors import InputError

# What zipfile raises for damaged or encrypted members, and for compression methods it does not know.
_READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)
MAX_MEMBER_BYTES = 2**30  # unpacked; an image of png.MAX_PIXELS pixels has 0.7 GiB at most


@dataclasses.dataclass(frozen=True)
class StoredFile:
  """A file on disk or a member of an archive.

  Attributes:
    where: Its path, or 'ARCHIVE: member', for messages.
    open: Opens it for reading bytes.
  """

  where: str
  open: Callable[[], BinaryIO]

  @classmethod
  def on_disk(cls, path: pathlib.Path) -> StoredFile:
    """The file at `path`."""
    return cls(str(path), functools.partial(path.open, 'rb'))

  def read(self, size: int = -1) -> bytes:
    """Reads the first `size` bytes, or all. Raises InputError where that fails."""
    try:
      with self.open() as file:
        return file.read(size)
    except _READ_ERRORS as error:
      reason = getattr(error, 'strerror', None) or error
      raise InputError(f'{self.where}: cannot be read ({reason}); check the file, or get it again') from error


def files_of_folder(folder: pathlib.Path) -> dict[str, StoredFile]:
  """Lists a folder with its subfolders.

  Returns:
    Path relative to `folder`, with forward slashes -> file; sorted; hidden files and folders left out.

  Raises:
    InputError: The folder cannot be listed.
  """

  def refuse(error: OSError) -> None:
    raise InputError(f'{error.filename}: cannot be listed ({error.strerror}); check the path') from error

  files = {}
  for parent, folders, names in os.walk(folder, onerror=refuse):
    folders[:] = [name for name in folders if not name.startswith('.')]
    for name in names:
      if not name.startswith('.'):
        path = pathlib.Path(parent, name)
        files[path.relative_to(folder).as_posix()] = StoredFile.on_disk(path)
  return dict(sorted(files.items()))


def files_of_zip(path: pathlib.Path) -> dict[str, StoredFile]:
  """Lists a zip archive, which stays open as long as one of the files is referred to.

  Returns:
    Member name -> file; sorted.

  Raises:
    InputError: No readable zip archive, or one with unsafe members: names that lead out of it, symbolic
      links, or more than 1 GiB unpacked.
  """
  try:
    archive = zipfile.ZipFile(path)
  except _READ_ERRORS as error:
    raise InputError(f'{path}: not a readable zip archive ({error}); get the file again') from error
  members = [m for m in archive.infolist() if not m.is_dir()]
  for member in members:
    if reason := _why_unsafe(member):
      raise InputError(
        f'{path}: unsafe member {member.filename!r} ({reason}); nothing was read. Get the archive from its '
        'source'
      )
  return {
    m.filename: StoredFile(f'{path}: {m.filename}', functools.partial(archive.open, m))
    for m in sorted(members, key=lambda m: m.filename)
  }


def _why_unsafe(member: zipfile.ZipInfo) -> str | None:
  name = pathlib.PureWindowsPath(member.filename)  # knows both kinds of slashes, and drives
  if name.is_absolute() or name.drive or name.root or '..' in name.parts:
    return 'its name leads out of the archive'
  if stat.S_ISLNK(member.external_attr >> 16):
    return 'a symbolic link'
  if member.file_size > MAX_MEMBER_BYTES:
    return f'{member.file_size / 2**30:.1f} GiB unpacked; expected at most {MAX_MEMBER_BYTES >> 30} GiB'
  return None
