"""Whether the compressed rows of a PNG are all there: Pillow fills up missing ones with zeros."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from dense_aspp_jax.errors import InputError

_PIECE = 2**20  # bytes that are unpacked at a time
# First column and row, and their steps, of the passes of an interlaced image (PNG specification, 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_ONE_PASS = ((0, 0, 1, 1),)


def num_row_bytes(height: int, width: int, bits_per_pixel: int, interlaced: bool) -> int:
  """Bytes of all rows, each with the number of its filter in front."""
  total = 0
  for left, top, right, down in _ADAM7 if interlaced else _ONE_PASS:
    rows, columns = -(-(height - top) // down), -(-(width - left) // right)
    if rows > 0 and columns > 0:
      total += rows * (1 + -(-columns * bits_per_pixel // 8))
  return total


def check_png_data(parts: Iterable[bytes | memoryview], num_bytes: int, where: str) -> None:
  """Unpacks the data of a PNG, piece by piece.

  Args:
    parts: The data of its IDAT chunks.
    num_bytes: What they should hold; more is left alone, as other decoders do.
    where: Path or name of the image, for the message.

  Raises:
    InputError: They hold less, or are no zlib stream.
  """
  unpacker, missing = zlib.decompressobj(), num_bytes
  try:
    for part in parts:
      # One byte more than is missing, so that the checksum behind the last one is verified.
      while missing > 0 and (unpacked := unpacker.decompress(part, min(missing + 1, _PIECE))):
        missing -= len(unpacked)
        part = unpacker.unconsumed_tail
  except zlib.error as error:
    raise InputError(f'{where}: damaged PNG ({error}); get the file again') from error
  if missing > 0:
    raise InputError(
      f'{where}: damaged PNG, {num_bytes - missing} of {num_bytes} bytes of pixels; get the file again'
    )
