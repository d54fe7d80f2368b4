"""What a program of the kernel `mosaic_3x3` does.

It works through tiles of positions with a block of input channels. A tile is a rectangle of one image; what a
tap needs of the output's gradient is the same rectangle elsewhere, which TMA copies as it is, with zeros
outside of the image. Each of two warpgroups computes the gradient for half of a tile's positions, and the
kernel's gradient for half of the taps from all of them; both also start copies. With a third one for copies a
thread would have 168 registers, too few for 64 output channels: what jax 0.12 compiles ignores `setmaxnreg`,
which would share them out unequally.
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
from dense_aspp_jax.models.fused.mosaic_rectangles import Place, Tiling
from dense_aspp_jax.models.fused.mosaic_tiles import plgpu

BLOCK = 64  # input channels of a program
HALF = 64  # positions of a warpgroup
PIECE = 32  # output channels that are loaded at a time, for one tap
SLOTS = 8  # for pieces
Z_FREE, A_FULL, A_FREE = SLOTS, SLOTS + 2, SLOTS + 3  # barriers, behind those of the pieces
LAG = 4  # pieces that the warpgroups may be apart before one waits
WARPGROUPS = 2
SUMS = 8  # columns of a warpgroup's sums; the first two are used


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
  shifts: Any  # [taps, 2]: rows and columns from a rectangle to what the tap needs of gy
  zero: Any  # [1]
  mask: Any  # None: there is none
  g: Any
  parts: Any  # [programs, pieces + 1, channels, PIECE]; the last piece has the sums, see `SUMS`, and
  # is unspecified behind them


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
  gy_full: Any
  done: Any  # by both warpgroups; one array, because each takes a register for its phases


def scratch(plan: Plan) -> Scratch:
  """Declares the shared memory and the barriers."""
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
    gy_full=plgpu.Barrier(num_arrivals=copies, num_barriers=SLOTS),
    done=plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=SLOTS + 4),
  )


class Program(NamedTuple):
  """A warpgroup of a program, and what the program has to do."""

  plan: Plan
  gmem: Refs
  smem: Scratch
  number: int  # of the warpgroup
  first: jax.Array  # tile
  count: jax.Array  # of tiles
  channels: Any  # a slice
  zero: jax.Array

  @property
  def own(self) -> range:
    """The pieces whose part of the kernel's gradient the warpgroup sums up."""
    middle = self.plan.pieces // 2
    return range(middle) if self.number == 0 else range(middle, self.plan.pieces)

  @property
  def mine(self) -> Any:
    """The warpgroup's positions of a tile, a slice."""
    return pl.ds(self.number * HALF, HALF)

  def place(self, index: jax.Array) -> Place:
    """Where the tile `index` of the program is."""
    return Place(*self.plan.tiling.corner(self.first + index), self.channels)


def body(plan: Plan, *refs: Any) -> None:
  """The kernel; the references are those of `Refs`, without a mask that there is none, and `Scratch`."""
  size = len(Scratch._fields)
  inputs, outputs, smem = refs[: -size - 2], refs[-size - 2 : -size], Scratch(*refs[-size:])
  gmem = Refs(*inputs, *([] if plan.masked else [None]), *outputs)
  smem = smem._replace(**{name: rectangles.views(getattr(smem, name)) for name in ('z', 'g', 'gy')})
  for number in range(WARPGROUPS):

    @pl.when(lax.axis_index('warpgroup') == number)
    def _(number=number):
      first = lax.axis_index('program') * plan.per_program
      count = jnp.minimum(plan.per_program, plan.tiles - first)
      channels = pl.ds(lax.axis_index('block') * BLOCK, BLOCK)
      _run(Program(plan, gmem, smem, number, first, count, channels, gmem.zero[0]))


