"""Decoding and encoding of images and label maps; Pillow and NumPy only.

Strict by purpose. Pillow alone accepts a PNG whose pixels were damaged on the way or whose end is
missing, and turns a palette of label ids into grey values. Here every PNG chunk is verified, formats
are recognised by their first bytes, and what is not clearly an image or a label is an `InputError`.
"""

from __future__ import annotations

import io
import pathlib
import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from dense_aspp_jax.datasets.png_data import check_png_data, num_row_bytes
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import count_ids

MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs (Image.MAX_IMAGE_PIXELS)
MAX_SIDE = 65_535  # JPEG's limit, for PNG too: the network would see a line as an image a million pixels wide
PNG_HEADER_BYTES = 33  # signature and IHDR chunk

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_JPEG_SIGNATURE = b'\xff\xd8\xff'
_PNG_COLOR_TYPES = {0: 'grey', 2: 'RGB', 3: 'palette', 4: 'grey with alpha', 6: 'RGB with alpha'}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_GREY, _PALETTE = 0, 3
_ORIENTATION_TAG = 0x0112
# EXIF orientation -> what makes the picture upright (EXIF 2.3, table 6).
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


class PngHeader(NamedTuple):
  """What a PNG says about itself (the IHDR chunk)."""

  height: int
  width: int
  bit_depth: int  # bits per sample: 1, 2, 4, 8 or 16
  color_type: int  # 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha
  interlaced: bool = False
  num_colors: int = 0  # in the palette, which `check_png` alone reads

  @property
  def description(self) -> str:
    """For messages, such as `'8-bit RGB'`."""
    return f'{self.bit_depth}-bit {_PNG_COLOR_TYPES.get(self.color_type, f"colour type {self.color_type}")}'


def read_png_header(data: bytes, where: str) -> PngHeader:
  """Reads a PNG's header; its first `PNG_HEADER_BYTES` bytes are enough.

  Args:
    data: The file's bytes, or the first of them.
    where: Path or name of the image, for the message.

  Raises:
    InputError: Not a PNG, the header is damaged, or more than `MAX_PIXELS`.
  """
  if not data.startswith(_PNG_SIGNATURE):
    raise InputError(f'{where}: not a PNG file ({_found(data)}); expected a PNG')
  if len(data) < PNG_HEADER_BYTES:
    raise InputError(f'{where}: truncated PNG of {len(data)} bytes; get the file again')
  chunk, (crc,) = data[12:29], struct.unpack_from('>I', data, 29)
  if not chunk.startswith(b'IHDR') or zlib.crc32(chunk) != crc:
    raise InputError(f'{where}: damaged PNG, its header is wrong; get the file again')
  width, height, bit_depth, color_type, *methods, interlaced = struct.unpack_from('>IIBBBBB', chunk, 4)
  if color_type not in _PNG_CHANNELS or any(methods) or interlaced > 1:
    raise InputError(f'{where}: damaged PNG, its header says what no PNG has; get the file again')
  _check_size(width, height, where)
  return PngHeader(height, width, bit_depth, color_type, bool(interlaced))


