"""Files of a folder or of a zip archive, read alike: a data set is prepared without unpacking it."""

from __future__ import annotations

import dataclasses
import functools
import lzma
import os
import pathlib
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO, NamedTuple

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import SIGNATURE_BYTES, shown, what_it_is

# What zipfile raises for damaged members, and for encryption and compression that it does not know.
_DAMAGED = (EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_UNKNOWN = RuntimeError
MAX_MEMBER_BYTES = 2**30  # unpacked; an image of png.MAX_PIXELS pixels has 0.7 GiB at most
# What systems and programs leave in folders, besides all that begins with a dot; lower case.
_HIDDEN = {
  '@eadir', '@recycle', '@tmp', '#recycle', '#snapshot', 'lost+found',
  '__macosx', 'icon\r',
  'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db', 'desktop.ini', '$recycle.bin', 'system volume information',
}  # fmt: skip
_KINDS_SHOWN = 5  # in a message


@dataclasses.dataclass(frozen=True)
class StoredFile:
  """A file on disk or a member of an archive.

  Attributes:
    where: Its path, or 'ARCHIVE: member', for messages; printable.
    open: Opens it for reading bytes.
    path: Its path if it is on disk.
  """

  where: str
  open: Callable[[], BinaryIO]
  path: pathlib.Path | None = None

  @classmethod
  def on_disk(cls, path: pathlib.Path) -> StoredFile:
    """The file at `path`."""
    return cls(shown(path), functools.partial(path.open, 'rb'), path)

  def read(self, size: int = -1) -> bytes:
    """Reads the first `size` bytes, or all.

    Raises:
      InputError: That fails.
      RunError: Too little memory.
    """
    try:
      with self.open() as file:
        return file.read(size)
    except MemoryError as error:
      raise RunError(f'{self.where}: too little memory to read it') from error
    except (OSError, *_DAMAGED, _UNKNOWN) as error:
      raise _unreadable(self.where, error) from error

  def left(self, why: str | None = None) -> str:
    """An entry of `Files.left`; by default the suffix is why."""
    name = self.where.rpartition(': ')[2]  # without the archive
    return f'{self.where}: {why or pathlib.PurePath(name).suffix.lower() or "no suffix"}'


class Files(NamedTuple):
  """What a listing found. Hidden files and folders are in neither.

  Attributes:
    taken: Path relative to the folder, with forward slashes -> file; sorted.
    left: 'PATH: why' for everything else, such as a pipe, or a link to a folder above it (a loop).
  """

  taken: dict[str, StoredFile]
  left: list[str]

  def with_suffixes(self, suffixes: Collection[str]) -> Files:
    """Leaves all files but those with one of the lower-case `suffixes`; upper case fits too."""
    taken = {n: f for n, f in self.taken.items() if pathlib.PurePosixPath(n).suffix.lower() in suffixes}
    return Files(taken, self.left + [file.left() for name, file in self.taken.items() if name not in taken])


def describe_left(left: Sequence[str]) -> str:
  """One line about `Files.left`: `'3 files left out: 2 .txt, 1 pipe; the first is PATH'`; '' without any."""
  if not left:
    return ''
  kinds = Counter(entry.rpartition(': ')[2] for entry in left).most_common()
  counts = ', '.join(f'{count} {kind}' for kind, count in kinds[:_KINDS_SHOWN])
  more = ', ...' if len(kinds) > _KINDS_SHOWN else ''
  noun = 'file' if len(left) == 1 else 'files'
  return f'{len(left)} {noun} left out: {counts}{more}; the first is {left[0].rpartition(": ")[0]}'


def files_of_folder(folder: pathlib.Path) -> Files:
  """Lists a folder with its subfolders. Links to files and folders are followed; no file is opened.

  A link that leads nowhere is taken if its name has a suffix: nobody should go on without an image that is
  not there, so reading it is the error.

  Raises:
    InputError: A folder cannot be listed.
  """
  taken, left = {}, []
  folders = [(folder, '', frozenset())]
  while folders:
    path, prefix, above = folders.pop()
    try:
      above |= {_identity(p) for p in ((path,) if above else (path, *path.resolve().parents))}
      with os.scandir(path) as entries:
        visible = [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError as error:
      raise InputError(f'{shown(path)}: cannot be listed ({error.strerror}); check the path') from error
    for entry in visible:
      file = StoredFile.on_disk(path / entry.name)
      try:
        kind = _kind(entry)
        if kind == 'folder':
          if _identity(file.path) in above:
            left.append(file.left('loop'))
          else:
            folders.append((file.path, f'{prefix}{entry.name}/', above))
        elif kind:
          left.append(file.left(kind))
        else:
          taken[prefix + entry.name] = file
      except OSError:
        if file.path.suffix:
          taken[prefix + entry.name] = file
        else:
          left.append(file.left('broken link'))
  return Files(dict(sorted(taken.items())), sorted(left))


def _is_hidden(name: str) -> bool:
  return name.startswith('.') or name.lower() in _HIDDEN


def _identity(folder: pathlib.Path) -> tuple[int, int]:
  found = folder.stat()
  return found.st_dev, found.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
  """'' for a file, 'folder', or what else it is. Raises OSError where a link leads nowhere."""
  if entry.is_file():  # of most file systems known from the listing, without another call
    return ''
  mode = entry.stat().st_mode
  kinds = (stat.S_ISDIR, 'folder'), (stat.S_ISFIFO, 'pipe'), (stat.S_ISSOCK, 'socket')
  return next((kind for fits, kind in kinds if fits(mode)), 'device')


def files_of_zip(path: pathlib.Path) -> Files:
  """Lists a zip archive, which stays open as long as one of the files is referred to.

  Backslashes in names, which some Windows programs write, count as slashes.

  Raises:
    InputError: No readable zip archive, or one with unsafe members: names that lead out of it, symbolic
      links, or more than 1 GiB unpacked.
  """
  try:
    archive = zipfile.ZipFile(path)
  except (OSError, *_DAMAGED, _UNKNOWN) as error:
    if isinstance(error, OSError) and error.errno is not None:
      raise _unreadable(shown(path), error) from error
    start = StoredFile.on_disk(path).read(SIGNATURE_BYTES)
    again = f'{error}; get the file again'
    what = again if start.startswith(b'PK') else what_it_is(start, 'unpack it, and give the folder')
    raise InputError(f'{shown(path)}: not a readable zip archive ({what})') from error
  taken, left = {}, []
  for member in archive.infolist():
    if reason := _why_unsafe(member):
      raise InputError(
        f'{shown(path)}: unsafe member {member.filename!r} ({reason}); nothing was read. Get the archive '
        'from its source'
      )
    name = member.filename.replace('\\', '/')
    if name.endswith('/') or any(map(_is_hidden, name.split('/'))):
      continue
    file = StoredFile(f'{shown(path)}: {shown(name)}', functools.partial(archive.open, member))
    if name in taken:
      left.append(taken[name].left('older member of the same name'))
    taken[name] = file
  return Files(dict(sorted(taken.items())), left)


def _unreadable(where: str, error: Exception) -> InputError:
  """Says what to do; only what is damaged should be fetched again."""
  if isinstance(error, _UNKNOWN):  # or NotImplementedError, which is one
    remedy = 'unpack the archive with another program, and give the folder'
  elif isinstance(error, _DAMAGED) or error.errno is None:
    remedy = 'get the archive again'
  else:
    remedy = 'check that it is there, that it may be read, and the disk'
  return InputError(f'{where}: cannot be read ({getattr(error, "strerror", None) or error}); {remedy}')


def _why_unsafe(member: zipfile.ZipInfo) -> str | None:
  name = pathlib.PureWindowsPath(member.filename)  # knows both kinds of slashes, and drives
  if name.is_absolute() or name.drive or name.root or '..' in name.parts:
    return 'its name leads out of the archive'
  if stat.S_ISLNK(member.external_attr >> 16):
    return 'a symbolic link'
  if member.file_size > MAX_MEMBER_BYTES:
    return f'{member.file_size / 2**30:.1f} GiB unpacked; expected at most {MAX_MEMBER_BYTES >> 30} GiB'
  return None
