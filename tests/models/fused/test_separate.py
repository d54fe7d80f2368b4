"""Functions that XLA's CPU compiler does not fuse into others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.models.fused.separate import separately


def weighted(x, kernel):
  return (x * kernel).sum(0)


@pytest.mark.parametrize(
  'transform', [jax.jit, lambda f: jax.jit(jax.grad(lambda *a: (f(*a) ** 3).sum(), 1))]
)
def test_values_and_gradients_are_those_of_the_function(transform):
  x, kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 7)), jnp.float32)

  def separate(x, kernel):
    return separately(weighted, x, kernel)

  found, expected = transform(separate)(x, kernel), transform(weighted)(x, kernel)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_it_stays_a_computation_of_its_own():
  text = jax.jit(lambda x: 1 + separately(weighted, x, x)).lower(jnp.ones((3, 7))).compile().as_text()
  assert ' call(' in text[text.index('ENTRY') :]
