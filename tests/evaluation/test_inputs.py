"""What is taken as an image, and how everything else is refused."""

import os
import pathlib

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.inputs import rgb_pixels

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
GREY = RGB[..., 0]
GREY_RGB = np.stack([GREY] * 3, axis=-1)
ALPHA = np.dstack([RGB, GREY])


class ArrayLike:
  def __init__(self, array):
    self.array = array

  def __array__(self, dtype=None, copy=None):
    if isinstance(self.array, Exception):
      raise self.array
    return self.array


def palette():
  image = Image.fromarray(GREY, 'L').convert('P')
  image.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
  image.info['transparency'] = 3
  return image


@pytest.mark.parametrize(
  ('image', 'expected'),
  [
    (RGB, RGB),
    (RGB[::-1, ::-1], RGB[::-1, ::-1]),  # negative strides
    (np.asfortranarray(RGB), RGB),
    (GREY, GREY_RGB),
    (GREY[..., None], GREY_RGB),
    (ALPHA, RGB),
    (RGB.astype(np.uint16) * 256 + 7, RGB),
    ((GREY.astype(np.uint16) * 256 + 255).astype('>u2'), GREY_RGB),
    (np.zeros((6, 5), np.uint16), np.zeros_like(RGB)),
    (jnp.asarray(RGB), RGB),
    (ArrayLike(RGB), RGB),
    (Image.fromarray(RGB), RGB),
    (Image.fromarray(ALPHA), RGB),
    (Image.fromarray(GREY), GREY_RGB),
    (Image.fromarray(np.dstack([GREY, GREY])), GREY_RGB),  # LA
    (Image.fromarray(GREY > 99), np.where(GREY_RGB > 99, 255, 0)),  # 1
    (Image.fromarray(GREY.astype(np.uint16) * 256 + 7), GREY_RGB),  # I;16
    (palette(), GREY_RGB),
    (Image.fromarray(255 - np.dstack([RGB, np.zeros_like(GREY)]), 'CMYK').convert('CMYK'), None),
    (Image.fromarray(RGB).convert('YCbCr'), None),
    (Image.fromarray(RGB).convert('HSV'), None),
  ],
)
def test_what_converts_without_doubt(image, expected):
  if expected is None:
    expected = np.asarray(image.convert('RGB'))
  pixels = rgb_pixels(image)
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, expected)


def test_a_path_is_read_as_the_command_predict_reads_it(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  path = tmp_path / 'a.png'
  path.write_bytes(encode_png(RGB))
  for given in (path, str(path), '~/a.png'):
    np.testing.assert_array_equal(rgb_pixels(given), RGB)


@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.webp'])
def test_a_turned_photograph_is_upright_from_a_path_and_from_pillow(name, tmp_path):
  path, exif = tmp_path / name, Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees clockwise
  Image.fromarray(RGB).save(path, exif=exif, lossless=True)
  upright = np.rot90(RGB, -1)
  np.testing.assert_array_equal(rgb_pixels(path), upright)
  with Image.open(path) as image:
    np.testing.assert_array_equal(rgb_pixels(image), upright)
    np.testing.assert_array_equal(rgb_pixels(image), upright)  # the caller's image is as it was


def test_the_callers_image_is_left_as_it_was():
  image = palette()
  rgb_pixels(image)
  assert image.info['transparency'] == 3


@pytest.mark.parametrize(
  ('image', 'message'),
  [
    (RGB / np.float32(255), r'float32 from 0\S* to 1; .*image \* 255'),
    (RGB.astype(np.float64), r'float64 .*image\.round\(\)\.astype'),
    ((RGB / 255 - 0.4) / 0.2, r'float64 from -2 .*normalize'),
    (np.where(RGB > 100, np.nan, RGB), 'not finite'),
    (jnp.asarray(RGB / 255, jnp.bfloat16), 'bfloat16'),
    ((RGB / 255).astype(ml_dtypes.bfloat16), 'bfloat16'),
    (RGB.astype(np.int64), r'int64 .*astype\(np\.uint8\)'),
    (RGB.astype(np.int8), 'int8'),
    (RGB.astype(np.uint16), 'uint16 with no value above 255'),
    (GREY > 100, 'type bool'),
    (RGB.astype(str), 'type <U'),
    (RGB.astype(object), 'type object'),
    (np.moveaxis(RGB, 2, 0), r'\(3, 6, 5\): channels first; .*np\.moveaxis'),
    (GREY[None], 'channels first'),
    (RGB[None], r'\(1, 6, 5, 3\): a batch; .*predict_many'),
    (RGB[..., :2], '2 channels'),
    (np.uint8(3), r'shape \(\)'),
    (RGB[0, 0], r'shape \(3,\)'),
    (np.zeros((0, 5, 3), np.uint8), 'no pixels'),
    (np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)), '10000x10000 pixels'),
    (np.broadcast_to(np.uint8(0), (1, 70_000)), '65,535 pixels a side'),
    (None, 'None, as cv2.imread'),
    ([RGB, RGB], r'list; .*predict_many'),
    (b'\x89PNG', r'bytes; .*PIL\.Image\.open'),
    (7, 'of type int'),
    (ArrayLike(RuntimeError('on a GPU')), r'ArrayLike cannot be read as an array \(on a GPU\)'),
    (Image.fromarray(GREY.astype(np.float32)), '32-bit float PIL image .*no fixed range'),
    (Image.fromarray(GREY.astype(np.int32)), '32-bit grey PIL image'),
  ],
)
def test_everything_else_is_an_input_error_that_says_what_to_do(image, message):
  with pytest.raises(InputError, match=message) as error:
    rgb_pixels(image, 'frame')
  assert str(error.value).startswith('frame: ')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', ['missing', 'folder', 'pipe', 'text', 'null', 'url'])
def test_a_path_that_is_no_image_is_named(kind, tmp_path):
  path = tmp_path / 'a.png'
  if kind == 'folder':
    path.mkdir()
  elif kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'text':
    path.write_text('hello')
  given = {'null': 'a\0/a.png', 'url': 'https://example.org/a.png'}.get(kind, path)
  with pytest.raises(InputError, match=r'a.*\.png'):
    rgb_pixels(given)


def test_a_pillow_image_that_is_truncated_or_closed_is_refused(tmp_path):
  path = pathlib.Path(tmp_path, 'a.png')
  path.write_bytes(encode_png(RGB)[:-30])
  with Image.open(path) as image, pytest.raises(InputError, match='cannot be read'):
    rgb_pixels(image)
  with Image.open(path) as image:
    pass
  with pytest.raises(InputError, match='cannot be read'):
    rgb_pixels(image)
