"""The two operations of the 7x7 stem, in forms whose gradients are matrix products and elementwise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import products
from dense_aspp_jax.models.fused.statistics import accumulation_dtype
from dense_aspp_jax.models.upsampling import first_maximum

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


@jax.custom_vjp
def space_to_depth_convolution(
  x: Float[Array, 'b h w 3'], kernel: Float[Array, '7 7 3 features']
) -> Float[Array, 'b h2 w2 features']:
  """The 7x7 convolution of stride 2 and padding 3, as a 4x4 convolution of 2x2 blocks of pixels.

  Three channels leave most of a matrix unit idle; a block's twelve, padded to sixteen, do not. A CPU is
  faster with the convolution as it is.

  Args:
    x: Images of any size.
    kernel: Computed with in `x`'s type; its gradient has its own type.

  Returns:
    h2 = ceil(h / 2), w2 = ceil(w / 2).
  """
  return lax.platform_dependent(x, kernel, cpu=_on_cpu, default=block_convolution)


def _on_cpu(x: Array, kernel: Array) -> Array:
  return products.convolution(x, kernel.astype(x.dtype), (2, 2), ((3, 3), (3, 3)))


def _plain_convolution(x: Array, kernel: Array) -> Array:
  padding = ((3, 3), (3, 3))
  return lax.conv_general_dilated(x, kernel.astype(x.dtype), (2, 2), padding, dimension_numbers=_DIMENSIONS)


def block_convolution(
  x: Float[Array, 'b h w 3'], kernel: Float[Array, '7 7 3 features']
) -> Float[Array, 'b h2 w2 features']:
  """`space_to_depth_convolution` on other devices than a CPU."""
  blocks = jnp.pad(_space_to_depth(x), ((0, 0), (0, 0), (0, 0), (0, 4)))
  kernel = jnp.pad(_blocked(kernel), ((0, 0), (0, 0), (0, 4), (0, 0))).astype(x.dtype)
  padding = ((2, 1), (2, 1))
  return lax.conv_general_dilated(blocks, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


def _convolution_forward(x: Array, kernel: Array) -> tuple[Array, Any]:
  return space_to_depth_convolution(x, kernel), (x, kernel)


def _convolution_backward(saved: Any, gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  (x_gradient,) = jax.vjp(lambda x: _plain_convolution(x, kernel), x)[1](gradient)  # not computed if unused
  kernel_gradient = lax.platform_dependent(
    x, kernel, gradient, cpu=_plain_kernel_gradient, default=block_kernel_gradient
  )
  return x_gradient, kernel_gradient


def _plain_kernel_gradient(x: Array, kernel: Array, gradient: Array) -> Array:
  return jax.vjp(lambda kernel: _plain_convolution(x, kernel), kernel)[1](gradient)[0]


def block_kernel_gradient(
  x: Float[Array, 'b h w 3'],
  kernel: Float[Array, '7 7 3 features'],
  gradient: Float[Array, 'b h2 w2 features'],
) -> Float[Array, '7 7 3 features']:
  """As one matrix product with the sixteen blocks that each output reads; sums in float32 or better."""
  _, rows, columns, features = gradient.shape
  padded = jnp.pad(_space_to_depth(x), ((0, 0), (2, 1), (2, 1), (0, 0)))
  blocks = jnp.concatenate(
    [padded[:, i : i + rows, j : j + columns] for i in range(4) for j in range(4)], axis=3
  )
  dtype = accumulation_dtype(x.dtype)
  over_positions = (((0, 1, 2), (0, 1, 2)), ((), ()))
  product = lax.dot_general(blocks, gradient, over_positions, preferred_element_type=dtype)
  product = product.reshape(4, 4, 12, features)
  return jax.linear_transpose(_blocked, kernel.astype(dtype))(product)[0].astype(kernel.dtype)


def _space_to_depth(x: Array) -> Array:
  """[b, h, w, 3] -> [b, h2, w2, 12]: channel (row x 2 + column) x 3 + colour."""
  batch, height, width, _ = x.shape
  x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
  rows, columns = x.shape[1] // 2, x.shape[2] // 2
  x = x.reshape(batch, rows, 2, columns, 2, 3).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, rows, columns, 12)


def _blocked(kernel: Array) -> Array:
  """[7, 7, 3, f] -> [4, 4, 12, f]; a row and a column of zeros in front make it 8x8: four blocks each way."""
  kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0))).reshape(4, 2, 4, 2, 3, -1)
  return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 12, -1)


space_to_depth_convolution.defvjp(_convolution_forward, _convolution_backward)


def max_pool_saving_argmax(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """`layers.max_pool_3x3` that saves the position of each maximum, for an elementwise backward pass.

  The gradient goes to the first maximum of a window in row-major order, as with XLA's select-and-scatter.
  """
  _, height, width, _ = x.shape
  padding = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
  return _pool_even(jnp.pad(x, padding, constant_values=-jnp.inf))


@jax.custom_vjp
def _pool_even(x: Array) -> Array:
  return _pool_forward(x)[0]


def _pool_forward(x: Array) -> tuple[Array, Array]:
  """The maxima, and the position of each in its window: row x 3 + column."""
  batch, height, width, channels = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=-jnp.inf)
  return first_maximum(
    [
      lax.slice(padded, (0, i, j, 0), (batch, i + height - 1, j + width - 1, channels), (1, 2, 2, 1))
      for i in range(3)
      for j in range(3)
    ]
  )


def _pool_backward(position: Array, gradient: Array) -> tuple[Array]:
  batch, rows, columns, channels = gradient.shape
  behind = ((0, 0), (0, 1), (0, 1), (0, 0))
  position = jnp.pad(position, behind, constant_values=9)  # 9: nowhere
  gradient = jnp.pad(gradient, behind)

  def taken(at: int, row: int, column: int) -> Array:
    """What the windows, or those a row below or a column to the right, give to their position `at`."""
    windows = (slice(None), slice(row, row + rows), slice(column, column + columns))
    return jnp.where(position[windows] == at, gradient[windows], 0)

  # An even row lies in the middle of one window; an odd one ends a window and begins the next.
  even_rows = taken(4, 0, 0), taken(5, 0, 0) + taken(3, 0, 1)
  odd_rows = (
    taken(7, 0, 0) + taken(1, 1, 0),
    taken(8, 0, 0) + taken(6, 0, 1) + taken(2, 1, 0) + taken(0, 1, 1),
  )
  interleaved = jnp.stack([jnp.stack(even_rows, axis=3), jnp.stack(odd_rows, axis=3)], axis=2)
  return (interleaved.reshape(batch, 2 * rows, 2 * columns, channels),)


_pool_even.defvjp(_pool_forward, _pool_backward)
