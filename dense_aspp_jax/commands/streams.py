"""Standard output and standard error that end no command, whatever becomes of their other end."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import stat
import sys
from collections.abc import Iterator


class _Descriptor(io.RawIOBase):
  """Writes to a file descriptor until that fails; what comes later is dropped.

  Attributes:
    failure: Why it failed, None if it did not.
  """

  def __init__(self, descriptor: int):
    self._descriptor = descriptor
    self.failure: OSError | None = None

  def fileno(self) -> int:
    return self._descriptor

  def isatty(self) -> bool:
    return os.isatty(self._descriptor)

  def writable(self) -> bool:
    return True

  def write(self, data: bytes) -> int:
    while self.failure is None:
      try:
        return os.write(self._descriptor, data)
      except BlockingIOError:  # another program made the terminal that both share non-blocking
        select.select((), (self._descriptor,), ())
      except OSError as error:
        self.failure = error
    return len(data)


def _reader_has_left(failure: OSError) -> bool:
  """Whether a pipe or a terminal was closed; of a file, EIO is a failure of its disk."""
  return failure.errno == errno.EPIPE or (
    failure.errno == errno.EIO and not stat.S_ISREG(os.fstat(1).st_mode)
  )


@contextlib.contextmanager
def lasting_streams() -> Iterator[list[str]]:
  """Inside, nothing that is printed raises: not into a closed pipe or a full disk, in no encoding.

  Characters that a stream's encoding lacks are escaped. A stream that was closed from the start leads
  nowhere; its descriptor is taken, so that no other file gets it and with it what libraries print. Streams
  that a program, a notebook or a test put in place of the process's own stay.

  Yields:
    A list that at the end has the message printed if standard output could not be written. That a reader has
    left, as in `| head`, is no failure.
  """
  for descriptor in (0, 1, 2):
    try:
      os.fstat(descriptor)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free
  failures: list[str] = []
  replaced = []
  for name, descriptor in (('stdout', 1), ('stderr', 2)):
    stream = getattr(sys, name)
    if stream is not getattr(sys, f'__{name}__'):
      continue
    if stream is not None:
      stream.flush()
    lasting = io.TextIOWrapper(
      io.BufferedWriter(_Descriptor(descriptor)),
      encoding=getattr(stream, 'encoding', 'utf-8'),
      errors='backslashreplace',
      # Also for `python -u`, which needs no lines.
      line_buffering=getattr(stream, 'line_buffering', True) or stream.write_through,
    )
    setattr(sys, name, lasting)
    replaced.append((name, stream, lasting))
  try:
    yield failures
  finally:
    for name, stream, lasting in replaced:  # standard error last
      lasting.flush()
      failure = lasting.buffer.raw.failure
      if name == 'stdout' and failure is not None and not _reader_has_left(failure):
        failures.append(f'standard output could not be written ({failure.strerror})')
        print(f'dense-aspp: {failures[0]}', file=sys.stderr)
      setattr(sys, name, stream)
