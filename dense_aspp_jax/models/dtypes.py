"""Types that networks compute in."""

from __future__ import annotations

import jax.numpy as jnp

DType = jnp.dtype | type


def accumulation_dtype(dtype: DType) -> DType:
  """Type of statistics and of sums over many values: float32, float64 for float64."""
  return jnp.promote_types(dtype, jnp.float32)
