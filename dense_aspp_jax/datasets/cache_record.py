"""The record of one example in a cache.

A little-endian header (image height and width, label height and width, bytes of the image id), then the image
id in UTF-8, the image as uint8 `[h, w, 3]` RGB and the label as uint8 `[h, w]`, both row by row.
"""

from __future__ import annotations

import struct

import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample

_HEADER = struct.Struct('<5I')


def pack(example: CachedExample) -> bytes:
  """The record of an example."""
  image_id = example.image_id.encode(errors='surrogateescape')  # a file name may be any bytes
  header = _HEADER.pack(*example.image.shape[:2], *example.label.shape, len(image_id))
  return b''.join((header, image_id, example.image.tobytes(), example.label.tobytes()))


def unpack(record: bytes) -> CachedExample:
  """The example of a record, as read-only arrays. Raises ValueError for anything else."""
  try:
    height, width, label_height, label_width, id_bytes = _HEADER.unpack_from(record)
  except struct.error as error:
    raise ValueError(error) from error
  image_at = _HEADER.size + id_bytes
  label_at = image_at + height * width * 3
  image = np.frombuffer(record, np.uint8, height * width * 3, image_at)
  label = np.frombuffer(record, np.uint8, label_height * label_width, label_at)
  return CachedExample(
    record[_HEADER.size : image_at].decode(errors='surrogateescape'),
    image.reshape(height, width, 3),
    label.reshape(label_height, label_width),
  )
