"""Batch normalization with activation in training, fused against reference."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exactness import assert_exact

from dense_aspp_jax.models.layers import IMPLEMENTATIONS, BatchNorm


class Net(nn.Module):
  activation: object
  implementation: str
  dtype: object = jnp.float64

  @nn.compact
  def __call__(self, x):
    norm = BatchNorm(epsilon=1e-3, dtype=self.dtype, name='norm')
    return norm.activated(x, True, self.activation, self.implementation)


def step(net, params, x, gradient):
  """Output, new running statistics, and gradients of parameters and input."""
  variables = {'params': params, 'batch_stats': {'norm': {'mean': jnp.ones(3), 'var': jnp.ones(3)}}}

  def run(params, x):
    return net.apply({**variables, 'params': params}, x, mutable=['batch_stats'])

  y, backward, updates = jax.vjp(run, params, x, has_aux=True)
  return y, updates, backward(gradient)


@pytest.mark.parametrize('activation', [None, nn.relu, nn.relu6, nn.hard_swish])
def test_float64_is_exact(activation):
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x, gradient = jnp.asarray(rng.normal(5, 2, size=(2, 3, 4, 5, 3)))
    params = {'norm': {'scale': jnp.array([1.0, -3.0, 6.0]), 'bias': jnp.array([0.5, 2.0, 3.0])}}
    found, expected = (
      jax.jit(step, static_argnums=0)(Net(activation, form), params, x, gradient) for form in IMPLEMENTATIONS
    )
    assert_exact(found, expected)


def test_float32_does_not_cancel_at_a_large_mean():
  x = jnp.asarray(1e4 + np.random.default_rng(0).normal(size=(64, 4, 4, 3)), jnp.float32)
  params = {'norm': {'scale': jnp.ones(3), 'bias': jnp.zeros(3)}}
  y, _, (param_gradients, _) = step(Net(None, 'fused', jnp.float32), params, x, jnp.sign(x - 1e4))
  np.testing.assert_allclose(np.std(y, (0, 1, 2)), 1, atol=1e-2)
  np.testing.assert_allclose(param_gradients['norm']['scale'], np.abs(y).sum((0, 1, 2)), rtol=1e-2)


def test_bfloat16_stays_bfloat16_with_float32_gradients_of_the_parameters():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)), jnp.bfloat16)
  params = {'norm': {'scale': jnp.ones(3), 'bias': jnp.zeros(3)}}
  y, updates, (param_gradients, x_gradient) = step(Net(nn.relu6, 'fused', jnp.bfloat16), params, x, x)
  assert y.dtype == x_gradient.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves((updates, param_gradients))} == {jnp.dtype('float32')}
