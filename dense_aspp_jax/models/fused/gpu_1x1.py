"""Kernels for NVIDIA GPUs of the 1x1 convolutions of a dense block, forward and backward.

XLA passes several times over the wide prefix of a block's buffer: it normalizes, multiplies, sums. A kernel
here reads it once. `ops` says what the functions compute and has the same in XLA operations; `gpu_3x3` has
the backward pass of the 3x3 convolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import gpu_tiles as tl
from dense_aspp_jax.models.fused.arrays import Maps, Mask, Sums
from dense_aspp_jax.models.fused.gpu_tiles import Output, Tile, triton
from dense_aspp_jax.models.fused.statistics import Affine, Moments, merged_parts

# By the largest number of output channels they are for, in bfloat16. Forward, 128 wide: the fastest of those
# tried on an H100 with an earlier form of the kernel, 640 -> 128 channels at 65,536 positions. The others are
# not timed: the largest of which two programs fit a multiprocessor's registers and shared memory.
FORWARD_TILES = {128: Tile(128, 32, 4, 4), 256: Tile(64, 32, 4, 4)}
BACKWARD_TILES = {128: Tile(64, 64, 4, 3), 256: Tile(32, 64, 4, 3)}


def supports(features: Maps, kernel: Float[Array, 'cin co']) -> bool:
  """Whether a GPU is to run the three functions below, not their XLA forms, for these shapes and types."""
  width = kernel.shape[1]
  fits = width <= min(max(FORWARD_TILES), 4 * tl.largest_tile(width))
  return triton is not None and features.dtype == jnp.bfloat16 and fits


def bn_relu_dot(
  features: Maps, affine: Affine, kernel: Float[Array, 'cin co'], mask: Mask
) -> tuple[Maps, Moments]:
  """See `ops.bn_relu_dot`."""
  positions, width = math.prod(features.shape[:3]), kernel.shape[1]
  tile_rows = _tile(FORWARD_TILES, width).rows
  tiles = pl.cdiv(positions, tile_rows)

  def epilogue(z, rows, outputs, z_ref, parts_ref, mask_ref=None):
    z = z.astype(features.dtype)
    tl.store(z_ref, z, rows, outputs)
    z = z.astype(jnp.float32)
    counted = rows.inside if mask_ref is None else tl.load(mask_ref, rows)
    if counted is None:
      mean = jnp.sum(z, 0) / tile_rows
      deviation = z - mean
    else:
      count = jnp.maximum(jnp.sum(counted.astype(jnp.float32)), 1)
      mean = jnp.sum(jnp.where(counted[:, None], z, 0.0), 0) / count
      deviation = jnp.where(counted[:, None], z - mean, 0.0)
    parts_ref[0, outputs.index, pl.program_id(0)] = mean
    parts_ref[1, outputs.index, pl.program_id(0)] = jnp.sum(deviation * deviation, 0)

  masks = [] if mask is None else [mask.reshape(positions)]
  parts = ((2, width, tiles), jnp.float32)
  z, (means, squares) = _forward(features, affine, kernel, masks, [parts], epilogue)
  if mask is None:
    counts = np.minimum(tile_rows, positions - np.arange(tiles) * tile_rows).astype(np.float32)
  else:
    counts = jnp.pad(mask.reshape(positions), (0, tiles * tile_rows - positions)).reshape(tiles, tile_rows)
    counts = jnp.sum(counts, 1, dtype=jnp.float32)
  return z, merged_parts(means, squares, jnp.asarray(counts))


def bn_relu_dot_relu(
  features: Maps, affine: Affine, kernel: Float[Array, '_ co'], second: Affine, *, channels: int
) -> Maps:
  """See `ops.bn_relu_dot_relu`."""
  affine, kernel = Affine(*(values[:channels] for values in affine)), kernel[:channels]

  def epilogue(z, rows, outputs, z_ref, *second_refs):
    mean, scale, bias = (ref[outputs.index] for ref in second_refs)
    z = jnp.maximum((z - mean) * scale + bias, 0.0)
    tl.store(z_ref, z.astype(features.dtype), rows, outputs)

  return _forward(features, affine, kernel, second, [], epilogue)[0]


def bn_relu_dot_backward(
  features: Maps,
  affines: Sequence[Affine],
  kernels: Sequence[Float[Array, 'cin co']],
  output_gradients: Sequence[Maps],
  gradient: Maps,
  *,
  start: int,
) -> tuple[Maps, list[Float[Array, 'cin co']], list[Sums]]:
  """See `ops.bn_relu_dot_backward`; layer by layer, `gradient` in place where its buffer is free."""
  kernel_gradients, sums = [], []
  for affine, kernel, output_gradient in zip(affines, kernels, output_gradients, strict=True):
    gradient, *others = _backward(features, affine, kernel, output_gradient, gradient, start)
    kernel_gradients.append(others[0])
    sums.append(others[1])
  return gradient, kernel_gradients, sums


def _backward(
  features: Maps,
  affine: Affine,
  kernel: Float[Array, 'cin co'],
  output_gradient: Maps,
  gradient: Maps,
  start: int,
) -> tuple[Maps, Float[Array, 'cin co'], Sums]:
  positions, (channels, width) = math.prod(features.shape[:3]), kernel.shape
  tile, chunk = _tile(BACKWARD_TILES, width), tl.largest_tile(width)
  blocks = pl.cdiv(channels, tile.columns)
  tiles, per_program, programs = tl.split(positions, tile.rows, blocks)

  def body(x_ref, gz_ref, kernel_ref, mean_ref, scale_ref, bias_ref, old_ref, new_ref, parts_ref):
    block, program = pl.program_id(0), pl.program_id(1)
    columns = tl.span(block, tile.columns, channels)
    channel = tl.Span(start + columns.index, columns.inside)  # in the buffers
    chunks = [tl.span(number, chunk, width) for number in range(width // chunk)]
    first = program * per_program
    last = jnp.minimum(first + per_program, tiles) - 1
    weights = [tl.load(kernel_ref, columns, c) for c in chunks]
    mean, scale, bias = (tl.load(ref, columns) for ref in (mean_ref, scale_ref, bias_ref))

    def step(index, carry):
      old, kernel_gradient, s1, s2 = carry
      rows = tl.span(index, tile.rows, positions)
      gz = [tl.load(gz_ref, rows, c) for c in chunks]
      x = tl.load(x_ref, rows, channel).T.astype(jnp.float32) - mean[:, None]
      # Triton loads ahead only what a product needs; this is loaded ahead by hand.
      following = tl.load(old_ref, tl.span(jnp.minimum(index + 1, last), tile.rows, positions), channel)
      pre = x * scale[:, None] + bias[:, None]
      g = sum(triton.dot(w, b, trans_b=True) for w, b in zip(weights, gz, strict=True))
      g = jnp.where(pre > 0, g, 0.0)
      new = (old.T.astype(jnp.float32) + g * scale[:, None]).astype(gradient.dtype)
      tl.store(new_ref, new, rows, channel, transposed=True)
      a = jnp.maximum(pre, 0.0).astype(features.dtype)
      kernel_gradient = [total + triton.dot(a, b) for total, b in zip(kernel_gradient, gz, strict=True)]
      return following, kernel_gradient, s1 + jnp.sum(g, 1), s2 + jnp.sum(g * x, 1)

    old = tl.load(old_ref, tl.span(first, tile.rows, positions), channel)
    zeros = (
      [jnp.zeros((tile.columns, chunk), jnp.float32)] * len(chunks),
      *[jnp.zeros(tile.columns, jnp.float32)] * 2,
    )
    _, kernel_gradient, s1, s2 = lax.fori_loop(first, last + 1, step, (old, *zeros))
    for c, part in zip(chunks, kernel_gradient, strict=True):
      mask = None if columns.inside is None else jnp.broadcast_to(columns.inside[:, None], part.shape)
      triton.store(parts_ref.at[program, columns.index[:, None] * width + c.index], part, mask=mask)
    for number, part in enumerate((s1, s2)):
      at = channels * (width + number) + columns.index
      triton.store(parts_ref.at[program, at], part, mask=columns.inside)

  updated, parts = tl.call(
    body,
    tile,
    (tl.flat(features), tl.flat(output_gradient), kernel, *affine, tl.flat(gradient)),
    (
      ((positions, gradient.shape[3]), gradient.dtype),
      ((programs, channels * (width + 2)), jnp.float32),
    ),
    grid=(blocks, programs),
    input_output_aliases={6: 0},
    name='bn_relu_dot_backward',
    flops=4 * positions * channels * width,
    # of the features, and of the gradient before and after
    untouched=3 * positions * (features.shape[3] - channels) * features.dtype.itemsize,
  )
  return updated.reshape(gradient.shape), *tl.sum_of_parts(parts, kernel.shape, channels)


def _forward(
  features: Maps,
  affine: Affine,
  kernel: Float[Array, 'cin co'],
  inputs: Sequence[Array],
  outputs: Sequence[Output],
  epilogue: Callable[..., None],
) -> list[Array]:
  """A product z of relu(affine(features)), tile by tile given to `epilogue`, which stores it.

  `epilogue` gets the tile of z in float32, its rows and columns, and the references of z, of further
  `outputs` and of further `inputs`.
  """
  positions, (channels, width) = math.prod(features.shape[:3]), kernel.shape
  tile, chunk = _tile(FORWARD_TILES, width), tl.largest_tile(width)
  whole = channels // tile.columns

  def body(x_ref, kernel_ref, mean_ref, scale_ref, bias_ref, *refs):
    rows = tl.span(pl.program_id(0), tile.rows, positions)
    columns = tl.span(pl.program_id(1), chunk, width)

    def step(index, z, limit=whole * tile.columns):
      inner = tl.span(index, tile.columns, limit)
      mean, scale, bias = (tl.load(ref, inner) for ref in (mean_ref, scale_ref, bias_ref))
      pre = (tl.load(x_ref, rows, inner).astype(jnp.float32) - mean) * scale + bias
      a = jnp.maximum(pre, 0.0).astype(features.dtype)
      return z + triton.dot(a, tl.load(kernel_ref, inner, columns))

    z = lax.fori_loop(0, whole, step, jnp.zeros((tile.rows, chunk), jnp.float32))
    if channels % tile.columns:
      z = lax.fori_loop(whole, whole + 1, functools.partial(step, limit=channels), z)
    epilogue(z, rows, columns, *refs[len(inputs) :], *refs[: len(inputs)])

  z, *further = tl.call(
    body,
    tile,
    (tl.flat(features), kernel, *affine, *inputs),
    (((positions, width), features.dtype), *outputs),
    grid=(pl.cdiv(positions, tile.rows), width // chunk),
    name='bn_relu_dot',
    flops=2 * positions * channels * width,
    untouched=positions * (features.shape[3] - channels) * features.dtype.itemsize,
  )
  return [z.reshape(*features.shape[:3], width), *further]


def _tile(tiles: dict[int, Tile], width: int) -> Tile:
  return next(tile for limit, tile in tiles.items() if width <= limit)
