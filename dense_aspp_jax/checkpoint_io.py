"""One Orbax checkpoint with a digest of every array; whatever goes wrong is a single message.

Orbax alone restores a flipped bit silently, because its array data carry no checksum.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import gc
import hashlib
import json
import logging
import os
import pathlib
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from orbax.checkpoint import v1 as ocp

from dense_aspp_jax.errors import InputError, RunError

METADATA = '_CHECKPOINT_METADATA'  # Orbax's, in every whole checkpoint
_TREE_METADATA = '_METADATA'  # likewise, in each of its trees
_DIGESTS = 'sha256'
_SHOWN = 3
# Orbax takes `*`, `?` and `[` for patterns, TensorStore takes `\\` for `/`, etils takes `gs:` for a scheme.
_ORDINARY = re.compile(r'[\w/.,=+@~ -]*')
_AT_ONCE = 32  # arrays read back together
_INDEX_BYTES = 10**7  # of a checkpoint's index kept in memory meanwhile
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")  # TensorStore's
_FILES_AT_FAULT = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # errors of the system that mean damage
_BACKGROUND = concurrent.futures.ThreadPoolExecutor(thread_name_prefix='checkpoint')

# Orbax logs what it raises as well.
logging.getLogger('absl').addFilter(lambda r: not (r.exc_info and 'orbax' in r.pathname))


def _hide_late_callbacks(hook: Callable[[Any], None]) -> Callable[[Any], None]:
  """TensorStore reports an array that cannot be written even after Orbax has closed its loop for another."""
  return lambda found: None if str(found.exc_value) == 'Event loop is closed' else hook(found)


sys.unraisablehook = _hide_late_callbacks(sys.unraisablehook)


def named_arrays(items: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of trees by path, such as 'params/extractor/conv0/kernel'."""
  leaves = jax.tree_util.tree_leaves_with_path(dict(items))
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def start_saving(
  path: pathlib.Path, items: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> concurrent.futures.Future[None]:
  """Begins to write a checkpoint; it appears under its name when it is whole. All processes must call it.

  Args:
    path: A new directory, in one that exists.
    items: Trees of arrays by name; on every process the same, whole values.
    record: JSON data kept with it, see `read_record`.

  Returns:
    Its `result()` waits until all is on disk and was read back. It raises what went wrong, as this function
    does; see `orbax_writes`. `ReadBackError`: a checkpoint is there, but not the one that was to be saved.
  """
  # Of NumPy arrays, which belong to nobody else, Orbax makes less work than of JAX's.
  items = jax.tree.map(np.array, dict(items))
  digests = {name: _digest(array) for name, array in named_arrays(items).items()}
  metadata = {**(record or {}), _DIGESTS: digests}
  with contextlib.ExitStack() as until_written:
    place = until_written.enter_context(_place_for_orbax(path))
    response = ocp.save_checkpointables_async(place, items, custom_metadata=metadata)
    finish = until_written.pop_all()

  def wait_and_read_back() -> None:
    with finish:
      response.result()
      if jax.process_index() == 0:
        _read_back(place, list(items), metadata)

  return _BACKGROUND.submit(wait_and_read_back)


def save_checkpoint(
  path: pathlib.Path,
  items: Mapping[str, Any],
  record: Mapping[str, Any] | None = None,
  shown: pathlib.Path | None = None,
) -> None:
  """Writes a checkpoint and waits until it is on disk and was read back.

  Args:
    path: As in `start_saving`.
    items: As in `start_saving`.
    record: As in `start_saving`.
    shown: The directory named in the error message, where `path` is temporary.

  Raises:
    RunError: It cannot be written, or not be read back as it was saved.
  """
  with orbax_writes(shown or path, 'nothing was changed there'):
    start_saving(path, items, record).result()


@contextlib.contextmanager
def orbax_writes(path: pathlib.Path, consequence: str) -> Iterator[None]:
  """Turns whatever Orbax raises while it writes `path` into a RunError that ends with `consequence`."""
  try:
    yield
    return
  except ReadBackError as error:
    raise RunError(f'{path} could not be written ({_first_line(error)}); {consequence}') from error
  except Exception as error:  # Orbax raises what the file system, TensorStore or a thread raised
    failure = _first_line(error)
  _discard_unfinished_tasks()
  raise RunError(f'{path} could not be written ({failure}); {consequence}')


class ReadBackError(Exception):
  """What is on disk is not what was saved."""


def check_place(directory: pathlib.Path) -> None:
  """Checks that checkpoints can be written in a directory, which may be missing.

  Raises:
    InputError: Several processes cannot write there, because of the characters in its path.
  """
  if jax.process_count() > 1 and not _ORDINARY.fullmatch(str(directory.absolute())):
    raise InputError(
      f'{directory}: several processes need a path of letters, digits and "/._-+=,@~" only; choose another'
    )


def read_record(path: pathlib.Path) -> dict[str, Any]:
  """The record a checkpoint was saved with.

  Raises:
    InputError: It cannot be read; RunError if the system refuses.
  """
  return _read_metadata(path)[0]


def read_digests(path: pathlib.Path) -> dict[str, str]:
  """The SHA-256 of every array by its path in the trees, as they were saved with.

  Raises:
    InputError: They cannot be read; RunError if the system refuses.
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
    InputError: It is damaged or not of these shapes.
    RunError: The system refuses to read it (permission, memory, too many open files, ...).
  """
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  _, digests = _read_metadata(path)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(items))
  restored = jax.tree.map(np.asarray, _read(path, lambda place: ocp.load_checkpointables(place, abstract)))
  arrays = named_arrays(restored)
  damaged = [name for name, array in arrays.items() if digests.get(name) != _digest(array)]
  if damaged:
    raise InputError(
      f'{path}: this checkpoint is damaged: {_not_as_saved(damaged, arrays)}. Choose another one'
    )
  return restored


