"""Decoding and encoding of images and label maps; Pillow and NumPy only.

Deliberately strict: every PNG chunk is verified (`png.py`), formats are recognized by their first bytes, a
palette of label ids is never turned into grey values, and anything doubtful is an `InputError`.
"""

from __future__ import annotations

import io
import pathlib
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin

from dense_aspp_jax.datasets.png import (
  GREY,
  PALETTE,
  PNG_SIGNATURE,
  RGB,
  beginning,
  check_png,
  check_size,
  damaged_png,
  read_png_header,
)
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.labels import LabelSet, count_ids

# Lower case, each the only list of its kind.
IMAGE_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.jpe', '.jfif', '.tif', '.tiff', '.webp', '.bmp', '.gif')
LABEL_EXTENSIONS = ('.png', '.tif', '.tiff', '.bmp', '.gif', '.npy')
_JPEG_SIGNATURE = b'\xff\xd8\xff'
_ORIENTATION_TAG = 0x0112
_COLORS_SHOWN = 5  # in a message
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


def check_image_header(path: pathlib.Path) -> tuple[int, int]:
  """Checks by its beginning whether a file is an image that `decode_image` may take.

  Decodes nothing, whatever size the header claims; damage further on is not found.

  Returns:
    Height and width in pixels, as stored.

  Raises:
    InputError: Unreadable, neither PNG nor JPEG, a damaged header, or more than `MAX_PIXELS`.
  """
  where = shown(path)
  if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
    raise InputError(f'{where}: not a file')
  try:
    with path.open('rb') as file:
      plugin = _image_plugin(file.read(len(PNG_SIGNATURE)), where)
      file.seek(0)
      width, height = _open(plugin, file, where, decode=False).size
      return height, width
  except OSError as error:
    raise InputError(f'{where}: cannot be read ({error.strerror or error})') from error


def decode_image(data: bytes, where: str, upright_only: bool = False, as_stored: bool = False) -> np.ndarray:
  """Decodes a PNG or JPEG to 8-bit RGB.

  Grey and palette images become RGB; an alpha channel is dropped, the colour below it kept; CMYK is
  converted by Pillow (no colour profile); of 16-bit samples the upper 8 bits are taken (`value >> 8`).
  The EXIF orientation is applied, so the array is upright as viewers show it; EXIF data that cannot be
  read counts as upright.

  Args:
    data: The file's bytes.
    where: Path or name of the image, for the message.
    upright_only: Whether to refuse an image that its EXIF orientation would turn: its label map may have
      been drawn on either picture.
    as_stored: Whether to ignore the EXIF orientation.

  Returns:
    RGB, uint8 `[h, w, 3]`.

  Raises:
    InputError: Neither PNG nor JPEG, truncated, damaged, more than `MAX_PIXELS`, or not upright.
  """
  plugin = _image_plugin(data, where)
  header = check_png(data, where) if plugin is PngImagePlugin.PngImageFile else None
  image = _open(plugin, io.BytesIO(data), where)
  if header and header.color_type == PALETTE and (highest := np.asarray(image).max()) >= header.num_colors:
    raise damaged_png(f', colour {highest} of a palette of {header.num_colors}', where)
  orientation = 1 if as_stored else _orientation(image)
  if upright_only and orientation in _UPRIGHT:
    raise InputError(
      f'{where}: {image.height}x{image.width} pixels (height x width) with EXIF orientation {orientation}: '
      'viewers turn it; expected an upright image, which its label map fits as stored. Turn the pixels and '
      'drop the tag (`mogrify -auto-orient` does), and see that the label fits'
    )
  image.info.pop('transparency', None)
  if image.mode.startswith('I'):  # 16-bit grey: Pillow's own conversion would clip at 255
    image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
  image = image.convert('RGB')
  if orientation in _UPRIGHT:
    image = image.transpose(_UPRIGHT[orientation])
  return np.array(image)


def decode_label(data: bytes, where: str) -> np.ndarray:
  """Decodes a PNG of label ids; `where` is its path or name, for messages.

  Grey values are ids as stored at any bit depth; a palette image's ids are its indices, whatever
  the colours. An orientation is not applied.

  Returns:
    Label ids, uint8 `[h, w]`.

  Raises:
    InputError: Not a PNG, truncated, damaged, a picture in colours (RGB or alpha), an id above 255, or more
      than `MAX_PIXELS`.
  """
  if data.startswith(_JPEG_SIGNATURE):
    raise InputError(
      f'{where}: a JPEG, which alters label ids; expected a PNG of label ids, saved as PNG from the start'
    )
  header = check_png(data, where)
  if header.color_type not in (GREY, PALETTE):
    raise InputError(
      f'{where}: {header.description} PNG of {header.height}x{header.width} pixels; expected label ids in a '
      'single channel (grey or palette). Colours are not ids: convert the picture with the colour table it '
      'was drawn with, or, if it has the colours of the classes, say "label_colors": true in the label set'
    )
  ids = np.asarray(_open(PngImagePlugin.PngImageFile, io.BytesIO(data), where))
  if header.bit_depth == 16:
    if ids.max() > 255:
      raise InputError(
        f'{where}: label ids {count_ids(ids[ids > 255])} in a 16-bit PNG; expected 0..255. '
        'Write the ids again as 8-bit grey, an ignored id -1 as 255'
      )
  elif header.color_type == GREY and header.bit_depth in (2, 4):
    ids = ids // (255 // (2**header.bit_depth - 1))  # Pillow stretches these grey values to 0..255
  return np.array(ids, np.uint8)


