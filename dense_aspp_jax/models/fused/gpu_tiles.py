"""Tiles: what the kernels for NVIDIA GPUs read, write and add up.

The kernels are written in Pallas and compiled by Triton. Nothing is added atomically: each program writes
its partial sums, which are merged in a fixed order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from dense_aspp_jax.models.fused.arrays import Maps, Sums
from dense_aspp_jax.models.fused.kernel_cost import kernel_cost

try:
  from jax.experimental.pallas import triton
except ImportError:  # JAX says that Pallas will lose its Triton backend; a GPU then runs the XLA forms
  triton = None

Output = tuple[tuple[int, ...], DTypeLike]


# What an H100 runs at once: two programs of a backward pass on each of its 132 multiprocessors.
PROGRAMS = 2 * 132
INTERPRET = False  # for tests: a kernel runs as XLA operations, on any device


class Tile(NamedTuple):
  """What a program works on at a time, and how."""

  rows: int  # positions
  columns: int  # input channels
  warps: int
  stages: int  # of the pipeline that loads ahead


class Span(NamedTuple):
  """A stretch of one axis, as long as a tile, and which of it is inside the array (None: all)."""

  index: Int[Array, ' size']
  inside: Bool[Array, ' size'] | None


def largest_tile(width: int) -> int:
  """How many output channels are one tile: Triton's are powers of two."""
  return width & -width


def split(positions: int, rows: int, blocks: int) -> tuple[int, int, int]:
  """How the programs of a backward pass share the positions, for each of `blocks` blocks of channels.

  Returns:
    Number of tiles of `rows` positions, tiles per program, and programs.
  """
  tiles = pl.cdiv(positions, rows)
  per_program = pl.cdiv(tiles, max(1, PROGRAMS // blocks))
  return tiles, per_program, pl.cdiv(tiles, per_program)


def flat(x: Maps) -> Float[Array, 'positions c']:
  """All positions in one axis."""
  return x.reshape(-1, x.shape[3])


def call(
  body: Callable[..., None],
  tile: Tile,
  operands: Sequence[Array],
  outputs: Sequence[Output],
  *,
  name: str,
  flops: int,
  untouched: int = 0,
  **options: Any,
) -> Sequence[Array]:
  """Runs a kernel.

  Args:
    body: Gets the references of the operands and of the outputs.
    tile: What it works on.
    operands: Arrays.
    outputs: Shape and type of each.
    name: Of the kernel.
    flops: Of its products.
    untouched: Bytes of operands and outputs that it neither reads nor writes.
    options: Of `pl.pallas_call`.
  """
  out_shape = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outputs]
  num_bytes = sum(math.prod(x.shape) * x.dtype.itemsize for x in (*operands, *out_shape))
  with kernel_cost(name, num_bytes - untouched, flops):
    return pl.pallas_call(
      body,
      out_shape=out_shape,
      compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
      interpret=INTERPRET,
      name=name,
      **options,
    )(*operands)


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
