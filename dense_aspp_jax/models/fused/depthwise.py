"""Depthwise convolution as a sum over the taps of its kernel, each an elementwise product.

XLA's own form was measured 15 to 30 times slower forward and 14 to 48 times backward (2-core CPU, float32,
32x64 positions or more, 64 to 672 channels, 3x3 to 7x7 kernels). Not measured on a GPU.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.statistics import accumulation_dtype


class _Window(NamedTuple):
  """How a kernel moves over a map, vertically and horizontally."""

  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  dilation: tuple[int, ...]

  def extent(self, kernel_size: Sequence[int]) -> list[int]:
    """Positions that a kernel spans."""
    return [(size - 1) * rate + 1 for size, rate in zip(kernel_size, self.dilation, strict=True)]

  def pad(self, x: Array) -> Array:
    """Pads a map with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in self.padding), (0, 0, 0)))

  def tap(self, padded: Array, index: tuple[int, int], size: Sequence[int]) -> Array:
    """What one tap of the kernel reads for each of `size` output positions."""
    start = [i * rate for i, rate in zip(index, self.dilation, strict=True)]
    end = [s + (n - 1) * stride + 1 for s, n, stride in zip(start, size, self.strides, strict=True)]
    batch, channels = padded.shape[0], padded.shape[3]
    return lax.slice(padded, (0, *start, 0), (batch, *end, channels), (1, *self.strides, 1))


def depthwise_convolution(
  x: Float[Array, 'b h w c'],
  kernel: Float[Array, 'kh kw 1 c'],
  window_strides: tuple[int, int],
  padding: str | Any,
  *,
  rhs_dilation: tuple[int, int] = (1, 1),
  **_: Any,
) -> Float[Array, 'b h2 w2 c']:
  """What `lax.conv_general_dilated` computes with one channel per group; for `nn.Conv.conv_general_dilated`.

  Args:
    x: Feature maps.
    kernel: One filter a channel.
    window_strides: Vertically and horizontally.
    padding: 'SAME', 'VALID' or pairs, as there.
    rhs_dilation: Dilation of the kernel.
    _: Other arguments that nn.Conv passes; always its defaults here.
  """
  window = _Window(tuple(window_strides), (), tuple(rhs_dilation))
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], window.extent(kernel.shape[:2]), window.strides, padding)
  pairs = tuple((int(low), int(high)) for low, high in padding)
  return _convolve(window._replace(padding=pairs), x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(window: _Window, x: Array, kernel: Array) -> Array:
  return _sum_over_taps(window, x, kernel)


def _sum_over_taps(window: _Window, x: Array, kernel: Array) -> Array:
  dtype, kernel_size = accumulation_dtype(x.dtype), kernel.shape[:2]
  padded = window.pad(x)
  sizes = zip(padded.shape[1:3], window.extent(kernel_size), window.strides, strict=True)
  size = [(n - extent) // stride + 1 for n, extent, stride in sizes]
  total = sum(
    window.tap(padded, index, size).astype(dtype) * kernel[(*index, 0)].astype(dtype)
    for index in itertools.product(*map(range, kernel_size))
  )
  return total.astype(x.dtype)


def _forward(window: _Window, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(window, x, kernel), (x, kernel)


def _backward(window: _Window, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  if window.strides == (1, 1):  # the transpose is such a convolution itself, with the kernel turned around
    reach = [extent - 1 for extent in window.extent(kernel.shape[:2])]
    turned = tuple((r - low, r - high) for r, (low, high) in zip(reach, window.padding, strict=True))
    x_gradient = _sum_over_taps(window._replace(padding=turned), gradient, kernel[::-1, ::-1])
  else:
    x_gradient = jax.vjp(lambda x: _sum_over_taps(window, x, kernel), x)[1](gradient)[0]
  forms = {'cpu': _kernel_gradient_by_rows, 'default': _kernel_gradient}
  kernel_gradient = lax.platform_dependent(
    *(window.pad(x), gradient),
    **{name: functools.partial(form, window, kernel.shape) for name, form in forms.items()},
  )
  return x_gradient, kernel_gradient.astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)


def _kernel_gradient(window: _Window, shape: tuple[int, ...], padded: Array, gradient: Array) -> Array:
  dtype, size = accumulation_dtype(padded.dtype), gradient.shape[1:3]
  g = gradient.astype(dtype)
  taps = [
    jnp.sum(window.tap(padded, index, size).astype(dtype) * g, (0, 1, 2))
    for index in itertools.product(*map(range, shape[:2]))
  ]
  return jnp.stack(taps).reshape(shape)


def _kernel_gradient_by_rows(
  window: _Window, shape: tuple[int, ...], padded: Array, gradient: Array
) -> Array:
  """The same, one row of the gradient and of the kernel at a time: they stay in a core's cache."""
  dtype, (kernel_rows, kernel_columns) = accumulation_dtype(padded.dtype), shape[:2]
  rows, columns = gradient.shape[1:3]
  in_row = window._replace(strides=(1, window.strides[1]))

  def add(step: Array, total: Array) -> Array:
    row, kernel_row = step // kernel_rows, step % kernel_rows
    g = lax.dynamic_slice_in_dim(gradient, row, 1, 1).astype(dtype)
    x = lax.dynamic_slice_in_dim(padded, row * window.strides[0] + kernel_row * window.dilation[0], 1, 1)
    sums = [
      jnp.sum(in_row.tap(x, (0, column), (1, columns)).astype(dtype) * g, (0, 1, 2))
      for column in range(kernel_columns)
    ]
    so_far = lax.dynamic_index_in_dim(total, kernel_row, 0, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, so_far + jnp.stack(sums)[:, None], kernel_row, 0)

  return lax.fori_loop(0, rows * kernel_rows, add, jnp.zeros(shape, dtype))
