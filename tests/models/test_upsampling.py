import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.models.upsampling import (
  bilinear_matrix,
  column_phases,
  column_phases_transpose,
  phase_weights,
  upsample_bilinear,
  upsample_columns,
  upsample_rows,
  upsampled_argmax,
)


def draw(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape)


def reference_bilinear(x, size, scale):
  """torch.nn.functional.interpolate(mode='bilinear', align_corners=False), pixel by pixel, in float64."""
  out = np.zeros((*size, x.shape[-1]))
  for i in range(size[0]):
    for j in range(size[1]):
      y0 = min(max((i + 0.5) / scale[0] - 0.5, 0), x.shape[0] - 1)
      x0 = min(max((j + 0.5) / scale[1] - 0.5, 0), x.shape[1] - 1)
      yl, xl = int(y0), int(x0)
      yh, xh = min(yl + 1, x.shape[0] - 1), min(xl + 1, x.shape[1] - 1)
      fy, fx = y0 - yl, x0 - xl
      top = x[yl, xl] * (1 - fx) + x[yl, xh] * fx
      bottom = x[yh, xl] * (1 - fx) + x[yh, xh] * fx
      out[i, j] = top * (1 - fy) + bottom * fy
  return out


@pytest.mark.parametrize(
  ('size', 'scale'), [((32, 40), (8.0, 8.0)), ((27, 35), (8.0, 8.0)), ((64, 30), (16.0, 6.0))]
)
def test_upsampling_is_bilinear_with_align_corners_false(size, scale):
  x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
  y = upsample_bilinear(jnp.asarray(x), size, scale)
  for one, expected in zip(np.asarray(y), x, strict=True):
    np.testing.assert_allclose(one, reference_bilinear(expected, size, scale), atol=1e-6)


# torch 2.13: interpolate(tensor([0., 1., 4.]).view(1, 1, 1, 3), scale_factor=(1, 4), mode='bilinear',
# align_corners=False)
TORCH_UPSAMPLED = [0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.375, 2.125, 2.875, 3.625, 4.0, 4.0]


def test_upsampling_golden_torch_values():
  np.testing.assert_allclose(bilinear_matrix(3, 12, 4.0) @ [0, 1, 4], TORCH_UPSAMPLED)


@pytest.mark.parametrize(
  ('size_in', 'size', 'scale'),
  [
    ((4, 5), (32, 40), (8.0, 8.0)),
    ((4, 5), (59, 73), (16.0, 16.0)),
    ((2, 3), (63, 66), (32.0, 32.0)),
    ((4, 5), (37, 61), (37 / 4, 61 / 5)),  # a photograph's own size
    ((9, 8), (5, 6), (5 / 9, 6 / 8)),
    ((1, 1), (11, 13), (16.0, 16.0)),
    ((4, 5), (40, 48), (8.0, 8.0)),  # beyond the input the edge repeats
  ],
)
def test_arg_max_is_that_of_the_upsampled_logits(size_in, size, scale):
  logits = jnp.asarray(draw(2, *size_in, 7), jnp.float32)
  fast = jax.jit(upsampled_argmax, static_argnums=(1, 2))(logits, size, scale)
  upsampled = np.asarray(upsample_bilinear(logits, size, scale))
  assert fast.shape == (2, *size)
  assert fast.dtype == jnp.uint8
  chosen = np.take_along_axis(upsampled, np.asarray(fast)[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(chosen, upsampled.max(-1), atol=1e-6)
  assert np.mean(fast != upsampled.argmax(-1)) < 1e-3  # a tie within rounding may go either way


def test_the_first_of_equal_classes_wins():
  logits = jnp.zeros((1, 2, 2, 4)).at[..., 1].set(2.0).at[..., 3].set(2.0)
  assert (upsampled_argmax(logits, (16, 16), (8.0, 8.0)) == 1).all()
  assert (upsampled_argmax(jnp.zeros((1, 2, 2, 3)), (5, 5), (2.5, 2.5)) == 0).all()


def test_arg_max_holds_no_class_axis_at_full_size():
  logits = jax.ShapeDtypeStruct((1, 8, 8, 12), jnp.float32)
  compiled = jax.jit(upsampled_argmax, static_argnums=(1, 2)).lower(logits, (64, 64), (8.0, 8.0)).compile()
  assert not re.findall(r'f32\[[\d,]*64,64[\d,]*\]', compiled.as_text().split('ENTRY')[1])
  # The rows of 12 classes, not 12 x 64 x 64 float32.
  assert compiled.memory_analysis().temp_size_in_bytes <= 3 * 12 * 64 * 8 * 4


def interpolated(x, axis, size, factor):
  """NumPy's linear interpolation at half-pixel centres; outside the input its edge."""
  at = (np.arange(size) + 0.5) / factor - 0.5
  return np.apply_along_axis(lambda values: np.interp(at, np.arange(len(values)), values), axis, x)


@pytest.mark.parametrize('factor', [2, 8, 16])  # whose weights float32, too, has exactly
@pytest.mark.parametrize('size_in', [(3, 4), (1, 3), (2, 1)])
def test_rows_and_columns_by_an_integer_factor_are_exact(size_in, factor):
  with jax.enable_x64(True):
    logits = draw(2, *size_in, 2)
    height, width = size_in[0] * factor - factor // 2, size_in[1] * factor
    upsampled = jax.jit(lambda x: upsample_columns(upsample_rows(x, height, factor), factor))(logits)
    expected = interpolated(interpolated(logits, 1, height, factor), 2, width, factor)
    assert upsampled.shape == (2, 2, height, size_in[1], factor)
    np.testing.assert_allclose(
      upsampled.reshape(2, 2, height, width), np.moveaxis(expected, 3, 1), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize('factor', [2, 3, 8, 16])
def test_phase_weights_are_those_of_the_bilinear_matrix(factor):
  matrix = bilinear_matrix(3, 3 * factor, float(factor))
  np.testing.assert_allclose(phase_weights(factor), matrix[factor : 2 * factor], atol=1e-7)


@pytest.mark.parametrize('width', [1, 5])
def test_column_phases_and_their_transpose_are_exact(width):
  with jax.enable_x64(True):
    padded = jnp.asarray(draw(3, width + 2))
    stacked, pull = jax.vjp(functools.partial(upsample_columns, factor=4), padded)
    np.testing.assert_allclose(jnp.stack(column_phases(padded, 4), axis=-1), stacked, rtol=1e-14)
    gradient = jnp.asarray(draw(3, width, 4))
    transposed = column_phases_transpose([gradient[..., phase] for phase in range(4)])
    np.testing.assert_allclose(transposed, pull(gradient)[0], rtol=1e-14, atol=1e-14)
