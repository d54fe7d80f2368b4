"""Kernels for NVIDIA GPUs of the 1x1 convolutions of a dense block, forward and backward.

XLA passes several times over the wide prefix of a block's buffer: it normalises, multiplies, sums. A kernel
here reads it once. They are written in Pallas and compiled by Triton. `ops` says what the functions
compute and has the same in XLA operations; `gpu_3x3` has the backward pass of the 3x3 convolution.

Nothing is added atomically: each program writes its partial sums, which are merged in a fixed order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

from dense_aspp_jax.models.fused.statistics import Affine, Moments

try:
  from jax.experimental.pallas import triton
except ImportError:  # JAX says that Pallas will lose its Triton backend; a GPU then runs the XLA forms
  triton = None

Maps = Float[Array, 'n h w _']
Mask = Bool[Array, 'n h w'] | None
# Of the gradient g of affine(x), over all positions: sum g, and sum g (x - mean).
Sums = tuple[Float[Array, ' _'], Float[Array, ' _']]


class Tile(NamedTuple):
  """What a program works on at a time, and how."""

  rows: int  # positions
  columns: int  # input channels
  warps: int
  stages: int  # of the pipeline that loads ahead


# By the largest number of output channels they are for, in bfloat16. Forward, 128 wide: the fastest of those
# tried on an H100 with an earlier form of the kernel, 640 -> 128 channels at 65,536 positions. The others are
# not timed: the largest of which two programs fit a multiprocessor's registers and shared memory.
FORWARD_TILES = {128: Tile(128, 32, 4, 4), 256: Tile(64, 32, 4, 4)}
BACKWARD_TILES = {128: Tile(64, 64, 4, 3), 256: Tile(32, 64, 4, 3)}
# What an H100 runs at once: two such programs on each of its 132 multiprocessors.
PROGRAMS = 2 * 132


class Span(NamedTuple):
  """A stretch of one axis, as long as a tile, and which of it is inside the array (None: all)."""

  index: Int[Array, ' size']
  inside: Bool[Array, ' size'] | None


def supports_bn_relu_dot(features: Maps, kernel: Float[Array, 'cin co']) -> bool:
  """Whether a GPU is to run the three functions below, not their XLA forms, for these shapes and types."""
  width = kernel.shape[1]
  return (
    triton is not None
    and features.dtype == jnp.bfloat16
    and width <= min(max(FORWARD_TILES), 4 * largest_tile(width))
  )


def bn_relu_dot(
  features: Maps, affine: Affine, kernel: Float[Array, 'cin co'], mask: Mask, *, interpret: bool = False
) -> tuple[Maps, Moments]:
  """See `ops.bn_relu_dot`. `interpret` runs the kernel as XLA operations, on any device."""
  positions, width = math.prod(features.shape[:3]), kernel.shape[1]
  tile_rows = _tile(FORWARD_TILES, width).rows
  tiles = pl.cdiv(positions, tile_rows)

  def epilogue(z, rows, outputs, z_ref, parts_ref, mask_ref=None):
    z = z.astype(features.dtype)
    store(z_ref, z, rows, outputs)
    z = z.astype(jnp.float32)
    counted = rows.inside if mask_ref is None else load(mask_ref, rows)
    if counted is None:
      mean = jnp.sum(z, 0) / tile_rows
      deviation = z - mean
    else:
      count = jnp.maximum(jnp.sum(counted.astype(jnp.float32)), 1)
      mean = jnp.sum(jnp.where(counted[:, None], z, 0.0), 0) / count
      deviation = jnp.where(counted[:, None], z - mean, 0.0)
    parts_ref[0, outputs.index, pl.program_id(0)] = mean
    parts_ref[1, outputs.index, pl.program_id(0)] = jnp.sum(deviation * deviation, 0)

  parts = jax.ShapeDtypeStruct((2, width, tiles), jnp.float32)
  masks = () if mask is None else (mask.reshape(positions),)
  z, (means, squares) = _forward(features, affine, kernel, masks, (parts,), epilogue, interpret)
  if mask is None:
    counts = np.minimum(tile_rows, positions - np.arange(tiles) * tile_rows).astype(np.float32)
  else:
    counts = jnp.pad(mask.reshape(positions), (0, tiles * tile_rows - positions)).reshape(tiles, tile_rows)
    counts = jnp.sum(counts, 1, dtype=jnp.float32)
  return z, _merged(jnp.broadcast_to(counts, means.shape), means, squares)


def bn_relu_dot_relu(
  features: Maps,
  affine: Affine,
  kernel: Float[Array, 'cin co'],
  second: Affine,
  *,
  interpret: bool = False,
) -> Maps:
  """See `ops.bn_relu_dot_relu`."""

  def epilogue(z, rows, outputs, z_ref, *second_refs):
    mean, scale, bias = (ref[outputs.index] for ref in second_refs)
    z = jnp.maximum((z - mean) * scale + bias, 0.0)
    store(z_ref, z.astype(features.dtype), rows, outputs)

  return _forward(features, affine, kernel, tuple(second), (), epilogue, interpret)[0]


def bn_relu_dot_backward(
  features: Maps,
  gradient: Maps,
  affine: Affine,
  kernel: Float[Array, 'cin co'],
  output_gradient: Maps,
  *,
  interpret: bool = False,
) -> tuple[Maps, Float[Array, 'cin co'], Sums]:
  """See `ops.bn_relu_dot_backward`. `gradient` is updated in place where its buffer is free."""
  positions, (channels, width) = math.prod(features.shape[:3]), kernel.shape
  tile, chunk = _tile(BACKWARD_TILES, width), largest_tile(width)
  blocks, tiles = pl.cdiv(channels, tile.columns), pl.cdiv(positions, tile.rows)
  per_program = pl.cdiv(tiles, max(1, PROGRAMS // blocks))
  programs = pl.cdiv(tiles, per_program)

  def body(x_ref, gz_ref, kernel_ref, mean_ref, scale_ref, bias_ref, old_ref, new_ref, parts_ref):
    block, program = pl.program_id(0), pl.program_id(1)
    columns = span(block, tile.columns, channels)
    chunks = [span(number, chunk, width) for number in range(width // chunk)]
    first = program * per_program
    last = jnp.minimum(first + per_program, tiles) - 1
    weights = [load(kernel_ref, columns, c) for c in chunks]
    mean, scale, bias = (load(ref, columns) for ref in (mean_ref, scale_ref, bias_ref))

    def step(index, carry):
      old, kernel_gradient, s1, s2 = carry
      rows = span(index, tile.rows, positions)
      gz = [load(gz_ref, rows, c) for c in chunks]
      x = load(x_ref, rows, columns).T.astype(jnp.float32) - mean[:, None]
      # Triton loads ahead only what a product needs; this is loaded ahead by hand.
      following = load(old_ref, span(jnp.minimum(index + 1, last), tile.rows, positions), columns)
      pre = x * scale[:, None] + bias[:, None]
      g = sum(triton.dot(w, b, trans_b=True) for w, b in zip(weights, gz, strict=True))
      g = jnp.where(pre > 0, g, 0.0)
      new = (old.T.astype(jnp.float32) + g * scale[:, None]).astype(gradient.dtype)
      store(new_ref, new, rows, columns, transposed=True)
      a = jnp.maximum(pre, 0.0).astype(features.dtype)
      kernel_gradient = [total + triton.dot(a, b) for total, b in zip(kernel_gradient, gz, strict=True)]
      return following, kernel_gradient, s1 + jnp.sum(g, 1), s2 + jnp.sum(g * x, 1)

    old = load(old_ref, span(first, tile.rows, positions), columns)
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

  updated, parts = pl.pallas_call(
    body,
    out_shape=(
      jax.ShapeDtypeStruct((positions, gradient.shape[3]), gradient.dtype),
      jax.ShapeDtypeStruct((programs, channels * (width + 2)), jnp.float32),
    ),
    grid=(blocks, programs),
    input_output_aliases={6: 0},
    compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
    interpret=interpret,
    name='bn_relu_dot_backward',
  )(*_flat(features, output_gradient), kernel, *affine, *_flat(gradient))
  return updated.reshape(gradient.shape), *sum_of_parts(parts, kernel.shape, channels)


def _forward(
  features: Maps,
  affine: Affine,
  kernel: Float[Array, 'cin co'],
  inputs: tuple[Array, ...],
  outputs: tuple[jax.ShapeDtypeStruct, ...],
  epilogue: Callable[..., None],
  interpret: bool,
) -> list[Array]:
  """A product z of relu(affine(features)), tile by tile given to `epilogue`, which stores it.

  `epilogue` gets the tile of z in float32, its rows and columns, and the references of z, of further
  `outputs` and of further `inputs`.
  """
  positions, (channels, width) = math.prod(features.shape[:3]), kernel.shape
  tile, chunk = _tile(FORWARD_TILES, width), largest_tile(width)
  whole = channels // tile.columns

  def body(x_ref, kernel_ref, mean_ref, scale_ref, bias_ref, *refs):
    rows = span(pl.program_id(0), tile.rows, positions)
    columns = span(pl.program_id(1), chunk, width)

    def step(index, z, limit=whole * tile.columns):
      inner = span(index, tile.columns, limit)
      mean, scale, bias = (load(ref, inner) for ref in (mean_ref, scale_ref, bias_ref))
      pre = (load(x_ref, rows, inner).astype(jnp.float32) - mean) * scale + bias
      a = jnp.maximum(pre, 0.0).astype(features.dtype)
      return z + triton.dot(a, load(kernel_ref, inner, columns))

    z = lax.fori_loop(0, whole, step, jnp.zeros((tile.rows, chunk), jnp.float32))
    if channels % tile.columns:
      z = lax.fori_loop(whole, whole + 1, functools.partial(step, limit=channels), z)
    epilogue(z, rows, columns, *refs[len(inputs) :], *refs[: len(inputs)])

  z, *further = pl.pallas_call(
    body,
    out_shape=(jax.ShapeDtypeStruct((positions, width), features.dtype), *outputs),
    grid=(pl.cdiv(positions, tile.rows), width // chunk),
    compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
    interpret=interpret,
    name='bn_relu_dot',
  )(*_flat(features), kernel, *affine, *inputs)
  return [z.reshape(*features.shape[:3], width), *further]


def _tile(tiles: dict[int, Tile], width: int) -> Tile:
  return next(tile for limit, tile in tiles.items() if width <= limit)


def largest_tile(width: int) -> int:
  """How many output channels are one tile: Triton's are powers of two."""
  return width & -width


