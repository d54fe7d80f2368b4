"""Orbax checkpoints read and written so that whatever goes wrong is a single message."""

from __future__ import annotations

import contextlib
import gc
import logging
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from dense_aspp_jax.errors import InputError, RunError


def _keep(record: logging.LogRecord) -> bool:
  return not (record.exc_info and 'orbax' in record.pathname)


logging.getLogger('absl').addFilter(_keep)  # Orbax logs with a traceback what it raises as well


def read_orbax(load: Callable[[], Any], path: pathlib.Path) -> Any:
  """Calls `load`; whatever it raises becomes an InputError that names `path`."""
  try:
    return load()
  except Exception as error:  # Orbax raises what the file system, TensorStore or a thread raised
    failure = _first_line(error)
  _discard_unfinished_tasks()
  raise InputError(
    f'{path}: this checkpoint cannot be read, or is not of the configured network ({failure}). '
    'Choose another one, or remove it'
  )


@contextlib.contextmanager
def orbax_write(what: str, consequence: str) -> Iterator[None]:
  """Turns whatever Orbax raises while it writes into a RunError: what could not be written, what is left."""
  try:
    yield
  except Exception as error:  # likewise
    raise RunError(f'{what} could not be written ({_first_line(error)}); {consequence}') from error


def _first_line(error: Exception) -> str:
  """Type and first line of an error, at most 500 characters: Orbax names long paths before the reason."""
  return f'{type(error).__name__}: {error}'.splitlines()[0][:500]


def _discard_unfinished_tasks() -> None:
  """Keeps what Orbax leaves behind when a restore fails from complaining on the screen."""
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      gc.collect()
  finally:
    sys.unraisablehook = hook