def _read_metadata(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
  """The record, and the digests."""

  def read(place: epath.Path) -> tuple[dict[str, Any], dict[str, str]]:
    record = dict(ocp.checkpointables_metadata(place).custom_metadata or {})
    return record, dict(record.pop(_DIGESTS))

  return _read(path, read)


def _read(path: pathlib.Path, load: Callable[[epath.Path], Any]) -> Any:
  """Calls `load`; what Orbax raises becomes an InputError that names `path`, or a RunError if it is whole."""
  jax.local_devices()  # if there are none, the checkpoint is not the reason
  try:
    with _place_for_orbax(path) as place, _this_process_alone():
      return load(place)
  except Exception as error:  # as in `orbax_writes`
    failure, refused = _first_line(error), _refused_by_system(path, error)
  _discard_unfinished_tasks()  # nothing refers to them any more: a context manager would hold the error
  if refused:
    raise RunError(
      f'{path}: this checkpoint could not be read ({refused}); nothing says that it is damaged, and it stays '
      'as it is. Remove the cause and try again'
    )
  raise InputError(
    f'{path}: this checkpoint cannot be read, or is not of the configured network ({failure}). '
    'Choose another one, or remove it'
  )


def _refused_by_system(path: pathlib.Path, error: BaseException | None) -> str | None:
  """Why the system did not let a checkpoint be read; None if its files can be read.

  Orbax and TensorStore hide this behind errors of their own, or take what they cannot open for missing.
  """
  while error is not None:
    text = str(error)
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in text:
      return f'too little memory: {_first_line(error)}'
    if isinstance(error, OSError) and error.errno not in _FILES_AT_FAULT:
      return text
    code = _SYSTEM_ERROR.search(text)
    if code and int(code[1]) not in _FILES_AT_FAULT:
      return os.strerror(int(code[1]))
    error = error.__cause__ or error.__context__
  try:
    for folder, _, names in os.walk(path, onerror=_raise):
      for name in names:
        with open(os.path.join(folder, name), 'rb') as file:
          while file.read(2**24):
            pass
  except OSError as refusal:
    return str(refusal) if refusal.errno not in _FILES_AT_FAULT else None
  return None


def _raise(error: OSError) -> None:
  raise error


@contextlib.contextmanager
def _place_for_orbax(path: pathlib.Path) -> Iterator[epath.Path]:
  """A path that is nothing but a path to Orbax: another one, through a link, where `path` is not."""
  path = path.absolute()
  if _ORDINARY.fullmatch(str(path)):
    yield epath.Path(path)
    return
  try:
    folder = tempfile.gettempdir()
  except FileNotFoundError as error:  # no file of the checkpoint is missing
    raise PermissionError(errno.EACCES, error.strerror) from error
  with tempfile.TemporaryDirectory(
    prefix='checkpoint_', dir=folder if _ORDINARY.fullmatch(folder) else '/tmp', ignore_cleanup_errors=True
  ) as links:
    link = pathlib.Path(links) / 'directory'
    link.symlink_to(path.parent)
    yield epath.Path(link / path.name)


def _read_back(place: epath.Path, items: list[str], metadata: Mapping[str, Any]) -> None:
  """Compares what is on disk with what was to be saved, without Orbax, which takes five times as long.

  Raises:
    ReadBackError: It is not the same.
    OSError: The system refuses to read it.
  """
  try:
    stored = json.loads((place / METADATA).read_text())['custom_metadata']
    found = dict(_stored_digests(place, items))
  except Exception as error:  # TensorStore's, or of damaged JSON
    if _refused_by_system(pathlib.Path(place), error):
      raise
    raise ReadBackError(_first_line(error)) from error
  if stored != json.loads(json.dumps(metadata)):
    raise ReadBackError(f'{METADATA} is not what was saved')
  digests = metadata[_DIGESTS]
  if wrong := [name for name, digest in digests.items() if found.get(name.replace('/', '.')) != digest]:
    raise ReadBackError(_not_as_saved(wrong, digests))


def _stored_digests(place: epath.Path, items: list[str]) -> Iterator[tuple[str, str]]:
  """Names of the stored arrays, such as 'params.extractor.conv0.kernel', and their digests."""
  context = tensorstore.Context({'cache_pool': {'total_bytes_limit': _INDEX_BYTES}})
  suffix = '/zarr.json'
  for item in items:
    json.loads((place / item / _TREE_METADATA).read_text())
    spec = {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{place / item}/'}}
    store = tensorstore.KvStore.open(spec, context=context).result()
    keys = [key.decode() for key in store.list().result()]
    names = [key.removesuffix(suffix) for key in keys if key.endswith(suffix)]
    for start in range(0, len(names), _AT_ONCE):
      group = names[start : start + _AT_ONCE]
      opened = [
        tensorstore.open({'driver': 'zarr3'}, kvstore=store / f'{name}/', context=context, read=True)
        for name in group
      ]
      arrays = [future.result().read() for future in opened]
      for name, array in zip(group, arrays, strict=True):
        yield f'{item}.{name}', _digest(array.result())


def _not_as_saved(wrong: list[str], arrays: Mapping[str, Any]) -> str:
  shown = ', '.join(wrong[:_SHOWN]) + (', ...' if len(wrong) > _SHOWN else '')
  return f'{len(wrong)} of {len(arrays)} arrays are not those that were saved ({shown})'


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
  """Type and first line of an error, cut; the system's reason first, which Orbax names after long paths."""
  code = _SYSTEM_ERROR.search(str(error))
  reason = f'{os.strerror(int(code[1]))}; ' if code else ''
  return reason + f'{type(error).__name__}: {error}'.splitlines()[0][:500]


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