def _flat(*maps: Maps) -> list[Float[Array, 'positions c']]:
  return [x.reshape(-1, x.shape[3]) for x in maps]


def _merged(
  counts: Float[Array, 'c parts'], means: Float[Array, 'c parts'], squares: Float[Array, 'c parts']
) -> Moments:
  """The moments of all parts, from each part's mean and sum of squared deviations (Chan et al. 1979)."""

  def merge(a, b):
    (count_a, mean_a, squares_a), (count_b, mean_b, squares_b) = a, b
    count, delta = count_a + count_b, mean_b - mean_a
    share = count_b / jnp.maximum(count, 1)
    return count, mean_a + delta * share, squares_a + squares_b + delta * delta * count_a * share

  zeros = (jnp.float32(0),) * 3
  count, mean, square = lax.reduce((counts, means, squares), zeros, merge, (1,))
  return Moments(mean, square / count)


def span(block: int | Array, size: int, limit: int) -> Span:
  """The `block`-th stretch of `size` of an axis of length `limit`."""
  index = block * size + jnp.arange(size, dtype=jnp.int32)
  return Span(index, None if limit % size == 0 else index < limit)


def load(ref: jax.Ref, *spans: Span) -> Array:
  """A tile of an array, 0 outside of it."""
  at, mask = _tile_of(spans)
  return triton.load(ref.at[at], mask=mask, other=None if mask is None else jnp.zeros((), ref.dtype))


