"""How a kernel moves over a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Window(NamedTuple):
  """Strides, padding with zeros and dilation, each vertically and horizontally."""

  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  dilation: tuple[int, ...]

  @classmethod
  def of(
    cls,
    size: Sequence[int],
    kernel_size: Sequence[int],
    strides: Sequence[int],
    padding: str | Any,
    dilation: Sequence[int],
  ) -> Window:
    """The window of a kernel over a map of a size; padding is 'SAME', 'VALID' or pairs."""
    window = cls(tuple(strides), (), tuple(dilation))
    if isinstance(padding, str):
      padding = lax.padtype_to_pads(size, window.extent(kernel_size), window.strides, padding)
    return window._replace(padding=tuple((int(low), int(high)) for low, high in padding))

  def extent(self, kernel_size: Sequence[int]) -> list[int]:
    """Positions that a kernel spans."""
    return [(size - 1) * rate + 1 for size, rate in zip(kernel_size, self.dilation, strict=True)]

  def pad(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
    """Pads a map with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in self.padding), (0, 0, 0)))

  def tap(
    self, padded: Float[Array, 'b h w c'], index: tuple[int, int], size: Sequence[int]
  ) -> Float[Array, 'b h2 w2 c']:
    """What one tap of the kernel reads for each of `size` output positions."""
    start = [i * rate for i, rate in zip(index, self.dilation, strict=True)]
    end = [s + (n - 1) * stride + 1 for s, n, stride in zip(start, size, self.strides, strict=True)]
    batch, channels = padded.shape[0], padded.shape[3]
    return lax.slice(padded, (0, *start, 0), (batch, *end, channels), (1, *self.strides, 1))
