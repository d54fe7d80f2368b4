"""Limits of time and memory for code that reads what may be hostile."""

import contextlib
import pathlib
import resource
import signal
from collections.abc import Iterator


class TooSlow(BaseException):
  """No Exception, so that nothing that turns those into messages takes it for one."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
  """Raises `TooSlow` inside the block when the process has used so much processor time."""

  def stop(*_):
    raise TooSlow

  # Not the timer of real time, which pytest-timeout uses.
  before = signal.signal(signal.SIGPROF, stop)
  signal.setitimer(signal.ITIMER_PROF, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def memory_limit(num_bytes: int) -> Iterator[None]:
  """Makes allocations fail inside the block that go so far beyond what the process has; on Linux."""
  status = pathlib.Path('/proc/self/statm')
  if not status.exists():
    yield
    return
  before = resource.getrlimit(resource.RLIMIT_AS)
  used = int(status.read_text().split()[0]) * resource.getpagesize()
  resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, before)
