"""The kernel for NVIDIA's Hopper of the backward pass of the 3x3 convolutions, written in Pallas Mosaic GPU.

A program has a block of input channels and works through tiles of positions. A tile is a rectangle of one
image; what a tap needs of the output's gradient is the same rectangle elsewhere, which TMA copies as it is,
with zeros outside of the image. One warpgroup loads. Each of two others computes the gradient for half of the
tile's positions, and the kernel's gradient for half of the taps from all of them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import mosaic_rectangles as rectangles
from dense_aspp_jax.models.fused import mosaic_tiles as tl
from dense_aspp_jax.models.fused.arrays import Maps, Mask, Sums
from dense_aspp_jax.models.fused.kernel_cost import kernel_cost
from dense_aspp_jax.models.fused.mosaic_rectangles import Place, Tiling
from dense_aspp_jax.models.fused.mosaic_tiles import plgpu
from dense_aspp_jax.models.fused.statistics import Affine

BLOCK = 64  # input channels of a program
HALF = 64  # positions of a warpgroup
PIECE = 32  # output channels that are loaded at a time, for one tap
SLOTS = 8  # for pieces
PROGRAMS = 132  # one on each multiprocessor of an H100
WARPGROUPS = 2  # that compute
LOADER = WARPGROUPS  # the one that loads
REGISTERS = {'compute': 240, 'load': 24}  # of a thread


class Plan(NamedTuple):
  """What a kernel is compiled for."""

  tiling: Tiling
  tiles: int
  per_program: int
  pieces: int  # of all nine taps
  masked: bool


class Refs(NamedTuple):
  """Operands and outputs, in global memory."""

  z: Any
  gy: Any
  weights: Any  # [pieces, channels, PIECE]
  mean: Any
  scale: Any
  bias: Any
  picks: Any
  scalars: Any  # the border of gy, the dilation, 0
  mask: Any  # None: there is none
  g: Any
  parts: Any
  sums: Any


class Scratch(NamedTuple):
  """Shared memory, and barriers: what is 'full' can be read, what is 'free' can be written."""

  z: Any  # two tiles; then, in their place, g (z - mean)
  a: Any  # relu(affine(z))
  g: Any
  rest: Any  # what rounding takes from g (z - mean)
  gy: Any  # pieces
  weights: Any
  vectors: Any  # mean, scale, bias
  picks: Any  # [2, 8, HALF]: the first picks row 0, the second row 1 for the sum over positions
  mask: Any
  once: Any
  z_full: Any
  z_free: Any
  gy_full: Any
  gy_free: Any
  a_full: Any
  a_free: Any


def supports(z: Maps, kernel: Float[Array, '3 3 ci k']) -> bool:
  """Whether the kernel takes these shapes and types, on a Hopper GPU."""
  channels, growth = kernel.shape[2:]
  return tl.available() and z.dtype == jnp.bfloat16 and channels % BLOCK == 0 and growth <= 64


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
  images, height, width, channels = z.shape
  growth, tiling = kernel.shape[3], rectangles.tiling(height, width, WARPGROUPS * HALF)
  blocks, tiles = channels // BLOCK, images * tiling.down * tiling.across
  per_program = pl.cdiv(tiles, max(1, PROGRAMS // blocks))
  programs = pl.cdiv(tiles, per_program)
  # TMA fills with zeros behind an image's end; in front of its start it is padded. The usual dilations have
  # the same border, and so one kernel.
  border, missing = 1 if dilation == 1 else max(24, dilation), -growth % PIECE
  padded = jnp.pad(output_gradient, ((0, 0), (border, 0), (border, 0), (0, missing)))
  weights = jnp.pad(kernel.reshape(9, channels, growth), ((0, 0), (0, 0), (0, missing)))
  weights = weights.reshape(9, channels, -1, PIECE).swapaxes(1, 2).reshape(-1, channels, PIECE)
  picks = jnp.zeros((2, 8, HALF), z.dtype).at[0, 0].set(1).at[1, 1].set(1)
  scalars = jnp.array([border, dilation, 0], jnp.int32)
  masks = rectangles.tile_masks(mask, z.shape, tiling)
  plan = Plan(tiling, tiles, per_program, len(weights), masks is not None)
  operands = z, padded, weights, *affine, picks, scalars, *([] if masks is None else [masks])
  outputs = (
    jax.ShapeDtypeStruct(z.shape, z.dtype),
    jax.ShapeDtypeStruct((programs, *weights.shape), jnp.float32),
    jax.ShapeDtypeStruct((programs, WARPGROUPS, channels, 8), jnp.float32),
  )
  num_bytes = sum(x.size * x.dtype.itemsize for x in (*operands, *outputs))
  with kernel_cost('bn_relu_conv_backward', num_bytes, 36 * (z.size // channels) * channels * growth):
    g, parts, sums = plgpu.kernel(
      functools.partial(_body, plan),
      out_type=outputs,
      grid=(blocks, programs),
      grid_names=('block', 'program'),
      num_threads=WARPGROUPS + 1,
      thread_name='warpgroup',
      compiler_params=tl.compiler_params(),
      scratch_types=tuple(_scratch(plan)),
      interpret=tl.INTERPRET,
    )(*operands)
  kernel_gradient = jnp.sum(parts, 0).reshape(9, -1, channels, PIECE).swapaxes(1, 2)
  sums = jnp.sum(sums, (0, 1))
  return g, kernel_gradient.reshape(3, 3, channels, -1)[..., :growth], (sums[:, 0], sums[:, 1])


def _scratch(plan: Plan) -> Scratch:
  tiling = plan.tiling
  copies, positions = rectangles.copies(tiling), WARPGROUPS * HALF
  return Scratch(
    z=rectangles.shared(2, tiling[:2], BLOCK),
    a=tl.shared((1, positions, BLOCK), jnp.bfloat16, PIECE),  # both operands of a product have one layout
    g=rectangles.shared(WARPGROUPS, tiling.half(), BLOCK),
    rest=tl.shared((1, positions, BLOCK), jnp.bfloat16),
    gy=rectangles.shared(SLOTS, tiling[:2], PIECE),
    weights=tl.shared((plan.pieces, BLOCK, PIECE), jnp.bfloat16, PIECE),
    vectors=plgpu.SMEM((3, BLOCK), jnp.float32),
    picks=tl.shared((2, 8, HALF), jnp.bfloat16),
    mask=plgpu.SMEM((2, positions), jnp.float32),
    once=plgpu.Barrier(num_arrivals=5),
    z_full=plgpu.Barrier(num_arrivals=copies + plan.masked, num_barriers=2),
    z_free=plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=2),
    gy_full=plgpu.Barrier(num_arrivals=copies, num_barriers=SLOTS),
    gy_free=plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=SLOTS),
    a_full=plgpu.Barrier(num_arrivals=WARPGROUPS),
    a_free=plgpu.Barrier(num_arrivals=WARPGROUPS),
  )


def _body(plan: Plan, *refs: Any) -> None:
  size = len(Scratch._fields)
  inputs, outputs, smem = refs[: -size - 3], refs[-size - 3 : -size], Scratch(*refs[-size:])
  gmem = Refs(*inputs, *([] if plan.masked else [None]), *outputs)
  smem = smem._replace(**{name: rectangles.views(getattr(smem, name)) for name in ('z', 'g', 'gy')})
  warpgroup = lax.axis_index('warpgroup')
  pl.when(warpgroup == LOADER)(functools.partial(_load, plan, gmem, smem))
  for number in range(WARPGROUPS):
    pl.when(warpgroup == number)(functools.partial(_compute, plan, gmem, smem, number))


def _share(plan: Plan) -> tuple[jax.Array, jax.Array, Any]:
  """A program's first tile, the number of its tiles, and its channels."""
  first = lax.axis_index('program') * plan.per_program
  count = jnp.minimum(plan.per_program, plan.tiles - first)
  return first, count, pl.ds(lax.axis_index('block') * BLOCK, BLOCK)


