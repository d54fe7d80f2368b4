"""Writes .pth files of both of torch's formats and .safetensors files, without torch, for tests.

The pickles are put together opcode by opcode, in torch's layout, so that a test can also write what torch
never would: hostile and damaged files.
"""

import pathlib
import struct
import zipfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

STORAGES = {
  'float64': 'DoubleStorage',
  'float32': 'FloatStorage',
  'float16': 'HalfStorage',
  'bfloat16': 'BFloat16Storage',
  'int64': 'LongStorage',
  'int32': 'IntStorage',
  'int16': 'ShortStorage',
  'int8': 'CharStorage',
  'uint8': 'ByteStorage',
  'bool': 'BoolStorage',
}
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


class View(NamedTuple):
  """A tensor as a pickle describes it: a view of a storage, offset and strides in elements."""

  storage: str  # torch's name of its type
  key: str
  count: int  # elements of the storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def write_pth(path: pathlib.Path, tensors: Mapping[str, np.ndarray], legacy: bool = False) -> None:
  """Writes a state dict as torch.save does.

  Args:
    path: The file.
    tensors: Array by name; types of `STORAGES`.
    legacy: The legacy stream format instead of the zip format.
  """
  views, storages = {}, {}
  for index, (name, array) in enumerate(tensors.items()):
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    strides = tuple(stride // array.itemsize for stride in array.strides)
    views[name] = View(STORAGES[array.dtype.name], str(index), array.size, 0, array.shape, strides)
    storages[str(index)] = array.tobytes()
  if legacy:
    counts = {view.key: view.count for view in views.values()}
    path.write_bytes(legacy_stream(pickled(state(views, legacy=True)), storages, counts))
  else:
    write_zip(path, pickled(state(views)), storages)


def write_safetensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a .safetensors file."""
  import safetensors.numpy

  safetensors.numpy.save_file(dict(tensors), path)


def write_zip(
  path: pathlib.Path,
  data_pkl: bytes,
  storages: Mapping[str, bytes],
  *,
  byteorder: bytes = b'little',
  compression: int = zipfile.ZIP_STORED,
) -> None:
  """Writes the zip format around a pickle."""
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('archive/data.pkl', data_pkl)
    archive.writestr('archive/byteorder', byteorder)
    for key, data in storages.items():
      archive.writestr(f'archive/data/{key}', data)
    archive.writestr('archive/version', b'3\n')


def legacy_stream(
  pickle: bytes,
  storages: Mapping[str, bytes],
  counts: Mapping[str, int],
  *,
  magic_number: int = MAGIC_NUMBER,
  protocol: int = 1001,
  little_endian: bool = True,
) -> bytes:
  """The legacy format around a pickle; `counts` are the elements each storage claims to have."""
  flag = b'\x88' if little_endian else b'\x89'
  system = b'}' + b'(' + text('protocol_version') + integer(protocol) + text('little_endian') + flag + b'u'
  head = [pickled(integer(magic_number)), pickled(integer(protocol)), pickled(system), pickle]
  keys = pickled(b'](' + b''.join(map(text, storages)) + b'e')
  return b''.join([*head, keys, *(struct.pack('<q', counts[key]) + data for key, data in storages.items())])


def pickled(body: bytes, protocol: int = 2) -> bytes:
  """A whole pickle around opcodes that leave one object."""
  return b'\x80' + bytes([protocol]) + body + b'.'


def state(views: Mapping[str, View], legacy: bool = False, metadata: bool = True) -> bytes:
  """Opcodes of an OrderedDict of tensors, with the attribute `_metadata` that state dicts have."""
  items = b''.join(text(name) + tensor(view, legacy) for name, view in views.items())
  attributes = b'}' + text('_metadata') + b'}' + text('') + b'}' + text('version') + integer(1) + b'sss'
  return call('collections OrderedDict', []) + b'(' + items + b'u' + (attributes + b'b' if metadata else b'')


def tensor(view: View, legacy: bool = False) -> bytes:
  """Opcodes of a tensor."""
  hooks = call('collections OrderedDict', [])
  arguments = [storage(view, legacy), integer(view.offset), integers(view.shape), integers(view.strides)]
  return call('torch._utils _rebuild_tensor_v2', [*arguments, b'\x89', hooks])


def storage(view: View, legacy: bool) -> bytes:
  """Opcodes of the persistent id of a storage."""
  fields = [text('storage'), name(f'torch {view.storage}'), text(view.key), text('cpu'), integer(view.count)]
  return b'(' + b''.join(fields) + (b'N' if legacy else b'') + b'tQ'


def call(function: str, arguments: Iterable[bytes]) -> bytes:
  """Opcodes that call 'module name' with the objects that `arguments` leave."""
  return name(function) + b'(' + b''.join(arguments) + b'tR'


def name(global_name: str) -> bytes:
  """Opcode of a reference to 'module name'."""
  return b'c' + global_name.replace(' ', '\n').encode() + b'\n'


def text(value: str) -> bytes:
  """Opcode of a str."""
  data = value.encode()
  return b'X' + struct.pack('<I', len(data)) + data


def integer(value: int) -> bytes:
  """Opcode of an int of up to 255 bytes."""
  if -(2**31) <= value < 2**31:
    return b'J' + struct.pack('<i', value)
  data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
  return b'\x8a' + bytes([len(data)]) + data


def integers(values: Iterable[int]) -> bytes:
  """Opcodes of a tuple of int."""
  return b'(' + b''.join(map(integer, values)) + b't'
