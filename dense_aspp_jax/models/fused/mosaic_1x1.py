"""Kernels for NVIDIA's Hopper of the 1x1 convolutions of dense blocks, written in Pallas Mosaic GPU.

`ops` says what the functions compute; `gpu_1x1` has the same for older GPUs. The number of channels that a
layer reads is a value in memory, not a constant: all layers of a block run the same compiled kernel.

Inside the kernels maps are transposed, [channels, positions]: a thread then holds few channels and many
positions, so vectors per channel take few registers and sums over positions few instructions. Two warpgroups
have half of the positions of a tile each, and half of the registers; the first also copies.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import mosaic_tiles as tl
from dense_aspp_jax.models.fused.arrays import Maps, Mask
from dense_aspp_jax.models.fused.gpu_tiles import flat
from dense_aspp_jax.models.fused.kernel_cost import kernel_cost
from dense_aspp_jax.models.fused.mosaic_tiles import plgpu
from dense_aspp_jax.models.fused.statistics import Affine, Moments, merged_parts

CHANNELS = 64  # input channels that a program works on at a time: a row of swizzled shared memory
PROGRAMS = 132  # one for each multiprocessor of an H100 or H200
WIDTHS = (64, 128, 192, 256)  # output channels that the kernels take


def supports(features: Maps, kernel: Float[Array, 'cin co']) -> bool:
  """Whether the kernels take these shapes and types, on a Hopper GPU.

  TMA copies tiles of 8 positions: their number is a multiple of it, as with any batch of a multiple of 8.
  """
  return (
    tl.available()
    and features.dtype == jnp.bfloat16
    and math.prod(features.shape[:3]) % 8 == 0
    and features.shape[3] % 32 == 0
    and kernel.shape[1] in WIDTHS
  )


def bn_relu_dot(
  features: Maps, affine: Affine, kernel: Float[Array, 'cin co'], mask: Mask
) -> tuple[Maps, Moments]:
  """See `ops.bn_relu_dot`."""
  positions, width = math.prod(features.shape[:3]), kernel.shape[1]
  part = _part(width)
  parts = 2 * pl.cdiv(positions, 2 * part)
  counted, counts = None, part
  if mask is not None or positions % (2 * part):
    counted = jnp.ones(positions) if mask is None else mask.reshape(positions)
    counted = jnp.pad(counted.astype(jnp.float32), (0, parts * part - positions)).reshape(parts, part)
    counts = jnp.sum(counted, 1)
  z, means, squares = _forward(features, affine, kernel, len(kernel), counted=counted)
  return z, merged_parts(means, squares, counts)


def bn_relu_dot_relu(
  features: Maps, affine: Affine, kernel: Float[Array, '_ co'], second: Affine, *, channels: int
) -> Maps:
  """See `ops.bn_relu_dot_relu`."""
  return _forward(features, affine, kernel, channels, second=jnp.stack(second))[0]


def _columns(*offsets: int) -> int:
  """How many channels are copied side by side: tiles start at multiples of it."""
  return 32 if any(offset % CHANNELS for offset in offsets) else CHANNELS


def _part(width: int) -> int:
  """Positions that a warpgroup of the forward pass works on at a time: as many as its registers hold."""
  return 128 if width <= 128 else 64


def _forward(
  features: Maps, affine: Affine, kernel: Float[Array, '_ co'], channels: int, **extra: Array | None
):
  positions, (rows, width) = math.prod(features.shape[:3]), kernel.shape
  missing = features.shape[3] - rows
  itemsize, flops = features.dtype.itemsize, 2 * positions * channels * width
  with kernel_cost('bn_relu_dot', positions * (channels + width) * itemsize, flops):
    z, *moments = _product(
      tl.scalar(channels),
      flat(features),
      jnp.pad(kernel, ((0, missing), (0, 0))),
      jnp.pad(jnp.stack(affine), ((0, 0), (0, missing))),
      **extra,
      programs=PROGRAMS,
      interpret=tl.INTERPRET,
    )
  return z.reshape(*features.shape[:3], -1), *moments


@functools.partial(jax.jit, static_argnames=('programs', 'interpret'))
def _product(bound, features, kernel, affine, *, second=None, counted=None, programs, interpret):
  """A product z of relu(affine(features)), with its moments by part; with `second`, its own BN and ReLU.

  Under jit, so that it is traced and lowered once for all layers of a block.
  """
  (positions, block), width = features.shape, kernel.shape[1]
  part, stages = _part(width), 3
  rows = 2 * part
  tiles = pl.cdiv(positions, rows)
  extra = [x for x in (second, counted) if x is not None]

  def body(bound, x, kernel, affine, *rest):
    extra_refs, (z, *moments) = rest[: len(extra)], rest[len(extra) : -6]
    x_smem, kernel_smem, affine_smem, z_smem, full, empty = rest[-6:]
    program, warpgroup = lax.axis_index('program'), lax.axis_index('warpgroup')
    chunks = lax.div(bound[0] + (CHANNELS - 1), CHANNELS)
    mine = lax.div(tiles - 1 - program, programs) + 1
    steps = mine * chunks

    def load(step):
      slot, chunk = lax.rem(step, stages), lax.rem(step, chunks)
      tile, columns = program + lax.div(step, chunks) * programs, pl.ds(chunk * CHANNELS, CHANNELS)
      plgpu.copy_gmem_to_smem(x.at[pl.ds(tile * rows, rows), columns], x_smem.at[slot], full.at[slot])
      plgpu.copy_gmem_to_smem(kernel.at[columns], kernel_smem.at[slot], full.at[slot])
      plgpu.copy_gmem_to_smem(affine.at[:, columns], affine_smem.at[slot], full.at[slot])

    def finish(step):
      """The second warpgroup tells when it is done with a step; the first then loads in its place."""
      slot = lax.rem(step, stages)

      @pl.when(warpgroup == 1)
      def _():
        plgpu.barrier_arrive(empty.at[slot])

      @pl.when(warpgroup == 0)
      def _():
        plgpu.barrier_wait(empty.at[slot])

        @pl.when(step + stages < steps)
        def _():
          load(step + stages)

    @pl.when(warpgroup == 0)
    def _():
      for step in range(stages):
        pl.when(step < steps)(functools.partial(load, step))

    def compute(index, _):
      tile = program + index * programs

      def product(acc):
        def step(chunk, _):
          slot = lax.rem(index * chunks + chunk, stages)
          plgpu.barrier_wait(full.at[slot])
          x = x_smem.at[slot, pl.ds(warpgroup * part, part)].T
          mean, scale, bias = (
            tl.per_row(affine_smem.at[slot, number], (CHANNELS, part)) for number in range(3)
          )
          a = plgpu.load(x, layout=plgpu.Layout.WGMMA).astype(jnp.float32)
          x[...] = jnp.maximum((a - mean) * scale + bias, 0.0).astype(jnp.bfloat16)
          plgpu.commit_smem()
          plgpu.wgmma(acc, kernel_smem.at[slot].T, x)
          plgpu.wgmma_wait(1)  # the one before is done

          number = index * chunks + chunk
          pl.when(number > 0)(functools.partial(finish, number - 1))
          return _

        lax.fori_loop(0, chunks, step, None)
        return acc[...]

      out = pl.run_scoped(product, plgpu.ACC((width, part), jnp.float32))
      if second is not None:
        mean, scale, bias = (tl.per_row(extra_refs[0].at[number], out.shape) for number in range(3))
        out = jnp.maximum((out - mean) * scale + bias, 0.0)
      out = out.astype(jnp.bfloat16)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      staged = z_smem.at[warpgroup]
      staged.T[...] = out
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(staged, z.at[pl.ds(tile * rows + warpgroup * part, part)])
      if moments:
        out = out.astype(jnp.float32)
        number = tile * 2 + warpgroup
        if counted is not None:
          inside = tl.per_column(extra_refs[0].at[number], out.shape)
          count = jnp.maximum(jnp.sum(inside, 1), 1.0)
          mean = jnp.sum(out * inside, 1) / count
          deviation = (out - lax.broadcast_in_dim(mean, out.shape, [0])) * inside
        else:
          mean = jnp.sum(out, 1) * (1 / part)
          deviation = out - lax.broadcast_in_dim(mean, out.shape, [0])
        tl.store_columns(moments[0].at[:, number], mean)
        tl.store_columns(moments[1].at[:, number], jnp.sum(deviation * deviation, 1))
      return _

    lax.fori_loop(0, mine, compute, None)
    finish(steps - 1)
    plgpu.wait_smem_to_gmem(0)

  return plgpu.kernel(
    body,
    out_type=[
      jax.ShapeDtypeStruct((positions, width), jnp.bfloat16),
      *([jax.ShapeDtypeStruct((width, 2 * tiles), jnp.float32)] * (2 if second is None else 0)),
    ],
    grid=(min(programs, tiles),),
    grid_names=('program',),
    num_threads=2,
    thread_name='warpgroup',
    compiler_params=tl.compiler_params(),
    scratch_types=[
      tl.shared((stages, rows, CHANNELS), jnp.bfloat16, _columns(block)),
      tl.shared((stages, CHANNELS, width), jnp.bfloat16, _columns(block)),
      plgpu.SMEM((stages, 3, CHANNELS), jnp.float32),
      tl.shared((2, part, width), jnp.bfloat16),
      plgpu.Barrier(num_arrivals=3, num_barriers=stages),
      plgpu.Barrier(num_barriers=stages),
    ],
    kernel_name='bn_relu_dot',
    interpret=interpret,
  )(bound, features, kernel, affine, *extra)
