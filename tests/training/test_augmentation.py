import colorsys
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.augmentation import Augmentation, augment, draw

PADDING = (10.0, 20.0, 30.0)
KEY = 7
EVERYTHING = Augmentation((0.5, 2.0), (9, 14), 0.5, 0.4, 0.3, 0.2, 0.1)

augment_jit = jax.jit(augment, static_argnames=('augmentation', 'padding_color'))


def make_batch(size, count=4, seed=0):
  generator = np.random.default_rng(seed)
  return {
    'image': generator.integers(0, 256, (count, *size, 3), np.uint8),
    'label': generator.integers(0, 20, (count, *size), np.uint8),
  }


def run(batch, augmentation, key=KEY):
  result = augment_jit(batch, jax.random.key(key), augmentation=augmentation, padding_color=PADDING)
  return {name: np.asarray(array) for name, array in result.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draw_rows(augmentation, size, count, key):
  return jax.vmap(lambda row: draw(jax.random.fold_in(key, row), augmentation, size))(jnp.arange(count))


def draws(augmentation, size, count, key=KEY):
  """What `augment` draws, one dict of NumPy values per row."""
  drawn = jax.device_get(draw_rows(augmentation, size, count, jax.random.key(key)))._asdict()
  return [{name: values[row] for name, values in drawn.items()} for row in range(count)]


def reference_resample(image, label, scaled_size, offset, flip, crop):
  """Scale, cut out, mirror: pixel by pixel, in float64."""
  height, width = label.shape
  out_image = np.empty((*crop, 3))
  out_label = np.full(crop, IGNORE_LABEL, np.uint8)
  for i in range(crop[0]):
    for j in range(crop[1]):
      row, column = i + int(offset[0]), (crop[1] - 1 - j if flip else j) + int(offset[1])
      if not (0 <= row < scaled_size[0] and 0 <= column < scaled_size[1]):
        out_image[i, j] = PADDING
        continue
      y = (row + 0.5) * height / scaled_size[0]
      x = (column + 0.5) * width / scaled_size[1]
      out_label[i, j] = label[int(np.floor(y)), int(np.floor(x))]
      y, x = np.clip(y - 0.5, 0, height - 1), np.clip(x - 0.5, 0, width - 1)
      top, left = int(np.floor(y)), int(np.floor(x))
      bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
      fy, fx = y - top, x - left
      out_image[i, j] = (1 - fy) * ((1 - fx) * image[top, left] + fx * image[top, right]) + fy * (
        (1 - fx) * image[bottom, left] + fx * image[bottom, right]
      )
  return out_image, out_label


def reference_jitter(image, inside, drawn):
  """ColorJitter as torchvision defines it, in the documented order; `image` 0..255, float64."""

  def grey(rgb):
    return rgb @ np.array([0.2989, 0.587, 0.114])

  def mix(first, second, factor):
    return np.clip(float(factor) * first + (1 - float(factor)) * second, 0, 255)

  image = mix(image, 0.0, drawn['brightness'])
  image = mix(image, grey(image)[inside].mean(), drawn['contrast'])
  image = mix(image, grey(image)[..., None], drawn['saturation'])
  shifted = np.empty_like(image)
  for index in np.ndindex(image.shape[:2]):
    hue, saturation, value = colorsys.rgb_to_hsv(*image[index] / 255)
    shifted[index] = np.array(colorsys.hsv_to_rgb((hue + float(drawn['hue'])) % 1, saturation, value)) * 255
  return shifted


def test_off_is_the_identity_and_gathers_nothing():
  batch = make_batch((6, 9))
  result = run(batch, Augmentation())
  assert result['image'].dtype == np.float32
  assert result['label'].dtype == np.uint8
  np.testing.assert_array_equal(result['image'], batch['image'].astype(np.float32))
  np.testing.assert_array_equal(result['label'], batch['label'])
  lowered = augment_jit.lower(batch, jax.random.key(0), augmentation=Augmentation(), padding_color=PADDING)
  program = lowered.compile().as_text()
  assert ' copy(' in program  # the program's operations are found so
  assert ' gather(' not in program
  assert ' xor(' not in program  # no random numbers either


def test_flip_alone_mirrors_image_and_label():
  batch = make_batch((5, 8))
  result = run(batch, Augmentation(flip_probability=1.0))
  np.testing.assert_array_equal(result['image'], batch['image'][:, :, ::-1])
  np.testing.assert_array_equal(result['label'], batch['label'][:, :, ::-1])


def test_flip_happens_as_drawn():
  batch = make_batch((5, 8), count=16)
  augmentation = Augmentation(flip_probability=0.5)
  result = run(batch, augmentation)
  flips = [d['flip'] for d in draws(augmentation, (5, 8), 16)]
  assert 0 < sum(flips) < 16
  for row, flip in enumerate(flips):
    expected = batch['image'][row, :, ::-1] if flip else batch['image'][row]
    np.testing.assert_array_equal(result['image'][row], expected)


@pytest.mark.parametrize(
  ('augmentation', 'size'),
  [
    pytest.param(Augmentation(crop_size=(5, 6)), (11, 13), id='crop'),
    pytest.param(Augmentation(crop_size=(12, 16), flip_probability=0.5), (7, 9), id='padding'),
    pytest.param(Augmentation(crop_size=(5, 16)), (11, 13), id='crop rows, pad columns'),
    pytest.param(Augmentation((2.0, 2.0)), (6, 8), id='enlarged'),
    pytest.param(Augmentation((0.5, 0.5)), (6, 8), id='halved'),
    pytest.param(Augmentation((0.4, 2.3), (9, 14), 0.5), (10, 13), id='scale, crop and flip'),
  ],
)
def test_resampling_equals_a_loop(augmentation, size):
  batch = make_batch(size, count=8)
  result = run(batch, augmentation)
  crop = augmentation.crop_size or size
  assert result['image'].shape == (8, *crop, 3)
  for row, drawn in enumerate(draws(augmentation, size, 8)):
    image, label = reference_resample(
      batch['image'][row].astype(float),
      batch['label'][row],
      drawn['scaled_size'],
      drawn['offset'],
      drawn['flip'],
      crop,
    )
    np.testing.assert_array_equal(result['label'][row], label)
    np.testing.assert_allclose(result['image'][row], image, atol=2e-4)


def test_label_moves_with_the_image():
  height, width = 16, 24
  rows, columns = np.mgrid[:height, :width].astype(np.uint8)
  image = np.stack([rows, columns, rows], -1)[None].repeat(8, 0)
  label_of_rows = rows[None].repeat(8, 0)
  label_of_columns = columns[None].repeat(8, 0)
  augmentation = Augmentation((0.5, 2.0), (20, 20), 0.5)
  by_rows = run({'image': image, 'label': label_of_rows}, augmentation)
  by_columns = run({'image': image, 'label': label_of_columns}, augmentation)
  inside = by_rows['label'] != IGNORE_LABEL
  np.testing.assert_array_equal(inside, by_columns['label'] != IGNORE_LABEL)
  assert inside.any()
  assert not inside.all()
  # Nearest neighbour is at most half a pixel from the interpolated coordinate.
  for channel, label in ((0, by_rows['label']), (1, by_columns['label'])):
    assert np.abs(by_rows['image'][..., channel][inside] - label[inside]).max() <= 0.5 + 1e-5
  np.testing.assert_array_equal(by_rows['image'][~inside], np.broadcast_to(PADDING, (np.sum(~inside), 3)))


def test_positions_and_scales_cover_their_range():
  drawn = draw_rows(Augmentation((0.5, 2.0), (50, 250)), (100, 200), 2000, jax.random.key(1))
  scale = np.asarray(drawn.scaled_size) / [100, 200]
  np.testing.assert_allclose([scale.min(), scale.max()], [0.5, 2.0], atol=0.02)
  np.testing.assert_allclose(scale.mean(), 1.25, atol=0.03)  # uniform; log-uniform would give 1.08
  np.testing.assert_allclose(scale[:, 0], scale[:, 1], atol=0.01)
  spare = np.asarray(drawn.scaled_size) - [50, 250]
  offset = np.asarray(drawn.offset)
  assert (offset >= np.minimum(spare, 0)).all()
  assert (offset <= np.maximum(spare, 0)).all()
  # In a crop of one position per side, each of the valid positions comes up equally often.
  drawn = draw_rows(Augmentation(crop_size=(3, 4)), (5, 2), 2000, jax.random.key(2))
  rows, columns = np.asarray(drawn.offset).T
  for values, expected in ((rows, [0, 1, 2]), (columns, [-2, -1, 0])):
    found, counts = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(found, expected)
    assert counts.min() > 2000 / 3 * 0.85


@pytest.mark.parametrize('field', ['brightness', 'contrast', 'saturation', 'hue'])
def test_each_colour_change_equals_numpy(field):
  check_colours(dataclasses.replace(Augmentation(), **{field: 0.5}))


def test_all_colour_changes_in_order_equal_numpy():
  check_colours(Augmentation(brightness=0.4, contrast=0.5, saturation=0.6, hue=0.3))


def check_colours(augmentation):
  size = (6, 7)
  batch = make_batch(size)
  batch['image'][0, :2] = batch['image'][0, :2, :, :1]  # greys, black and white: hue is undefined there
  batch['image'][0, 0, :3] = [[0, 0, 0], [255, 255, 255], [255, 0, 0]]
  result = run(batch, augmentation)
  drawn = draws(augmentation, size, 4)
  changed = 0
  for row in range(4):
    expected = reference_jitter(batch['image'][row].astype(float), np.ones(size, bool), drawn[row])
    np.testing.assert_allclose(result['image'][row], expected, atol=2e-3)
    changed += np.abs(expected - batch['image'][row]).max() > 5
  assert changed >= 2
  np.testing.assert_array_equal(result['label'], batch['label'])


def test_everything_at_once_equals_numpy_and_padding_keeps_its_colour():
  size = (10, 13)
  batch = make_batch(size, count=8)
  result = run(batch, EVERYTHING)
  for row, drawn in enumerate(draws(EVERYTHING, size, 8)):
    image, label = reference_resample(
      batch['image'][row].astype(float),
      batch['label'][row],
      drawn['scaled_size'],
      drawn['offset'],
      drawn['flip'],
      (9, 14),
    )
    inside = label != IGNORE_LABEL
    expected = np.where(inside[..., None], reference_jitter(image, inside, drawn), PADDING)
    np.testing.assert_array_equal(result['label'][row], label)
    np.testing.assert_allclose(result['image'][row], expected, atol=5e-3)


def test_switching_one_on_leaves_other_draws_unchanged():
  size = (10, 13)
  (alone,) = draws(Augmentation((0.5, 2.0), (9, 14)), size, 1)
  (together,) = draws(EVERYTHING, size, 1)
  np.testing.assert_array_equal(alone['scaled_size'], together['scaled_size'])
  np.testing.assert_array_equal(alone['offset'], together['offset'])


def test_depends_on_key_and_row_alone():
  batch = make_batch((10, 13), count=8)
  result = run(batch, EVERYTHING)
  np.testing.assert_array_equal(run(batch, EVERYTHING)['image'], result['image'])
  assert np.abs(run(batch, EVERYTHING, key=8)['image'] - result['image']).max() > 1
  same = {name: np.repeat(array[:1], 8, axis=0) for name, array in batch.items()}
  rows = run(same, EVERYTHING)['image']
  assert all(np.abs(rows[0] - rows[i]).max() > 1 for i in range(1, 8))
  fewer = run({name: array[:3] for name, array in batch.items()}, EVERYTHING)
  np.testing.assert_array_equal(fewer['label'], result['label'][:3])
  np.testing.assert_allclose(fewer['image'], result['image'][:3], atol=2e-3)


def test_eight_devices_give_what_one_gives_without_talking():
  assert jax.device_count() == 8
  batch = make_batch((10, 13), count=16)
  sharding = NamedSharding(Mesh(np.array(jax.devices()), ('data',)), PartitionSpec('data'))
  placed = jax.device_put(batch, sharding)
  lowered = augment_jit.lower(placed, jax.random.key(KEY), augmentation=EVERYTHING, padding_color=PADDING)
  program = lowered.compile().as_text()
  assert not [name for name in ('all-gather', 'all-reduce', 'all-to-all', 'collective') if name in program]
  one, eight = run(batch, EVERYTHING), run(placed, EVERYTHING)
  np.testing.assert_array_equal(eight['label'], one['label'])
  np.testing.assert_allclose(eight['image'], one['image'], atol=2e-3)


def test_normalize():
  image = np.array([[[[0, 127.5, 255]]]], np.float32)
  result = Preprocessing((4, 6), (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)).normalize(jnp.asarray(image))
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, [[[[-1, 1, 0.5]]]], rtol=1e-6)
  white = Preprocessing((4, 6)).normalize(jnp.full((1, 1, 3), 255.0))
  np.testing.assert_allclose(white, [[[2.2489083, 2.4285715, 2.64]]], rtol=1e-5)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('scale_range', (2.0, 0.5)),
    ('scale_range', (0.0, 1.0)),
    ('scale_range', (1.0,)),
    ('scale_range', 2.0),
    ('scale_range', (1.0, float('nan'))),
    ('crop_size', (0, 10)),
    ('crop_size', (10, 10.0)),
    ('crop_size', 512),
    ('flip_probability', 1.5),
    ('flip_probability', True),
    ('brightness', -0.1),
    ('contrast', float('inf')),
    ('saturation', 'much'),
    ('hue', 0.6),
  ],
)
def test_nonsense_is_named(field, value):
  with pytest.raises(InputError, match=rf'^config\.augmentation\.{field} = .*: expected '):
    Augmentation(**{field: value})


def test_lists_as_json_gives_them():
  assert Augmentation(scale_range=[0.5, 2], crop_size=[3, 4]) == Augmentation((0.5, 2), (3, 4))
