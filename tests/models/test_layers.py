import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network as reference
from flax import linen as nn

from dense_aspp_jax.models.layers import (
  BatchNorm,
  avg_pool_2x2,
  convolution,
  max_pool_3x3,
  pad_to_multiple,
)


@pytest.mark.parametrize('size', [(8, 10), (9, 11)])
@pytest.mark.parametrize(('kernel_size', 'stride', 'dilation'), [(7, 2, 1), (3, 1, 1), (3, 1, 4), (1, 1, 1)])
def test_convolution_pads_as_torch_for_even_and_odd_sizes(size, kernel_size, stride, dilation):
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return convolution(5, kernel_size, stride=stride, dilation=dilation, name='conv', dtype=jnp.float32)(x)

  x = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)
  variables = Net().init(jax.random.key(0), x)
  expected = reference.convolution(x[0], np.asarray(variables['params']['conv']['kernel']), stride, dilation)
  np.testing.assert_allclose(Net().apply(variables, x)[0], expected, atol=1e-5)


def test_kernels_are_drawn_as_torchvisions():
  """kaiming_normal_: variance 2 / fan in, normal, not truncated."""

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return convolution(64, 3, name='conv', dtype=jnp.float32)(x)

  kernel = np.asarray(Net().init(jax.random.key(0), jnp.zeros((1, 3, 3, 16)))['params']['conv']['kernel'])
  deviation = np.sqrt(2 / (3 * 3 * 16))
  np.testing.assert_allclose(kernel.std(), deviation, rtol=0.03)
  np.testing.assert_allclose(kernel.mean(), 0, atol=0.05 * deviation)
  assert np.abs(kernel).max() > 3 * deviation


@pytest.mark.parametrize('deviation', [3, 0.01])  # at 0.01 epsilon is a tenth of the variance
def test_batch_norm_normalizes_with_the_batch_and_moves_running_statistics_by_a_tenth(deviation):
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      return BatchNorm(name='norm')(x, train)

  x = jnp.asarray(np.random.default_rng(0).normal(0.5, deviation, size=(4, 3, 3, 2)), jnp.float32)
  variables = Net().init(jax.random.key(0), x, False)
  y, updates = Net().apply(variables, x, True, mutable=['batch_stats'])
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
  np.testing.assert_allclose(updates['batch_stats']['norm']['mean'], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(updates['batch_stats']['norm']['var'], 0.9 + 0.1 * variance, rtol=1e-5)


def test_batch_norm_variance_does_not_cancel_at_a_large_mean():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return BatchNorm(name='norm')(x, True)

  x = jnp.asarray(1e4 + np.random.default_rng(0).normal(size=(64, 4, 4, 1)), jnp.float32)
  y = Net().init_with_output(jax.random.key(0), x, mutable=True)[0]
  np.testing.assert_allclose(np.std(y), 1, atol=1e-2)


@pytest.mark.parametrize('size', [(6, 8), (7, 9)])
def test_max_pool_is_torchs_3_2_1(size):
  x = -1 - np.random.default_rng(0).random((1, *size, 2)).astype(np.float32)  # zero padding would win
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  height, width = ((n - 1) // 2 + 1 for n in size)
  expected = [
    [padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(width)] for i in range(height)
  ]
  np.testing.assert_array_equal(max_pool_3x3(jnp.asarray(x))[0], expected)


def test_avg_pool_drops_the_last_odd_row_and_column():
  x = np.arange(15, dtype=np.float32).reshape(1, 3, 5, 1)
  np.testing.assert_allclose(avg_pool_2x2(jnp.asarray(x))[0, ..., 0], [[3.0, 5.0]])


def test_pad_to_multiple_pads_bottom_and_right():
  x = np.ones((1, 5, 8, 1), np.float32)
  padded = np.asarray(pad_to_multiple(jnp.asarray(x), 8))
  assert padded.shape == (1, 8, 8, 1)
  assert padded[0, :5].all()
  assert not padded[0, 5:].any()
