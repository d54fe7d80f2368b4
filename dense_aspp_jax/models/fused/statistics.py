"""Batch statistics of channels, and the normalization they make: the arithmetic that dense blocks share."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

EPSILON = 1e-5  # torch's default for BN


def accumulation_dtype(dtype: DTypeLike) -> DTypeLike:
  """Type of statistics and of sums over many values: float32, float64 for float64."""
  return jnp.promote_types(dtype, jnp.float32)


class Moments(NamedTuple):
  """Mean and biased variance of each channel."""

  mean: Float[Array, ' c']
  variance: Float[Array, ' c']


class Affine(NamedTuple):
  """A normalization of each channel: `(x - mean) * scale + bias`.

  The mean is subtracted first: if it is much larger than the deviation, `x * scale + shift` cancels.
  """

  mean: Float[Array, ' c']
  scale: Float[Array, ' c']
  bias: Float[Array, ' c']

  def __call__(self, x: Float[Array, '... c']) -> Float[Array, '... c']:
    """Normalizes `x` in the type of the statistics."""
    return (x.astype(self.mean.dtype) - self.mean) * self.scale + self.bias


def activation(
  x: Float[Array, '... c'], affine: Affine, mask: Bool[Array, ' ...'] | None = None
) -> Float[Array, '... c']:
  """relu(affine(x)) in x's type, 0 where the mask does not hold."""
  y = jnp.maximum(affine(x), 0)
  return (y if mask is None else jnp.where(mask[..., None], y, 0)).astype(x.dtype)


def identity(channels: int, dtype: DTypeLike) -> Affine:
  """The affine map that changes nothing."""
  return Affine(*(jnp.full((channels,), value, dtype) for value in (0, 1, 0)))


def normalization(
  norm: tuple[Array, Array] | None,
  channels: int,
  x_moments: Moments,
  epsilon: float,
  *,
  as_rows: bool = False,
) -> Affine:
  """The affine map of a BN; the identity where there is none.

  Args:
    norm: Scale and bias; None: there is no BN.
    channels: Of the moments, the first ones.
    x_moments: What the BN normalizes by.
    epsilon: Added to the variance.
    as_rows: Whether the map is made as rows of one array, as a kernel takes it: a GPU launches a kernel for
      each array of another shape.
  """
  if norm is None:
    return identity(channels, x_moments.mean.dtype)
  mean, variance = (values[:channels] for values in x_moments)
  scale, bias = (values.astype(mean.dtype) for values in norm)
  if not as_rows:
    return Affine(mean, scale * jax.lax.rsqrt(variance + epsilon), bias)
  rows = jnp.stack([mean, variance, bias])
  second = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 0) == 1
  inverse = jax.lax.rsqrt(jnp.where(second, rows, 1) + epsilon)
  return Affine(*jnp.where(second, scale * inverse, rows))


def moments(x: Float[Array, 'b h w c'], mask: Bool[Array, 'b h w'] | None = None) -> Moments:
  """Mean and variance of each channel over all positions, or those where `mask` holds (the first one does).

  In one pass over the values less the first one: of values far from 0, E[x^2] - E[x]^2 would cancel.
  """
  x = x.astype(accumulation_dtype(x.dtype))
  first = jax.lax.stop_gradient(x[0, 0, 0])
  x = x - first
  count = math.prod(x.shape[:3])
  if mask is not None:
    x = jnp.where(mask[..., None], x, 0)
    count = jnp.sum(mask, dtype=x.dtype)
  mean = jnp.sum(x, (0, 1, 2)) / count
  mean_square = jnp.sum(jnp.square(x), (0, 1, 2)) / count
  return Moments(first + mean, jnp.maximum(mean_square - jnp.square(mean), 0))


def merged_moments(parts: Moments, axis_names: tuple[str, ...]) -> Moments:
  """Moments over all devices, from each device's own over equally many positions (Chan et al. 1979).

  Gathered, not summed pairwise: every device merges the same numbers in the same order.
  """
  if not axis_names:
    return parts
  gathered: Moments = jax.lax.all_gather(parts, axis_names)
  mean = jnp.mean(gathered.mean, 0)
  return Moments(mean, jnp.mean(gathered.variance + jnp.square(gathered.mean - mean), 0))


def merged_parts(
  means: Float[Array, 'c parts'], squares: Float[Array, 'c parts'], counts: Float[Array, ' parts'] | int
) -> Moments:
  """The moments of all parts of the positions (Chan et al. 1979).

  In one pass over the means less the first one, as `moments`.

  Args:
    means: Of each part.
    squares: Sums of squared deviations from them.
    counts: Positions of each part, of the first one above 0; a number if they are equally many.
  """
  parts = means.shape[1]
  total = parts * counts if isinstance(counts, int) else jnp.sum(counts)
  share = 1 / parts if isinstance(counts, int) else counts / total
  first = means[:, 0]
  offsets = means - first[:, None]
  terms = share * offsets, squares / total + share * jnp.square(offsets)

  def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    return a[0] + b[0], a[1] + b[1]

  # One operation, and so one kernel on a GPU.
  zeros = (jnp.zeros((), means.dtype),) * 2
  offset, mean_square = jax.lax.reduce(terms, zeros, add, (1,))
  return Moments(first + offset, jnp.maximum(mean_square - jnp.square(offset), 0))