def check_png(data: bytes, where: str) -> PngHeader:
  """Verifies the checksum of every chunk up to the end mark, and that all pixels are there.

  Args:
    data: The file's bytes.
    where: Path or name of the image, for the message.

  Returns:
    The header.

  Raises:
    InputError: As `read_png_header`; truncated or damaged anywhere.
  """
  header = read_png_header(data, where)
  view, position, kind, pixels = memoryview(data), len(_PNG_SIGNATURE), b'', []
  while kind != b'IEND':
    # A chunk: length of its data (4 bytes), kind (4), data, CRC of kind and data (4).
    end = position + 12
    if end <= len(data):
      length, kind = struct.unpack_from('>I4s', data, position)
      end += length
    if end > len(data):
      raise InputError(f'{where}: truncated PNG of {len(data)} bytes; get the file again')
    if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], 'big'):
      raise InputError(f'{where}: damaged PNG, wrong checksum at byte {position}; get the file again')
    if kind == b'PLTE':
      if length % 3 or header.num_colors or pixels:
        raise InputError(f'{where}: damaged PNG, wrong palette at byte {position}; get the file again')
      header = header._replace(num_colors=length // 3)
    elif kind == b'IDAT':
      pixels.append(view[position + 8 : end - 4])
    position = end
  bits_per_pixel = _PNG_CHANNELS[header.color_type] * header.bit_depth
  num_bytes = num_row_bytes(header.height, header.width, bits_per_pixel, header.interlaced)
  check_png_data(pixels, num_bytes, where)
  return header


def check_image_header(path: pathlib.Path) -> None:
  """Finds out from the beginning of a file whether it is an image that `decode_image` may take.

  Costs neither time nor memory, whatever size the header claims; damage further on is not found.

  Raises:
    InputError: Unreadable, neither PNG nor JPEG, a damaged header, or more than `MAX_PIXELS`.
  """
  if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
    raise InputError(f'{path}: not a file')
  try:
    with path.open('rb') as file:
      start = file.read(PNG_HEADER_BYTES)
      if _image_plugin(start, str(path)) is PngImagePlugin.PngImageFile:
        read_png_header(start, str(path))
      else:
        file.seek(0)
        _open(JpegImagePlugin.JpegImageFile, file, str(path))
  except OSError as error:
    raise InputError(f'{path}: cannot be read ({error.strerror or error})') from error


def decode_image(
  data: bytes | pathlib.Path, where: str, upright_only: bool = False, as_stored: bool = False
) -> np.ndarray:
  """Decodes a PNG or JPEG to 8-bit RGB.

  Grey and palette images become RGB; an alpha channel is dropped, the colour below it kept; CMYK is
  converted by Pillow (no colour profile); of 16-bit samples the upper 8 bits are taken (`value >> 8`).
  The EXIF orientation is applied, so the array is upright as viewers show it; EXIF data that cannot be
  read counts as upright.

  Args:
    data: Encoded bytes, or the path of a file.
    where: Path or name of the image, for the message.
    upright_only: Refuse an image that its EXIF orientation would turn: whether its label map was drawn
      on the turned or on the stored picture cannot be known.
    as_stored: Leave the pixels as they are stored, whatever the EXIF orientation.

  Returns:
    RGB, uint8 `[h, w, 3]`.

  Raises:
    InputError: Unreadable, neither PNG nor JPEG, truncated, damaged, more than `MAX_PIXELS`, or not
      upright.
  """
  data = _read(data, where)
  plugin = _image_plugin(data, where)
  header = check_png(data, where) if plugin is PngImagePlugin.PngImageFile else None
  image = _load(plugin, data, where)
  if header and header.color_type == _PALETTE and (highest := np.asarray(image).max()) >= header.num_colors:
    raise InputError(
      f'{where}: damaged PNG, colour {highest} of a palette of {header.num_colors}; get the file again'
    )
  orientation = 1 if as_stored else _orientation(image)
  if upright_only and orientation in _UPRIGHT:
    raise InputError(
      f'{where}: {image.width}x{image.height} pixels with EXIF orientation {orientation}: viewers turn it; '
      'expected an upright image, which its label map fits as stored. Turn the pixels and drop the tag '
      '(`mogrify -auto-orient` does), and see that the label fits'
    )
  image.info.pop('transparency', None)
  if image.mode.startswith('I'):  # 16-bit grey: Pillow's own conversion would clip at 255
    image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
  image = image.convert('RGB')
  if orientation in _UPRIGHT:
    image = image.transpose(_UPRIGHT[orientation])
  return np.array(image)


def decode_label(data: bytes | pathlib.Path, where: str) -> np.ndarray:
  """Decodes a PNG of label ids.

  Grey values are ids as stored at any bit depth; a palette image's ids are its indices, whatever
  the colours. An orientation is not applied.

  Args:
    data: Encoded bytes, or the path of a file.
    where: Path or name of the label, for the message.

  Returns:
    Label ids, uint8 `[h, w]`.

  Raises:
    InputError: Unreadable, not a PNG, truncated, damaged, a picture in colours (RGB or alpha), an id
      above 255, or more than `MAX_PIXELS`.
  """
  data = _read(data, where)
  if data.startswith(_JPEG_SIGNATURE):
    raise InputError(
      f'{where}: a JPEG, which alters label ids; expected a PNG of label ids, saved as PNG from the start'
    )
  header = check_png(data, where)
  if header.color_type not in (_GREY, _PALETTE):
    raise InputError(
      f'{where}: {header.description} PNG of {header.width}x{header.height} pixels; expected label ids in a '
      'single channel (grey or palette). Colours are not ids: convert the picture with the colour table it '
      'was drawn with, or, if it has the colours of the classes, say "label_colors": true in the label set'
    )
  ids = np.asarray(_load(PngImagePlugin.PngImageFile, data, where))
  if header.bit_depth == 16:
    if ids.max() > 255:
      raise InputError(
        f'{where}: label ids {count_ids(ids[ids > 255])} in a 16-bit PNG; expected 0..255. '
        'Write the ids again as 8-bit grey, an ignored id -1 as 255'
      )
  elif header.color_type == _GREY and header.bit_depth in (2, 4):
    ids = ids // (255 // (2**header.bit_depth - 1))  # Pillow stretches these grey values to 0..255
  return np.array(ids, np.uint8)


def encode_png(array: np.ndarray) -> bytes:
  """Encodes uint8 `[h, w]` (grey values or label ids) or `[h, w, 3]` (RGB) as PNG."""
  if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
    raise ValueError(f'array of {array.dtype} {array.shape}; expected uint8 [h, w] or [h, w, 3]')
  buffer = io.BytesIO()
  # Level 6, the default, takes three times as long for 1 % less.
  Image.fromarray(np.ascontiguousarray(array)).save(buffer, 'PNG', compress_level=3)
  return buffer.getvalue()


def _read(data: bytes | pathlib.Path, where: str) -> bytes:
  if isinstance(data, bytes):
    return data
  try:
    return data.read_bytes()
  except OSError as error:
    raise InputError(f'{where}: cannot be read ({error.strerror or error})') from error


def _image_plugin(data: bytes, where: str) -> type:
  if data.startswith(_JPEG_SIGNATURE):
    return JpegImagePlugin.JpegImageFile
  if data.startswith(_PNG_SIGNATURE):
    return PngImagePlugin.PngImageFile
  raise InputError(f'{where}: neither PNG nor JPEG ({_found(data)}); convert it to one of them')


def _load(plugin: type, data: bytes, where: str) -> Image.Image:
  image = _open(plugin, io.BytesIO(data), where)
  try:
    image.load()
  except Exception as error:  # Pillow's decoders raise whatever the damage leads to
    raise _damaged(plugin, where, error) from error
  return image


def _open(plugin: type, file: BinaryIO, where: str) -> Image.Image:
  """Opens with the plugin itself: no guessing of formats, and the size is checked before decoding."""
  try:
    image = plugin(file)
  except Exception as error:  # as in `_load`
    raise _damaged(plugin, where, error) from error
  _check_size(*image.size, where)
  return image


def _damaged(plugin: type, where: str, error: Exception) -> InputError:
  return InputError(f'{where}: damaged or truncated {plugin.format} ({error}); get the file again')


def _check_size(width: int, height: int, where: str) -> None:
  if not 0 < width * height <= MAX_PIXELS:
    raise InputError(
      f'{where}: {width}x{height} pixels; expected between 1 and {MAX_PIXELS:,} pixels. Make it smaller'
    )
  if max(width, height) > MAX_SIDE:
    raise InputError(
      f'{where}: {width}x{height} pixels; expected at most {MAX_SIDE:,} pixels a side. Make it smaller'
    )


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(_ORIENTATION_TAG, 1)
  except Exception:  # EXIF is a hint: that it is broken does not make the pixels wrong
    return 1


def _found(data: bytes) -> str:
  return f'it begins with {data[:8]!r}' if data else 'an empty file'
