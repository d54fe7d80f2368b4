"""How the C library of this process hands memory to XLA."""

from __future__ import annotations

import ctypes
import os

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Makes glibc keep freed memory for the next allocation; call it before threads start.

  XLA's CPU client allocates the temporaries of a step anew each time. By default glibc gives blocks of that
  size back to the system, which then maps and clears every page of them again: a quarter of the time of a
  training step of DenseNet-121, and more of a small network's. The process keeps its peak memory instead.

  Settings of the user's own (MALLOC_... or GLIBC_TUNABLES in the environment) stay as they are.

  Returns:
    Whether it was done: False with another C library, such as those of macOS, Windows and Alpine Linux.
  """
  if 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '') or any(
    name.startswith('MALLOC_') for name in os.environ
  ):
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  # One arena, since others than the first one must map large blocks; -1 never trims.
  return all(
    mallopt(option, value) for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
  )
