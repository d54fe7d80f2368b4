"""Batch statistics of channels, and the normalisation they make: the arithmetic that dense blocks share."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dense_aspp_jax.models.dtypes import accumulation_dtype

_MOMENTUM: contextvars.ContextVar[float | None] = contextvars.ContextVar('momentum', default=None)


@contextlib.contextmanager
def running_statistics_momentum(momentum: float) -> Iterator[None]:
  """Within the `with` block every BN that is traced updates its running statistics with this momentum.

  With 0 an application in training leaves exactly the batch's own statistics.
  """
  token = _MOMENTUM.set(momentum)
  try:
    yield
  finally:
    _MOMENTUM.reset(token)


def momentum_in_force(own: float) -> float:
  """The momentum of a BN whose own one is `own`: that of `running_statistics_momentum`, if within it."""
  momentum = _MOMENTUM.get()
  return own if momentum is None else momentum


class Moments(NamedTuple):
  """Mean and biased variance of each channel."""

  mean: Float[Array, ' c']
  variance: Float[Array, ' c']


class Affine(NamedTuple):
  """A normalisation of each channel: `(x - mean) * scale + bias`.

  The mean is taken off first: with a mean far above the deviation, `x * scale + shift` would cancel.
  """

  mean: Float[Array, ' c']
  scale: Float[Array, ' c']
  bias: Float[Array, ' c']

  def __call__(self, x: Float[Array, '... c']) -> Float[Array, '... c']:
    """Normalises `x` in the type of the statistics."""
    return (x.astype(self.mean.dtype) - self.mean) * self.scale + self.bias


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
