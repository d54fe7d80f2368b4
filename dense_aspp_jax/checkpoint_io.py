"""One Orbax checkpoint with a digest of every array; whatever goes wrong is a single message.

Orbax alone restores a flipped bit silently, because its array data carry no checksum.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from dense_aspp_jax.errors import InputError, RunError

_DIGESTS = 'sha256'
_SHOWN = 3


def _is_not_orbaxs_traceback(record: logging.LogRecord) -> bool:
  return not (record.exc_info and 'orbax' in record.pathname)


logging.getLogger('absl').addFilter(_is_not_orbaxs_traceback)  # it logs what it raises as well


def named_arrays(items: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of trees by path, such as 'params/extractor/conv0/kernel'."""
  leaves = jax.tree_util.tree_leaves_with_path(dict(items))
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def start_saving(
  path: pathlib.Path, items: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> ocp.AsyncResponse[None]:
  """Begins to write a checkpoint; it appears under its name when it is whole. All processes must call it.

  Args:
    path: A new directory.
    items: Trees of arrays by name; on every process the same, whole values.
    record: JSON data kept with it, see `read_record`.

  Returns:
    Its `result()` waits until all is on disk. It raises what went wrong, as this function does; see
    `orbax_writes`.
  """
  digests = {name: _digest(array) for name, array in named_arrays(items).items()}
  return ocp.save_checkpointables_async(
    epath.Path(path.absolute()), dict(items), custom_metadata={**(record or {}), _DIGESTS: digests}
  )


def save_checkpoint(
  path: pathlib.Path,
  items: Mapping[str, Any],
  record: Mapping[str, Any] | None = None,
  shown: pathlib.Path | None = None,
) -> None:
  """Writes a checkpoint and waits until it is on disk.

  Args:
    path: As in `start_saving`.
    items: As in `start_saving`.
    record: As in `start_saving`.
    shown: The directory named in the error message, where `path` is temporary.

  Raises:
    RunError: It cannot be written.
  """
  with orbax_writes(shown or path, 'nothing was changed there'):
    start_saving(path, items, record).result()


@contextlib.contextmanager
def orbax_writes(path: pathlib.Path, consequence: str) -> Iterator[None]:
  """Turns whatever Orbax raises while it writes `path` into a RunError that ends with `consequence`."""
  try:
    yield
  except Exception as error:  # Orbax raises what the file system, TensorStore or a thread raised
    raise RunError(f'{path} could not be written ({_first_line(error)}); {consequence}') from error


def read_record(path: pathlib.Path) -> dict[str, Any]:
  """The record a checkpoint was saved with.

  Raises:
    InputError: It cannot be read.
  """
  return _read_metadata(path)[0]


def read_digests(path: pathlib.Path) -> dict[str, str]:
  """The SHA-256 of every array by its path in the trees, as they were saved with.

  Raises:
    InputError: They cannot be read.
  """
  return _read_metadata(path)[1]


def load_checkpoint(path: pathlib.Path, items: Mapping[str, Any]) -> dict[str, Any]:
  """Restores trees of a checkpoint; each process reads by itself.

  Args:
    path: The checkpoint.
    items: By name, trees of arrays or `jax.ShapeDtypeStruct`; others that are stored stay unread.

  Returns:
    The trees, of NumPy arrays.

  Raises:
    InputError: It cannot be read, is not of these shapes, or an array is not the one that was saved.
  """
  _, digests = _read_metadata(path)
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(items))
  restored = _read(path, lambda: ocp.load_checkpointables(epath.Path(path.absolute()), abstract))
  restored = jax.tree.map(np.asarray, restored)
  arrays = named_arrays(restored)
  damaged = [name for name, array in arrays.items() if digests.get(name) != _digest(array)]
  if damaged:
    raise InputError(
      f'{path}: this checkpoint is damaged: {len(damaged)} of {len(arrays)} arrays are not those that were '
      f'saved ({", ".join(damaged[:_SHOWN])}{", ..." if len(damaged) > _SHOWN else ""}). Choose another one'
    )
  return restored


def _read_metadata(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
  """The record, and the digests."""

  def read() -> tuple[dict[str, Any], dict[str, str]]:
    record = dict(ocp.checkpointables_metadata(epath.Path(path.absolute())).custom_metadata or {})
    return record, dict(record.pop(_DIGESTS))

  return _read(path, read)


def _read(path: pathlib.Path, load: Callable[[], Any]) -> Any:
  """Calls `load`; whatever Orbax raises becomes an InputError that names `path`."""
  try:
    with _this_process_alone():
      return load()
  except Exception as error:  # as in `orbax_writes`
    failure = _first_line(error)
  _discard_unfinished_tasks()  # nothing refers to them any more: a context manager would hold the error
  raise InputError(
    f'{path}: this checkpoint cannot be read, or is not of the configured network ({failure}). '
    'Choose another one, or remove it'
  )


def _this_process_alone() -> ocp.Context:
  """Keeps Orbax from waiting for other processes, one of which may find its copy damaged."""
  context = ocp.Context()
  if jax.process_count() > 1:
    index = jax.process_index()
    context.multiprocessing.primary_host = index
    context.multiprocessing.active_processes = {index}
    context.multiprocessing.barrier_sync_key_prefix = f'process_{index}'
  return context


def _digest(array: Any) -> str:
  array = np.asarray(array)
  digest = hashlib.sha256(f'{array.dtype.name} {array.shape} '.encode())
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return digest.hexdigest()


def _first_line(error: Exception) -> str:
  """Type and first line of an error, at most 500 characters: Orbax names long paths before the reason."""
  return f'{type(error).__name__}: {error}'.splitlines()[0][:500]


def _discard_unfinished_tasks() -> None:
  """Keeps what Orbax leaves behind when a restore fails from printing warnings."""
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      gc.collect()
  finally:
    sys.unraisablehook = hook
