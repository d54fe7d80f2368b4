"""The GPU kernels, interpreted on a CPU, against the plain formulas and their derivatives."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_aspp_jax.models.fused import gpu_1x1, gpu_3x3, gpu_tiles
from dense_aspp_jax.models.fused.statistics import Affine


class Layer(NamedTuple):
  """Shapes of a dense layer: the block's channels, of which `cin` are read, and the bottleneck's."""

  maps: tuple[int, int, int]
  block: int
  cin: int
  bottleneck: int
  growth: int
  dilation: int
  masked: bool


LAYERS = {
  # Several tiles of rows, the last one cut; channels that no tile divides, among them few.
  'odd': Layer((2, 9, 13), 90, 84, 48, 12, 2, True),
  # Whole tiles only.
  'even': Layer((5, 8, 16), 64, 64, 16, 16, 1, False),
  # A dilation that reaches beyond the image, and a tiny growth rate.
  'far': Layer((2, 5, 3), 24, 20, 16, 4, 6, False),
}


class Arrays(NamedTuple):
  features: jax.Array
  gradient: jax.Array
  affine: Affine
  kernel: jax.Array
  bottleneck_affine: Affine
  conv_kernel: jax.Array
  z: jax.Array
  gz: jax.Array
  gy: jax.Array
  mask: jax.Array | None


def draw_affine(rng, channels):
  mean, scale, bias = rng.normal(size=(3, channels)).astype(np.float32)
  return Affine(jnp.asarray(mean), jnp.asarray(scale), jnp.asarray(bias))


@functools.cache
def draw(name):
  maps, block, cin, bottleneck, growth, _, masked = LAYERS[name]
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  mask = jnp.asarray(rng.random(maps) < 0.8) if masked else None
  valid = 1 if mask is None else mask[..., None]
  return Arrays(
    features=normal(*maps, block),
    gradient=normal(*maps, block),
    affine=draw_affine(rng, cin),
    kernel=normal(cin, bottleneck),
    bottleneck_affine=draw_affine(rng, bottleneck),
    conv_kernel=normal(3, 3, bottleneck, growth),
    z=normal(*maps, bottleneck),
    gz=normal(*maps, bottleneck) * valid,
    gy=normal(*maps, growth) * valid,
    mask=mask,
  )


def normalized(x, affine):
  return (x - affine.mean) * affine.scale + affine.bias


def plain_dot(pre, kernel):
  return jnp.einsum('nhwc,cd->nhwd', jax.nn.relu(pre), kernel, precision='highest')


def plain_conv(pre, kernel, dilation, mask):
  a = jax.nn.relu(pre)
  if mask is not None:
    a = jnp.where(mask[..., None], a, 0)
  return lax.conv_general_dilated(
    a,
    kernel,
    (1, 1),
    ((dilation, dilation), (dilation, dilation)),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision='highest',
  )


def assert_close(actual, expected):
  expected = np.asarray(expected)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
  """So that a program has several tiles also of these small maps, and the last one fewer."""
  monkeypatch.setattr(gpu_tiles, 'PROGRAMS', 4)
  monkeypatch.setattr(gpu_tiles, 'INTERPRET', True)


layers = pytest.mark.parametrize('name', LAYERS)


@layers
def test_forward_product_and_its_moments(name):
  arrays, layer = draw(name), LAYERS[name]
  z, moments = gpu_1x1.bn_relu_dot(arrays.features, arrays.affine, arrays.kernel, arrays.mask)
  expected = plain_dot(normalized(arrays.features[..., : layer.cin], arrays.affine), arrays.kernel)
  valid = np.ones(layer.maps, bool) if arrays.mask is None else np.asarray(arrays.mask)
  assert_close(z[valid], expected[valid])
  assert_close(moments.mean, np.mean(expected[valid], 0))
  assert_close(moments.variance, np.var(expected[valid], 0))


@layers
def test_forward_product_of_inference(name):
  arrays, layer = draw(name), LAYERS[name]
  mean, scale, bias = (jnp.linspace(*ends, layer.bottleneck) for ends in ((3, -2), (0.5, 2), (-20, 20)))
  second = Affine(mean, scale, bias)
  actual = gpu_1x1.bn_relu_dot_relu(arrays.features, arrays.affine, arrays.kernel, second, channels=layer.cin)
  z = plain_dot(normalized(arrays.features[..., : layer.cin], arrays.affine), arrays.kernel)
  assert_close(actual, jax.nn.relu((z - mean) * scale + bias))


@pytest.mark.parametrize('start', [0, 3])
@layers
def test_backward_product(name, start):
  arrays, layer = draw(name), LAYERS[name]
  stop = min(start + layer.cin, layer.block)
  affine = Affine(*(vector[: stop - start] for vector in arrays.affine))
  kernel, gz = arrays.kernel[: stop - start], arrays.gz
  gradient, (kernel_gradient,), (sums,) = gpu_1x1.bn_relu_dot_backward(
    arrays.features, [affine], [kernel], [gz], arrays.gradient, start=start
  )
  x = arrays.features[..., start:stop]
  _, pullback = jax.vjp(plain_dot, normalized(x, affine), kernel)
  g, expected_kernel_gradient = pullback(gz)
  expected = arrays.gradient.at[..., start:stop].add(affine.scale * g)
  assert_close(gradient[..., start:stop], expected[..., start:stop])
  np.testing.assert_array_equal(gradient[..., :start], expected[..., :start])
  np.testing.assert_array_equal(gradient[..., stop:], expected[..., stop:])
  assert_close(kernel_gradient, expected_kernel_gradient)
  assert_close(sums[0], g.sum((0, 1, 2)))
  assert_close(sums[1], (g * (x - affine.mean)).sum((0, 1, 2)))


def test_backward_product_of_two_layers():
  arrays, layer = draw('odd'), LAYERS['odd']
  found = gpu_1x1.bn_relu_dot_backward(
    *(arrays.features, [arrays.affine] * 2, [arrays.kernel] * 2, [arrays.gz] * 2, arrays.gradient), start=0
  )
  once = gpu_1x1.bn_relu_dot_backward(
    *(arrays.features, [arrays.affine], [arrays.kernel], [arrays.gz], arrays.gradient), start=0
  )
  assert_close(found[0][..., : layer.cin], (2 * once[0] - arrays.gradient)[..., : layer.cin])
  for kernel_gradient, sums in zip(*found[1:], strict=True):
    assert_close(kernel_gradient, once[1][0])
    assert_close(sums[0], once[2][0][0])


@layers
def test_backward_convolution(name):
  arrays, layer = draw(name), LAYERS[name]
  affine, kernel = arrays.bottleneck_affine, arrays.conv_kernel
  actual, kernel_gradient, sums = gpu_3x3.bn_relu_conv_backward(
    arrays.z, affine, kernel, arrays.mask, arrays.gy, dilation=layer.dilation
  )
  conv = functools.partial(plain_conv, dilation=layer.dilation, mask=arrays.mask)
  _, pullback = jax.vjp(conv, normalized(arrays.z, affine), kernel)
  g, expected_kernel_gradient = pullback(arrays.gy)
  assert_close(actual, g)
  assert_close(kernel_gradient, expected_kernel_gradient)
  assert_close(sums[0], g.sum((0, 1, 2)))
  assert_close(sums[1], (g * (arrays.z - affine.mean)).sum((0, 1, 2)))


def test_moments_of_a_mean_far_above_the_deviation():
  """The sum of z^2 / n - mean^2 has a relative error of about 6 here: 1e8 in float32 has steps of 8."""
  maps, channels = (1, 20, 17), 16
  x = np.random.default_rng(0).normal(1e4, 1, (*maps, channels)).astype(np.float32)
  identity = Affine(jnp.zeros(channels), jnp.ones(channels), jnp.zeros(channels))
  _, moments = gpu_1x1.bn_relu_dot(jnp.asarray(x), identity, jnp.eye(channels), None)
  np.testing.assert_allclose(moments.mean, x.mean((0, 1, 2), np.float64), rtol=1e-6)
  np.testing.assert_allclose(moments.variance, x.astype(np.float64).var((0, 1, 2)), rtol=1e-3)


def test_bfloat16_moments_are_those_of_the_rounded_product():
  arrays = draw('even')
  features, kernel = arrays.features.astype(jnp.bfloat16), arrays.kernel.astype(jnp.bfloat16)
  z, moments = gpu_1x1.bn_relu_dot(features, arrays.affine, kernel, None)
  assert z.dtype == jnp.bfloat16
  rounded = np.asarray(z, np.float32)
  assert_close(moments.mean, rounded.mean((0, 1, 2)))
  assert_close(moments.variance, rounded.var((0, 1, 2)))


@pytest.mark.parametrize(
  ('width', 'dtype', 'expected'),
  [
    (128, 'bfloat16', True),
    (256, 'bfloat16', True),
    (192, 'bfloat16', True),  # three tiles of 64
    (336, 'bfloat16', False),  # 21 tiles of 16
    (512, 'bfloat16', False),
    (128, 'float32', False),
  ],
)
def test_which_1x1_convolutions_are_kernels(width, dtype, expected):
  features, kernel = jnp.zeros((1, 1, 1, 640), dtype), jnp.zeros((320, width), dtype)
  assert gpu_1x1.supports(features, kernel) == expected


@pytest.mark.parametrize(
  ('channels', 'growth', 'dtype', 'expected'),
  [
    (128, 32, 'bfloat16', True),
    (256, 64, 'bfloat16', False),
    (128, 48, 'bfloat16', False),
    (48, 12, 'bfloat16', False),
    (128, 32, 'float32', False),
  ],
)
def test_which_3x3_backward_passes_are_kernels(channels, growth, dtype, expected):
  z, kernel = jnp.zeros((1, 1, 1, channels), dtype), jnp.zeros((3, 3, channels, growth), dtype)
  assert gpu_3x3.supports(z, kernel) == expected
