"""Keeps the directory of a run for one training, and notices when it is no longer where it was."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator

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
  with contextlib.ExitStack() as files:
    try:
      workdir.mkdir(parents=True, exist_ok=True)
      directory = os.open(workdir, os.O_RDONLY)  # while it is open, no new directory is taken for it
      files.callback(os.close, directory)
      file = files.enter_context((workdir / LOCK).open('a'))
    except OSError as error:
      raise RunError(f'{workdir}: cannot be written ({error.strerror})') from error
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in _LOCKED:
        raise InputError(
          f'{workdir}: another process is training there; wait, or choose another --workdir'
        ) from error
      say(
        f'warning: {workdir}: this file system has no locks ({error.strerror}); make sure that no other '
        'training is started there'
      )
    try:
      file.truncate(0)
      os.write(file.fileno(), word.encode())  # not buffered: closing the file cannot fail then
    except OSError as error:
      raise RunError(f'{file.name}: cannot be written ({error.strerror})') from error

    def verify() -> None:
      lock = workdir / LOCK
      try:
        if not os.path.samestat(os.stat(directory), workdir.stat()):
          raise FileNotFoundError
        if not lock.exists():  # it alone was removed
          lock.write_text(word, encoding='utf-8')
        if lock.read_text(encoding='utf-8', errors='replace') == word:
          return
        became = 'another training has begun there'
      except (FileNotFoundError, NotADirectoryError):
        became = _what_became(workdir, directory)
      except OSError:  # the file system is not well: saving tells
        return
      raise RunError(
        f'{workdir}: {became}. Nothing more is written; the state since the last checkpoint is lost'
      )

    try:
      yield verify
    except RunError:
      verify()  # what failed may have failed because the directory is gone
      raise


def _what_became(workdir: pathlib.Path, directory: int) -> str:
  """What has become of an open directory that is not where it was."""
  try:
    path = pathlib.Path(os.readlink(f'/proc/self/fd/{directory}'))
  except OSError:
    return 'removed or renamed while the run trained there'
  if not path.exists():  # '... (deleted)'
    return 'removed while the run trained there'
  text = f'renamed to {path} while the run trained there; resume it with --workdir={path}'
  if any(p.is_file() for p in (workdir / 'checkpoints').rglob('*')) and not (workdir / LOCK).exists():
    text += f'. A checkpoint that was just being saved is in {workdir}/checkpoints'
  return text