def _run(program: Program) -> None:
  """What a warpgroup does."""
  gmem, smem = program.gmem, program.smem
  if program.number == 0:
    pl.loop(0, SLOTS)(functools.partial(_load_piece, program))
  else:
    plgpu.copy_gmem_to_smem(gmem.weights.at[:, program.channels], smem.weights, smem.once)
    for number, vector in enumerate((gmem.mean, gmem.scale, gmem.bias)):
      plgpu.copy_gmem_to_smem(vector.at[program.channels], smem.vectors.at[number], smem.once)
    plgpu.copy_gmem_to_smem(gmem.picks, smem.picks, smem.once)
    _load_tile(program, jnp.int32(0))
    pl.when(program.count > 1)(functools.partial(_load_tile, program, jnp.int32(1)))
  plgpu.barrier_wait(smem.once)

  def run(kernel_gradient, sums):
    pl.loop(0, program.count)(functools.partial(_step, program, kernel_gradient, sums))
    number, values = lax.axis_index('program'), kernel_gradient[...]
    for place, piece in enumerate(program.own):
      columns = slice(place * PIECE, (place + 1) * PIECE)
      gmem.parts[number, piece, program.channels] = values[:, columns]
    columns = pl.ds(program.number * SUMS, SUMS)
    tl.store_columns(gmem.parts.at[number, program.plan.pieces, program.channels, columns], sums[...])

  accumulators = (BLOCK, len(program.own) * PIECE), (BLOCK, SUMS)
  pl.run_scoped(run, *(plgpu.ACC(size, jnp.float32) for size in accumulators))
  plgpu.barrier_wait(smem.done.at[A_FREE])
  plgpu.wait_smem_to_gmem(0)
  # All slots are given back before the program ends.
  if program.number == 0:
    for number in range(SLOTS):
      plgpu.barrier_wait(smem.done.at[lax.rem(program.count * program.plan.pieces + number, SLOTS)])
  else:
    for number in range(2):
      done = smem.done.at[Z_FREE + lax.rem(program.count + number, 2)]
      pl.when(program.count + number >= 2)(functools.partial(plgpu.barrier_wait, done))


def _load_tile(program: Program, index: jax.Array) -> None:
  """Starts to load z of a tile, and its mask."""
  plan, gmem, smem, slot = *program[:3], lax.rem(index, 2)
  full = smem.z_full.at[slot]
  rectangles.load(plan.tiling, gmem.z, program.place(index), smem.z, slot, full)
  if plan.masked:
    plgpu.copy_gmem_to_smem(gmem.mask.at[program.first + index], smem.mask.at[slot], full)


def _load_piece(program: Program, number: jax.Array) -> None:
  """Starts to load a piece; they are numbered through all tiles of the program."""
  plan, gmem, smem, slot = *program[:3], lax.rem(number, SLOTS)
  index, piece = lax.div(number, plan.pieces), lax.rem(number, plan.pieces)
  tap, part = lax.div(piece, plan.pieces // 9), lax.rem(piece, plan.pieces // 9)
  image, top, left, _ = program.place(index)
  place = Place(image, top + gmem.shifts[tap, 0], left + gmem.shifts[tap, 1], pl.ds(part * PIECE, PIECE))
  rectangles.load(plan.tiling, gmem.gy, place, smem.gy, slot, smem.gy_full.at[slot])


def _step(program: Program, kernel_gradient: Any, sums: Any, index: jax.Array) -> None:
  """Computes a tile."""
  plan, gmem, smem, number = program[:4]
  z, mine, shape, slot = smem.z.flat, program.mine, (HALF, BLOCK), lax.rem(index, 2)
  # 0, which the compiler cannot know: it would compute all addresses ahead and run out of registers.
  now = program.zero * index
  a, rest, g_half = smem.a.at[now], smem.rest.at[now], smem.g.flat.at[number + now]

  plgpu.barrier_wait(smem.z_full.at[slot])
  mean, scale, bias = (tl.per_column(smem.vectors.at[row + now], shape) for row in range(3))
  pre = (z[slot, mine].astype(jnp.float32) - mean) * scale + bias
  if plan.masked:
    pre = pre * tl.per_row(smem.mask.at[slot, mine], shape)
  pl.when(index > 0)(functools.partial(plgpu.barrier_wait, smem.done.at[A_FREE]))
  a[mine] = jnp.maximum(pre, 0.0).astype(z.dtype)
  plgpu.commit_smem()
  plgpu.barrier_arrive(smem.done.at[A_FULL])

  product = functools.partial(_products, program, index, kernel_gradient)
  g = pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))
  plgpu.barrier_arrive(smem.done.at[A_FREE])
  g = jnp.where(a[mine].astype(jnp.float32) > 0, g, 0.0).astype(z.dtype)
  plgpu.wait_smem_to_gmem(0, wait_read_only=True)
  g_half[...] = g
  term = g.astype(jnp.float32) * (
    z[slot, mine].astype(jnp.float32) - tl.per_column(smem.vectors.at[now], shape)
  )
  rounded = term.astype(z.dtype)
  z[slot, mine] = rounded
  rest[mine] = (term - rounded.astype(jnp.float32)).astype(z.dtype)
  plgpu.commit_smem()
  rectangles.store_half(plan.tiling, smem.g, number, gmem.g, program.place(index))
  # Sums over positions as products: in registers they would take as many as the tile.
  plgpu.wgmma(sums, g_half.T, smem.picks.at[now].T)
  plgpu.wgmma(sums, z.at[slot, mine].T, smem.picks.at[1 + now].T)
  plgpu.wgmma(sums, rest.at[mine].T, smem.picks.at[1 + now].T)
  plgpu.wgmma_wait(0)
  plgpu.barrier_arrive(smem.done.at[Z_FREE + slot])