def _load(plan: Plan, gmem: Refs, smem: Scratch) -> None:
  """Loads a program's tiles, each as soon as its slot is free."""
  plgpu.set_max_registers(REGISTERS['load'], action='decrease')
  first, count, channels = _share(plan)
  plgpu.copy_gmem_to_smem(gmem.weights.at[:, channels], smem.weights, smem.once)
  for number, vector in enumerate((gmem.mean, gmem.scale, gmem.bias)):
    plgpu.copy_gmem_to_smem(vector.at[channels], smem.vectors.at[number], smem.once)
  plgpu.copy_gmem_to_smem(gmem.picks, smem.picks, smem.once)
  border, dilation, per_tap = gmem.scalars[0], gmem.scalars[1], plan.pieces // 9

  @pl.loop(0, count)
  def _(index):
    image, top, left = plan.tiling.corner(first + index)
    slot = lax.rem(index, 2)

    @pl.when(index >= 2)
    def _():
      plgpu.barrier_wait(smem.z_free.at[slot])

    place, full = Place(image, top, left, channels), smem.z_full.at[slot]
    rectangles.load(plan.tiling, gmem.z, place, smem.z, slot, full)
    if plan.masked:
      plgpu.copy_gmem_to_smem(gmem.mask.at[first + index], smem.mask.at[slot], full)

    @pl.loop(0, plan.pieces)
    def _(piece):
      number = index * plan.pieces + piece
      slot = lax.rem(number, SLOTS)

      @pl.when(number >= SLOTS)
      def _():
        plgpu.barrier_wait(smem.gy_free.at[slot])

      tap = lax.div(piece, per_tap)
      row, column = lax.div(tap, 3), lax.rem(tap, 3)
      down, right = border + (1 - row) * dilation, border + (1 - column) * dilation
      part = pl.ds(lax.rem(piece, per_tap) * PIECE, PIECE)
      place = Place(image, top + down, left + right, part)
      rectangles.load(plan.tiling, gmem.gy, place, smem.gy, slot, smem.gy_full.at[slot])

  # All slots are given back before the program ends.
  for number in range(SLOTS):
    plgpu.barrier_wait(smem.gy_free.at[lax.rem(count * plan.pieces + number, SLOTS)])
  for number in range(2):
    slot = lax.rem(count + number, 2)
    pl.when(count + number >= 2)(functools.partial(plgpu.barrier_wait, smem.z_free.at[slot]))


