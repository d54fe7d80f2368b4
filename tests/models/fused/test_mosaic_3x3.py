"""The Mosaic GPU kernel of the 3x3 convolutions' backward pass, interpreted on a CPU, against derivatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_aspp_jax.models.fused import mosaic_3x3, mosaic_tiles
from dense_aspp_jax.models.fused.statistics import Affine, activation


class Layer(NamedTuple):
  maps: tuple[int, int, int]
  channels: int
  growth: int
  dilation: int = 1
  masked: bool = False
  races: bool = False  # detecting them takes three times as long


LAYERS = {
  'two blocks of channels': Layer((2, 4, 32), 128, 32, races=True),
  'a tile as wide as a row': Layer((1, 3, 130), 64, 32),
  'masked, sizes that no tile divides': Layer((3, 9, 13), 64, 32, masked=True),
  'dilation 2, few output channels': Layer((1, 9, 16), 64, 12, dilation=2),
  'dilation 3, 64 output channels': Layer((1, 8, 19), 64, 64, dilation=3, masked=True, races=True),
  '48 output channels': Layer((2, 8, 16), 64, 48),
  'dilation beyond the image': Layer((1, 5, 3), 64, 64, dilation=30),
}
needs_interpreter = pytest.mark.skipif(
  not mosaic_tiles.available(), reason='needs the Mosaic GPU interpreter of jax 0.11'
)


def draw(layer):
  rng = np.random.default_rng(0)

  def normal(*shape, dtype=jnp.bfloat16):
    return jnp.asarray(rng.normal(size=shape), dtype)

  z = normal(*layer.maps, layer.channels) * 2 + 3
  affine = Affine(*normal(3, layer.channels, dtype=jnp.float32))
  kernel = normal(3, 3, layer.channels, layer.growth) / 16
  mask = jnp.asarray(rng.random(layer.maps) < 0.8) if layer.masked else None
  gradient = normal(*layer.maps, layer.growth)
  if layer.masked:
    gradient = jnp.where(mask[..., None], gradient, 0)
  return z, affine, kernel, mask, gradient


def expected(layer, z, affine, kernel, mask, gradient):
  """In float32 but for what is stored in bfloat16."""

  def convolution(a, kernel):
    return lax.conv_general_dilated(
      *(a, kernel, (1, 1), [(layer.dilation, layer.dilation)] * 2),
      rhs_dilation=(layer.dilation, layer.dilation),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )

  a = activation(z, affine, mask).astype(jnp.float32)
  _, pullback = jax.vjp(convolution, a, kernel.astype(jnp.float32))
  a_gradient, kernel_gradient = pullback(gradient.astype(jnp.float32))
  g = jnp.where(a > 0, a_gradient, 0).astype(jnp.bfloat16).astype(jnp.float32)
  centred = z.astype(jnp.float32) - affine.mean
  return g, kernel_gradient, (jnp.sum(g, (0, 1, 2)), jnp.sum(g * centred, (0, 1, 2)))


@needs_interpreter
@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
def test_backward_equals_derivatives(layer, monkeypatch, capfd):
  interpreter = mosaic_tiles.InterpretGPUParams(detect_races=layer.races)
  monkeypatch.setattr(mosaic_tiles, 'INTERPRET', interpreter)
  monkeypatch.setattr(mosaic_3x3, 'PROGRAMS', 2)
  operands = draw(layer)
  assert mosaic_3x3.supports(operands[0], operands[2])
  run = jax.jit(lambda *operands: mosaic_3x3.bn_relu_conv_backward(*operands, dilation=layer.dilation))
  outputs = jax.block_until_ready(run(*operands))
  assert 'RACE' not in capfd.readouterr().out
  got, want = jax.tree.leaves(outputs), jax.tree.leaves(expected(layer, *operands))
  assert got[0].dtype == jnp.bfloat16
  assert got[0].shape == operands[0].shape
  assert got[1].dtype == jnp.float32
  # Units in the last place of bfloat16: sums in float32 round differently, and so do few activations.
  for value, reference, precision in zip(got, want, (2**-8, 2**-9, 2**-9, 2**-9), strict=True):
    scale = float(jnp.max(jnp.abs(reference)))
    np.testing.assert_allclose(np.float32(value), reference, rtol=0, atol=precision * scale)


@pytest.mark.parametrize(
  ('dtype', 'channels', 'growth'),
  [(jnp.float32, 64, 32), (jnp.bfloat16, 96, 32), (jnp.bfloat16, 64, 96)],
)
def test_unsupported(dtype, channels, growth):
  z = jnp.zeros((1, 4, 4, channels), dtype)
  assert not mosaic_3x3.supports(z, jnp.zeros((3, 3, channels, growth), dtype))
