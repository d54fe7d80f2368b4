"""The Mosaic GPU kernels of the 1x1 convolutions, interpreted on a CPU, against the XLA forms."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.models.fused import mosaic_1x1, mosaic_tiles, ops
from dense_aspp_jax.models.fused.statistics import Affine

pytestmark = pytest.mark.skipif(not mosaic_tiles.available(), reason='needs the interpreter of jax 0.11')


class Layer(NamedTuple):
  """Shapes of a dense layer: the block's channels, of which `cin` are read, and the bottleneck's."""

  maps: tuple[int, int, int]
  block: int
  cin: int
  bottleneck: int
  masked: bool = False


LAYERS = {
  # Several tiles of positions, the last one cut; channels that no tile divides.
  'odd': Layer((2, 20, 17), 224, 144, 128),
  'masked': Layer((2, 15, 20), 96, 80, 192, masked=True),
  # Whole tiles only.
  'even': Layer((2, 16, 32), 128, 128, 128),
  'wide': Layer((1, 16, 16), 128, 96, 256),
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
  """Few programs, so that one has several tiles also of these small maps."""
  monkeypatch.setattr(mosaic_1x1, 'PROGRAMS', 2)
  monkeypatch.setattr(mosaic_tiles, 'INTERPRET', mosaic_tiles.InterpretGPUParams(detect_races=True))


def draw_affine(rng, channels):
  mean, scale, bias = rng.normal(size=(3, channels)).astype(np.float32)
  return Affine(jnp.asarray(mean), jnp.asarray(scale), jnp.asarray(bias))


def draw(layer, seed=0):
  rng = np.random.default_rng(seed)
  features = jnp.asarray(rng.normal(size=(*layer.maps, layer.block)) + 0.5, jnp.bfloat16)
  kernel = jnp.asarray(rng.normal(size=(layer.cin, layer.bottleneck)) / 8, jnp.bfloat16)
  mask = jnp.asarray(rng.random(layer.maps) < 0.8) if layer.masked else None
  return features, draw_affine(rng, layer.cin), kernel, mask


def xla(operation, *arguments, **static):
  """The XLA form of an operation in float32, of the same bfloat16 values."""
  return operation.__wrapped__(*arguments, **static)


def assert_close(actual, expected, tolerance):
  actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('name', LAYERS)
def test_forward_product_and_its_moments(name):
  features, affine, kernel, mask = draw(LAYERS[name])
  z, moments = mosaic_1x1.bn_relu_dot(features, affine, kernel, mask)
  expected, _ = xla(ops.bn_relu_dot, features, affine, kernel, mask)
  assert_close(z, expected, 1e-2)
  counted = np.asarray(z, np.float64)[np.ones(z.shape[:3], bool) if mask is None else np.asarray(mask)]
  assert_close(moments.mean, counted.mean(0), 1e-5)
  assert_close(moments.variance, counted.var(0), 1e-5)


@pytest.mark.parametrize('name', ['odd', 'wide'])
def test_forward_product_with_its_second_norm(name):
  features, affine, kernel, _ = draw(LAYERS[name])
  second = draw_affine(np.random.default_rng(1), kernel.shape[1])
  y = mosaic_1x1.bn_relu_dot_relu(features, affine, kernel, second, channels=len(kernel))
  assert_close(
    y,
    xla(ops.bn_relu_dot_relu, features, affine, kernel, second, channels=len(kernel)),
    1e-2,
  )


def test_layers_of_a_block_share_a_kernel():
  def kernels(cin):
    features, affine, kernel, _ = draw(LAYERS['odd']._replace(cin=cin))
    jaxpr = jax.make_jaxpr(mosaic_1x1.bn_relu_dot)(features, affine, kernel, None)
    return [id(e.params['jaxpr']) for e in jaxpr.eqns if 'custom_vmap_call' in str(e.params.get('jaxpr'))]

  assert len(kernels(64)) == 1
  assert kernels(64) == kernels(144)


@pytest.mark.parametrize(
  ('maps', 'channels', 'width', 'dtype', 'expected'),
  [
    ((1, 8, 9), 224, 128, jnp.bfloat16, True),
    ((1, 7, 9), 224, 128, jnp.bfloat16, False),
    ((1, 8, 9), 220, 128, jnp.bfloat16, False),
    ((1, 8, 9), 224, 48, jnp.bfloat16, False),
    ((1, 8, 9), 224, 128, jnp.float32, False),
  ],
)
def test_supported_shapes_and_types(maps, channels, width, dtype, expected):
  assert mosaic_1x1.supports(jnp.zeros((*maps, channels), dtype), jnp.zeros((64, width), dtype)) == expected
