"""The Mosaic GPU kernel of the 3x3 convolution, forward, interpreted on a CPU, against the XLA form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_aspp_jax.models.fused import mosaic_3x3_forward, mosaic_tiles, ops
from dense_aspp_jax.models.fused.arrays import masked
from dense_aspp_jax.models.fused.mosaic_3x3_forward import bn_relu_conv_into
from dense_aspp_jax.models.fused.statistics import Affine, activation

pytestmark = pytest.mark.skipif(not mosaic_tiles.available(), reason='needs the interpreter of jax 0.11')


class Layer(NamedTuple):
  """Shapes of a dense layer; it writes its `growth` channels from `channel` on."""

  maps: tuple[int, int, int]
  ci: int
  growth: int
  dilation: int = 1
  masked: bool = False
  normalized: bool = False
  block: int = 96
  channel: int = 24


LAYERS = {
  # Whole tiles only, several for each program.
  'even': Layer((2, 20, 32), 128, 32),
  # Tiles that lines do not fill, across images, and lines that positions do not fill.
  'odd': Layer((2, 9, 30), 64, 32, masked=True),
  'dilated': Layer((2, 13, 16), 64, 32, 3),
  # Lines that two warpgroups share.
  'wide': Layer((1, 3, 136), 64, 32),
  'cascade': Layer((1, 5, 72), 64, 64, 24, masked=True),
  'larger dilation than the image': Layer((1, 10, 24), 128, 64, 25),
  # For inference, after a layer's second norm.
  'normalized': Layer((3, 5, 7), 64, 32, 2, normalized=True),
}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
  """Few programs, so that one has several tiles also of these small maps."""
  monkeypatch.setattr(mosaic_3x3_forward, 'PROGRAMS', 2)
  monkeypatch.setattr(mosaic_tiles, 'INTERPRET', mosaic_tiles.InterpretGPUParams(detect_races=True))


def draw(layer, seed=0):
  rng = np.random.default_rng(seed)
  z = jnp.asarray(rng.normal(size=(*layer.maps, layer.ci)) + 0.5, jnp.bfloat16)
  affine = Affine(*jnp.asarray(rng.normal(size=(3, layer.ci)), jnp.float32))
  kernel = jnp.asarray(rng.normal(size=(3, 3, layer.ci, layer.growth)) / 16, jnp.bfloat16)
  mask = jnp.asarray(rng.random(layer.maps) < 0.8) if layer.masked else None
  features = jnp.asarray(rng.normal(size=(*layer.maps, layer.block)), jnp.bfloat16)
  return z, None if layer.normalized else affine, kernel, mask, features


def expected_features(layer, z, affine, kernel, mask, features):
  """In float32, of the same bfloat16 values."""
  a = masked(z, mask) if affine is None else activation(z, affine, mask)
  a, kernel = a.astype(jnp.float32), kernel.astype(jnp.float32)
  y = ops.convolution_3x3(a, kernel, dilation=layer.dilation)
  return lax.dynamic_update_slice(features.astype(jnp.float32), y, (0, 0, 0, layer.channel))


@pytest.mark.parametrize('name', LAYERS)
def test_convolution_into_a_buffer_and_its_moments(name):
  layer = LAYERS[name]
  operands = draw(layer)
  z, affine, kernel, mask, features = operands
  kernel = kernel.transpose(3, 0, 1, 2) if layer.normalized else kernel
  actual, moments = bn_relu_conv_into(
    *(z, affine, kernel, mask, features),
    channel=layer.channel,
    dilation=layer.dilation,
    output_first=layer.normalized,
    with_moments=not layer.normalized,
  )
  assert actual.dtype == features.dtype
  counted = np.ones(layer.maps, bool) if mask is None else np.asarray(mask)
  expected = np.asarray(expected_features(layer, *operands))[counted]
  written = slice(layer.channel, layer.channel + layer.growth)
  actual, before = (np.asarray(x, np.float32) for x in (actual, features))
  others = [np.delete(x, written, axis=-1) for x in (actual, before)]
  np.testing.assert_array_equal(*others)
  actual = actual[counted]
  np.testing.assert_allclose(actual, expected, rtol=2**-8, atol=1e-5)
  if layer.normalized:
    assert moments is None
    return
  values = actual[:, written].astype(np.float64)
  np.testing.assert_allclose(moments.mean, values.mean(0), atol=1e-6)
  np.testing.assert_allclose(moments.variance, values.var(0), rtol=1e-5)


def test_layers_share_a_kernel():
  def kernels(channel, dilation):
    jaxpr = jax.make_jaxpr(lambda *x: bn_relu_conv_into(*x, channel=channel, dilation=dilation))(
      *draw(LAYERS['odd'])
    )
    return [id(e.params['jaxpr']) for e in jaxpr.eqns if 'custom_vmap_call' in str(e.params.get('jaxpr'))]

  assert len(kernels(0, 1)) == 1
  assert kernels(0, 1) == kernels(64, 1)
  assert kernels(0, 3) == kernels(32, 24)


@pytest.mark.parametrize(
  ('maps', 'ci', 'growth', 'dtype', 'expected'),
  [
    ((1, 8, 9), 128, 32, jnp.bfloat16, True),
    ((1, 8, 128), 256, 64, jnp.bfloat16, True),
    ((1, 8, 256), 128, 32, jnp.bfloat16, True),
    ((1, 8, 257), 128, 32, jnp.bfloat16, False),
    ((1, 8, 129), 256, 64, jnp.bfloat16, False),
    ((1, 8, 9), 96, 32, jnp.bfloat16, False),
    ((1, 8, 9), 128, 48, jnp.bfloat16, False),
    ((1, 8, 9), 128, 32, jnp.float32, False),
  ],
)
def test_supported_shapes_and_types(maps, ci, growth, dtype, expected):
  z, kernel, features = (jnp.zeros(x, dtype) for x in ((*maps, ci), (3, 3, ci, growth), (*maps, 256)))
  assert mosaic_3x3_forward.supports(z, kernel, features) == expected
