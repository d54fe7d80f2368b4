"""The kernel for NVIDIA's Hopper of the backward pass of the 3x3 convolutions, written in Pallas Mosaic GPU.

`ops` says what the function computes; `gpu_3x3` has the same for older GPUs, and gathers what each tap needs.
Here rectangles are copied instead, see `mosaic_3x3_program`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import mosaic_rectangles as rectangles
from dense_aspp_jax.models.fused import mosaic_tiles as tl
from dense_aspp_jax.models.fused.arrays import TAPS, Maps, Mask, Sums
from dense_aspp_jax.models.fused.kernel_cost import kernel_cost
from dense_aspp_jax.models.fused.mosaic_3x3_program import (
  BLOCK,
  HALF,
  PIECE,
  SUMS,
  WARPGROUPS,
  Plan,
  body,
  scratch,
)
from dense_aspp_jax.models.fused.mosaic_tiles import plgpu
from dense_aspp_jax.models.fused.statistics import Affine

PROGRAMS = 132  # one on each multiprocessor of an H100


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
  shifts = [[border - row * dilation, border - column * dilation] for row, column in TAPS]
  scalars = jnp.array(shifts, jnp.int32), jnp.zeros(1, jnp.int32)
  masks = rectangles.tile_masks(mask, z.shape, tiling)
  plan = Plan(tiling, tiles, per_program, len(weights), masks is not None)
  operands = z, padded, weights, *affine, picks, *scalars, *([] if masks is None else [masks])
  num_bytes = sum(x.size * x.dtype.itemsize for x in (*operands, z))
  num_bytes += 4 * programs * (weights.size + SUMS * WARPGROUPS * channels)
  with kernel_cost('bn_relu_conv_backward', num_bytes, 36 * (z.size // channels) * channels * growth):
    g, parts = _sums_of_programs(plan, blocks, programs, tl.INTERPRET, *operands)
  total = jnp.sum(parts, 0)  # all at once: a GPU launches a kernel for each sum
  kernel_gradient, sums = total[:-1], total[-1]
  kernel_gradient = kernel_gradient.reshape(9, -1, channels, PIECE).swapaxes(1, 2)
  sums = sum(sums[:, number * SUMS : number * SUMS + 2] for number in range(WARPGROUPS))
  return g, kernel_gradient.reshape(3, 3, channels, -1)[..., :growth], (sums[:, 0], sums[:, 1])


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sums_of_programs(plan: Plan, blocks: int, programs: int, interpret: Any, *operands: Array):
  """What the kernel writes. Under jit, so that it is traced and lowered once for all layers of a block."""
  z = operands[0]
  outputs = (
    jax.ShapeDtypeStruct(z.shape, z.dtype),
    jax.ShapeDtypeStruct((programs, plan.pieces + 1, z.shape[3], PIECE), jnp.float32),
  )
  return plgpu.kernel(
    functools.partial(body, plan),
    out_type=outputs,
    grid=(blocks, programs),
    grid_names=('block', 'program'),
    num_threads=WARPGROUPS,
    thread_name='warpgroup',
    kernel_name='bn_relu_conv_backward',
    compiler_params=tl.compiler_params(),
    scratch_types=tuple(scratch(plan)),
    interpret=interpret,
  )(*operands)
