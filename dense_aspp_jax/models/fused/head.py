"""The product of the head: float32 logits of bfloat16 features, without a copy of the features in float32.

A float32 weight is the sum of two bfloat16 terms but for 2^-17 of it. A bfloat16 product of the features with
both terms, summed in float32, reads the features once, as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.statistics import accumulation_dtype

_OVER_POSITIONS = (((0, 1, 2), (0, 1, 2)), ((), ()))


@jax.custom_vjp
def logits_product(
  x: Float[Array, 'b h w c'], kernel: Float[Array, 'c classes']
) -> Float[Array, 'b h w classes']:
  """The product in the type of sums; of bfloat16 features within 2^-15 of the largest against float32.

  Args:
    x: Features. Saved for the backward pass in their own type.
    kernel: In float32 or better.
  """
  return _in_form(product_in_two_terms, _wide, x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return logits_product(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  return _in_form(gradients_in_two_terms, _gradients_wide, *saved, gradient)


logits_product.defvjp(_forward, _backward)


def _in_form(in_two_terms: Callable, wide: Callable, x: Array, *others: Array) -> Any:
  """Terms where bfloat16 products are fast: everywhere but on a CPU."""
  if x.dtype != jnp.bfloat16:
    return wide(x, *others)
  return lax.platform_dependent(x, *others, cpu=wide, default=in_two_terms)


def _wide(x: Array, kernel: Array) -> Array:
  return lax.dot_general(x.astype(accumulation_dtype(x.dtype)), kernel, (((3,), (0,)), ((), ())))


def _gradients_wide(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
  return jax.vjp(_wide, x, kernel)[1](gradient)


def product_in_two_terms(
  x: Float[Array, 'b h w c'], kernel: Float[Array, 'c classes']
) -> Float[Array, 'b h w classes']:
  """`logits_product` of bfloat16 features on other devices than a CPU."""
  high, low = _terms(kernel)
  y = _product(x, jnp.concatenate([high, low], 1), (((3,), (0,)), ((), ())))
  return _sum_of_halves(y)


def gradients_in_two_terms(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
  """The gradients of `product_in_two_terms`, that of the features in their own type."""
  high, low = _terms(kernel)
  g_high, g_low = _terms(gradient)
  # The product of the two low terms is left out.
  terms = jnp.concatenate([g_high, g_low, g_high], 3), jnp.concatenate([high, high, low], 1)
  x_gradient = lax.dot_general(*terms, (((3,), (1,)), ((), ())), preferred_element_type=x.dtype)
  kernel_gradient = _product(x, jnp.concatenate([g_high, g_low], 3), _OVER_POSITIONS)
  return x_gradient, _sum_of_halves(kernel_gradient)


def _product(a: Array, b: Array, contracted: tuple) -> Array:
  return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _terms(x: Array) -> tuple[Array, Array]:
  """Two bfloat16 terms of float32 values. A conversion there and back could be optimized away."""
  high = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
  return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)


def _sum_of_halves(y: Array) -> Array:
  high, low = jnp.split(y, 2, axis=-1)
  return high + low
