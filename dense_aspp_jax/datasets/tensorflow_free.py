"""Lets tfds write large splits without TensorFlow.

tfds sorts a split's records by the hash of their keys. Above 1000 MiB it does so through files on
disk, for which it uses `tf.io.gfile`, in one module (tensorflow_datasets/core/shuffle.py, 4.9.10).
`without_tensorflow` puts plain files in that place.
"""

from __future__ import annotations

import contextlib
import os
import types
from collections.abc import Iterator

from tensorflow_datasets.core import shuffle


class _BucketFile:
  """What tfds needs of `tf.io.gfile.GFile`.

  tfds writes to a thousand of these in turn, all at once open; this one holds no file descriptor
  between two writes, so that the usual limit of 1024 is not met.
  """

  def __init__(self, path: os.PathLike[str] | str, mode: str):
    self._path = os.fspath(path)
    self._file = open(self._path, mode)  # noqa: SIM115 (closed by close())
    if mode == 'wb':
      self._file.close()

  def write(self, data: bytes) -> None:
    with open(self._path, 'ab') as file:
      file.write(data)

  def read(self, size: int) -> bytes:
    return self._file.read(size)

  def flush(self) -> None:
    pass

  def close(self) -> None:
    self._file.close()

  def __enter__(self) -> _BucketFile:
    return self

  def __exit__(self, *exception) -> None:
    self.close()


class _ResourceExhaustedError(Exception):
  """Never raised: no files are held open."""


_TENSORFLOW = types.SimpleNamespace(
  io=types.SimpleNamespace(
    gfile=types.SimpleNamespace(GFile=_BucketFile, exists=os.path.exists, remove=os.remove)
  ),
  errors=types.SimpleNamespace(ResourceExhaustedError=_ResourceExhaustedError),
)


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
  """Inside the `with` block tfds prepares datasets of any size without TensorFlow, installed or not."""
  tensorflow = shuffle.tf
  shuffle.tf = _TENSORFLOW
  try:
    yield
  finally:
    shuffle.tf = tensorflow
