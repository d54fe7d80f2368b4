"""What the Mosaic GPU kernels share: the version gate, shared memory's layout, and vectors per channel.

The kernels are written in Pallas for NVIDIA's Hopper: copies between global and shared memory (TMA) run
beside matrix products (wgmma), and barriers join them. Nothing is added atomically: each program writes its
partial sums, which are merged in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

try:
  from jax.experimental.pallas import mosaic_gpu as plgpu

  InterpretGPUParams = plgpu.InterpretGPUParams  # new in jax 0.11, as is the rest of what the kernels need
except (ImportError, AttributeError):
  plgpu = None

INTERPRET: Any = False  # for tests: `InterpretGPUParams()` runs a kernel on any device


def available() -> bool:
  """Whether this version of jax has what the kernels need."""
  return plgpu is not None


def swizzled(columns: int = 64) -> tuple[Any, ...]:
  """The layout in shared memory of bfloat16 tiles, for TMA and wgmma: `columns` (64 or 32) side by side."""
  return plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(2 * columns)


def shared(shape: tuple[int, ...], dtype: DTypeLike, columns: int = 64) -> Any:
  """An array in shared memory, see `swizzled`; its last two axes are multiples of 8 and of `columns`."""
  return plgpu.SMEM(shape, dtype, transforms=swizzled(columns))


def compiler_params() -> Any:
  """How Mosaic compiles the kernels."""
  return plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup, approx_math=True)


def scalar(value: int | Array) -> Int[Array, 1]:
  """A value for a kernel that is not known when it is compiled."""
  return jnp.full((1,), value, jnp.int32)


def row_vector(vector: Any) -> Float[Array, ' rows']:
  """A vector in registers, from a reference: one value for each row of a matrix."""
  return plgpu.load(vector, layout=plgpu.Layout.WGMMA.reduce(1), optimized=False)


def per_row(vector: Any, shape: tuple[int, int]) -> Float[Array, 'rows columns']:
  """One value of a reference for each row of a matrix in registers."""
  return lax.broadcast_in_dim(row_vector(vector), shape, [0])


def per_column(vector: Any, shape: tuple[int, int]) -> Float[Array, 'rows columns']:
  """One value of a reference for each column of a matrix in registers."""
  value = plgpu.load(vector, layout=plgpu.Layout.WGMMA.reduce(0), optimized=False)
  return lax.broadcast_in_dim(value, shape, [1])


def store_columns(columns: Any, values: Float[Array, ' rows *']) -> None:
  """Writes into columns of an array, whose rows are apart in memory."""
  if hasattr(plgpu, 'store'):  # from jax 0.12 on, other stores refuse that
    plgpu.store(columns, values, optimized=False)
  else:
    columns[...] = values


def add_product(total: Float[Array, 'm n'], operands: Callable[[], tuple[Any, Any]]) -> Float[Array, 'm n']:
  """Adds a product a b of references in shared memory, which `operands` returns, to `total`."""
  if INTERPRET:  # the interpreter's accumulators start at 0
    a, b = operands()
    total = total + jnp.dot(a[...], b[...], preferred_element_type=jnp.float32)
    plgpu.commit_smem()  # unlike wgmma's, these reads must be fenced from copies that follow
    return total

  def add(accumulator):
    plgpu.wgmma(accumulator, *operands())
    plgpu.wgmma_wait(0)

  return pl.run_state(add)(plgpu.ACC.init(total))
