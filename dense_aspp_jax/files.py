"""Files and directories: atomic writing, JSON, downloads."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.progress import progress_bar

ABANDONED_AFTER_SECONDS = 3600
_DOWNLOAD_TIMEOUT = 60  # seconds without an answer
_DOWNLOAD_BLOCK = 2**20
SIGNATURE_BYTES = 64  # enough to know what a file is
# Control characters, and what stands for bytes of a file name that are not UTF-8 (PEP 383).
_UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\ud800-\udfff]')


def shown(path: str | os.PathLike[str]) -> str:
  r"""A path for messages, without control characters; bytes that are not UTF-8 are shown as `\xff`."""

  def escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f'\\x{code & 0xFF:02x}' if code < 0xA0 or 0xDC80 <= code <= 0xDCFF else f'\\u{code:04x}'

  return _UNPRINTABLE.sub(escaped, os.fspath(path))


def what_it_is(data: bytes, remedy: str) -> str:
  """What a file in an unexpected format is by its beginning, and what to do: for most of them `remedy`."""
  beginning = f'it begins with {data[:16]!r}'
  text = data[:SIGNATURE_BYTES].lstrip(b'\xef\xbb\xbf \t\r\n').lower()
  if text.startswith(b'version https://git-lfs'):
    return 'a Git LFS pointer in place of the file; get the file with `git lfs pull`'
  if text.startswith((b'<!doctype html', b'<html')):
    return f'a web page, {beginning}; get the file again'
  return f'{beginning}; {remedy}' if data else 'an empty file; get the file again'


def _beside(path: pathlib.Path, end: str) -> pathlib.Path:
  """A hidden name beside `path`; short, so that `path` may have the longest name that there is."""
  digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
  return path.with_name(f'.{digest}.{os.getpid()}.{end}')


def write_file(path: pathlib.Path, data: bytes) -> None:
  """Writes under a temporary name and renames, so that `path` is never half-written; creates the folder.

  Raises:
    RunError: It cannot be written.
  """
  temporary = _beside(path, 'tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.replace(temporary, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise RunError(f'{shown(path)}: cannot be written ({error.strerror})') from error


def write_json(path: pathlib.Path, data: Any) -> None:
  """Writes a JSON file atomically.

  Raises:
    RunError: It cannot be written.
  """
  write_file(path, (json.dumps(data, indent=2, allow_nan=False) + '\n').encode())


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
  """Writes named arrays as a compressed .npz file. Raises RunError like `write_file`."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  write_file(path, buffer.getvalue())


def read_json(path: pathlib.Path, remedy: str, *, default: Any = None) -> Any:
  """Reads a JSON file.

  Args:
    path: The file.
    remedy: What to do if it is missing or damaged, for the message.
    default: Returned if the file is missing; None: a missing file is an error.

  Raises:
    InputError: It is missing or cannot be read.
  """
  try:
    data = path.read_bytes()  # UTF-8 or UTF-16, with or without BOM
    return json.loads(data, parse_constant=_refuse_constant)
  except FileNotFoundError as error:
    if default is not None:
      return default
    raise InputError(f'{shown(path)}: no such file; {remedy}') from error
  except (NotADirectoryError, IsADirectoryError, ValueError, RecursionError) as error:
    raise InputError(f'{shown(path)}: cannot be read as JSON ({error}); {remedy}') from error
  except OSError as error:  # of the system, which says nothing against the file
    raise InputError(
      f'{shown(path)}: cannot be read ({error.strerror}); check its permissions and the disk'
    ) from error


def _refuse_constant(name: str) -> None:
  raise ValueError(f'{name} is no number of JSON')


def download_file(url: str, path: pathlib.Path, description: str, otherwise: str) -> None:
  """Downloads `url` into the file `path`.

  Args:
    url: What to fetch.
    path: Where to.
    description: For the progress bar.
    otherwise: What to do where there is no network, for the message.

  Raises:
    RunError: No network, or the download broke off.
  """
  try:
    with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT) as response, path.open('wb') as file:
      length = response.headers.get('Content-Length')
      total = -(-int(length) // _DOWNLOAD_BLOCK) if length else None
      with progress_bar(total, description, unit='MiB') as bar:
        while block := response.read(_DOWNLOAD_BLOCK):
          file.write(block)
          bar.update()
      if length and file.tell() != int(length):
        raise OSError(f'{file.tell()} of {length} bytes came')
  except (OSError, http.client.HTTPException) as error:
    raise RunError(f'{url}: download failed ({error}); {otherwise}') from error


def check_writable(directory: pathlib.Path, option: str) -> None:
  """Checks, without writing anything, that a folder can be created, if it is missing, and written.

  Args:
    directory: The folder.
    option: The option that names it, for the message.

  Raises:
    InputError: It, or the closest existing path above it, is not a folder or is not writable.
  """
  path = directory.absolute()
  existing = next(p for p in (path, *path.parents) if os.path.lexists(p))
  if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
    raise InputError(
      f'{shown(directory)}: {shown(existing)} is not a directory that can be written; choose another {option}'
    )


def check_new_directory(directory: pathlib.Path) -> None:
  """Raises InputError unless `directory` is missing or an empty folder, not the current one."""
  resolved = directory.resolve()
  if resolved.is_dir() and resolved != pathlib.Path.cwd() and not any(resolved.iterdir()):
    return
  if resolved.exists():
    raise InputError(
      f'{shown(directory)}: expected a new or an empty folder; nothing was written. Choose another --output'
    )


@contextlib.contextmanager
def new_directory(directory: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary folder that becomes `directory` when the `with` block ends without an error.

  Raises:
    InputError: The directory holds something already.
    RunError: It cannot be written.
  """
  check_new_directory(directory)
  directory = directory.resolve()
  temporary = _beside(directory, 'tmp')
  try:
    temporary.mkdir(parents=True)
    yield temporary
    if directory.is_dir():
      directory.rmdir()  # empty, as checked
    os.replace(temporary, directory)
  except OSError as error:
    raise RunError(f'{shown(directory)}: cannot be written ({error.strerror or error})') from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def replaced_directory(directory: pathlib.Path, own_file: str) -> Iterator[pathlib.Path]:
  """Yields a temporary folder that replaces `directory` when the `with` block ends without an error.

  Args:
    directory: Missing, empty, or the result of an earlier call, which is deleted at the end.
    own_file: Name of a file that identifies such a result.

  Raises:
    InputError: The directory holds something else.
    RunError: It cannot be written.
  """
  if not (directory / own_file).is_file():
    check_new_directory(directory)
  directory = directory.resolve()
  temporary, old = (_beside(directory, end) for end in ('tmp', 'old'))
  try:
    temporary.mkdir(parents=True)
    yield temporary
    if directory.is_dir():
      os.replace(directory, old)
    try:
      os.replace(temporary, directory)
    except OSError:
      if old.is_dir():
        os.replace(old, directory)
      raise
  except OSError as error:
    raise RunError(f'{shown(directory)}: cannot be written ({error.strerror or error})') from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  shutil.rmtree(old, ignore_errors=True)


def remove_abandoned(folder: pathlib.Path, pattern: str) -> None:
  """Removes the folders in `folder` that fit `pattern` and whose writer wrote nothing for an hour."""
  for unfinished in folder.glob(pattern):
    try:
      last_write = max(path.stat().st_mtime for path in (unfinished, *unfinished.rglob('*')))
    except FileNotFoundError:  # its writer has just finished
      continue
    if last_write < time.time() - ABANDONED_AFTER_SECONDS:
      shutil.rmtree(unfinished, ignore_errors=True)
