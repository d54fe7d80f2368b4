"""Kernel for NVIDIA's Hopper of the backward pass of 1x1 convolutions, for up to four dense layers at once.

The layers read the same channels: a group visits features and gradient once, not once for each layer. A
program has 64 channels and a range of positions, and goes through them tile by tile. Its first warpgroup
copies and computes the gradient of the features, transposed as in `mosaic_1x1`; the others, one or two,
accumulate the kernels' gradients, which fill their registers. All have an even share of the registers: shares
of different size (setmaxnreg) are ignored where jax 0.12 finds nvJitLink.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import mosaic_1x1
from dense_aspp_jax.models.fused import mosaic_tiles as tl
from dense_aspp_jax.models.fused.gpu_tiles import Maps, Sums, flat
from dense_aspp_jax.models.fused.kernel_cost import kernel_cost
from dense_aspp_jax.models.fused.mosaic_tiles import plgpu
from dense_aspp_jax.models.fused.statistics import Affine

TILE = 64  # positions and channels
PROGRAMS = 132  # one for each multiprocessor of an H100 or H200
ACCUMULATED = 256  # columns of kernel gradients, of 64 channels, that a warpgroup's registers hold


def supports(features: Maps, kernel: Float[Array, 'c co']) -> bool:
  """Whether the kernel takes these shapes and types, on a Hopper GPU."""
  return mosaic_1x1.supports(features, kernel) and features.shape[3] <= TILE * PROGRAMS


def bn_relu_dot_backward(
  features: Maps,
  affines: Sequence[Affine],
  kernels: Sequence[Float[Array, 'c co']],
  output_gradients: Sequence[Maps],
  gradient: Maps,
  *,
  start: int,
) -> tuple[Maps, list[Float[Array, 'c co']], list[Sums]]:
  """The backward pass of `ops.bn_relu_dot` for layers that read the same c channels, from `start`.

  Args:
    features: The block's buffer.
    affines: Of each layer, for its c channels.
    kernels: Of each layer.
    output_gradients: Of each layer.
    gradient: Of the buffer; updated in place where it is free.
    start: The first channel.

  Returns:
    `gradient` with what the layers add to their channels, each kernel's gradient, and each layer's sums over
    the gradient of affine(features).
  """
  width = kernels[0].shape[1]
  size = min(4, 2 * max(1, ACCUMULATED // width))
  kernel_gradients, sums = [], []
  for first in range(0, len(kernels), size):
    group = slice(first, first + size)
    gradient, *more = _group(
      features, affines[group], kernels[group], output_gradients[group], gradient, start
    )
    kernel_gradients += more[0]
    sums += more[1]
  return gradient, kernel_gradients, sums


def _group(features, affines, kernels, output_gradients, gradient, start):
  positions, block = math.prod(features.shape[:3]), features.shape[3]
  layers, (channels, width) = len(kernels), kernels[0].shape
  before = start % 32  # channels that are visited without need
  pads = (before, block - before - channels)
  first, blocks = start - before, pl.cdiv(before + channels, TILE)
  itemsize = features.dtype.itemsize
  bytes_accessed = positions * (3 * channels + layers * width) * itemsize
  bytes_accessed += 4 * PROGRAMS * layers * (TILE + 2) * width  # the parts
  with kernel_cost('bn_relu_dot_backward', bytes_accessed, 4 * positions * channels * width * layers):
    updated, parts = _backward(
      jnp.array([first, blocks, pl.cdiv(pl.cdiv(positions, TILE), PROGRAMS // blocks)], jnp.int32),
      flat(features),
      jnp.pad(jnp.stack(kernels), ((0, 0), pads, (0, 0))),
      # Gradients of further channels are 0; a scale of -0.0 keeps them as they are to the last bit.
      jnp.pad(jnp.stack([jnp.stack(a) for a in affines]), ((0, 0), (0, 0), pads), constant_values=-0.0),
      [flat(g) for g in output_gradients],
      flat(gradient),
      columns=32 if block % TILE or first % TILE else TILE,
      programs=PROGRAMS,
      interpret=tl.INTERPRET,
    )
  # A product with ones and zeros adds up the parts of each block of channels, for any number of blocks.
  mine = np.float32(np.arange(PROGRAMS) % blocks == np.arange(blocks)[:, None])
  total = lax.dot(mine, parts.reshape(PROGRAMS, -1), precision=lax.Precision.HIGHEST)
  total = total.reshape(blocks, layers, TILE + 2, width).swapaxes(0, 1)
  inside = slice(before, before + channels)
  return (
    updated.reshape(gradient.shape),
    [part[:, :TILE].reshape(-1, width)[inside] for part in total],
    [tuple(part[:, row, :TILE].reshape(-1)[inside] for row in (TILE, TILE + 1)) for part in total],
  )


@functools.partial(jax.jit, static_argnames=('columns', 'programs', 'interpret'))
def _backward(bound, features, kernels, affines, output_gradients, gradient, *, columns, programs, interpret):
  """Updates `gradient`; returns it and each program's part of the kernels' gradients, with two rows of sums.

  Under jit, so that it is traced and lowered once for all groups of a block.
  """
  (layers, _, width), positions = kernels.shape, len(features)
  tiles = pl.cdiv(positions, TILE)
  chunk = width if width <= 192 else 128  # columns of a kernel's gradient that are one product
  chunks = [(layer, column) for layer in range(layers) for column in range(0, width, chunk)]
  size = max(1, ACCUMULATED // chunk)
  groups = [chunks[first : first + size] for first in range(0, len(chunks), size)]
  tile_slots, depth = _slots(layers, width)

  def body(bound, x, kernel, affine, *rest):
    gz, (gradient, parts), scratch = rest[:layers], rest[layers : layers + 2], rest[layers + 2 :]
    x_smem, old_smem, z_smem, a_smem, kernel_smem, affine_smem, sums_smem, *barriers = scratch
    ready, x_full, z_full, z_empty, a_full = barriers
    program, warpgroup = lax.axis_index('program'), lax.axis_index('warpgroup')
    blocks, per_range = bound[1], bound[2]
    block = lax.rem(program, blocks)
    first = lax.div(program, blocks) * per_range
    count = jnp.clip(tiles - first, 0, per_range)
    channels = pl.ds(pl.multiple_of(bound[0] + block * TILE, columns), TILE)

    def rows(tile):
      return pl.ds((first + tile) * TILE, TILE)

    def z_slot(tile, layer):
      return lax.rem(tile, depth) * layers + layer

    def load_features(tile):
      slot = lax.rem(tile, tile_slots)
      plgpu.copy_gmem_to_smem(x.at[rows(tile), channels], x_smem.at[slot], x_full.at[slot])
      plgpu.copy_gmem_to_smem(gradient.at[rows(tile), channels], old_smem.at[slot], x_full.at[slot])

    def load_gradient(tile, layer):
      place = z_slot(tile, layer)
      plgpu.copy_gmem_to_smem(gz[layer].at[rows(tile)], z_smem.at[place], z_full.at[place])

    def load_again(tile, layer):
      """Loads the tile that follows one of an output gradient in its place, when that is done with."""
      plgpu.barrier_wait(z_empty.at[z_slot(tile, layer)])
      for number in range(layers):

        @pl.when((layer == number) & (tile + depth < count))
        def _(number=number):
          load_gradient(tile + depth, number)

    @pl.when(warpgroup == 0)
    def _():
      mine = pl.ds(block * TILE, TILE)
      for layer in range(layers):
        plgpu.copy_gmem_to_smem(kernel.at[layer, mine], kernel_smem.at[layer], ready)
      plgpu.copy_gmem_to_smem(affine.at[:, :, mine], affine_smem, ready)
      for tile in range(max(tile_slots, depth)):

        @pl.when(tile < count)
        def _(tile=tile):
          if tile < tile_slots:
            load_features(tile)
          for layer in range(layers if tile < depth else 0):
            load_gradient(tile, layer)

      plgpu.barrier_wait(ready)
      for layer, number in np.ndindex(layers, 2):
        sums_smem[layer, number] = plgpu.layout_cast(jnp.zeros(TILE), plgpu.Layout.WGMMA.reduce(1))

      def normalized(slot, vectors):
        x = plgpu.load(x_smem.at[slot].T, layout=plgpu.Layout.WGMMA).astype(jnp.float32)
        mean, scale, bias = (tl.per_row(vector, x.shape) for vector in vectors)
        return x - mean, scale, (x - mean) * scale + bias

      def step(tile, _):
        slot = lax.rem(tile, tile_slots)
        plgpu.barrier_wait(x_full.at[slot])

        def add(layer, added):
          place = z_slot(tile, layer)
          vectors = [affine_smem.at[layer, number] for number in range(3)]

          plgpu.barrier_wait(z_full.at[place])

          def product(g):
            plgpu.wgmma(g, kernel_smem.at[layer], z_smem.at[place].T)
            _, _, pre = normalized(slot, vectors)
            a_smem[place] = jnp.maximum(pre, 0.0).astype(jnp.bfloat16)
            plgpu.commit_smem()
            plgpu.barrier_arrive(a_full.at[place])
            return g[...]

          g = pl.run_scoped(product, plgpu.ACC((TILE, TILE), jnp.float32))
          # Computed again: kept until the product is there, they would take too many registers.
          centred, scale, pre = normalized(slot, vectors)
          g = jnp.where(pre > 0, g, 0.0)
          for number, total in enumerate((jnp.sum(g, 1), jnp.sum(g * centred, 1))):
            sums_smem[layer, number] = tl.row_vector(sums_smem.at[layer, number]) + total

          @pl.when(tile * layers + layer > 0)  # the one before: by now it is done with
          def _():
            is_first = layer == 0
            load_again(tile - is_first, jnp.where(is_first, layers - 1, layer - 1))

          return g * scale + added

        nothing = plgpu.layout_cast(jnp.full((TILE, TILE), -0.0, jnp.float32), plgpu.Layout.WGMMA)
        added = lax.fori_loop(0, layers, add, nothing)
        place = old_smem.at[slot].T
        old = plgpu.load(place, layout=plgpu.Layout.WGMMA).astype(jnp.float32)
        place[...] = (old + added).astype(jnp.bfloat16)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(old_smem.at[slot], gradient.at[rows(tile), channels])
        plgpu.wait_smem_to_gmem(1, wait_read_only=True)

        @pl.when((tile > 0) & (tile - 1 + tile_slots < count))
        def _():
          load_features(tile - 1 + tile_slots)

        return _

      lax.fori_loop(0, count, step, None)
      for layer, number in np.ndindex(layers, 2):
        parts[program, layer, TILE + number, :TILE] = tl.row_vector(sums_smem.at[layer, number])
      plgpu.wait_smem_to_gmem(0)

      @pl.when(count > 0)
      def _():
        plgpu.barrier_wait(z_empty.at[z_slot(count - 1, layers - 1)])

    for number, group in enumerate(groups):

      @pl.when(warpgroup == 1 + number)
      def _(group=group):
        def step(tile, totals):
          new = []
          for (layer, column), total in zip(group, totals, strict=True):
            place = z_slot(tile, layer)
            if column == 0:
              plgpu.barrier_wait(a_full.at[place])

            def operands(place=place, column=column):
              return a_smem.at[place], z_smem.at[place, :, pl.ds(column, chunk)]

            new.append(tl.add_product(total, operands))
            if column + chunk == width:
              plgpu.barrier_arrive(z_empty.at[place])
          return new

        zero = plgpu.layout_cast(jnp.zeros((TILE, chunk), jnp.float32), plgpu.Layout.WGMMA)
        totals = lax.fori_loop(0, count, step, [zero] * len(group))
        for (layer, column), total in zip(group, totals, strict=True):
          parts[program, layer, :TILE, pl.ds(column, chunk)] = total

  buffer = jax.new_ref(gradient)
  parts = plgpu.kernel(
    body,
    out_type=jax.ShapeDtypeStruct((programs, layers, TILE + 2, width), jnp.float32),
    grid=(programs,),
    grid_names=('program',),
    num_threads=1 + len(groups),
    thread_name='warpgroup',
    compiler_params=tl.compiler_params(),
    scratch_types=[
      tl.shared((tile_slots, TILE, TILE), jnp.bfloat16, columns),
      tl.shared((tile_slots, TILE, TILE), jnp.bfloat16, columns),
      tl.shared((depth * layers, TILE, width), jnp.bfloat16),
      tl.shared((depth * layers, TILE, TILE), jnp.bfloat16),
      tl.shared((layers, TILE, width), jnp.bfloat16),
      plgpu.SMEM((layers, 3, TILE), jnp.float32),
      plgpu.SMEM((layers, 2, TILE), jnp.float32),
      plgpu.Barrier(num_arrivals=layers + 1),
      plgpu.Barrier(num_arrivals=2, num_barriers=tile_slots),
      plgpu.Barrier(num_barriers=depth * layers),
      plgpu.Barrier(num_barriers=depth * layers),
      plgpu.Barrier(num_barriers=depth * layers),
    ],
    kernel_name='bn_relu_dot_backward',
    interpret=interpret,
  )(bound, features, kernels, affines, *output_gradients, buffer)
  return jax.freeze(buffer), parts


def _slots(layers: int, width: int) -> tuple[int, int]:
  """How many tiles of the features, and of each output gradient, are in shared memory at a time."""
  return 6 if layers == 1 else 3, max(1, 512 // (layers * max(width, 128)))
