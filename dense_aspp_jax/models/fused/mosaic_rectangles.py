"""Tiles of maps that are rectangles of one image: Mosaic GPU kernels copy them from any row and column."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import mosaic_tiles as tl
from dense_aspp_jax.models.fused.arrays import Mask
from dense_aspp_jax.models.fused.mosaic_tiles import plgpu


class Tiling(NamedTuple):
  """How the positions of maps are cut into tiles: rectangles of `rows` x `columns` of one image."""

  rows: int
  columns: int
  down: int  # tiles in a column of an image
  across: int  # in a row

  def corner(self, tile: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The image of a tile, and the row and the column where it begins."""
    image, rest = lax.div(tile, self.down * self.across), lax.rem(tile, self.down * self.across)
    return image, lax.div(rest, self.across) * self.rows, lax.rem(rest, self.across) * self.columns

  def half(self) -> tuple[int, int]:
    """Rows and columns of the upper or, of a single row, the left half of a tile."""
    return (self.rows // 2, self.columns) if self.rows > 1 else (1, self.columns // 2)


class Place(NamedTuple):
  """Where a rectangle is in maps."""

  image: jax.Array
  top: jax.Array
  left: jax.Array
  channels: Any  # a slice


class Views(NamedTuple):
  """Shared memory for rectangles, seen in two ways.

  A copy into the layout of products has to begin at a multiple of eight columns, and a tap shifts by one.
  With channels of just the swizzle's width that layout is also the plain one, into which TMA copies any
  rectangle. The interpreter has no memory with two views: it copies each row by itself into the first.
  """

  flat: Any  # [slots, positions, channels], for products
  box: Any  # [slots, rows, columns, channels], for copies; None in the interpreter


def tiling(height: int, width: int, positions: int) -> Tiling:
  """The tiles of `positions` that cover an image with the least waste; the widest of those."""

  def cut(columns: int) -> Tiling:
    rows = positions // columns
    return Tiling(rows, columns, pl.cdiv(height, rows), pl.cdiv(width, columns))

  return min((cut(columns) for columns in (128, 64, 32, 16, 8)), key=lambda t: t.down * t.across)


def tile_masks(mask: Mask, shape: tuple[int, ...], tiles: Tiling) -> Float[Array, 'tiles positions'] | None:
  """1 at those positions of each tile that count, else 0; None if all do."""
  images, height, width, _ = shape
  padding = (0, tiles.down * tiles.rows - height), (0, tiles.across * tiles.columns - width)
  if mask is None and padding == ((0, 0), (0, 0)):
    return None
  mask = jnp.ones(shape[:3], bool) if mask is None else mask
  mask = jnp.pad(mask, ((0, 0), *padding)).astype(jnp.float32)
  mask = mask.reshape(images, tiles.down, tiles.rows, tiles.across, tiles.columns)
  return mask.transpose(0, 1, 3, 2, 4).reshape(-1, tiles.rows * tiles.columns)


def shared(slots: int, size: tuple[int, int], channels: int) -> Any:
  """Shared memory for `slots` rectangles of `size`, of 32 or 64 channels."""
  rows, columns = size
  flat = tl.shared((slots, rows * columns, channels), jnp.bfloat16, channels)
  if tl.INTERPRET:
    return flat
  _, swizzle = tl.swizzled(channels)
  return plgpu.RefUnion(flat, plgpu.SMEM((slots, *size, channels), jnp.bfloat16, transforms=(swizzle,)))


def views(memory: Any) -> Views:
  """Of what `shared` declares, in a kernel."""
  return Views(memory, None) if tl.INTERPRET else Views(*memory)


def copies(tiles: Tiling) -> int:
  """How often `load` arrives at its barrier."""
  return tiles.rows if tl.INTERPRET else 1


def load(tiles: Tiling, source: Any, place: Place, target: Views, slot: jax.Array, barrier: Any) -> None:
  """Starts to copy a tile into shared memory, with zeros where it is beyond the end of the maps."""
  (rows, columns), (image, top, left, channels) = tiles[:2], place
  if target.box is not None:
    source = source.at[image, pl.ds(top, rows), pl.ds(left, columns), channels]
    plgpu.copy_gmem_to_smem(source, target.box.at[slot], barrier)
    return
  for row in range(rows):
    part = source.at[image, top + row, pl.ds(left, columns), channels]
    plgpu.copy_gmem_to_smem(part, target.flat.at[slot, pl.ds(row * columns, columns)], barrier)


def store_half(tiles: Tiling, source: Views, number: int, target: Any, place: Place) -> None:
  """Starts to copy half `number` of a tile, which is in that slot, to what of its place is in the maps."""
  (rows, columns), (image, top, left, channels) = tiles.half(), place
  if tiles.rows > 1:
    top += number * rows
  else:
    left += number * columns
  if source.box is not None:
    target = target.at[image, pl.ds(top, rows), pl.ds(left, columns), channels]
    plgpu.copy_smem_to_gmem(source.box.at[number], target)
    return
  for row in range(rows):
    part = source.flat.at[number, pl.ds(row * columns, columns)]
    plgpu.copy_smem_to_gmem(part, target.at[image, top + row, pl.ds(left, columns), channels])
