"""What a predictor takes as an image: RGB pixels, and what becomes them without doubt."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import numpy as np
from PIL import Image, ImageOps

from dense_aspp_jax.datasets.image_formats import Opened
from dense_aspp_jax.datasets.images import decode_image, to_rgb
from dense_aspp_jax.datasets.png import check_size
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.paths import local_path

_EXPECTED = 'expected a path, a PIL image, or RGB pixels as uint8 [h, w, 3]'
_CHANNELS = (1, 3, 4)


def rgb_pixels(image: Any, where: str = 'image') -> np.ndarray:
  """Converts an image to RGB pixels; docs/predictor.md lists what is taken.

  Args:
    image: A path, a PIL image, or an array (anything with `__array__`) of uint8 or uint16: `[h, w]`,
      `[h, w, 1]`, `[h, w, 3]` or `[h, w, 4]`.
    where: What it is called in messages.

  Returns:
    RGB, uint8 `[h, w, 3]`; possibly the same array.

  Raises:
    InputError: Anything else, a file that cannot be read, or more than `MAX_PIXELS`.
  """
  if isinstance(image, str | os.PathLike):
    file = StoredFile.on_disk(local_path(os.fsdecode(image)))
    # Opening a pipe would wait for a writer; '\0' no system has in a path.
    if '\0' in str(file.path) or (os.path.exists(file.path) and not os.path.isfile(file.path)):
      raise InputError(f'{file.where}: not a file; {_EXPECTED}')
    return decode_image(file.read(), file.where)
  if isinstance(image, Image.Image):
    return _of_pillow(image, where)
  if not hasattr(image, '__array__'):
    _reject_object(image, where)
  try:
    pixels = np.asarray(image)
  except Exception as error:  # a tensor on a GPU or with a gradient, for one: whatever its library raises
    raise InputError(f'{where}: {type(image).__name__} cannot be read as an array ({error})') from error
  _check_shape(pixels.shape, where)
  if pixels.dtype.kind == 'u' and pixels.dtype.itemsize == 2:
    if 0 < pixels.max() < 256:
      raise InputError(
        f'{where}: uint16 with no value above 255; expected values up to 65535, of which the upper 8 bits '
        'are taken. If these are 8-bit values, give image.astype(np.uint8)'
      )
    pixels = (pixels >> 8).astype(np.uint8)
  if pixels.dtype != np.uint8:
    _reject_type(pixels, where)
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


def check_batch(images: np.ndarray) -> None:
  """Raises InputError unless `images` are RGB pixels, uint8 `[b, h, w, 3]`."""
  if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
    raise InputError(f'images: {images.dtype} of shape {images.shape}; expected uint8 [b, h, w, 3]')


def _of_pillow(image: Image.Image, where: str) -> np.ndarray:
  check_size(*image.size, where)
  try:
    image.load()
  except Exception as error:  # Pillow's decoders raise whatever the damage leads to
    raise InputError(f'{where}: the PIL image cannot be read ({error})') from error
  try:
    upright = ImageOps.exif_transpose(image)  # a copy
  except Exception:  # EXIF is a hint: that it is broken does not make the pixels wrong
    upright = image.copy()
  bits = {'I;': 16, 'I': 32, 'F': 32}.get(upright.mode[:2], 8)
  return np.array(to_rgb(Opened(upright, 'PIL image', bits, 1, 256, ''), where))


def _check_shape(shape: tuple[int, ...], where: str) -> None:
  found = f'{where}: an array of shape {shape}'
  if len(shape) == 4:
    raise InputError(f'{found}: a batch; expected one image. predict_many(batch) predicts each of its images')
  if len(shape) not in (2, 3):
    raise InputError(f'{found}; {_EXPECTED}')
  if 0 in shape:
    raise InputError(f'{found}: no pixels; {_EXPECTED}')
  if len(shape) == 3 and shape[2] not in _CHANNELS:
    if shape[0] in _CHANNELS:
      raise InputError(
        f'{found}: channels first; expected channels last, [h, w, 3]: np.moveaxis(image, 0, -1)'
      )
    raise InputError(f'{found}: {shape[2]} channels; expected 1 (grey), 3 (RGB) or 4 (RGB and alpha)')
  check_size(shape[1], shape[0], where)


def _reject_type(pixels: np.ndarray, where: str) -> NoReturn:
  if pixels.dtype.kind not in 'iuf' and pixels.dtype.name != 'bfloat16':
    raise InputError(f'{where}: an array of type {pixels.dtype}; {_EXPECTED}')
  low, high = float(pixels.min()), float(pixels.max())
  if not np.isfinite((low, high)).all():
    remedy = 'It has values that are not finite: find out where they come from'
  elif pixels.dtype.kind in 'iu' and low >= 0 and 255 < high <= 65535:
    remedy = 'If these are 16-bit values, give image.astype(np.uint16)'
  elif low < 0 or high > 255:
    remedy = 'Give the image as it was before it was normalized; the predictor normalizes it itself'
  elif pixels.dtype.kind in 'iu':
    remedy = 'If these are RGB values of 0..255, give image.astype(np.uint8)'
  elif high <= 1:
    remedy = 'If 1 is white, give (image * 255).round().astype(np.uint8)'
  else:
    remedy = 'If these are RGB values of 0..255, give image.round().astype(np.uint8)'
  raise InputError(
    f'{where}: {pixels.dtype} from {low:g} to {high:g}; expected uint8, where 0 is black and 255 is white. '
    f'{remedy}'
  )


def _reject_object(image: Any, where: str) -> NoReturn:
  if image is None:
    raise InputError(f'{where}: None, as cv2.imread gives for a file that it cannot read; {_EXPECTED}')
  if isinstance(image, list | tuple):
    raise InputError(
      f'{where}: a {type(image).__name__}; {_EXPECTED}. predict_many(images) predicts each of several'
    )
  if isinstance(image, bytes | bytearray | memoryview):
    raise InputError(
      f'{where}: bytes; {_EXPECTED}. For those of a file, give PIL.Image.open(io.BytesIO(data))'
    )
  raise InputError(f'{where}: of type {type(image).__name__}; {_EXPECTED}')
