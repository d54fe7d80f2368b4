"""Depthwise convolution as a sum over the taps of its kernel, each an elementwise product.

XLA's own form was measured 15 to 30 times slower forward and 14 to 48 times backward (2-core CPU, float32,
32x64 positions or more, 64 to 672 channels, 3x3 to 7x7 kernels). Not measured on a GPU.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.statistics import accumulation_dtype

Pairs = tuple[tuple[int, int], tuple[int, int]]


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
    _: What else nn.Conv says of a convolution over NHWC; nothing that is not the usual.
  """
  strides, dilation = tuple(window_strides), tuple(rhs_dilation)
  if isinstance(padding, str):
    extent = [(size - 1) * rate + 1 for size, rate in zip(kernel.shape[:2], dilation, strict=True)]
    padding = lax.padtype_to_pads(x.shape[1:3], extent, strides, padding)
  pairs = tuple((int(low), int(high)) for low, high in padding)
  return _convolve(x, kernel, strides, pairs, dilation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(x: Array, kernel: Array, strides: tuple[int, int], padding: Pairs, dilation: tuple) -> Array:
  return _sum_over_taps(x, kernel, strides, padding, dilation)


def _sum_over_taps(
  x: Array, kernel: Array, strides: tuple[int, int], padding: Pairs, dilation: tuple[int, int]
) -> Array:
  dtype = accumulation_dtype(x.dtype)
  padded = _pad(x, padding)
  size = _output_size(padded.shape[1:3], kernel.shape[:2], strides, dilation)
  total = sum(
    _tap(padded, index, size, strides, dilation).astype(dtype) * kernel[(*index, 0)].astype(dtype)
    for index in itertools.product(*(range(n) for n in kernel.shape[:2]))
  )
  return total.astype(x.dtype)


def _forward(x: Array, kernel: Array, *how: Any) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(x, kernel, *how), (x, kernel)


def _backward(
  strides: tuple[int, int], padding: Pairs, dilation: tuple[int, int], saved: Any, gradient: Array
) -> tuple[Array, Array]:
  x, kernel = saved
  if strides == (1, 1):  # the transpose is such a convolution itself, with the kernel turned around
    reach = [(size - 1) * rate for size, rate in zip(kernel.shape[:2], dilation, strict=True)]
    turned = tuple((r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True))
    x_gradient = _sum_over_taps(gradient, kernel[::-1, ::-1], strides, turned, dilation)
  else:
    x_gradient = jax.vjp(lambda x: _sum_over_taps(x, kernel, strides, padding, dilation), x)[1](gradient)[0]
  padded = _pad(x, padding)
  form = functools.partial(_kernel_gradient, shape=kernel.shape, strides=strides, dilation=dilation)
  by_rows = functools.partial(
    _kernel_gradient_by_rows, shape=kernel.shape, strides=strides, dilation=dilation
  )
  kernel_gradient = lax.platform_dependent(padded, gradient, cpu=by_rows, default=form)
  return x_gradient, kernel_gradient.astype(kernel.dtype)


_convolve.defvjp(_forward, _backward)


def _kernel_gradient(
  padded: Array, gradient: Array, shape: tuple[int, ...], strides: tuple[int, int], dilation: tuple[int, int]
) -> Array:
  dtype = accumulation_dtype(padded.dtype)
  g = gradient.astype(dtype)
  taps = [
    jnp.sum(_tap(padded, index, gradient.shape[1:3], strides, dilation).astype(dtype) * g, (0, 1, 2))
    for index in itertools.product(*(range(n) for n in shape[:2]))
  ]
  return jnp.stack(taps).reshape(shape)


def _kernel_gradient_by_rows(
  padded: Array, gradient: Array, shape: tuple[int, ...], strides: tuple[int, int], dilation: tuple[int, int]
) -> Array:
  """The same, one row of the gradient and of the kernel at a time: they stay in a core's cache."""
  dtype = accumulation_dtype(padded.dtype)
  kernel_rows, kernel_columns, _, channels = shape
  rows, columns = gradient.shape[1:3]

  def add(step: Array, total: Array) -> Array:
    row, kernel_row = step // kernel_rows, step % kernel_rows
    g = lax.dynamic_slice_in_dim(gradient, row, 1, 1).astype(dtype)
    x = lax.dynamic_slice_in_dim(padded, row * strides[0] + kernel_row * dilation[0], 1, 1)
    sums = [
      jnp.sum(_tap(x, (0, column), (1, columns), (1, strides[1]), dilation).astype(dtype) * g, (0, 1, 2))
      for column in range(kernel_columns)
    ]
    so_far = lax.dynamic_index_in_dim(total, kernel_row, 0, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, so_far + jnp.stack(sums)[:, None], kernel_row, 0)

  zeros = jnp.zeros((kernel_rows, kernel_columns, 1, channels), dtype)
  return lax.fori_loop(0, rows * kernel_rows, add, zeros)


def _pad(x: Array, padding: Pairs) -> Array:
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0)))


def _output_size(
  padded: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, ...]:
  return tuple(
    (size - (count - 1) * rate - 1) // stride + 1
    for size, count, stride, rate in zip(padded, kernel, strides, dilation, strict=True)
  )


def _tap(
  padded: Array, index: tuple[int, ...], size: tuple[int, ...], strides: tuple[int, int], dilation: tuple
) -> Array:
  """What one tap of the kernel reads for every output position."""
  start = [i * rate for i, rate in zip(index, dilation, strict=True)]
  end = [s + (n - 1) * stride + 1 for s, n, stride in zip(start, size, strides, strict=True)]
  batch, channels = padded.shape[0], padded.shape[3]
  return lax.slice(padded, (0, *start, 0), (batch, *end, channels), (1, *strides, 1))
