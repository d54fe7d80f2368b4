"""The one check of a pair: what it returns, and that it names everything that is wrong."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.images import decode_image, encode_png
from dense_aspp_jax.datasets.pair_check import check_pair
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import CAMVID_11

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
IDS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 12


def pair_of(image: bytes, label: bytes) -> Pair:
  return Pair(
    'a',
    *(
      StoredFile(where, functools.partial(io.BytesIO, d)) for where, d in (('i.png', image), ('l.png', label))
    ),
  )


def photo(orientation: int, file_format: str) -> bytes:
  exif = Image.Exif()
  exif[0x0112] = orientation
  buffer = io.BytesIO()
  Image.fromarray(RGB).save(buffer, file_format, exif=exif)
  return buffer.getvalue()


def test_a_good_pair_is_returned_decoded():
  image, label = encode_png(RGB), encode_png(IDS)
  checked = check_pair(pair_of(image, label), CAMVID_11, published=True)
  assert checked.example == Example('a', image, label)
  np.testing.assert_array_equal(checked.image, RGB)
  np.testing.assert_array_equal(checked.label_ids, IDS)
  np.testing.assert_array_equal(checked.labels, np.where(IDS == 11, 255, IDS))


def test_everything_that_is_wrong_is_named():
  label = encode_png(np.array([[12, 99], [99, 0]], np.uint8))
  with pytest.raises(InputError) as error:
    check_pair(pair_of(encode_png(RGB), label), CAMVID_11)
  assert [line.split(';')[0] for line in str(error.value).splitlines()] == [
    'l.png: label of 2x2 pixels (width x height) for an image of 6x4 (i.png)',
    'l.png: unknown label ids 99 (2 pixels), 12 (1 pixels)',
  ]
  with pytest.raises(InputError) as error:
    check_pair(pair_of(b'', label[:-1]), CAMVID_11)
  assert [line.split(':')[0] for line in str(error.value).splitlines()] == ['i.png', 'l.png']


@pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
def test_an_image_that_is_not_upright_is_refused_where_it_has_a_label(file_format):
  label = encode_png(IDS)
  check_pair(pair_of(photo(1, file_format), label), CAMVID_11)
  for orientation in range(2, 9):
    data = photo(orientation, file_format)
    with pytest.raises(
      InputError, match=rf'^i\.png: 6x4 pixels with EXIF orientation {orientation}:.*auto-orient'
    ):
      check_pair(pair_of(data, label), CAMVID_11)
    assert decode_image(data, 'i').shape == ((4, 6, 3) if orientation < 5 else (6, 4, 3))  # predict turns it


@pytest.mark.parametrize(
  ('image', 'label', 'message'),
  [
    (encode_png(RGB[..., 0]), encode_png(IDS), r'^i\.png: 8-bit grey PNG; expected 8-bit RGB, as published'),
    (photo(1, 'JPEG'), encode_png(IDS), r'^i\.png: not a PNG file'),
    (encode_png(RGB), encode_png(RGB), r'^l\.png: 8-bit RGB PNG; expected label ids as 8-bit grey'),
  ],
)
def test_published_formats(image, label, message):
  with pytest.raises(InputError, match=message):
    check_pair(pair_of(image, label), CAMVID_11, published=True)
  if label != image:
    check_pair(pair_of(image, encode_png(IDS)), CAMVID_11)


def test_a_prepared_example_is_named_by_split_and_image_id():
  with pytest.raises(InputError, match=r'^camvid/train a1 \(image\): .*\ncamvid/train a1 \(label\): '):
    check_pair(Pair.in_memory(Example('a1', b'', b''), 'camvid/train'), CAMVID_11)
