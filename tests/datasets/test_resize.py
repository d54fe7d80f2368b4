"""Resizing against small references."""

import jax
import numpy as np
import pytest

from dense_aspp_jax.datasets.resize import resize_image, resize_label

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]


def test_shrinking_takes_the_mean_of_areas():
  image = np.random.default_rng(4).integers(0, 256, (12, 18, 3), np.uint8)
  expected = image.reshape(6, 2, 6, 3, 3).mean((1, 3))
  np.testing.assert_allclose(resize_image(image, (6, 6)), expected, atol=1)  # rounded twice


@pytest.mark.parametrize('size', [(7, 11), (11, 17), (1, 5)])
def test_shrinking_by_any_ratio_takes_the_mean_of_areas(size):
  image = np.random.default_rng(5).integers(0, 256, (12, 18, 3), np.uint8)
  rows, columns = size
  # Repeated so often that every area is a whole number of pixels.
  fine = image.repeat(rows, 0).repeat(columns, 1).astype(float)
  expected = fine.reshape(rows, 12, columns, 18, 3).mean((1, 3))
  np.testing.assert_allclose(resize_image(image, size), expected, atol=1)


def test_many_pixels_into_few():
  image = np.full((2047, 3), 255, np.uint8)
  image[:511] = 0
  np.testing.assert_array_equal(resize_image(image, (4, 3)), np.repeat([[0], [255], [255], [255]], 3, 1))


def test_shrinking_by_a_fraction_weighs_by_overlap():
  image = np.array([[0, 60, 240]], np.uint8)
  np.testing.assert_array_equal(resize_image(image, (1, 2)), [[20, 180]])


def test_growing_is_bilinear_with_pixel_centres():
  image = np.array([[0, 100]], np.uint8)
  np.testing.assert_array_equal(resize_image(image, (1, 4)), [[0, 25, 75, 100]])


def test_each_axis_has_its_own_filter():
  image = np.array([[0, 100], [50, 150], [100, 200], [150, 250]], np.uint8)
  expected = [[25, 50, 100, 125], [125, 150, 200, 225]]
  np.testing.assert_array_equal(resize_image(image, (2, 4)), expected)


def test_same_size_is_the_same():
  assert resize_image(RGB, (5, 7)) is RGB


@pytest.mark.parametrize('size', [(5, 7), (2, 3), (10, 21), (1, 1), (4, 9)])
def test_label_is_the_nearest_pixel(size):
  resized = resize_label(GREY, size)
  expected = [
    [GREY[int((i + 0.5) * 5 / size[0]), int((j + 0.5) * 7 / size[1])] for j in range(size[1])]
    for i in range(size[0])
  ]
  assert resized.dtype == np.uint8
  np.testing.assert_array_equal(resized, expected)
  np.testing.assert_array_equal(resized, jax.image.resize(GREY, size, 'nearest'))
