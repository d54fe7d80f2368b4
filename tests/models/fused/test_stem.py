import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from dense_aspp_jax.models import layers
from dense_aspp_jax.models.fused import stem

SIZES = [(8, 10), (7, 9), (1, 1), (2, 3)]


def plain_convolution(x, kernel):
  return lax.conv_general_dilated(
    x, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@pytest.fixture
def arrays():
  def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)

  return draw


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, gradient, *arguments):
  value, pull = jax.vjp(function, *arguments)
  return value, pull(gradient)


def halved(size):
  return [(n + 1) // 2 for n in size]


@pytest.mark.parametrize('size', SIZES)
def test_convolution_of_blocks_and_its_gradients_are_exact(arrays, size):
  with jax.enable_x64(True):
    x, kernel, gradient = arrays(2, *size, 3), arrays(7, 7, 3, 5), arrays(2, *halved(size), 5)
    value, gradients = value_and_gradients(plain_convolution, gradient, x, kernel)
    fast, fast_gradients = value_and_gradients(stem.space_to_depth_convolution, gradient, x, kernel)
    # On a CPU the public function takes the plain form; these are the other devices'.
    of_blocks = jax.jit(stem.block_convolution)(x, kernel)
    of_blocks_gradient = jax.jit(stem.block_kernel_gradient)(x, kernel, gradient)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    close(fast, value)
    close(of_blocks, value)
    close(fast_gradients[0], gradients[0])
    close(fast_gradients[1], gradients[1])
    close(of_blocks_gradient, gradients[1])


def test_convolution_in_bfloat16_keeps_the_kernels_gradient_in_float32(arrays):
  x, kernel = jnp.asarray(arrays(1, 32, 32, 3), jnp.bfloat16), jnp.asarray(arrays(7, 7, 3, 4), jnp.float32)
  gradient = jnp.asarray(arrays(1, 16, 16, 4), jnp.bfloat16)
  assert stem.space_to_depth_convolution(x, kernel).dtype == jnp.bfloat16
  kernel_gradient = stem.block_kernel_gradient(x, kernel, gradient)
  assert kernel_gradient.dtype == jnp.float32
  _, pull = jax.vjp(lambda kernel: plain_convolution(x.astype(jnp.float32), kernel), kernel)
  (expected,) = pull(gradient.astype(jnp.float32))
  np.testing.assert_allclose(kernel_gradient, expected, rtol=1e-4, atol=1e-3)  # bfloat16 sums are off by 0.05


def test_the_images_gradient_is_not_computed_where_only_the_kernels_is_asked_for(arrays):
  x, kernel = jnp.asarray(arrays(1, 16, 16, 3)), jnp.asarray(arrays(7, 7, 3, 4))

  def loss(x, kernel):
    return jnp.sum(stem.space_to_depth_convolution(x, kernel) ** 2)

  def convolutions(arguments):
    text = jax.jit(jax.grad(loss, arguments)).lower(x, kernel).compile().as_text()
    return text.count(' convolution(') + text.count('custom_call_target="__onednn$convolution"')

  assert convolutions(1) == 2  # value and kernel gradient
  assert convolutions((0, 1)) == 3


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('values', ['distinct', 'rectified', 'equal'])
def test_max_pool_with_its_gradient_is_exact_on_ties_too(arrays, size, values):
  """Integers tie often, and zeros behind a ReLU more; the plain form's gradient is select-and-scatter's."""
  with jax.enable_x64(True):
    x = {
      'distinct': arrays(2, *size, 3),
      'rectified': np.maximum(np.round(arrays(2, *size, 3)), 0),
      'equal': np.full((2, *size, 3), -2.0),
    }[values]
    gradient = arrays(2, *halved(size), 3)
    value, (x_gradient,) = value_and_gradients(layers.max_pool_3x3, gradient, x)
    fast, (fast_gradient,) = value_and_gradients(stem.max_pool_saving_argmax, gradient, x)
    np.testing.assert_array_equal(fast, value)
    np.testing.assert_allclose(fast_gradient, x_gradient, rtol=1e-14, atol=1e-14)


def test_max_pool_of_a_tie_by_hand():
  """One 2x2 image is one window: of the two equal maxima the upper right one gets the gradient."""
  x = jnp.array([[0.0, 3.0], [3.0, 1.0]]).reshape(1, 2, 2, 1)
  value, pull = jax.vjp(stem.max_pool_saving_argmax, x)
  assert value.item() == 3
  np.testing.assert_array_equal(pull(jnp.full((1, 1, 1, 1), 5.0))[0].reshape(2, 2), [[0, 5], [0, 0]])


def test_max_pool_backward_has_no_scatter(arrays):
  x = jnp.asarray(arrays(1, 9, 8, 2))
  for pool, scatters in (
    (stem.max_pool_saving_argmax, False),
    (lambda x: nn.max_pool(x, (3, 3), (2, 2)), True),
  ):
    text = jax.jit(jax.grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))).lower(x).as_text()
    assert ('select_and_scatter' in text) == scatters