def decode_label_ids(data: bytes, label_set: LabelSet, where: str) -> np.ndarray:
  """As `decode_label`, or, where the set has `label_colors`, from the colours of the classes.

  Each colour must be exactly that of a class, or black where ids are ignored.

  Raises:
    InputError: As `decode_label`; with `label_colors`, anything but an 8-bit RGB PNG, or unknown colours:
      how many pixels, where the first of them is, and which class is nearest.
  """
  if not label_set.label_colors:
    return decode_label(data, where)
  header = read_png_header(data, where)
  if (header.bit_depth, header.color_type) != (8, RGB):
    raise InputError(
      f'{where}: {header.description} PNG of {header.height}x{header.width} pixels; expected 8-bit RGB in '
      f'the colours of the classes, as label set {label_set.name!r} says (label_colors). Save it so, without '
      'alpha, or correct the label set'
    )
  return _ids_of(decode_image(data, where, upright_only=True), label_set, where)


def encode_png(array: np.ndarray) -> bytes:
  """Encodes uint8 `[h, w]` (grey values or label ids) or `[h, w, 3]` (RGB) as PNG."""
  buffer = io.BytesIO()
  # Level 6, the default, takes three times as long for 1 % less.
  Image.fromarray(np.ascontiguousarray(array)).save(buffer, 'PNG', compress_level=3)
  return buffer.getvalue()


def _image_plugin(data: bytes, where: str) -> type:
  if data.startswith(_JPEG_SIGNATURE):
    return JpegImagePlugin.JpegImageFile
  if data.startswith(PNG_SIGNATURE):
    return PngImagePlugin.PngImageFile
  raise InputError(f'{where}: neither PNG nor JPEG ({beginning(data)}); convert it to one of them')


def _open(plugin: type, file: BinaryIO, where: str, decode: bool = True) -> Image.Image:
  """Opens with the plugin itself: no guessing of formats, and the size is checked before decoding."""
  try:
    image = plugin(file)
    check_size(*image.size, where)
    if decode:
      image.load()
  except InputError:
    raise
  except Exception as error:  # Pillow's decoders raise whatever the damage leads to
    raise InputError(
      f'{where}: damaged or truncated {plugin.format} ({error}); get the file again'
    ) from error
  return image


def _orientation(image: Image.Image) -> int:
  try:
    return image.getexif().get(_ORIENTATION_TAG, 1)
  except Exception:  # EXIF is a hint: that it is broken does not make the pixels wrong
    return 1


def _ids_of(rgb: np.ndarray, label_set: LabelSet, where: str) -> np.ndarray:
  known, ids = zip(*sorted((_codes(np.array(c)), i) for c, i in label_set.id_of_color.items()), strict=True)
  codes = _codes(rgb.astype(np.int32))
  positions = np.searchsorted(known, codes).clip(max=len(known) - 1)
  unknown = np.array(known)[positions] != codes
  if not unknown.any():
    return np.array(ids, np.uint8)[positions]
  found, first, counts = np.unique(codes[unknown], return_index=True, return_counts=True)
  texts = []
  for i in np.argsort(-counts, kind='stable')[:_COLORS_SHOWN]:
    row, column = divmod(int(np.flatnonzero(unknown)[first[i]]), rgb.shape[1])
    color = rgb[row, column].astype(np.int32)
    nearest = min(label_set.classes, key=lambda c: ((color - c.color) ** 2).sum())
    texts.append(
      f'{tuple(color.tolist())} ({counts[i]} pixels, the first at row {row}, column {column}; the nearest '
      f'class is {nearest.name!r}, {nearest.color})'
    )
  more = f' and {len(found) - _COLORS_SHOWN} more' if len(found) > _COLORS_SHOWN else ''
  raise InputError(
    f'{where}: colours of no class of label set {label_set.name!r}: {", ".join(texts)}{more}; expected the '
    'exact colours of the classes. Draw the label without smoothing, or correct the label set'
  )


def _codes(colors: np.ndarray) -> np.ndarray:
  """One number a colour, `[...]` from `[..., 3]`."""
  return (colors[..., 0] << 16) | (colors[..., 1] << 8) | colors[..., 2]
