import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_augmentation import PADDING, draws, make_batch, reference_resample, run, source_positions

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.resampling import Window, cut_out, cut_out_rotated

cut_out = jax.jit(cut_out, static_argnames=('crop', 'scales'))
cut_out_rotated = jax.jit(cut_out_rotated, static_argnames='crop')


@pytest.mark.parametrize(
  ('augmentation', 'size'),
  [
    pytest.param(Augmentation(rotation=180.0), (11, 13), id='whole image'),
    pytest.param(Augmentation(rotation=15.0, crop_size=(6, 5)), (11, 13), id='crop'),
    pytest.param(Augmentation((0.4, 2.3), (9, 14), 0.5, rotation=40.0), (10, 13), id='scale, crop and flip'),
  ],
)
def test_rotation_equals_a_loop(augmentation, size):
  batch = make_batch(size, count=8)
  result = run(batch, augmentation)
  crop = augmentation.crop_size or size
  for row, drawn in enumerate(draws(augmentation, size, 8)):
    image, label = reference_resample(batch['image'][row].astype(float), batch['label'][row], drawn, crop)
    positions = source_positions(size, drawn, crop)
    # Where a position is that close to the edge of a pixel, rounding decides.
    decided = np.all([np.abs(p - np.rint(p)) > 1e-3 for p in positions], axis=0)
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(result['label'][row][decided], label[decided])
    np.testing.assert_allclose(result['image'][row][decided], image[decided], atol=0.3)  # 1e-3 pixel


def window(offset, rotation, scaled_size=(8, 8), flip=False):
  return Window(jnp.array(scaled_size), jnp.array(offset), jnp.array(flip), jnp.float32(rotation))


def test_rotation_by_quarter_turns_is_exact_and_counter_clockwise():
  batch = make_batch((8, 8))
  image, label = batch['image'][0], batch['label'][0]
  for turns in range(-2, 3):
    turned, turned_label, inside = cut_out_rotated(image, label, (8, 8), window((0, 0), 90 * turns))
    np.testing.assert_array_equal(turned, np.rot90(image, turns))
    np.testing.assert_array_equal(turned_label, np.rot90(label, turns))
    assert inside.all()


@pytest.mark.parametrize('flip', [False, True])
def test_rotation_by_nothing_is_a_crop(flip):
  batch = make_batch((8, 8))
  image, label = batch['image'][0], batch['label'][0]
  for offset, crop, scaled_size in (((2, -3), (5, 9), (8, 8)), ((-1, 3), (9, 7), (16, 32))):
    shown = window(offset, 0.0, scaled_size, flip)
    expected = cut_out(image, label, crop, shown, scales=True)
    found = cut_out_rotated(image, label, crop, shown)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[2], expected[2])
    np.testing.assert_array_equal(
      np.where(found[2][..., None], found[0], 0), np.where(found[2][..., None], expected[0], 0)
    )


def test_rotation_uncovers_padding_and_moves_labels_with_the_image():
  height, width = 24, 32
  rows, columns = np.mgrid[:height, :width].astype(np.uint8)
  image = np.stack([rows, columns, rows], -1)[None].repeat(4, 0)
  augmentation = Augmentation(rotation=30.0)
  by_rows = run({'image': image, 'label': rows[None].repeat(4, 0)}, augmentation)
  by_columns = run({'image': image, 'label': columns[None].repeat(4, 0)}, augmentation)
  inside = by_rows['label'] != IGNORE_LABEL
  np.testing.assert_array_equal(inside, by_columns['label'] != IGNORE_LABEL)
  assert inside[:, 12, 16].all()
  assert not inside.all()
  for channel, label in ((0, by_rows['label']), (1, by_columns['label'])):
    assert np.abs(by_rows['image'][..., channel][inside] - label[inside]).max() <= 0.5 + 1e-5
  np.testing.assert_array_equal(by_rows['image'][~inside], np.broadcast_to(PADDING, (np.sum(~inside), 3)))


def test_a_large_crop_far_outside_is_all_padding():
  """Positions are integers of 32 bits."""
  batch = make_batch((6, 6))
  _, label, inside = cut_out_rotated(
    batch['image'][0], batch['label'][0], (40, 3000), window((-20, 30000), 45.0, (6, 6))
  )
  assert not inside.any()
  assert (label == IGNORE_LABEL).all()
