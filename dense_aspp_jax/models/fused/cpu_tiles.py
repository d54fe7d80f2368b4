"""The operations of a dense layer for CPUs: by tiles of positions, which stay in a core's cache.

Between the products of a whole map XLA reads and writes all of it several times, through memory. The forms
are those of `ops`. Positions are rows of a matrix: of three contracted axes XLA's CPU compiler makes one by
copying an operand transposed, element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.arrays import TAPS, Kernel, Maps, Mask, Sums
from dense_aspp_jax.models.fused.products import sum_of_products
from dense_aspp_jax.models.fused.statistics import Affine, Moments, accumulation_dtype, activation

Rows = Float[Array, 'p _']

_TILE_BYTES = 2 * 2**20  # of all columns of a tile; half as much was slower on two cores
_LEAST_POSITIONS = 1024  # of a tile: products of fewer rows leave a second core without work


def bn_relu_dot(features: Maps, affine: Affine, kernel: Kernel, mask: Mask) -> tuple[Maps, Moments]:
  """See `ops.bn_relu_dot`; the moments are computed as by `statistics.moments`."""
  channels, width = kernel.shape
  x, mask = _rows(features), None if mask is None else mask.reshape(-1)
  dtype = accumulation_dtype(features.dtype)

  def product(a: Rows) -> Rows:
    return lax.dot(a, kernel, preferred_element_type=features.dtype)

  first = product(activation(x[:1, :channels], affine)).astype(dtype)

  def tile(start: Array | int, rows: int, carry: Any) -> Any:
    into, (total, squares) = carry
    a = activation(lax.dynamic_slice(x, (start, 0), (rows, channels)), affine)
    z = lax.optimization_barrier(product(lax.optimization_barrier(a)))
    centred = z.astype(dtype) - first
    if mask is not None:
      centred = jnp.where(lax.dynamic_slice(mask, (start,), (rows,))[:, None], centred, 0)
    into = lax.dynamic_update_slice(into, z, (start, 0))
    return into, (total + jnp.sum(centred, 0), squares + jnp.sum(jnp.square(centred), 0))

  carry = jnp.zeros((len(x), width), features.dtype), (jnp.zeros(width, dtype),) * 2
  # A map of few positions is as fast in one piece, which compiles faster.
  size = 2 * _tile(x, channels + width)
  size = size if len(x) > 4 * size else len(x)
  into, (total, squares) = _over_tiles(len(x), tile, carry, size)
  count = len(x) if mask is None else jnp.sum(mask, dtype=dtype)
  mean = total / count
  variance = jnp.maximum(squares / count - jnp.square(mean), 0)
  return into.reshape(*features.shape[:3], width), Moments(first[0] + mean, variance)


def bn_relu_dot_backward(
  features: Maps,
  affines: Sequence[Affine],
  kernels: Sequence[Kernel],
  output_gradients: Sequence[Maps],
  gradient: Maps,
  *,
  start: int,
) -> tuple[Maps, list[Kernel], list[Sums]]:
  """See `ops.bn_relu_dot_backward`; layer by layer."""
  kernel_gradients, sums = [], []
  for affine, kernel, output_gradient in zip(affines, kernels, output_gradients, strict=True):
    gradient, *others = _bn_relu_dot_backward(features, affine, kernel, output_gradient, gradient, start)
    kernel_gradients.append(others[0])
    sums.append(others[1])
  return gradient, kernel_gradients, sums


def _bn_relu_dot_backward(
  features: Maps, affine: Affine, kernel: Kernel, output_gradient: Maps, gradient: Maps, first: int
) -> tuple[Maps, Kernel, Sums]:
  channels, width = kernel.shape
  x, output_gradient, into = _rows(features), _rows(output_gradient), _rows(gradient)
  transposed = lax.optimization_barrier(kernel.T)

  def tile(start: Array | int, rows: int, carry: Any) -> Any:
    into, sums = carry
    part = lax.dynamic_slice(x, (start, first), (rows, channels))
    a, gz = lax.optimization_barrier(
      (activation(part, affine), lax.dynamic_slice(output_gradient, (start, 0), (rows, width)))
    )
    g = _masked_product(gz, transposed, a).astype(affine.scale.dtype)
    added = lax.dynamic_slice(into, (start, first), (rows, channels)).astype(g.dtype) + g * affine.scale
    into = lax.dynamic_update_slice(into, added.astype(into.dtype), (start, first))
    return into, _added(sums, sum_of_products(a, gz), _sums(g, part, affine))

  carry = into, _zero_sums(features, channels, width)
  into, (kernel_gradient, *sums) = _over_tiles(len(x), tile, carry, _tile(x, channels + width))
  return into.reshape(gradient.shape), kernel_gradient, tuple(sums)


def dot_backward(x: Maps, kernel: Kernel, output_gradient: Maps) -> tuple[Maps, Kernel]:
  """The gradients of `ops.dot`, in the types of `x` and `kernel`.

  Nothing but products: larger tiles cost fewer additions of the kernel's gradient.
  """
  a, g = lax.optimization_barrier((_rows(x), _rows(output_gradient)))

  def tile(start: Array | int, rows: int, total: Kernel) -> Kernel:
    return total + sum_of_products(
      *(lax.dynamic_slice(rows_of, (start, 0), (rows, rows_of.shape[1])) for rows_of in (a, g))
    )

  total = jnp.zeros(kernel.shape, accumulation_dtype(x.dtype))
  kernel_gradient = _over_tiles(len(a), tile, total, 4 * _tile(a, sum(kernel.shape)))
  return output_gradient @ kernel.T, kernel_gradient.astype(kernel.dtype)


def bn_relu_conv_backward(
  z: Maps, affine: Affine, kernel: Kernel, mask: Mask, output_gradient: Maps, *, dilation: int
) -> tuple[Maps, Kernel, Sums]:
  """See `ops.bn_relu_conv_backward`."""
  _, _, channels, features = kernel.shape
  _, height, width, _ = z.shape
  x, mask = _rows(z), None if mask is None else mask.reshape(-1)
  margin = dilation * (width + 1)
  padded = jnp.pad(_rows(output_gradient), ((margin, margin), (0, 0)))
  inside = _taps_inside(len(x), height, width, dilation)
  padded, inside, by_tap = lax.optimization_barrier(
    (padded, inside, kernel.transpose(0, 1, 3, 2).reshape(9 * features, channels))
  )

  def tile(start: Array | int, rows: int, carry: Any) -> Any:
    into, sums = carry
    part = lax.dynamic_slice(x, (start, 0), (rows, channels))
    of_mask = None if mask is None else lax.dynamic_slice(mask, (start,), (rows,))
    of_taps = lax.dynamic_slice(inside, (start, 0), (rows, 9))
    shifted = [
      lax.dynamic_slice(padded, (start + margin - dilation * (i * width + j), 0), (rows, features))
      for i, j in TAPS
    ]
    shifted = [jnp.where(of_taps[:, tap, None], y, 0) for tap, y in enumerate(shifted)]
    a, shifted = lax.optimization_barrier((activation(part, affine, of_mask), jnp.concatenate(shifted, 1)))
    g = _masked_product(shifted, by_tap, a)
    into = lax.dynamic_update_slice(into, g, (start, 0))
    sums = _added(sums, sum_of_products(a, shifted), _sums(g.astype(affine.scale.dtype), part, affine))
    return into, sums

  carry = jnp.zeros_like(x), _zero_sums(z, channels, 9 * features)
  size = _tile(x, channels + 9 * features)
  into, (kernel_gradient, *sums) = _over_tiles(len(x), tile, carry, size)
  kernel_gradient = kernel_gradient.reshape(channels, 3, 3, features).transpose(1, 2, 0, 3)
  return into.reshape(z.shape), kernel_gradient, tuple(sums)


def _tile(x: Rows, columns: int) -> int:
  """Positions of a tile that reads and writes so many columns: at most half of the map, to save memory."""
  most = min(_TILE_BYTES // (columns * x.dtype.itemsize), len(x) // 2)
  return max(_LEAST_POSITIONS, 1 << max(most, 1).bit_length() - 1)


def _over_tiles(count: int, tile: Callable[[Array | int, int, Any], Any], carry: Any, size: int) -> Any:
  """Applies `tile(start, rows, carry)` to all tiles of `count` positions in turn."""
  whole, rest = divmod(count, size)
  if whole == 1:
    carry = tile(0, size, carry)
  elif whole:
    carry = lax.fori_loop(0, whole, lambda index, carry: tile(index * size, size, carry), carry)
  return tile(whole * size, rest, carry) if rest else carry


def _rows(x: Maps) -> Rows:
  return x.reshape(-1, x.shape[-1])


def _masked_product(x: Rows, kernel: Kernel, a: Rows) -> Rows:
  """The product in `a`'s type where `a`, a ReLU's output, is positive."""
  product = lax.dot(x, kernel, preferred_element_type=a.dtype)
  return lax.optimization_barrier(jnp.where(a > 0, product, 0))


def _sums(g: Rows, x: Rows, affine: Affine) -> Sums:
  return jnp.sum(g, 0), jnp.sum(g * (x.astype(g.dtype) - affine.mean), 0)


def _zero_sums(x: Maps, channels: int, width: int) -> tuple[Array, ...]:
  """Of a kernel's gradient and of `_sums`."""
  return tuple(
    jnp.zeros(shape, accumulation_dtype(x.dtype)) for shape in ((channels, width), channels, channels)
  )


def _added(sums: tuple[Array, ...], products: Kernel, others: Sums) -> tuple[Array, ...]:
  return tuple(jax.tree.map(jnp.add, sums, (products, *others)))


def _taps_inside(count: int, height: int, width: int, dilation: int) -> Array:
  """[count, 9]: which outputs that read a position through each tap lie inside its image."""
  position = jnp.arange(count)
  row, column = position // width % height, position % width

  def inside(index: Array, size: int) -> Array:
    return (index >= 0) & (index < size)

  return jnp.stack(
    [inside(row - i * dilation, height) & inside(column - j * dilation, width) for i, j in TAPS], 1
  )
