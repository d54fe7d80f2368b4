"""Keeps the directory of a run for one training, and notices when it is no longer where it was."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import TextIO

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.progress import say

LOCK = '.lock'  # locked while a training runs; holds a word that no other training knows
_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # other errors: the file system has no locks


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[Callable[[], None]]:
  """Keeps a second training out of the directory; the lock ends with the process, however it ends.

  Args:
    workdir: Created if missing.

  Yields:
    A function that raises RunError if the directory was removed, renamed, or taken by another training.

  Raises:
    InputError: Another process is training there.
    RunError: It cannot be written.
  """
  word = uuid.uuid4().hex
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = (workdir / LOCK).open('a')
  except OSError as error:
    raise RunError(f'{workdir}: cannot be written ({error.strerror})') from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in _LOCKED:
        raise InputError(f'{workdir}: another process is training there; wait, or choose another') from error
      say(
        f'warning: {workdir}: this file system has no locks ({error.strerror}); make sure that no other '
        'training is started there'
      )
    try:
      file.truncate(0)
      os.write(file.fileno(), word.encode())  # not buffered: closing the file cannot fail then
    except OSError as error:
      raise RunError(f'{file.name}: cannot be written ({error.strerror})') from error
    directory = _identity(workdir)

    def verify() -> None:
      try:
        if (workdir / LOCK).read_text(encoding='utf-8', errors='replace') == word:
          return
      except (FileNotFoundError, NotADirectoryError):
        if _identity(workdir) == directory:  # the lock file alone was removed
          with contextlib.suppress(OSError):
            (workdir / LOCK).write_text(word, encoding='utf-8')
          return
      except OSError:  # the file system is not well: saving tells
        return
      raise RunError(f'{workdir}: {_what_became(workdir, file)}')

    try:
      yield verify
    except RunError:
      verify()  # what failed may have failed because the directory is gone
      raise


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
  with contextlib.suppress(OSError):
    stat = path.stat()
    return stat.st_dev, stat.st_ino
  return None


def _what_became(workdir: pathlib.Path, lock: TextIO) -> str:
  """What has become of a directory whose lock file is open."""
  remedy = 'The state since the last checkpoint is lost'
  try:
    path = pathlib.Path(os.readlink(f'/proc/self/fd/{lock.fileno()}'))
  except OSError:
    return f'removed or renamed while the run trained there; nothing more is written. {remedy}'
  if not path.exists():  # '... (deleted)'
    return f'removed while the run trained there; nothing more is written. {remedy}'
  if _identity(path.parent) == _identity(workdir):
    return f'another training has begun there; this one writes nothing more. {remedy}'
  text = (
    f'renamed to {path.parent} while the run trained there; nothing more is written. {remedy}; '
    f'resume the run with --workdir={path.parent}'
  )
  if any(p.is_file() for p in (workdir / 'checkpoints').rglob('*')) and not _identity(workdir / LOCK):
    text += f'. A checkpoint that was just being saved is in {workdir}/checkpoints'
  return text
