"""Huge pages for the memory of a process, on Linux."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys

_PAGES = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
_SETTING = 'glibc.malloc.hugetlb=1'  # glibc then asks for huge pages, by madvise
_FIRST_VERSION = (2, 35)  # of glibc, that knows the setting
_COMMANDS = ('dense-aspp', 'dense_aspp_jax', 'train.py')


def start_again_with_huge_pages() -> None:
  """Starts this process's command again where glibc has to be told to ask for huge pages; else returns.

  XLA's CPU client allocates the temporaries of a step anew each time, and the system maps and clears their
  pages again. In pages of 4 KiB that is a fifth of the time of a training step of DenseNet-121, and more of
  a small network's. glibc reads its settings before a program can change them.

  Settings of the user's own (MALLOC_... or glibc.malloc in GLIBC_TUNABLES) stay as they are. Nothing is done
  under a debugger, nor where the process is more than one of the package's commands, such as a notebook.
  """
  if not (_is_a_command() and _pages_on_request() and _glibc_version() >= _FIRST_VERSION):
    return
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  if 'glibc.malloc' in tunables or any(name.startswith('MALLOC_') for name in os.environ):
    return
  os.environ['GLIBC_TUNABLES'] = ':'.join(filter(None, (tunables, _SETTING)))
  with contextlib.suppress(OSError):  # not allowed here: the command runs as it is
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_a_command() -> bool:
  before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
  same_arguments = sys.orig_argv[len(before) :] == sys.argv[1:]
  debugged = sys.gettrace() is not None or 'pydevd' in sys.modules
  name = pathlib.Path(before[-1]).name if before else ''  # of an embedded interpreter there is none
  return same_arguments and not debugged and name in _COMMANDS


def _pages_on_request() -> bool:
  try:
    return '[madvise]' in _PAGES.read_text()
  except OSError:
    return False


def _glibc_version() -> tuple[int, ...]:
  """(0,) of another C library, such as those of macOS, Windows and Alpine Linux."""
  try:
    name, version = os.confstr('CS_GNU_LIBC_VERSION').split()
    return tuple(map(int, version.split('.'))) if name == 'glibc' else (0,)
  except (AttributeError, ValueError, OSError):
    return (0,)
