"""What the Mosaic GPU kernels share: the version gate, shared memory's layout, and vectors per channel.

The kernels are written in Pallas for NVIDIA's Hopper: copies between global and shared memory (TMA) run
beside matrix products (wgmma), and barriers join them. Nothing is added atomically: each program writes its
partial sums, which are merged in a fixed order.
"""

from __future__ import annotations

from typing import Any

try:
  from jax.experimental.pallas import mosaic_gpu as plgpu

  InterpretGPUParams = plgpu.InterpretGPUParams  # new in jax 0.11, as is the rest of what the kernels need
except (ImportError, AttributeError):
  plgpu = None

INTERPRET: Any = False  # for tests: `InterpretGPUParams()` runs a kernel on any device


def available() -> bool:
  """Whether this version of jax has what the kernels need."""
  return plgpu is not None


def swizzled() -> tuple[Any, ...]:
  """The layout in shared memory of tiles of 64 bfloat16 columns, or a multiple, for TMA and wgmma."""
  return plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)
