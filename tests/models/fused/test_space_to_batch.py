import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.models.fused.space_to_batch import batch_to_space, padding_mask, space_to_batch


@pytest.mark.parametrize('size', [(4, 8), (5, 7), (1, 3)])
@pytest.mark.parametrize('factor', [1, 2, 4])
def test_phases_hold_every_factor_th_pixel_and_go_back(size, factor):
  x = np.random.default_rng(0).normal(size=(3, *size, 2)).astype(np.float32)
  phases = np.asarray(space_to_batch(jnp.asarray(x), factor))
  mask = padding_mask(3, size, factor)
  height, width = (-(-n // factor) for n in size)
  assert phases.shape == (factor**2 * 3, height, width, 2)
  assert (mask is None) == (size[0] % factor == size[1] % factor == 0)
  for row in range(factor):
    for column in range(factor):
      for image in range(3):
        index = (row * factor + column) * 3 + image
        expected = x[image, row::factor, column::factor]
        h, w = expected.shape[:2]
        np.testing.assert_array_equal(phases[index, :h, :w], expected)
        assert not phases[index, h:].any()
        assert not phases[index, :, w:].any()
        if mask is not None:
          inside = np.zeros((height, width), bool)
          inside[:h, :w] = True
          np.testing.assert_array_equal(mask[index], inside)
  np.testing.assert_array_equal(batch_to_space(jnp.asarray(phases), factor, size), x)
