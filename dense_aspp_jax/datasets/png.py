"""The structure of a PNG file: header, chunks with their checksums, and whether all rows are there.

Pillow verifies the chunks before the pixels. It accepts a wrong checksum of the pixels, fills missing rows
with zeros, gives colours to indices that the palette does not have, and does not miss the end mark; these are
found here. It also refuses whole files for texts and colour profiles that it finds too large; it does not get
to see them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import what_it_is

MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs (Image.MAX_IMAGE_PIXELS)
MAX_SIDE = 65_535  # JPEG's limit, for PNG too: the network would see a line as an image a million pixels wide
PNG_HEADER_BYTES = 33  # signature and IHDR chunk
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
GREY, RGB, PALETTE = 0, 2, 3  # colour types

_COLOR_TYPES = {GREY: 'grey', RGB: 'RGB', PALETTE: 'palette', 4: 'grey with alpha', 6: 'RGB with alpha'}
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, 4: 2, 6: 4}
_PICTURE_CHUNKS = (b'IHDR', b'PLTE', b'IDAT', b'IEND')
# What may say how the picture is turned: Exif, as such or as ImageMagick writes it, and XMP.
_ORIENTATION_CHUNKS = {
  b'eXIf': b'',
  **dict.fromkeys((b'tEXt', b'zTXt'), b'Raw profile type exif\0'),
  b'iTXt': b'XML:com.adobe.xmp\0',
}
_PIECE = 2**20  # bytes that are unpacked at a time
# First column and row, and their steps, of the passes of an interlaced image (PNG specification, 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_ONE_PASS = ((0, 0, 1, 1),)


class PngHeader(NamedTuple):
  """What a PNG says about itself (the IHDR chunk)."""

  height: int
  width: int
  bit_depth: int  # bits per sample: 1, 2, 4, 8 or 16
  color_type: int  # 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha
  interlaced: bool = False
  num_colors: int = 0  # in the palette; only `check_png` reads it

  @property
  def description(self) -> str:
    """For messages, such as `'8-bit RGB'`."""
    return f'{self.bit_depth}-bit {_COLOR_TYPES[self.color_type]}'


def read_png_header(data: bytes, where: str) -> PngHeader:
  """Reads a PNG's header; its first `PNG_HEADER_BYTES` bytes are enough.

  Raises:
    InputError: Not a PNG, the header is damaged, or more than `MAX_PIXELS`; the message begins with `where`.
  """
  if not data.startswith(PNG_SIGNATURE):
    raise InputError(f'{where}: not a PNG file ({what_it_is(data, "expected a PNG")})')
  if len(data) < PNG_HEADER_BYTES:
    raise _truncated(data, where)
  chunk, (crc,) = data[12:29], struct.unpack_from('>I', data, 29)
  if not chunk.startswith(b'IHDR') or zlib.crc32(chunk) != crc:
    raise damaged_png(', its header is wrong', where)
  width, height, bit_depth, color_type, *methods, interlaced = struct.unpack_from('>IIBBBBB', chunk, 4)
  if color_type not in _CHANNELS or any(methods) or interlaced > 1:
    raise damaged_png(', its header says what no PNG has', where)
  check_size(width, height, where)
  return PngHeader(height, width, bit_depth, color_type, bool(interlaced))


def check_png(data: bytes, where: str) -> PngHeader:
  """Verifies the checksum of every chunk up to the end mark, and that all pixels are there.

  Returns:
    The header, with the number of colours.

  Raises:
    InputError: As `read_png_header`; truncated or damaged anywhere.
  """
  header = read_png_header(data, where)
  view, position, kind, pixels = memoryview(data), len(PNG_SIGNATURE), b'', []
  while kind != b'IEND':
    # A chunk: length of its data (4 bytes), kind (4), data, CRC of kind and data (4).
    end = position + 12
    if end <= len(data):
      length, kind = struct.unpack_from('>I4s', data, position)
      end += length
    if end > len(data):
      raise _truncated(data, where)
    if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], 'big'):
      raise damaged_png(f', wrong checksum at byte {position}', where)
    if kind == b'PLTE':
      if length % 3 or header.num_colors or pixels:
        raise damaged_png(f', wrong palette at byte {position}', where)
      header = header._replace(num_colors=length // 3)
    elif kind == b'IDAT':
      pixels.append(view[position + 8 : end - 4])
    position = end
  check_rows(pixels, num_row_bytes(header), where)
  return header


def without_metadata(data: bytes, keep_orientation: bool) -> bytes:
  """The chunks of the picture, and perhaps of its orientation, of a PNG that `check_png` found good."""
  view, position, kind, parts = memoryview(data), len(PNG_SIGNATURE), b'', [PNG_SIGNATURE]
  while kind != b'IEND':
    length, kind = struct.unpack_from('>I4s', data, position)
    content, position = position + 8, position + length + 12
    orientation = keep_orientation and kind in _ORIENTATION_CHUNKS
    if kind in _PICTURE_CHUNKS or (orientation and data.startswith(_ORIENTATION_CHUNKS[kind], content)):
      parts.append(view[content - 8 : position])
  return b''.join(parts)


def num_row_bytes(header: PngHeader) -> int:
  """Bytes of all rows when unpacked, each with the number of its filter in front."""
  bits_per_pixel = _CHANNELS[header.color_type] * header.bit_depth
  total = 0
  for left, top, right, down in _ADAM7 if header.interlaced else _ONE_PASS:
    rows, columns = -(-(header.height - top) // down), -(-(header.width - left) // right)
    if rows > 0 and columns > 0:
      total += rows * (1 + -(-columns * bits_per_pixel // 8))
  return total


def check_rows(parts: Iterable[memoryview], num_bytes: int, where: str) -> None:
  """Unpacks the data of the IDAT chunks, piece by piece; more than `num_bytes` is ignored, as elsewhere."""
  unpacker, missing = zlib.decompressobj(), num_bytes
  try:
    for part in parts:
      # One byte more than is missing, so that the checksum behind the last one is verified.
      while missing > 0 and (unpacked := unpacker.decompress(part, min(missing + 1, _PIECE))):
        missing -= len(unpacked)
        part = unpacker.unconsumed_tail
  except zlib.error as error:
    raise damaged_png(f' ({error})', where) from error
  if missing > 0:
    raise damaged_png(f', {num_bytes - missing} of {num_bytes} bytes of pixels', where)


def check_size(width: int, height: int, where: str) -> None:
  """Raises InputError for an image without pixels, or with more than `MAX_PIXELS` or `MAX_SIDE`."""
  if not 0 < width * height <= MAX_PIXELS:
    expected = f'between 1 and {MAX_PIXELS:,} pixels'
  elif max(width, height) > MAX_SIDE:
    expected = f'at most {MAX_SIDE:,} pixels a side'
  else:
    return
  raise InputError(f'{where}: {height}x{width} pixels (height x width); expected {expected}. Make it smaller')


def damaged_png(finding: str, where: str) -> InputError:
  """The error for a PNG that should be fetched again."""
  return InputError(f'{where}: damaged PNG{finding}; get the file again')


def _truncated(data: bytes, where: str) -> InputError:
  return InputError(f'{where}: truncated PNG of {len(data)} bytes; get the file again')
