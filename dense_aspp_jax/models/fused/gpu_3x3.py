"""The kernel for NVIDIA GPUs of the backward pass of a dense block's 3x3 convolution."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

from dense_aspp_jax.models.fused import gpu_tiles as tl
from dense_aspp_jax.models.fused.arrays import Maps, Mask, Sums
from dense_aspp_jax.models.fused.gpu_tiles import Tile, triton
from dense_aspp_jax.models.fused.statistics import Affine

# For 128 -> 32 channels in bfloat16. Not timed: two programs fit a multiprocessor's registers and shared
# memory.
BACKWARD_TILE = Tile(32, 64, 4, 3)
# A tile's sizes are powers of two: the nine taps are taken as eight and one.
_TAP_GROUPS = ((0, 8), (8, 1))


class Taps(NamedTuple):
  """Taps of a 3x3 kernel side by side: for each column of a tile, its tap (0 to 8) and output channel."""

  tap: Int[Array, ' size']
  channel: Int[Array, ' size']
  inside: Bool[Array, ' size']


def supports(z: Maps, kernel: Float[Array, '3 3 ci k']) -> bool:
  """Whether a GPU is to run `bn_relu_conv_backward`, not its XLA form, for these shapes and types."""
  channels, growth = kernel.shape[2:]
  fits = growth <= 32 and channels <= 128 and channels % BACKWARD_TILE.columns == 0
  return triton is not None and z.dtype == jnp.bfloat16 and fits


def bn_relu_conv_backward(
  z: Maps,
  affine: Affine,
  kernel: Float[Array, '3 3 ci k'],
  mask: Mask,
  output_gradient: Maps,
  *,
  dilation: int,
) -> tuple[Maps, Float[Array, '3 3 ci k'], Sums]:
  """See `ops.bn_relu_conv_backward`."""
  (channels, growth), positions, tile = kernel.shape[2:], math.prod(z.shape[:3]), BACKWARD_TILE
  size = min(tl.largest_tile(channels), tile.columns)
  width = _power_of_two(growth)
  blocks = channels // size
  tiles, per_program, programs = tl.split(positions, tile.rows, blocks)
  masks = [] if mask is None else [mask.reshape(positions)]

  def body(z_ref, gy_ref, kernel_ref, mean_ref, scale_ref, bias_ref, *refs):
    *mask_refs, g_ref, parts_ref = refs
    block, program = pl.program_id(0), pl.program_id(1)
    columns = tl.span(block, size, channels)
    groups = [_taps(first, count, growth) for first, count in _TAP_GROUPS]
    mean, scale, bias = (tl.load(ref, columns)[:, None] for ref in (mean_ref, scale_ref, bias_ref))
    weights = [_load_weights(kernel_ref, columns.index, taps, channels) for taps in groups]

    def step(index, carry):
      kernel_gradient, s1, s2 = carry
      rows = tl.span(index, tile.rows, positions)
      gy = [_load_around(gy_ref, rows.index, taps, dilation, z.shape) for taps in groups]
      x = tl.load(z_ref, rows, columns).T.astype(jnp.float32) - mean
      pre = x * scale + bias
      if mask_refs:
        pre = jnp.where(tl.load(mask_refs[0], rows)[None, :], pre, 0.0)
      a = jnp.maximum(pre, 0.0).astype(z.dtype)
      g = sum(triton.dot(w, y, trans_b=True) for w, y in zip(weights, gy, strict=True))
      g = jnp.where(pre > 0, g, 0.0)
      tl.store(g_ref, g.astype(z.dtype), rows, columns, transposed=True)
      kernel_gradient = [total + triton.dot(a, y) for total, y in zip(kernel_gradient, gy, strict=True)]
      return kernel_gradient, s1 + jnp.sum(g, 1), s2 + jnp.sum(g * x, 1)

    zeros = (
      [jnp.zeros((size, taps.tap.size), jnp.float32) for taps in groups],
      *[jnp.zeros(size, jnp.float32)] * 2,
    )
    first = program * per_program
    last = jnp.minimum(first + per_program, tiles)
    kernel_gradient, s1, s2 = lax.fori_loop(first, last, step, zeros)
    for taps, part in zip(groups, kernel_gradient, strict=True):
      at = (taps.tap * channels + columns.index[:, None]) * width + taps.channel
      triton.store(parts_ref.at[program, at], part)
    for number, part in enumerate((s1, s2)):
      triton.store(parts_ref.at[program, channels * (9 * width + number) + columns.index], part)

  g, parts = tl.call(
    body,
    tile,
    (tl.flat(z), tl.flat(output_gradient), kernel.reshape(9 * channels, growth), *affine, *masks),
    (((positions, channels), z.dtype), ((programs, channels * (9 * width + 2)), jnp.float32)),
    grid=(blocks, programs),
    name='bn_relu_conv_backward',
    flops=4 * positions * 9 * channels * growth,
  )
  kernel_gradient, sums = tl.sum_of_parts(parts, (3, 3, channels, width), channels)
  return g.reshape(z.shape), kernel_gradient[..., :growth], sums


def _taps(first: int, count: int, growth: int) -> Taps:
  """`count` taps from the `first` on, each as wide as the power of two that holds all output channels."""
  width = _power_of_two(growth)
  index = jnp.arange(count * width, dtype=jnp.int32)
  channel = lax.rem(index, jnp.int32(width))
  return Taps(first + lax.div(index, jnp.int32(width)), channel, channel < growth)


def _load_weights(
  ref: jax.Ref, rows: Int[Array, ' ci'], taps: Taps, channels: int
) -> Float[Array, 'ci taps']:
  """The weights of some input channels, from a reference [9 x ci, k]."""
  at = taps.tap * channels + rows[:, None], jnp.broadcast_to(taps.channel, (rows.size, taps.tap.size))
  return triton.load(ref.at[at], mask=jnp.broadcast_to(taps.inside, at[0].shape), other=0.0)


def _load_around(
  ref: jax.Ref, positions: Int[Array, ' rows'], taps: Taps, dilation: int, shape: tuple[int, ...]
) -> Float[Array, 'rows taps']:
  """For each position and tap, the output that the tap carries the position to; 0 outside of the image."""
  n, height, width = shape[:3]
  tap_row = lax.div(taps.tap, jnp.int32(3))
  down, right = (1 - tap_row) * dilation, (1 - taps.tap + 3 * tap_row) * dilation
  positions = positions[:, None]
  row = lax.rem(lax.div(positions, jnp.int32(width)), jnp.int32(height)) + down
  column = lax.rem(positions, jnp.int32(width)) + right
  valid = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (positions < n * height * width)
  at = positions + down * width + right
  return triton.load(
    ref.at[at, jnp.broadcast_to(taps.channel, at.shape)], mask=valid & taps.inside, other=0.0
  )


def _power_of_two(channels: int) -> int:
  """The tile that holds all channels."""
  return max(16, pl.next_power_of_2(channels))
