import ctypes
import os
import subprocess
import sys

import pytest

from dense_aspp_jax import allocator

_GLIBC = (
  hasattr(ctypes, 'CDLL') and sys.platform == 'linux' and hasattr(ctypes.CDLL(None), 'gnu_get_libc_version')
)
_ALLOCATES = """
import contextlib, io, resource, sys
{before}
faults = []
for _ in range(4):
  block = bytearray(64 * 2**20)  # all its pages are written
  del block
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""
_COMMAND = """
from dense_aspp_jax.__main__ import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
  main(['--version'])
"""


def _faults(before, **variables):
  """Page faults of three allocations of 64 MiB, each freed before the next."""
  environment = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'GLIBC_'))} | variables
  program = _ALLOCATES.format(before=before)
  return int(
    subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, check=True).stdout
  )


@pytest.mark.skipif(not _GLIBC, reason='another C library')
def test_commands_keep_freed_memory():
  assert _faults('') > 1000
  assert _faults(_COMMAND) < 200


@pytest.mark.skipif(not _GLIBC, reason='another C library')
def test_settings_of_the_user_stay():
  assert _faults(_COMMAND, MALLOC_MMAP_THRESHOLD_='4096') > 1000


@pytest.mark.parametrize('error', [AttributeError, OSError, TypeError])
def test_does_nothing_without_glibc(monkeypatch, error):
  class NoLibrary:
    def __init__(self, name):
      if error is not AttributeError:
        raise error

  for name in [name for name in os.environ if name.startswith(('MALLOC_', 'GLIBC_'))]:
    monkeypatch.delenv(name)
  monkeypatch.setattr(ctypes, 'CDLL', NoLibrary)
  assert allocator.keep_freed_memory() is False
