"""Label maps in colours: exact, declared, never guessed."""

import io

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets.images import decode_label_ids, encode_png
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.labels import LabelClass, LabelSet

CLASSES = (LabelClass('road', (7, 8), (128, 64, 128)), LabelClass('sky', (3,), (0, 0, 255)))
COLORED = LabelSet('colored', CLASSES, ignore_ids=(9, 200), label_colors=True)
PICTURE = np.array([[(128, 64, 128), (0, 0, 255)], [(0, 0, 0), (128, 64, 128)]], np.uint8)


def saved(image: Image.Image, file_format: str = 'PNG') -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, file_format)
  return buffer.getvalue()


def test_each_colour_becomes_the_first_id_of_its_class_and_black_the_ignored_one():
  ids = decode_label_ids(encode_png(PICTURE), COLORED, 'a')
  assert ids.dtype == np.uint8
  np.testing.assert_array_equal(ids, [[7, 3], [9, 7]])
  np.testing.assert_array_equal(COLORED.encode(ids, 'a'), [[0, 1], [255, 0]])


def test_every_colour_there_is_is_either_known_or_refused():
  known = {(128, 64, 128): 7, (0, 0, 255): 3, (0, 0, 0): 9}
  for color in [*known, (0, 0, 1), (255, 255, 255), (128, 64, 127), (128, 65, 128), (0, 1, 255), (1, 0, 0)]:
    data = encode_png(np.full((2, 2, 3), color, np.uint8))
    if color in known:
      assert (decode_label_ids(data, COLORED, 'a') == known[color]).all()
    else:
      with pytest.raises(InputError, match='colours of no class'):
        decode_label_ids(data, COLORED, 'a')


def test_unknown_colours_are_counted_and_the_first_pixel_and_the_nearest_class_named():
  picture = PICTURE.repeat(3, 0).repeat(3, 1)
  picture[4, 1] = picture[4, 2] = (1, 2, 250)
  picture[5, 5] = (120, 64, 128)
  with pytest.raises(InputError) as error:
    decode_label_ids(encode_png(picture), COLORED, 'labels/a.png')
  assert str(error.value).startswith(
    "labels/a.png: colours of no class of label set 'colored': (1, 2, 250) (2 pixels, the first at row 4, "
    "column 1; the nearest class is 'sky', (0, 0, 255)), (120, 64, 128) (1 pixels, the first at row 5, "
    "column 5; the nearest class is 'road', (128, 64, 128)); expected the exact colours"
  )


def test_palettes_and_opaque_pictures_in_other_formats_have_colours_too():
  palette = Image.fromarray(np.array([[2, 1], [0, 2]], np.uint8))
  palette.putpalette([0, 0, 0, 0, 0, 255, 128, 64, 128])
  rgb = Image.fromarray(PICTURE)
  for image in (palette, rgb, rgb.convert('RGBA')):
    for file_format in ('PNG', 'TIFF', 'BMP'):
      ids = decode_label_ids(saved(image, file_format), COLORED, 'a')
      np.testing.assert_array_equal(ids, [[7, 3], [9, 7]])
  np.testing.assert_array_equal(decode_label_ids(saved(palette, 'GIF'), COLORED, 'a'), [[7, 3], [9, 7]])


def test_what_may_be_ids_or_lossy_or_transparent_is_refused_where_colours_are_declared():
  rgb = Image.fromarray(PICTURE)
  transparent = rgb.convert('RGBA')
  transparent.putpixel((1, 0), (0, 0, 255, 0))
  buffer = io.BytesIO()
  np.save(buffer, PICTURE[..., 0])
  for data, found in (
    (saved(rgb.convert('L')), '8-bit grey PNG of 2x2.*label_colors'),
    (saved(rgb.convert('LA')), '8-bit grey with alpha PNG of 2x2'),
    (saved(transparent), '8-bit RGB with alpha PNG of 2x2 pixels, 1 of them transparent'),
    (saved(rgb, 'JPEG'), 'a JPEG, which alters'),
    (saved(rgb, 'WEBP'), 'a WEBP, which may alter'),
    (buffer.getvalue(), r'a \.npy array.*label_colors'),
  ):
    with pytest.raises(InputError, match=rf'a\.png: {found}'):
      decode_label_ids(data, COLORED, 'a.png')


def test_colours_are_refused_where_they_are_not_declared():
  colors = np.array([c.color for c in CAMVID_11.classes], np.uint8)
  with pytest.raises(InputError, match=r'8-bit RGB PNG.*label_colors'):
    decode_label_ids(encode_png(colors[None]), CAMVID_11, 'a.png')
  ids = np.arange(12, dtype=np.uint8)[None]
  np.testing.assert_array_equal(decode_label_ids(encode_png(ids), CAMVID_11, 'a.png'), ids)
