"""Reads torch checkpoints (.pth, .pt) without torch: the zip format and the legacy stream.

Both are a pickle of tensors that refer to storages by key, and the bytes of the storages:

- zip (torch 1.6 and later): members `NAME/data.pkl`, `NAME/byteorder`, `NAME/data/KEY`, all uncompressed.
- legacy (before; torchvision's DenseNet files use it): pickles of a magic number, the protocol, system
  information, the object and the list of keys; then each storage, preceded by its number of elements.

Source of the formats: torch/serialization.py. Everything in a file is checked before it is used.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pathlib
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from dense_aspp_jax.progress import say
from dense_aspp_jax.weights.restricted_pickle import Global, RefusedError, ordered_dict, unpickle

ZIP_START = b'PK\x03\x04'
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# Under which training scripts keep the state dict, and the moving averages of its tensors.
_RAW = ('state_dict', 'model', 'model_state_dict', 'model_state', 'net', 'network', 'weights', 'params')
_EMA = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema', 'params_ema', 'ema_model')
_MOST_WRAPPERS = 3  # one inside another
# Tensors may share storages (tied weights), but a small file must not become a large one in memory.
_MAX_EXPANSION = 4
_MAX_DIMENSIONS = 64  # NumPy's

# NumPy's type by torch's type of storage, and by the name in .safetensors files.
_DTYPES = {
  ('torch.DoubleStorage', 'F64'): np.dtype('<f8'),
  ('torch.FloatStorage', 'F32'): np.dtype('<f4'),
  ('torch.HalfStorage', 'F16'): np.dtype('<f2'),
  ('torch.BFloat16Storage', 'BF16'): np.dtype(ml_dtypes.bfloat16),
  ('torch.LongStorage', 'I64'): np.dtype('<i8'),
  ('torch.IntStorage', 'I32'): np.dtype('<i4'),
  ('torch.ShortStorage', 'I16'): np.dtype('<i2'),
  ('torch.CharStorage', 'I8'): np.dtype('i1'),
  ('torch.ByteStorage', 'U8'): np.dtype('u1'),
  ('torch.BoolStorage', 'BOOL'): np.dtype('?'),
}
_STORAGE_DTYPES = {storage: dtype for (storage, _), dtype in _DTYPES.items()}
SAFETENSORS_DTYPES = {name: dtype for (_, name), dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class _Storage:
  key: str
  dtype: np.dtype
  count: int  # elements

  @property
  def num_bytes(self) -> int:
    return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A view of a storage; offset and strides in elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def __post_init__(self):
    if len(self.shape) != len(self.strides) or len(self.shape) > _MAX_DIMENSIONS:
      raise RefusedError(f'a tensor has {len(self.shape)} dimensions and {len(self.strides)} strides')
    if not all(type(n) is int and n >= 0 for n in (self.offset, *self.shape, *self.strides)):
      raise RefusedError('the offset, shape or strides of a tensor are not integers of at least 0')
    what = f'a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset}'
    count = math.prod(self.shape)
    last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
    if count and last >= self.storage.count:
      raise RefusedError(f'{what} reaches outside its storage of {self.storage.count}')
    if count > self.storage.count:
      raise RefusedError(f'{what} has more elements than its storage of {self.storage.count}')

  @property
  def num_bytes(self) -> int:
    return math.prod(self.shape) * self.storage.dtype.itemsize

  def read(self, data: bytes | memoryview) -> np.ndarray:
    """Returns the values, given the bytes of the storage."""
    flat = np.frombuffer(data, self.storage.dtype)
    strides = [stride * flat.itemsize for stride in self.strides]
    start = flat[self.offset :] if math.prod(self.shape) else flat[:0]
    return np.lib.stride_tricks.as_strided(start, self.shape, strides, writeable=False).copy(order='C')


def read_zip(path: pathlib.Path, ema: bool = False) -> dict[str, np.ndarray]:
  """Reads a checkpoint in the zip format; see `readers.read_tensors`.

  Raises:
    Exception: Of any type, if it holds anything but tensors or is malformed.
  """
  size = path.stat().st_size
  with zipfile.ZipFile(path) as archive:
    members = {info.filename: info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
      raise RefusedError('two members of the archive have one name')
    if any(name.endswith('/constants.pkl') or '/code/' in name for name in members):
      raise RefusedError(
        'a TorchScript archive, which holds code. Where you trust it, save its tensors alone, with torch: '
        'torch.save(torch.jit.load(FILE).state_dict(), "plain.pth")'
      )
    pickles = [name for name in members if name.rpartition('/')[2] == 'data.pkl']
    if len(pickles) != 1:
      raise RefusedError(
        f'the archive has {len(pickles)} members data.pkl; expected one, as torch writes. If weights are '
        'packed in it, unpack them first'
      )
    for name, info in members.items():
      if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise RefusedError(f'member {name[:200]!r} of the archive is compressed, which torch never writes')
    if sum(info.file_size for info in members.values()) > size:
      raise RefusedError('the members of the archive overlap: together they are larger than the file')
    root = pickles[0].removesuffix('data.pkl')
    if f'{root}byteorder' in members and archive.read(f'{root}byteorder') != b'little':
      raise RefusedError('the byte order is not little endian; save it again on a little-endian machine')
    stream = io.BytesIO(archive.read(pickles[0]))
    content = unpickle(stream, _FUNCTIONS, lambda pid: _storage(pid, num_fields=5))
    return _read_state(content, lambda key: archive.read(f'{root}data/{key}'), size, ema)


def read_legacy(data: bytes, ema: bool = False) -> dict[str, np.ndarray]:
  """Reads a checkpoint in the legacy format, given its content; see `readers.read_tensors`.

  Raises:
    Exception: Of any type, if it holds anything but tensors or is malformed.
  """
  stream = io.BytesIO(data)
  magic_number, protocol, system = (unpickle(stream, _FUNCTIONS) for _ in range(3))
  if magic_number != _MAGIC_NUMBER or protocol != _PROTOCOL or not isinstance(system, dict):
    raise RefusedError('the stream does not begin with the magic number and protocol of torch')
  if system.get('little_endian') is not True:
    raise RefusedError('the byte order is not little endian; save it again on a little-endian machine')
  storages: dict[str, _Storage] = {}

  def load(pid):
    storage = _storage(pid, num_fields=6)
    if pid[5] is not None:
      raise RefusedError('a storage is a view of another one')
    if storages.setdefault(storage.key, storage) != storage:
      raise RefusedError('two tensors describe the storage that they share differently')
    return storage

  content = unpickle(stream, _FUNCTIONS, load)
  keys = unpickle(stream, _FUNCTIONS)
  if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
    raise RefusedError('no list of storages follows the tensors')
  if set(keys) != set(storages):
    raise RefusedError('the storages in the file are not those of its tensors')
  start, parts = stream.tell(), {}
  for key in keys:
    (count,) = struct.unpack_from('<q', data, start)
    storage = storages[key]
    if count != storage.count:
      raise RefusedError(f'a storage has {count} elements; the pickle says {storage.count}')
    end = start + 8 + storage.num_bytes
    if end > len(data):
      raise RefusedError(f'cut off: it should have at least {end} bytes and has {len(data)}')
    parts[key] = memoryview(data)[start + 8 : end]
    start = end
  return _read_state(content, parts.__getitem__, len(data), ema)


def _read_state(
  content: Any, read_storage: Callable[[str], bytes | memoryview], file_size: int, ema: bool
) -> dict[str, np.ndarray]:
  """Makes arrays from an unpickled state dict, or from one inside a wrapper."""
  tensors = _state_dict(content, ema)
  if sum(tensor.num_bytes for tensor in tensors.values()) > _MAX_EXPANSION * file_size:
    raise RefusedError(f'its tensors overlap so much that they are over {_MAX_EXPANSION} times the file')
  parts: dict[str, bytes | memoryview] = {}
  arrays = {}
  for name, tensor in tensors.items():
    storage = tensor.storage
    if storage.key not in parts:
      parts[storage.key] = read_storage(storage.key)
    if len(parts[storage.key]) != storage.num_bytes:
      raise RefusedError(
        f'the storage of {name!r} has {len(parts[storage.key])} bytes; expected {storage.num_bytes}'
      )
    arrays[name] = tensor.read(parts[storage.key])
  return arrays


def _state_dict(content: Any, ema: bool) -> Mapping[str, _Tensor]:
  """Finds the tensors: the content itself, or a dict in it; with `ema`, the one of moving averages."""
  kind = 'moving averages' if ema else 'tensors'
  for _ in range(_MOST_WRAPPERS):
    if not isinstance(content, dict):
      raise RefusedError(f'it holds an object of type {type(content).__name__}; expected a dict of tensors')
    inner = {name: value for name, value in content.items() if isinstance(value, dict) and value}
    known = [name for name in (_EMA if ema else (*_RAW, *_EMA)) if name in inner]
    # Beside a state dict there may be tensors, such as the best accuracy.
    if not inner or (not known and any(isinstance(value, _Tensor) for value in content.values())):
      break
    if not known and len(inner) > 1:
      found = ', '.join(repr(str(name)[:200]) for name in inner)
      raise RefusedError(
        f'it holds the dicts {found}; expected {kind} under {", ".join(_EMA if ema else _RAW)}'
      )
    name = known[0] if known else next(iter(inner))
    content, ema = inner[name], ema and not known
    if left := [str(other)[:200] for other in inner if other != name]:
      hint = '; convert --ema takes moving averages' if set(left) & set(_EMA) else ''
      say(f'of the file, {name!r} is taken, and left: {", ".join(left)}{hint}')
  if ema:
    raise RefusedError(f'it has no moving averages; expected them under {", ".join(_EMA)}')
  for name, value in content.items():
    if not isinstance(name, str) or not isinstance(value, _Tensor):
      raise RefusedError(
        f'{str(name)[:200]!r} is an object of type {type(value).__name__}; expected only names and tensors'
      )
  return content


def _storage(pid: Any, num_fields: int) -> _Storage:
  if not isinstance(pid, tuple) or len(pid) != num_fields or pid[0] != 'storage':
    raise RefusedError('a persistent id is not that of a storage')
  _, kind, key, _, count = pid[:5]
  if not isinstance(kind, Global) or not isinstance(key, str) or type(count) is not int or count < 0:
    raise RefusedError('a persistent id is not that of a storage')
  if kind.name not in _STORAGE_DTYPES:
    raise RefusedError(f'{kind.name!r} is not a supported type of storage')
  return _Storage(key, _STORAGE_DTYPES[kind.name], count)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
  """Replaces `torch._utils._rebuild_tensor` and `_v2`; the remaining arguments are flags and hooks."""
  if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
    raise RefusedError('a tensor is not made of a storage, a shape and strides')
  return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
  return tensor


_FUNCTIONS = {
  **dict.fromkeys(_STORAGE_DTYPES),
  'collections.OrderedDict': ordered_dict,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_parameter': _rebuild_parameter,
}
