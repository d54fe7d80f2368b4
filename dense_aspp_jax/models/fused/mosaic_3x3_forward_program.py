"""The program of the Mosaic GPU kernel of `mosaic_3x3_forward`.

A program works through tiles: whole lines of images. For each row of taps, TMA loads the lines above, at or
below the tile; two warpgroups make relu(affine(z)) of them in place, and multiply by the weights of all three
columns of taps at once. What a column of taps makes belongs a few positions to the side: the products go
through shared memory, where each position reads those of its neighbours. A third warpgroup loads.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dense_aspp_jax.models.fused import mosaic_tiles as tl
from dense_aspp_jax.models.fused.mosaic_tiles import plgpu

CHANNELS = 64  # input channels that a program works on at a time: a row of swizzled shared memory
PARTS = {32: 128, 64: 64}  # output channels -> positions of a warpgroup, as many as its registers hold
SHARED_MEMORY = 224 * 1024  # of 227 KiB: sums, barriers and alignment take the rest


class Stages(NamedTuple):
  """What of a program is in shared memory at a time."""

  number: int  # of steps, of which all but one or two are loaded ahead
  kernel: bool  # whether the whole kernel is, all the time


def tile_of(width: int, growth: int) -> tuple[int, int]:
  """Positions of a line of a tile, which begins with the image's, and the tile's number of lines."""
  line = max(8, pl.next_power_of_2(width))
  return line, 2 * PARTS[growth] // line


def stages_of(channels: int, growth: int, border: int) -> Stages:
  """As many as shared memory holds; with the kernel in it if there is space for three of them."""
  rows, kernel = 2 * PARTS[growth], 2 * CHANNELS * 3 * growth
  once = 4 * (rows + 2 * border) * growth + 2 * rows * growth + 12 * channels + 8 * rows
  stage = (2 * CHANNELS + 4) * rows
  kept = (SHARED_MEMORY - once - kernel * 3 * (channels // CHANNELS)) // stage
  if kept >= 3:
    return Stages(min(4, kept), True)
  return Stages(min(4, (SHARED_MEMORY - once) // (stage + kernel)), False)


def _by_columns() -> Any:
  """A layout of matrices in registers in which each warp has all rows of some columns.

  Sums over rows then need no shared memory, which warpgroups that run apart would have to share.
  """
  return plgpu.Layout.TILED(plgpu.Tiling(((4, 32), (4, 8), (1,))), (-4,), (-3, -2), -1)


def _lines_shared(slots: tuple[int, ...], lines: tuple[int, int], columns: int, boxes: bool) -> Any:
  """Shared memory for lines, `lines` is their number and length, flat; or with `boxes` in two ways.

  In rows of one swizzle's width the layout of products is the plain one, too. Seen so, line by line, TMA can
  copy any part of a line, and not only multiples of 8 positions; the interpreter keeps the two apart.
  """
  flat = tl.shared((*slots, math.prod(lines), columns), jnp.bfloat16, columns)
  if not boxes:
    return flat
  _, swizzle = tl.swizzled(columns)
  return plgpu.RefUnion(flat, plgpu.SMEM((*slots, *lines, columns), jnp.bfloat16, transforms=(swizzle,)))


@functools.partial(
  jax.jit, static_argnames=('border', 'boxes', 'whole', 'with_moments', 'programs', 'interpret')
)
def convolution(
  scalars,
  z,
  kernel,
  affine,
  counted,
  sides,
  features,
  *,
  border,
  boxes,
  whole,
  with_moments,
  programs,
  interpret,
):
  """Updates `features`; returns it and, with them, the moments by part.

  Under jit, so that it is traced and lowered once for all layers of a block.
  """
  image_lines, width, channels = z.shape
  growth = len(kernel)
  part, chunks = PARTS[growth], channels // CHANNELS
  rows, steps = 2 * part, 3 * chunks
  stages, keeps_kernel = stages_of(channels, growth, border)
  line, lines = tile_of(width, growth)
  tiles = counted.shape[1]
  segment = min(line, part)  # of a line, that a warpgroup writes
  affines = [] if affine is None else [affine]
  multiple = 8 if boxes else growth  # of channels

  def body(scalars, z, kernel, counted, sides, features, *rest):
    rest, (z_smem, kernel_smem, counted_smem, affine_smem, sides_smem, exchange, y_smem, *barriers) = (
      rest[:-12],
      rest[-12:],
    )
    (z_smem, z_boxes), (y_smem, y_boxes) = (x if boxes else (x, None) for x in (z_smem, y_smem))
    affine, moments = rest[: len(affines)], rest[len(affines) :]
    once, full, empty, written, read = barriers
    program, warpgroup = lax.axis_index('program'), lax.axis_index('warpgroup')
    channel, dilation, aside = (scalars[number] for number in range(3))
    mine = lax.div(tiles - 1 - program, programs) + 1
    nothing = program * 0  # as a constant it is refused: a tile's line may be longer than the image's

    @pl.when(warpgroup == 2)
    def _():
      plgpu.copy_gmem_to_smem(sides, sides_smem, once)
      for ref in affine:
        plgpu.copy_gmem_to_smem(ref, affine_smem, once)

      def load(step, _):
        slot = lax.rem(step, stages)
        tile, number = program + lax.div(step, steps) * programs, lax.rem(step, steps)
        tap, part_of_channels = lax.div(number, chunks), pl.ds(lax.rem(number, chunks) * CHANNELS, CHANNELS)

        @pl.when(step >= stages)
        def _():
          plgpu.barrier_wait(empty.at[slot])

        @pl.when(step < mine * steps)
        def _():
          for index in range(lines):
            # A line outside of the image is replaced by another one, and not counted.
            place = jnp.clip(tile * lines + index + (tap - 1) * dilation, 0, image_lines - 1)
            target = z_boxes.at[slot, index] if z_boxes else z_smem.at[slot, pl.ds(index * line, line)]
            source = z.at[place, pl.ds(nothing, line), part_of_channels]
            plgpu.copy_gmem_to_smem(source, target, full.at[slot])
          weights = kernel_smem.at[number if keeps_kernel else slot]

          def load_kernel():
            for column in range(3):
              source = kernel.at[:, tap, column, part_of_channels]
              target = weights.at[pl.ds(column * growth, growth)]
              plgpu.copy_gmem_to_smem(source, target, full.at[slot])

          def arrive():
            for _ in range(3):
              plgpu.barrier_arrive(full.at[slot])

          if keeps_kernel:
            pl.when(step < steps)(load_kernel)
            pl.when(step >= steps)(arrive)
          else:
            load_kernel()
          plgpu.copy_gmem_to_smem(counted.at[tap, tile], counted_smem.at[slot], full.at[slot])

        return _

      lax.fori_loop(0, mine * steps + stages, load, None)

    @pl.when(warpgroup < 2)
    def _():
      plgpu.barrier_wait(once)
      first = warpgroup * part

      def activate(slot, number):
        """In place, in shared memory."""
        columns = pl.ds(lax.rem(number, chunks) * CHANNELS, CHANNELS)
        for start in range(0, part, 32):  # more at once would take too many registers
          block = pl.ds(first + start, 32)
          transposed = z_smem.at[slot, block].T
          x = plgpu.load(transposed, layout=plgpu.Layout.WGMMA).astype(jnp.float32)
          if affine:
            mean, scale, bias = (tl.per_row(affine_smem.at[index, columns], x.shape) for index in range(3))
            x = (x - mean) * scale + bias
          x = jnp.where(tl.per_column(counted_smem.at[slot, block], x.shape) > 0, x, 0.0)
          transposed[...] = (jnp.maximum(x, 0.0) if affine else x).astype(jnp.bfloat16)

      def compute(index, _):
        tile = program + index * programs

        def product(acc):
          def step(number, _):
            slot = lax.rem(index * steps + number, stages)
            plgpu.barrier_wait(full.at[slot])
            activate(slot, number)
            plgpu.commit_smem()
            weights = kernel_smem.at[number if keeps_kernel else slot]
            plgpu.wgmma(acc, z_smem.at[slot, pl.ds(first, part)], weights.T)
            plgpu.wgmma_wait(1)  # the one before is done

            @pl.when(number > 0)
            def _():
              plgpu.barrier_arrive(empty.at[lax.rem(index * steps + number + (stages - 1), stages)])

            return _

          lax.fori_loop(0, steps, step, None)
          plgpu.wgmma_wait(0)
          plgpu.barrier_arrive(empty.at[lax.rem((index + 1) * steps + (stages - 1), stages)])
          return acc[...]

        products = pl.run_scoped(product, plgpu.ACC((part, 3 * growth), jnp.float32))
        y = products[:, growth : 2 * growth]
        for side in range(2):
          for piece, start in enumerate(range(2 * side * growth, (2 * side + 1) * growth, 8)):
            exchange[piece, pl.ds(border + first, part)] = products[:, start : start + 8]
          plgpu.barrier_arrive(written)
          plgpu.barrier_wait(written)
          there = pl.ds(border + first + (2 * side - 1) * aside, part)
          pieces = [
            plgpu.load(exchange.at[piece, there], layout=plgpu.Layout.WGMMA, optimized=False)
            for piece in range(growth // 8)
          ]
          plgpu.barrier_arrive(read)
          plgpu.barrier_wait(read)
          inside = tl.per_row(sides_smem.at[side, pl.ds(first, part)], y.shape)
          y += jnp.where(inside > 0, jnp.concatenate(pieces, 1), 0.0)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        staged = y_smem.at[pl.ds(first, part)]
        staged[...] = y.astype(jnp.bfloat16)
        plgpu.commit_smem()
        for start in range(0, part, segment):
          place = tile * lines + lax.div(first + start, line), pl.ds(lax.rem(first + start, line), segment)
          target = features.at[*place, pl.ds(pl.multiple_of(channel, multiple), growth)]
          if y_boxes:
            source = y_boxes.at[lax.div(first + start, segment)]
          else:
            source = y_smem.at[pl.ds(first + start, segment)]
          plgpu.copy_smem_to_gmem(source, target)
        if moments:
          y = plgpu.load(staged, layout=by_columns, optimized=False).astype(jnp.float32)
          number = tile * 2 + warpgroup
          if whole:
            mean = jnp.sum(y, 0) * (1 / part)
            deviation = y - lax.broadcast_in_dim(mean, y.shape, [1])
          else:
            inside = per_row(counted.at[1, tile, pl.ds(first, part)])
            mean = jnp.sum(jnp.where(inside > 0, y, 0.0), 0) / jnp.maximum(jnp.sum(inside, 0), 1.0)
            deviation = jnp.where(inside > 0, y - lax.broadcast_in_dim(mean, y.shape, [1]), 0.0)
          tl.store_columns(moments[0].at[:, number], mean)
          tl.store_columns(moments[1].at[:, number], jnp.sum(deviation * deviation, 0))
        return _

      lax.fori_loop(0, mine, compute, None)
      plgpu.wait_smem_to_gmem(0)

  by_columns = _by_columns()

  def per_row(vector):
    value = plgpu.load(vector, layout=by_columns.reduce(1), optimized=False)
    return lax.broadcast_in_dim(value, (part, growth), [0])

  buffer = jax.new_ref(features)
  moments = plgpu.kernel(
    body,
    out_type=[jax.ShapeDtypeStruct((growth, 2 * tiles), jnp.float32)] * (2 * with_moments),
    grid=(min(programs, tiles),),
    grid_names=('program',),
    num_threads=3,
    thread_name='warpgroup',
    compiler_params=tl.compiler_params(),
    scratch_types=[
      _lines_shared((stages,), (lines, line), CHANNELS, boxes),
      tl.shared((steps if keeps_kernel else stages, 3 * growth, CHANNELS), jnp.bfloat16),
      plgpu.SMEM((stages, rows), jnp.float32),
      plgpu.SMEM((3, channels), jnp.float32),
      plgpu.SMEM((2, rows), jnp.float32),
      # In rows of eight, so that those which a warp accesses at once are in different banks.
      plgpu.SMEM((growth // 8, rows + 2 * border, 8), jnp.float32),
      _lines_shared((), (rows // segment, segment), growth, boxes),
      plgpu.Barrier(num_arrivals=1 + len(affines)),
      plgpu.Barrier(num_arrivals=lines + 4, num_barriers=stages),
      plgpu.Barrier(num_arrivals=2, num_barriers=stages),
      plgpu.Barrier(num_arrivals=2),
      plgpu.Barrier(num_arrivals=2),
    ],
    kernel_name='bn_relu_conv_into',
    interpret=interpret,
  )(scalars, z, kernel, counted, sides, buffer, *affines)
  return jax.freeze(buffer), *moments
