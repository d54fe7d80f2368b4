import numpy as np
import pytest

from dense_aspp_jax.datasets.class_frequencies import (
  class_warnings,
  class_weights,
  count_classes,
  require_pixels,
)
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.labels import IGNORE_LABEL

V = IGNORE_LABEL


def split_of(*labels):
  return [CachedExample(str(i), None, np.array(label, np.uint8)) for i, label in enumerate(labels)]


# Class 2 in one image only, class 3 in none.
SPLIT = split_of([[0, 0, 0, 1], [0, 0, V, V]], [[1, 1, 2, V]], [[0, 0, 0, 0]])


def test_the_pixels_of_each_image_are_counted():
  pixels = count_classes(SPLIT, 4)
  assert pixels.dtype == np.int64
  np.testing.assert_array_equal(pixels, [[5, 1, 0, 0], [0, 2, 1, 0], [4, 0, 0, 0]])


def test_an_ignored_class_is_not_counted_at_all():
  np.testing.assert_array_equal(
    count_classes(SPLIT, 4, ignore_label=0), [[0, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0]]
  )


def test_weights_by_hand():
  counts = count_classes(SPLIT, 4)
  # Shares 9, 3 and 1 of 13; the class without pixels gets 0.
  expected = [1 / np.log(1.02 + n / 13) for n in (9, 3, 1)]
  np.testing.assert_allclose(class_weights(counts, 'enet'), [*expected, 0], rtol=1e-12)
  # Frequencies 9/10, 3/9, 1/3: their median is 1/3.
  np.testing.assert_allclose(class_weights(counts, 'median_frequency'), [10 / 27, 1, 1, 0], rtol=1e-12)


def test_the_median_of_an_even_number_of_classes_is_between_the_middle_ones():
  counts = np.array([[8, 4, 0, 2, 1]])
  np.testing.assert_allclose(
    class_weights(counts, 'median_frequency'), [3 / 8, 3 / 4, 0, 3 / 2, 3], rtol=1e-12
  )


def test_rare_classes_weigh_at_most_50_under_enet():
  counts = np.array([[10**12, 1]])
  np.testing.assert_allclose(class_weights(counts, 'enet'), [1 / np.log(2.02), 1 / np.log(1.02)], rtol=1e-9)


def test_a_record_that_cannot_be_read_ends_the_count():
  class Broken(list):
    def __getitem__(self, index):
      if index == 1:
        raise RunError('record 1 cannot be read')
      return super().__getitem__(index)

  with pytest.raises(RunError, match='record 1'):
    count_classes(Broken(SPLIT), 4)


def pixels_of(**counts):
  pixels = np.zeros(256, np.int64)
  for name, count in counts.items():
    pixels[V if name == 'ignored' else CAMVID_11.class_names.index(name)] = count
  return pixels


def test_a_split_needs_a_pixel_that_counts():
  require_pixels('x', pixels_of(sky=1, ignored=9), CAMVID_11, range(11))
  with pytest.raises(InputError, match=r"^x: every pixel is ignored.*'camvid11'"):
    require_pixels('x', pixels_of(ignored=9), CAMVID_11, range(11))
  with pytest.raises(InputError, match=r'^x: every pixel is of class sky, which does not count'):
    require_pixels('x', pixels_of(sky=1, ignored=9), CAMVID_11, range(1, 11))


def test_what_a_split_cannot_teach():
  names = CAMVID_11.class_names
  assert class_warnings(pixels_of(**dict.fromkeys(names, 1)), CAMVID_11, range(11)) == []
  most = pixels_of(**dict.fromkeys(names[:9], 1))
  (warning,) = class_warnings(most, CAMVID_11, range(11), pixels_of(bicyclist=1, sky=1))
  assert warning.startswith('no training pixel is of class pedestrian, bicyclist')
  assert warning.endswith('pixels of bicyclist are scored')
  assert class_warnings(most, CAMVID_11, range(9)) == []  # the loss ignores the others
  absent, single = class_warnings(pixels_of(road=3, ignored=1), CAMVID_11, range(11))
  assert 'class sky, building, pole, pavement' in absent
  assert single.startswith('all training pixels are of class road or ignored (25.00 %)')
  (single,) = class_warnings(pixels_of(sky=3), CAMVID_11, [0])
  assert single.startswith('all training pixels are of class sky: ')