def store(ref: jax.Ref, tile: Array, *spans: Span, transposed: bool = False) -> None:
  """Writes what of a tile, or of its transpose, is inside the array."""
  at, mask = _tile_of(spans, transposed)
  triton.store(ref.at[at], tile, mask=mask)


def _tile_of(spans: tuple[Span, ...], transposed: bool = False) -> tuple[tuple[Array, ...], Array | None]:
  """The indices of a tile's elements, broadcast against each other, and which are inside; None: all."""
  axes = range(len(spans))
  place = axes[::-1] if transposed else axes

  def expand(x, axis):
    return jnp.expand_dims(x, [place[other] for other in axes if other != axis])

  masks = [expand(s.inside, axis) for axis, s in enumerate(spans) if s.inside is not None]
  at = tuple(expand(s.index, axis) for axis, s in enumerate(spans))
  if not masks:
    return at, None
  shape = jnp.broadcast_shapes(*(x.shape for x in at))
  return at, functools.reduce(jnp.logical_and, (jnp.broadcast_to(mask, shape) for mask in masks))


def sum_of_parts(
  parts: Float[Array, 'programs n'], shape: tuple[int, ...], channels: int
) -> tuple[Array, Sums]:
  """Adds up what the programs of a backward pass wrote: a kernel's gradient, then two sums per channel."""
  total = jnp.sum(parts, 0)
  size = math.prod(shape)
  return total[:size].reshape(shape), (total[size : size + channels], total[size + channels :])
