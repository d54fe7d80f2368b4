import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.models.fused.mosaic_rectangles import Tiling, tile_masks, tiling


@pytest.mark.parametrize(
  ('height', 'width', 'expected'),
  [
    (128, 256, Tiling(1, 128, 128, 2)),
    (16, 32, Tiling(4, 32, 4, 1)),
    (23, 30, Tiling(4, 32, 6, 1)),
    (5, 3, Tiling(8, 16, 1, 1)),
  ],
)
def test_tiles_waste_little_and_are_wide(height, width, expected):
  assert tiling(height, width, 128) == expected


def test_no_masks_if_all_positions_count():
  assert tile_masks(None, (2, 16, 32, 64), tiling(16, 32, 128)) is None


def test_each_tile_has_the_mask_of_its_rectangle():
  mask = np.random.default_rng(0).random((2, 9, 40)) < 0.5
  tiles = Tiling(4, 32, 3, 2)
  masks = np.asarray(tile_masks(jnp.asarray(mask), (2, 9, 40, 64), tiles)).reshape(-1, 4, 32)
  padded = np.pad(mask, ((0, 0), (0, 3), (0, 24)))
  for number, got in enumerate(masks):
    image, top, left = (int(value) for value in tiles.corner(jnp.int32(number)))
    np.testing.assert_array_equal(got, padded[image, top : top + 4, left : left + 32])


def test_without_a_mask_only_what_is_beyond_the_image_does_not_count():
  masks = tile_masks(None, (1, 5, 3, 64), tiling(5, 3, 128))
  np.testing.assert_array_equal(np.asarray(masks).sum(), 15)
