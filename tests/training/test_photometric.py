import dataclasses
import statistics

import numpy as np
import pytest
from reference_augmentation import (
  GREY,
  LIGHT,
  PADDING,
  draws,
  make_batch,
  reference_blur,
  reference_light,
  run,
)

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.augmentation import Augmentation


@pytest.mark.parametrize(
  'field', ['brightness', 'contrast', 'saturation', 'hue', 'gamma', 'white_balance', 'grayscale_probability']
)
def test_each_change_of_light_equals_numpy(field):
  check_light(dataclasses.replace(Augmentation(), **{field: 0.5}))


def test_all_changes_of_light_in_order_equal_numpy():
  check_light(Augmentation(**LIGHT))


def check_light(augmentation):
  size = (6, 7)
  batch = make_batch(size)
  batch['image'][0, :2] = batch['image'][0, :2, :, :1]  # greys, black and white: hue is undefined there
  batch['image'][0, 0, :3] = [[0, 0, 0], [255, 255, 255], [255, 0, 0]]
  result = run(batch, augmentation)
  drawn = draws(augmentation, size, 4)
  changed = 0
  for row in range(4):
    expected = reference_light(batch['image'][row].astype(float), np.ones(size, bool), drawn[row])
    np.testing.assert_allclose(result['image'][row], expected, atol=2e-3)
    changed += np.abs(expected - batch['image'][row]).max() > 5
  assert changed
  np.testing.assert_array_equal(result['label'], batch['label'])


def test_white_balance_keeps_the_luminance_of_grey():
  batch = {**make_batch((2, 3)), 'image': np.full((4, 2, 3, 3), 100, np.uint8)}
  result = run(batch, Augmentation(white_balance=0.4))['image']
  np.testing.assert_allclose(result @ (GREY / GREY.sum()), 100, rtol=1e-5)
  assert np.ptp(result, axis=-1).min() > 1


@pytest.mark.parametrize('size', [(12, 15), (3, 4)], ids=['large', 'smaller than the kernel'])
def test_blur_equals_a_loop(size):
  batch = make_batch(size)
  augmentation = Augmentation(blur=1.6)
  result = run(batch, augmentation)
  inside = np.ones(size, bool)
  for row, drawn in enumerate(draws(augmentation, size, 4)):
    expected = reference_blur(batch['image'][row].astype(float), inside, drawn['blur'], radius=5)
    np.testing.assert_allclose(result['image'][row], expected, atol=1e-3)
  np.testing.assert_array_equal(result['label'], batch['label'])


def test_blur_neither_changes_what_is_uniform_nor_takes_in_padding():
  batch = {**make_batch((6, 7)), 'image': np.full((4, 6, 7, 3), 200, np.uint8)}
  result = run(batch, Augmentation(crop_size=(11, 9), rotation=30.0, blur=2.0))
  padding = result['label'] == IGNORE_LABEL
  np.testing.assert_allclose(result['image'][~padding], 200, atol=1e-3)
  np.testing.assert_array_equal(result['image'][padding], np.broadcast_to(PADDING, (padding.sum(), 3)))


def test_the_least_blur_is_none():
  batch = make_batch((6, 7))
  np.testing.assert_allclose(run(batch, Augmentation(blur=0.05))['image'], batch['image'], atol=1e-4)


def test_noise_is_normal_and_independent():
  size = (96, 128)
  batch = {**make_batch(size), 'image': np.full((4, *size, 3), 128, np.uint8)}
  augmentation = Augmentation(noise=0.1)
  deviations = [d['noise'] for d in draws(augmentation, size, 4)]
  noise = (run(batch, augmentation)['image'] - 128) / 255 / np.reshape(deviations, (4, 1, 1, 1))
  for row in range(4):
    shares = np.linspace(0.01, 0.99, 25)
    expected = [statistics.NormalDist().inv_cdf(share) for share in shares]
    np.testing.assert_allclose(np.quantile(noise[row], shares), expected, atol=0.05)
    np.testing.assert_allclose(noise[row].std(), 1, atol=0.01)
  assert np.abs(noise).max() < 3.31
  variables = [
    *np.moveaxis(noise[0], -1, 0),  # channels
    np.roll(noise[0, ..., 0], 1, 0),  # neighbours
    np.roll(noise[0, ..., 0], 1, 1),
    noise[1, ..., 0],  # another image
  ]
  correlations = np.corrcoef([variable.ravel() for variable in variables])
  assert np.abs(correlations - np.eye(len(variables))).max() < 0.03


def test_colours_stay_within_their_range():
  batch = make_batch((16, 16))
  image = run(batch, Augmentation(gamma=3.0, white_balance=0.9, blur=3.0, noise=1.0))['image']
  assert np.isfinite(image).all()
  assert image.min() == 0
  assert image.max() == 255
