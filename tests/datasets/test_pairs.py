"""The check of a pair names everything that is wrong; bad pairs are left out in order, up to a limit."""

import dataclasses
import functools
import io
import math
import time

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.images import decode_image, encode_png
from dense_aspp_jax.datasets.pairs import BadPairs, check_pair, map_good
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CAMVID_11

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
IDS = np.arange(24, dtype=np.uint8).reshape(4, 6) % 12


def pair_of(image: bytes, label: bytes) -> Pair:
  return Pair(
    'a',
    *(
      StoredFile(where, functools.partial(io.BytesIO, d)) for where, d in (('i.png', image), ('l.png', label))
    ),
  )


def photo(orientation: int, file_format: str, rgb: np.ndarray = RGB) -> bytes:
  exif = Image.Exif()
  exif[0x0112] = orientation
  buffer = io.BytesIO()
  Image.fromarray(rgb).save(buffer, file_format, exif=exif)
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
    'l.png: label of 2x2 pixels (height x width) for an image of 4x6 (i.png)',
    'l.png: unknown label ids 99 (2 pixels), 12 (1 pixels)',
  ]
  with pytest.raises(InputError) as error:
    check_pair(pair_of(b'', label[:-1]), CAMVID_11)
  assert [line.split(':')[0] for line in str(error.value).splitlines()] == ['i.png', 'l.png']


@pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_size_of_the_label_tells_whether_a_photo_is_turned(orientation, file_format):
  """Where it cannot tell, as with a photo that stands on its head, labels.json has to."""
  data = photo(orientation, file_format)
  sideways = orientation >= 5
  for turned in (False, True):
    label = encode_png(IDS.reshape(6, 4) if turned and sideways else IDS)
    expected = decode_image(data, 'i', as_stored=not turned)
    for option in ('applied', 'as_stored', None):
      label_set = dataclasses.replace(CAMVID_11, orientation=option)
      if sideways or orientation == 1 or option == ('applied' if turned else 'as_stored'):
        np.testing.assert_array_equal(check_pair(pair_of(data, label), label_set).image, expected)
      elif option is None:
        with pytest.raises(
          InputError,
          match=rf'^i\.png: 4x6 pixels .*with EXIF orientation {orientation}:.*"orientation".*auto-orient',
        ):
          check_pair(pair_of(data, label), label_set)


def test_a_square_photo_that_lies_on_its_side_is_decided_by_labels_json():
  data, label = photo(6, 'PNG', RGB[:, :4]), encode_png(IDS[:, :4])
  with pytest.raises(InputError, match=r'EXIF orientation 6: .*do not tell'):
    check_pair(pair_of(data, label), CAMVID_11)
  for option in ('applied', 'as_stored'):
    found = check_pair(pair_of(data, label), dataclasses.replace(CAMVID_11, orientation=option)).image
    np.testing.assert_array_equal(found, decode_image(data, 'i', as_stored=option == 'as_stored'))


def test_a_label_of_neither_size_is_named_with_the_size_that_viewers_see():
  label_set = dataclasses.replace(CAMVID_11, orientation='applied')
  with pytest.raises(InputError, match=r'label of 2x2 pixels \(height x width\) for an image of 6x4'):
    check_pair(pair_of(photo(6, 'PNG'), encode_png(IDS[:2, :2])), label_set)


@pytest.mark.parametrize(
  ('image', 'label', 'message'),
  [
    (encode_png(RGB[..., 0]), encode_png(IDS), r'^i\.png: 8-bit grey PNG'),
    (photo(1, 'JPEG'), encode_png(IDS), r'^i\.png: not a PNG'),
    (encode_png(RGB), encode_png(RGB), r'^l\.png: 8-bit RGB PNG'),
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


def checked(number: int) -> int:
  time.sleep(0.002 * (number % 3))  # they finish in another order than they begin
  if number % 5 == 2:
    raise InputError(f'{number}: bad')
  return -number


def test_good_results_come_in_order_and_bad_ones_are_noted_in_order():
  bad = BadPairs('x', math.inf)
  assert list(map_good(checked, range(20), bad)) == [-n for n in range(20) if n % 5 != 2]
  assert bad.messages == ['2: bad', '7: bad', '12: bad', '17: bad']


@pytest.mark.parametrize('limit', [0, 1, 3])
def test_one_more_than_the_limit_is_an_error_that_lists_all_so_far(limit, capsys):
  bad = BadPairs('x/train', limit)
  good = []
  with pytest.raises(InputError) as error:
    good.extend(map_good(checked, range(20), bad))
  numbers = [2, 7, 12, 17][: limit + 1]
  assert good == [-n for n in range(numbers[-1]) if n % 5 != 2]
  assert all(f'{n}: bad' in str(error.value) for n in numbers)
  assert 'check-data' in str(error.value)
  if limit:
    assert f'x/train: {limit + 1} bad pairs so far, but at most {limit} may' in str(error.value)


def test_another_exception_is_not_taken_for_a_bad_pair():
  with pytest.raises(ZeroDivisionError):
    list(map_good(lambda n: 1 // n, range(3), BadPairs('x', math.inf)))


def test_what_was_left_out_is_said(capsys):
  BadPairs('x/train', 2).say(5)
  assert capsys.readouterr().err == ''
  BadPairs('x/train', 2, ['a.png: bad\nb.png: bad too', 'c.png: bad']).say(5)
  assert capsys.readouterr().err == (
    'warning: x/train: 2 of 5 pairs left out, which cannot be used:\n'
    '  a.png: bad\n  b.png: bad too\n  c.png: bad\n'
  )
