"""The head's product in two bfloat16 terms, against float64."""

import jax
import jax.numpy as jnp
import numpy as np

from dense_aspp_jax.models.fused import head


def draw(*shape, seed):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def operands():
  """Of the slides' model #4: 1,344 channels, 20 classes."""
  return draw(2, 8, 16, 1344, seed=0).astype(jnp.bfloat16), draw(1344, 20, seed=1) / 37


def relative_error(found, expected):
  expected = np.asarray(expected, np.float64)
  return np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()


def exact_product(x, kernel):
  return np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)


def test_logits_in_two_terms_are_within_2_to_the_minus_15():
  x, kernel = operands()
  assert relative_error(head.product_in_two_terms(x, kernel), exact_product(x, kernel)) < 2**-15
  one_term = exact_product(x, kernel.astype(jnp.bfloat16))
  assert relative_error(one_term, exact_product(x, kernel)) > 2**-12  # so the second term is needed


def test_two_terms_under_jit_are_not_simplified_to_one():
  x, kernel = operands()
  found = jax.jit(head.product_in_two_terms)(x, kernel)
  assert relative_error(found, exact_product(x, kernel)) < 2**-15


def test_gradients_in_two_terms():
  x, kernel = operands()
  gradient = draw(2, 8, 16, 20, seed=2)
  of_x, of_kernel = jax.jit(head.gradients_in_two_terms)(x, kernel, gradient)
  assert of_x.dtype == jnp.bfloat16
  assert of_kernel.dtype == jnp.float32
  assert relative_error(of_x, exact_product(gradient, kernel.T)) < 2**-8  # its own rounding
  rows = np.asarray(x, np.float64).reshape(-1, 1344)
  assert relative_error(of_kernel, rows.T @ np.asarray(gradient, np.float64).reshape(-1, 20)) < 2**-15


def test_float32_features_have_a_float32_product():
  x, kernel = operands()
  x = x.astype(jnp.float32) + draw(*x.shape, seed=3) * 2**-12
  y, backward = jax.vjp(head.logits_product, x, kernel)
  of_x, _ = backward(jnp.ones_like(y))
  assert relative_error(y, exact_product(x, kernel)) < 2**-20
  assert of_x.dtype == jnp.float32
