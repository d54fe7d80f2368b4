"""A part of a network that XLA's CPU compiler must not fuse into what reads its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata


def separately(function: Callable, *operands: Any) -> Any:
  """`function(*operands)`, computed once and stored on a CPU.

  XLA fuses elementwise operations, a depthwise convolution's included, into every operation that reads their
  result, and so repeats them for each: before a layer normalization three times. `lax.optimization_barrier`
  does not prevent that; a function that is not inlined does. On other devices this is a plain call.
  """

  def on_cpu(*operands: Any) -> Any:
    with set_xla_metadata(inlineable='false'):
      return jax.jit(function)(*operands)

  return lax.platform_dependent(*operands, cpu=on_cpu, default=function)