def _compute(plan: Plan, gmem: Refs, smem: Scratch, number: int) -> None:
  """What warpgroup `number` does with the tiles."""
  plgpu.set_max_registers(REGISTERS['compute'], action='increase')
  first, count, channels = _share(plan)
  z, zero = smem.z.flat, gmem.scalars[2]
  mine, shape = pl.ds(number * HALF, HALF), (HALF, BLOCK)
  middle = pl.cdiv(plan.pieces, 2)
  own = range(middle) if number == 0 else range(middle, plan.pieces)  # pieces of the kernel's gradient

  def run(kernel_gradient, sums):
    plgpu.barrier_wait(smem.once)

    @pl.loop(0, count)
    def _(index):
      # 0, which the compiler cannot know: it would compute all addresses ahead and run out of registers.
      now = zero * index
      a, rest, g_half = smem.a.at[now], smem.rest.at[now], smem.g.flat.at[number + now]
      slot = lax.rem(index, 2)
      plgpu.barrier_wait(smem.z_full.at[slot])
      mean, scale, bias = (tl.per_column(smem.vectors.at[row + now], shape) for row in range(3))
      pre = (z[slot, mine].astype(jnp.float32) - mean) * scale + bias
      if plan.masked:
        pre = pre * tl.per_row(smem.mask.at[slot, mine], shape)

      @pl.when(index > 0)
      def _():
        plgpu.barrier_wait(smem.a_free)

      a[mine] = jnp.maximum(pre, 0.0).astype(z.dtype)
      plgpu.commit_smem()
      plgpu.barrier_arrive(smem.a_full)

      product = functools.partial(_products, plan, smem, number, own, index, now, a, kernel_gradient)
      g = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
      plgpu.barrier_arrive(smem.a_free)
      g = jnp.where(a[mine].astype(jnp.float32) > 0, g, 0.0).astype(z.dtype)
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      g_half[...] = g
      mean = tl.per_column(smem.vectors.at[now], shape)
      term = g.astype(jnp.float32) * (z[slot, mine].astype(jnp.float32) - mean)
      rounded = term.astype(z.dtype)
      z[slot, mine] = rounded
      rest[mine] = (term - rounded.astype(jnp.float32)).astype(z.dtype)
      plgpu.commit_smem()
      place = Place(*plan.tiling.corner(first + index), channels)
      rectangles.store_half(plan.tiling, smem.g, number, gmem.g, place)
      # Sums over positions as products: in registers they would take as many as the tile.
      plgpu.wgmma(sums, g_half.T, smem.picks.at[now].T)
      plgpu.wgmma(sums, z.at[slot, mine].T, smem.picks.at[1 + now].T)
      plgpu.wgmma(sums, rest.at[mine].T, smem.picks.at[1 + now].T)
      plgpu.wgmma_wait(0)
      plgpu.barrier_arrive(smem.z_free.at[slot])

    program, values = lax.axis_index('program'), kernel_gradient[...]
    for place, piece in enumerate(own):
      gmem.parts[program, piece, channels] = values[:, place * PIECE : (place + 1) * PIECE]
    gmem.sums[program, number, channels] = sums[...]
    plgpu.barrier_wait(smem.a_free)
    plgpu.wait_smem_to_gmem(0)

  accumulators = (BLOCK, len(own) * PIECE), (BLOCK, 8)
  pl.run_scoped(run, *(plgpu.ACC(size, jnp.float32) for size in accumulators))


