import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from reference_augmentation import (
  CAMERA,
  EVERYTHING,
  GEOMETRY,
  KEY,
  LIGHT,
  PADDING,
  augment_jit,
  draw_rows,
  draws,
  make_batch,
  reference_blur,
  reference_light,
  reference_resample,
  run,
)

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.augmentation import Augmentation


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
    image, label = reference_resample(batch['image'][row].astype(float), batch['label'][row], drawn, crop)
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


def test_everything_at_once_equals_numpy_and_padding_keeps_its_colour():
  size = (10, 13)
  batch = make_batch(size, count=8)
  augmentation = Augmentation(**GEOMETRY, **LIGHT, blur=1.5)
  result = run(batch, augmentation)
  for row, drawn in enumerate(draws(augmentation, size, 8)):
    image, label = reference_resample(batch['image'][row].astype(float), batch['label'][row], drawn, (9, 14))
    inside = label != IGNORE_LABEL
    expected = reference_blur(reference_light(image, inside, drawn), inside, drawn['blur'], radius=5)
    expected = np.where(inside[..., None], expected, PADDING)
    np.testing.assert_array_equal(result['label'][row], label)
    np.testing.assert_allclose(result['image'][row], expected, atol=5e-3)


def test_noise_comes_last_and_not_into_padding():
  size = (10, 13)
  batch = make_batch(size, count=8)
  without = run(batch, dataclasses.replace(EVERYTHING, noise=0.0))
  grey = {**make_batch((9, 14), count=8), 'image': np.full((8, 9, 14, 3), 128, np.uint8)}
  noise = run(grey, Augmentation(noise=0.05))['image'] - 128  # the same numbers as with all else on
  assert np.abs(noise).max() > 10
  noisy = run(batch, EVERYTHING)
  padding = noisy['label'] == IGNORE_LABEL
  expected = np.clip(without['image'] + noise, 0, 255)
  np.testing.assert_allclose(noisy['image'][~padding], expected[~padding], atol=1e-3)
  np.testing.assert_array_equal(noisy['image'][padding], np.broadcast_to(PADDING, (padding.sum(), 3)))


@pytest.mark.parametrize('changes', [{name: value} for name, value in {**LIGHT, **CAMERA}.items()], ids=str)
def test_light_and_camera_leave_labels_and_padding(changes):
  size = (10, 13)
  batch = make_batch(size, count=8)
  still, changed = run(batch, Augmentation(**GEOMETRY)), run(batch, Augmentation(**GEOMETRY, **changes))
  np.testing.assert_array_equal(changed['label'], still['label'])
  different = (changed['image'] != still['image']).any(-1)
  assert different.any()
  assert not different[still['label'] == IGNORE_LABEL].any()


def test_the_first_parameters_keep_their_random_numbers():
  """Those of runs of earlier versions, whose configuration had no more parameters."""
  before = [
    dict(
      scaled_size=[18, 23],
      offset=[5, 3],
      flip=True,
      brightness=1.3936626,
      contrast=0.82341295,
      saturation=0.97197795,
      hue=-0.06395886,
    ),
    dict(
      scaled_size=[15, 20],
      offset=[5, 2],
      flip=True,
      brightness=0.7676491,
      contrast=1.013943,
      saturation=1.1197525,
      hue=0.057334233,
    ),
  ]
  for drawn, expected in zip(draws(EVERYTHING, (10, 13), 2), before, strict=True):
    for name, value in expected.items():
      np.testing.assert_allclose(drawn[name], value, rtol=1e-5)


def test_switching_one_on_leaves_other_draws_unchanged():
  size = (10, 13)
  off = draws(Augmentation(), size, 4)
  together = draws(EVERYTHING, size, 4)
  names = {'grayscale_probability': 'grayscale', 'flip_probability': 'flip'}
  fields = [f.name for f in dataclasses.fields(Augmentation) if f.name not in ('scale_range', 'crop_size')]
  for field in fields:
    name = names.get(field, field)
    alone = draws(Augmentation(**{field: getattr(EVERYTHING, field)}), size, 4)
    for row in range(4):
      for other, value in alone[row].items():
        np.testing.assert_array_equal(value, (together if other == name else off)[row][other], str(other))
  for alone, both in zip(draws(Augmentation(**GEOMETRY), size, 4), together, strict=True):
    np.testing.assert_array_equal(alone['scaled_size'], both['scaled_size'])
    np.testing.assert_array_equal(alone['offset'], both['offset'])


def test_each_parameter_has_a_random_number_of_its_own_over_its_whole_range():
  drawn = draw_rows(EVERYTHING, (1000, 2000), 2000, jax.random.key(1))
  numbers = {
    'scale': drawn.scaled_size[:, 0] / 1000,
    'brightness': drawn.brightness,
    'contrast': drawn.contrast,
    'saturation': drawn.saturation,
    'hue': drawn.hue,
    'gamma': jnp.log(drawn.gamma),
    **{f'white_balance {i}': drawn.white_balance[:, i] for i in range(3)},
    'rotation': drawn.rotation,
    'blur': drawn.blur,
    'noise': drawn.noise,
    'flip': drawn.flip,
    'grayscale': drawn.grayscale,
  }
  ranges = [(0.5, 2), (0.6, 1.4), (0.7, 1.3), (0.8, 1.2), (-0.1, 0.1), (-0.5, 0.5), *[(0.7, 1.3)] * 3]
  ranges += [(-20, 20), (0, 1.5), (0, 0.05)]
  for (name, values), (low, high) in zip(numbers.items(), ranges, strict=False):
    share = (np.asarray(values) - low) / (high - low)
    np.testing.assert_allclose(
      np.quantile(share, [0, 0.25, 0.5, 0.75, 1]), np.linspace(0, 1, 5), atol=0.04, err_msg=name
    )
  np.testing.assert_allclose(np.mean(drawn.grayscale), 0.3, atol=0.03)
  np.testing.assert_allclose(np.mean(drawn.flip), 0.5, atol=0.03)
  correlations = np.corrcoef([np.asarray(values, float) for values in numbers.values()])
  assert np.abs(correlations - np.eye(len(numbers))).max() < 0.1


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
    ('gamma', -0.1),
    ('gamma', 3.1),
    ('white_balance', 1.0),
    ('white_balance', -0.1),
    ('grayscale_probability', 1.1),
    ('grayscale_probability', True),
    ('rotation', -1.0),
    ('rotation', 181.0),
    ('blur', 8.1),
    ('blur', None),
    ('noise', 1.1),
    ('noise', float('nan')),
  ],
)
def test_nonsense_is_named(field, value):
  with pytest.raises(InputError, match=rf'^config\.augmentation\.{field} = .*: expected '):
    Augmentation(**{field: value})


def test_lists_as_json_gives_them():
  assert Augmentation(scale_range=[0.5, 2], crop_size=[3, 4]) == Augmentation((0.5, 2), (3, 4))
