"""Batch normalization and activation in training as one function with its own backward pass.

Derived operation by operation, the backward pass of BN and ReLU6 makes more passes over the activations. On
one core of an AMD EPYC with AVX-512, float32, 8 images of 36x48 positions and 1152 channels, forward and
backward took 46 ms, and 33 in this form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.statistics import Affine, Moments, accumulation_dtype, normalization

Activation = Callable[[jax.Array], jax.Array]
Norm = tuple[Float[Array, ' c'], Float[Array, ' c']]

_POSITIONS = (0, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def normalized(
  activation: Activation | None, epsilon: float, x: Float[Array, 'b h w c'], norm: Norm
) -> tuple[Float[Array, 'b h w c'], Moments]:
  """activation(BN(x)) with the batch's statistics, in `x`'s type.

  Args:
    activation: Elementwise; None: there is none.
    epsilon: Added to the variance.
    x: Activations.
    norm: Scale and bias.

  Returns:
    The result and the batch's moments, through which no gradient flows.
  """
  return _forward(activation, epsilon, x, norm)[0]


def _forward(activation: Activation | None, epsilon: float, x: Array, norm: Norm) -> tuple[Any, Any]:
  wide = x.astype(accumulation_dtype(x.dtype))
  mean = jnp.mean(wide, _POSITIONS)
  x_moments = Moments(mean, jnp.mean(jnp.square(wide - mean), _POSITIONS))  # one pass would cancel
  affine = normalization(norm, x.shape[3], x_moments, epsilon)
  return (_activated(activation, affine, x), x_moments), (x, norm, x_moments)


def _activated(activation: Activation | None, affine: Affine, x: Array) -> Array:
  y = affine(x).astype(x.dtype)
  return activation(y) if activation else y


def _backward(activation: Activation | None, epsilon: float, saved: Any, cotangents: Any) -> Any:
  x, norm, x_moments = saved
  affine = normalization(norm, x.shape[3], x_moments, epsilon)
  g = cotangents[0]
  if activation:
    (g,) = jax.vjp(activation, affine(x).astype(x.dtype))[1](g)
  g = g.astype(affine.scale.dtype)
  centred = x.astype(g.dtype) - x_moments.mean
  inverse_deviation = jax.lax.rsqrt(x_moments.variance + epsilon)
  bias = jnp.sum(g, _POSITIONS)
  scale = jnp.sum(g * centred, _POSITIONS) * inverse_deviation
  count = math.prod(x.shape[:3])
  through_moments = bias / count + centred * (inverse_deviation * scale / count)
  x_gradient = affine.scale * (g - through_moments)
  return x_gradient.astype(x.dtype), (scale.astype(norm[0].dtype), bias.astype(norm[1].dtype))


normalized.defvjp(_forward, _backward)