def _products(
  program: Program, index: jax.Array, kernel_gradient: Any, total: Any
) -> Float[Array, 'half block']:
  """Adds the products of a tile's pieces, in order, and loads further ones into the slots that get free.

  Returns:
    The gradient of relu(affine(z)).
  """
  (plan, _, smem), own, gy = program[:3], program.own, program.smem.gy.flat

  def number_of(piece: int | jax.Array) -> jax.Array:
    return index * plan.pieces + piece

  def add(piece: jax.Array) -> None:
    slot = lax.rem(number_of(piece), SLOTS)
    plgpu.barrier_wait(smem.gy_full.at[slot])
    plgpu.wgmma(total, gy.at[slot, program.mine], smem.weights.at[piece].T)

  def free(piece: int | jax.Array) -> None:
    plgpu.barrier_arrive(smem.done.at[lax.rem(number_of(piece), SLOTS)])

  def refill(piece: int | jax.Array) -> None:
    """Loads into the slot of the piece `LAG` before this one."""
    if program.number > 0:
      return
    before = number_of(piece) - LAG

    @pl.when((before >= 0) & (before + SLOTS < program.count * plan.pieces))
    def _():
      plgpu.barrier_wait(smem.done.at[lax.rem(before, SLOTS)])
      _load_piece(program, before + SLOTS)

  def add_others(start: int, stop: int) -> None:
    @pl.loop(start, stop)
    def _(piece):
      add(piece)
      plgpu.wgmma_wait(1)
      pl.when(piece > 0)(functools.partial(free, piece - 1))
      refill(piece)

  if program.number > 0:
    add_others(0, own.start)

    @pl.when((index >= 1) & (index + 1 < program.count))
    def _():
      plgpu.barrier_wait(smem.done.at[Z_FREE + lax.rem(index + 1, 2)])
      _load_tile(program, index + 1)

  plgpu.barrier_wait(smem.done.at[A_FULL])
  for place, piece in enumerate(own):
    now = program.zero * number_of(piece)  # see _step
    add(piece + now)
    columns = pl.ds(place * PIECE, PIECE)
    plgpu.wgmma(kernel_gradient.at[:, columns], smem.a.at[now].T, gy.at[lax.rem(number_of(piece), SLOTS)])
    plgpu.wgmma_wait(2)
    if piece > 0:
      free(piece - 1)
    refill(piece)
  if program.number == 0:
    add_others(own.stop, plan.pieces)
  gradient = total[...]
  free(plan.pieces - 1)
  return gradient
