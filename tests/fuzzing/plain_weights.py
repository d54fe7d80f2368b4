"""Files of tensors, read in another way than the package does, to compare with. Small files; no speed.

.pth: the zip directory is read with struct, the pickle by the standard library's Unpickler written in
Python, which is given harmless stand-ins for torch's functions alone; elements are picked one by one.
"""

import collections
import io
import json
import math
import pickle
import struct
import zlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_STORAGES = {
  'DoubleStorage': 'f8',
  'FloatStorage': 'f4',
  'HalfStorage': 'f2',
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': 'i8',
  'IntStorage': 'i4',
  'ShortStorage': 'i2',
  'CharStorage': 'i1',
  'ByteStorage': 'u1',
  'BoolStorage': '?',
}
_SAFETENSORS = {
  'F64': 'f8',
  'F32': 'f4',
  'F16': 'f2',
  'BF16': ml_dtypes.bfloat16,
  'I64': 'i8',
  'I32': 'i4',
  'I16': 'i2',
  'I8': 'i1',
  'U8': 'u1',
  'BOOL': '?',
}


class _StorageType(NamedTuple):
  dtype: np.dtype


class _Storage(NamedTuple):
  dtype: np.dtype
  key: str
  count: int


class _Tensor(NamedTuple):
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def read(self, data: bytes) -> np.ndarray:
    assert len(data) == self.storage.count * self.storage.dtype.itemsize
    flat = np.frombuffer(data, self.storage.dtype)
    indices = np.arange(math.prod(self.shape)).reshape(self.shape)
    result = np.empty(self.shape, flat.dtype)
    for position in np.ndindex(indices.shape):
      index = self.offset + sum(p * s for p, s in zip(position, self.strides, strict=True))
      assert index >= 0
      result[position] = flat[index]
    return result


class _Unpickler(pickle._Unpickler):  # the one in Python: the other one allocates what a file tells it to
  def find_class(self, module: str, name: str) -> Any:
    if module == 'torch':
      return _StorageType(np.dtype(_STORAGES[name]))
    return {
      ('collections', 'OrderedDict'): collections.OrderedDict,
      ('torch._utils', '_rebuild_tensor_v2'): lambda *fields: _Tensor(*fields[:4]),
    }[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    kind, (dtype,), key, _, count = pid[:5]
    assert kind == 'storage'
    return _Storage(dtype, key, count)


def read_zip(data: bytes) -> dict[str, np.ndarray]:
  """Reads a .pth file of the zip format."""
  members = zip_members(data)
  (pickle_name,) = (name for name in members if name.rpartition('/')[2] == 'data.pkl')
  state = _Unpickler(io.BytesIO(members[pickle_name]())).load()
  folder = pickle_name.removesuffix('data.pkl') + 'data/'
  return {name: tensor.read(members[folder + tensor.storage.key]()) for name, tensor in state.items()}


def zip_members(data: bytes) -> dict[str, Any]:
  """Functions that return the content, checked against its checksum, by name (APPNOTE.TXT 4.3)."""
  end = data.rindex(b'PK\5\6')
  size, start = struct.unpack_from('<II', data, end + 12)
  at = end - size
  shift = at - start  # of a file in front of which something was put
  members = {}
  while at < end:
    signature, crc, stored, full, *lengths, offset = struct.unpack_from('<4s12xIIIHHH8xI', data, at)
    assert signature == b'PK\1\2'
    assert stored == full
    name = data[at + 46 : at + 46 + lengths[0]]
    members[name.decode('cp437')] = lambda offset=offset + shift, size=full, crc=crc: _content(
      data, offset, size, crc
    )
    at += 46 + sum(lengths)
  return members


def _content(data: bytes, offset: int, size: int, crc: int) -> bytes:
  signature, *lengths = struct.unpack_from('<4s22xHH', data, offset)
  assert signature == b'PK\3\4'
  start = offset + 30 + sum(lengths)
  content = data[start : start + size]
  assert zlib.crc32(content) == crc
  return content


def read_legacy(data: bytes) -> dict[str, np.ndarray]:
  """Reads a .pth file of the legacy format."""
  stream = io.BytesIO(data)
  magic_number, protocol, system, state, keys = (_Unpickler(stream).load() for _ in range(5))
  assert (magic_number, protocol) == (0x1950A86A20F9469CFC6C, 1001)
  assert system['little_endian'] is True
  sizes = {t.storage.key: t.storage.dtype.itemsize for t in state.values()}
  storages = {}
  for key in keys:
    (count,) = struct.unpack('<q', stream.read(8))
    storages[key] = stream.read(count * sizes[key])
  return {name: tensor.read(storages[tensor.storage.key]) for name, tensor in state.items()}


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  """Reads a .safetensors file."""
  (length,) = struct.unpack_from('<Q', data)
  header = json.loads(data[8 : 8 + length])
  body = data[8 + length :]
  tensors = {}
  for name, entry in header.items():
    if name != '__metadata__':
      start, end = entry['data_offsets']
      dtype = np.dtype(_SAFETENSORS[entry['dtype']])
      assert end <= len(body)
      tensors[name] = np.frombuffer(body[start:end], dtype).reshape(entry['shape'])
  return tensors