def _products(
  plan: Plan,
  smem: Scratch,
  number: int,
  own: range,
  index: jax.Array,
  now: jax.Array,
  a: Any,
  kernel_gradient: Any,
  total: Any,
) -> Float[Array, 'half block']:
  """Adds the products of a tile's pieces, in order, and gives each slot back when the next one is in use.

  Returns:
    The gradient of relu(affine(z)).
  """
  gy, mine = smem.gy.flat, pl.ds(number * HALF, HALF)

  def slot_of(piece: int | jax.Array) -> jax.Array:
    return lax.rem(index * plan.pieces + piece, SLOTS)

  def add(piece: jax.Array) -> None:
    plgpu.barrier_wait(smem.gy_full.at[slot_of(piece)])
    plgpu.wgmma(total, gy.at[slot_of(piece), mine], smem.weights.at[piece].T)

  def free(piece: int | jax.Array) -> None:
    plgpu.barrier_arrive(smem.gy_free.at[slot_of(piece)])

  def add_others(start: int, stop: int) -> None:
    @pl.loop(start, stop)
    def _(piece):
      add(piece)
      plgpu.wgmma_wait(1)
      pl.when(piece > 0)(functools.partial(free, piece - 1))

  if number > 0:
    add_others(0, own.start)
  plgpu.barrier_wait(smem.a_full)
  for place, piece in enumerate(own):
    add(piece + now)
    columns = pl.ds(place * PIECE, PIECE)
    plgpu.wgmma(kernel_gradient.at[:, columns], a.T, gy.at[slot_of(piece)])
    plgpu.wgmma_wait(2)
    if piece > 0:
      free(piece - 1)
  if number == 0:
    add_others(own.stop, plan.pieces)
  gradient = total[...]
  free(plan.pieces - 1)
  return gradient
