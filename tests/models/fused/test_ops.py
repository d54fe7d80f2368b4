"""The operations of a dense layer at sizes that they compute in several tiles, in float64."""

import functools

import exactness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_aspp_jax.models.fused import cpu_tiles, ops
from dense_aspp_jax.models.fused.statistics import Affine


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
  """256 positions, so that small maps have many tiles and a rest."""
  monkeypatch.setattr(cpu_tiles, '_LEAST_POSITIONS', 256)
  monkeypatch.setattr(cpu_tiles, '_TILE_BYTES', 2**14)


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize('masked', [False, True])
def test_float64_1x1_and_its_moments_are_exact(masked):
  """5175 positions: several tiles."""
  with jax.enable_x64(True):
    size, cin, cout = (9, 23, 25), 7, 4
    features, affine, kernel = draw(*size, cin + 2), Affine(*draw(3, cin)), draw(cin, cout)
    mask = (draw(*size, seed=2) > -1).at[0, 0, 0].set(True) if masked else None
    z = jnp.maximum(affine(features[..., :cin]), 0) @ kernel
    counted = z[mask] if masked else z.reshape(-1, cout)
    found = jax.jit(ops.bn_relu_dot)(features, affine, kernel, mask)
    exactness.assert_exact(found, (z, (counted.mean(0), counted.var(0))), tolerance=1e-10, smallest=0)


@pytest.mark.parametrize('platform', ['cpu', 'other'])
@pytest.mark.parametrize(('start', 'layers'), [(0, 1), (0, 3), (2, 1)])
@pytest.mark.parametrize(('size', 'channels'), [((2, 16, 32), (7, 4)), ((3, 23, 25), (3, 5))])
def test_float64_1x1_backward_is_exact(size, channels, start, layers, platform, monkeypatch):
  """1024 and 1725 positions, an input wider and narrower than the output."""
  if platform == 'other':
    monkeypatch.setattr(lax, 'platform_dependent', lambda *operands, default, **_: default(*operands))
  with jax.enable_x64(True):
    cin, cout = channels
    features, gradient = draw(2, *size, cin + 4)
    affines = [Affine(*draw(3, cin, seed=index)) for index in range(layers)]
    kernels, output_gradients = draw(layers, cin, cout), draw(layers, *size, cout, seed=1)
    x = features[..., start : start + cin]

    def output(y, kernel):
      return jnp.maximum(y, 0) @ kernel

    added, of_kernels, sums = gradient, [], []
    for affine, kernel, output_gradient in zip(affines, kernels, output_gradients, strict=True):
      of_y, of_kernel = jax.vjp(output, affine(x), kernel)[1](output_gradient)
      added = added.at[..., start : start + cin].add(of_y * affine.scale)
      of_kernels.append(of_kernel)
      sums.append((of_y.sum((0, 1, 2)), (of_y * (x - affine.mean)).sum((0, 1, 2))))
    found = jax.jit(functools.partial(ops.bn_relu_dot_backward, start=start))(
      features, affines, list(kernels), list(output_gradients), gradient
    )
    exactness.assert_exact(found, (added, of_kernels, sums), tolerance=1e-10, smallest=0)


@pytest.mark.parametrize('dilation', [1, 6, 30])
@pytest.mark.parametrize('masked', [False, True])
def test_float64_3x3_backward_is_exact(dilation, masked):
  """1725 positions; a dilation beyond the image leaves the middle tap only."""
  with jax.enable_x64(True):
    size, channels, growth = (3, 23, 25), 6, 3
    z, affine = draw(*size, channels), Affine(*draw(3, channels))
    mask = draw(*size, seed=2) > -1 if masked else None
    kernel, output_gradient = draw(3, 3, channels, growth), draw(*size, growth, seed=1)
    if masked:
      output_gradient = jnp.where(mask[..., None], output_gradient, 0)

    def output(y, kernel):
      a = jnp.maximum(y, 0) if mask is None else jnp.where(mask[..., None], jnp.maximum(y, 0), 0)
      return lax.conv_general_dilated(
        *(a, kernel, (1, 1), [(dilation, dilation)] * 2),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )

    of_y, of_kernel = jax.vjp(output, affine(z), kernel)[1](output_gradient)
    sums = of_y.sum((0, 1, 2)), (of_y * (z - affine.mean)).sum((0, 1, 2))
    found = jax.jit(functools.partial(ops.bn_relu_conv_backward, dilation=dilation))(
      z, affine, kernel, mask, output_gradient
    )
    exactness.assert_exact(found, (of_y, of_kernel, sums), tolerance=1e-10, smallest=0)


@pytest.mark.parametrize('channels', [(7, 4), (3, 5)])
def test_float64_gradients_of_a_dot_are_exact(channels):
  """2175 positions."""
  with jax.enable_x64(True):
    x, kernel = draw(3, 25, 29, channels[0]), draw(*channels)
    output_gradient = draw(3, 25, 29, channels[1], seed=1)
    expected = jax.vjp(jnp.matmul, x, kernel)[1](output_gradient)
    found = jax.jit(lambda x, kernel: jax.vjp(ops.dot, x, kernel)[1](output_gradient))(x, kernel)
    exactness.assert_exact(found, expected, tolerance=1e-10, smallest=0)
