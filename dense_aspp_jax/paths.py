"""Paths that a user wrote, and the directory of the user's caches."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import tempfile

import platformdirs

from dense_aspp_jax.errors import InputError

# One letter is a drive of Windows; pathlib drops a second slash.
_URL = re.compile(r'[A-Za-z][A-Za-z0-9+.-]+:/')


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """A path as the file system takes it: `~` becomes the home directory, as in a shell.

  Raises:
    InputError: A URL such as gs://bucket/run, or a `~` of a user without a home directory.
  """
  text = os.fspath(path)
  if _URL.match(text):
    raise InputError(
      f'{text}: a URL; expected a path of this machine. Copy or mount the files, and give that path'
    )
  expanded = os.path.expanduser(text)  # leaves what it cannot expand as it is
  if text.startswith('~') and expanded == text and not os.path.lexists(text):
    raise InputError(f'{text}: there is no such home directory (is HOME set?). Write the path without `~`')
  return pathlib.Path(expanded)


def path_argument(text: str) -> pathlib.Path:
  """`local_path` as the type of a command's argument."""
  try:
    return local_path(text)
  except InputError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def user_cache() -> pathlib.Path:
  """The directory of the user's caches, which may be missing.

  Where there is no home directory, as for a user of a container whom no user database knows, it is in the
  directory of temporary files, where others may have written it.
  """
  try:
    return platformdirs.user_cache_path('dense_aspp_jax', appauthor=False)
  except RuntimeError:
    return pathlib.Path(tempfile.gettempdir(), f'dense_aspp_jax-{os.getuid()}')
