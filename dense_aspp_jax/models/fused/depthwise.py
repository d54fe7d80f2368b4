"""Depthwise convolution as a sum over the taps of its kernel, each an elementwise product.

XLA's own form was measured 15 to 30 times slower forward and 14 to 48 times backward (2-core CPU, float32,
32x64 positions or more, 64 to 672 channels, 3x3 to 7x7 kernels). Not measured on a GPU.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.separate import separately
from dense_aspp_jax.models.fused.statistics import accumulation_dtype
from dense_aspp_jax.models.fused.window import Window

# A kernel of so many rows is summed row by row.
_ROWS_AT_ONCE = 7


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
  window = Window.of(x.shape[1:3], kernel.shape[:2], window_strides, padding, rhs_dilation)
  return _convolve(window, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(window: Window, x: Array, kernel: Array) -> Array:
  return _sum_over_taps(window, x, kernel)


def _sum_over_taps(window: Window, x: Array, kernel: Array) -> Array:
  dtype, kernel_size = accumulation_dtype(x.dtype), kernel.shape[:2]
  padded = window.pad(x)
  sizes = zip(padded.shape[1:3], window.extent(kernel_size), window.strides, strict=True)
  size = [(n - extent) // stride + 1 for n, extent, stride in sizes]

  def add(rows: Sequence[int], padded: Array, kernel: Array, *so_far: Array) -> Array:
    return sum(
      (
        window.tap(padded, index, size).astype(dtype) * kernel[(*index, 0)].astype(dtype)
        for index in itertools.product(rows, range(kernel_size[1]))
      ),
      *so_far,
    )

  rows = range(kernel_size[0])
  if len(rows) < _ROWS_AT_ONCE or window.strides != (1, 1):
    return add(rows, padded, kernel).astype(x.dtype)
  # On a CPU one loop for each row was up to 3 times as fast as one that reads so many rows at once.
  total = separately(functools.partial(add, rows[:1]), padded, kernel)
  for row in rows[1:]:
    total = separately(functools.partial(add, [row]), padded, kernel, total)
  return total.astype(x.dtype)


def _forward(window: Window, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(window, x, kernel), (x, kernel)


def _backward(window: Window, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  if window.strides == (1, 1):  # the transpose is such a convolution itself, with the kernel turned around
    reach = [extent - 1 for extent in window.extent(kernel.shape[:2])]
    turned = tuple((r - low, r - high) for r, (low, high) in zip(reach, window.padding, strict=True))
    x_gradient = _sum_over_taps(window._replace(padding=turned), gradient, kernel[::-1, ::-1])
  else:
    x_gradient = _by_platform(
      *(_input_gradient_by_phases, _input_gradient), window, x.shape, operands=(gradient, kernel)
    )
  kernel_gradient = _by_platform(
    *(_kernel_gradient_by_tiles, _kernel_gradient), window, kernel.shape, operands=(window.pad(x), gradient)
  )
  return x_gradient, kernel_gradient.astype(kernel.dtype)


def _by_platform(on_cpu: Callable, default: Callable, *static: Any, operands: tuple[Array, ...]) -> Array:
  forms = {'cpu': on_cpu, 'default': default}
  return lax.platform_dependent(
    *operands, **{name: functools.partial(form, *static) for name, form in forms.items()}
  )


_convolve.defvjp(_forward, _backward)


def _input_gradient(window: Window, shape: tuple[int, ...], gradient: Array, kernel: Array) -> Array:
  x = jax.ShapeDtypeStruct(shape, gradient.dtype)
  (x_gradient,) = jax.linear_transpose(lambda x: _sum_over_taps(window, x, kernel), x)(gradient)
  return x_gradient


def _input_gradient_by_phases(
  window: Window, shape: tuple[int, ...], gradient: Array, kernel: Array
) -> Array:
  """The same for strides: the inputs of one phase of the stride read the same taps, without a stride.

  The transpose of a strided slice is a padding with zeros in between, which XLA computes 14 times as slowly.
  """
  batch, *size, channels = shape
  dtype = accumulation_dtype(gradient.dtype)
  counts = [-(-n // stride) for n, stride in zip(size, window.strides, strict=True)]

  def read_by_phase(axis: int) -> list[list[tuple[int, int]]]:
    """For each phase, its taps and how many positions after its own the gradient is that each reads."""
    stride, (low, _), rate = window.strides[axis], window.padding[axis], window.dilation[axis]
    distances = [
      [(tap, phase + low - tap * rate) for tap in range(kernel.shape[axis])] for phase in range(stride)
    ]
    return [[(tap, n // stride) for tap, n in phase if n % stride == 0] for phase in distances]

  by_phase, pads = [read_by_phase(0), read_by_phase(1)], []
  for phases, count, n in zip(by_phase, counts, gradient.shape[1:3], strict=True):
    offsets = [offset for phase in phases for _, offset in phase]
    pads.append((max(0, -min(offsets)), max(0, count + max(offsets) - n)))
  padded = jnp.pad(gradient, ((0, 0), *pads, (0, 0)))
  (low_row, _), (low_column, _) = pads

  def phase(rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> Array:
    total = jnp.zeros((batch, *counts, channels), dtype)
    for (i, row), (j, column) in itertools.product(rows, columns):
      start = (0, low_row + row, low_column + column, 0)
      read = lax.slice(padded, start, [s + n for s, n in zip(start, total.shape, strict=True)])
      total += read.astype(dtype) * kernel[i, j, 0].astype(dtype)
    return total.astype(gradient.dtype)

  phases = jnp.stack([jnp.stack([phase(r, c) for c in by_phase[1]], 3) for r in by_phase[0]], 2)
  whole = phases.reshape(batch, *(n * s for n, s in zip(counts, window.strides, strict=True)), channels)
  return whole[:, : size[0], : size[1]]


def _kernel_gradient(window: Window, shape: tuple[int, ...], padded: Array, gradient: Array) -> Array:
  dtype, size = accumulation_dtype(padded.dtype), gradient.shape[1:3]
  g = gradient.astype(dtype)
  taps = [
    jnp.sum(window.tap(padded, index, size).astype(dtype) * g, (0, 1, 2))
    for index in itertools.product(*map(range, shape[:2]))
  ]
  return jnp.stack(taps).reshape(shape)


# Columns of a tile of `_kernel_gradient_by_tiles`, and of its sums.
_TILE, _SUMMED = 64, 4


def _kernel_gradient_by_tiles(
  window: Window, shape: tuple[int, ...], padded: Array, gradient: Array
) -> Array:
  """The same, a tile of one row of the gradient at a time, which stays in a core's cache.

  Every tap's products of a tile are summed to `_SUMMED` columns, written out as additions: one loop over the
  channels computes all of them. XLA would hand a reduction over the positions to a library that writes the
  products to memory first.
  """
  dtype, (kernel_rows, kernel_columns) = accumulation_dtype(padded.dtype), shape[:2]
  batch, rows, columns, channels = gradient.shape
  (row_stride, stride), (row_rate, rate) = window.strides, window.dilation
  tiles = -(-columns // _TILE)
  tile = -(-columns // (tiles * _SUMMED)) * _SUMMED
  # Columns as [columns / stride, stride * channels], so that a tap reads consecutive ones.
  reach = (kernel_columns - 1) * rate // stride
  width = (tiles * tile + reach) * stride
  gradient = jnp.pad(gradient, ((0, 0), (0, 0), (0, tiles * tile - columns), (0, 0)))
  zero = jnp.zeros((), padded.dtype)
  padded = lax.pad(padded, zero, [(0, 0, 0), (0, 0, 0), (0, width - padded.shape[2], 0), (0, 0, 0)])
  padded = padded.reshape(*padded.shape[:2], width // stride, stride * channels)

  def read(step: Array) -> tuple[Array, list[Array]]:
    (n, row), tile_index = divmod(step // tiles, rows), step % tiles
    g = lax.dynamic_slice(gradient, (n, row, tile_index * tile, 0), (1, 1, tile, channels))
    x = [
      lax.dynamic_slice(
        *(padded, (n, row * row_stride + i * row_rate, tile_index * tile, 0)),
        (1, 1, tile + reach, stride * channels),
      )
      for i in range(kernel_rows)
    ]
    return g[0, 0].astype(dtype), [of_row[0, 0].astype(dtype) for of_row in x]

  def add(step: Array, total: Array) -> Array:
    # Always true, but XLA does not know: without it every tap would repeat the slices' arithmetic.
    g, x = lax.cond(step >= 0, read, lambda _: jax.tree.map(jnp.zeros_like, jax.eval_shape(read, 0)), step)

    def tap(i: int, j: int) -> Array:
      first, phase = divmod(j * rate, stride)
      of_phase = x[i][:, phase * channels : (phase + 1) * channels]
      return sum(
        of_phase[first + n : first + n + _SUMMED] * g[n : n + _SUMMED] for n in range(0, tile, _SUMMED)
      )

    return total + jnp.stack([tap(i, j) for i in range(kernel_rows) for j in range(kernel_columns)])

  total = jnp.zeros((kernel_rows * kernel_columns, _SUMMED, channels), dtype)
  return lax.fori_loop(0, batch * rows * tiles, add, total).sum(1).reshape(shape)
