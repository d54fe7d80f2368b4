"""Bilinear upsampling of logits that does not hold all classes at full size.

The same as `layers.upsample_bilinear`, in pieces that a compiler fuses with what reads them: the rows first,
for all classes (a factor smaller), the columns class by class or phase by phase, elementwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from dense_aspp_jax.models.layers import bilinear_matrix, bilinear_neighbors


def upsampled_argmax(
  logits: Float[Array, 'b h w classes'], output_size: tuple[int, int], scale: tuple[float, float]
) -> UInt8[Array, 'b oh ow']:
  """The arg max over the classes of `upsample_bilinear(logits, output_size, scale)`.

  Args:
    logits: One vector per feature-map pixel; at most 256 classes.
    output_size: Height and width; may be less than scale x input (the rest is cropped).
    scale: Output pixels per input pixel, vertically and horizontally; any ratio.

  Returns:
    Class indices; the first of equal classes.
  """
  rows = list(_interpolate(jnp.moveaxis(logits, 3, 0), 2, output_size[0], scale[0]))
  # Computed before and apart from the columns; those and the comparison are then one pass.
  rows = lax.optimization_barrier(rows)
  return first_maximum([_interpolate(row, 2, output_size[1], scale[1]) for row in rows])[1]


def first_maximum(classes: Sequence[Float[Array, '*n']]) -> tuple[Float[Array, '*n'], UInt8[Array, '*n']]:
  """The largest of arrays of equal shape, and which it is: the first of equal ones."""
  maximum, index = classes[0], jnp.zeros(classes[0].shape, jnp.uint8)
  for class_index, values in enumerate(classes[1:], start=1):
    index = jnp.where(values > maximum, jnp.uint8(class_index), index)
    maximum = jnp.maximum(maximum, values)
  return maximum, index


def _interpolate(x: Array, axis: int, size: int, scale: float) -> Array:
  """`bilinear_matrix(x.shape[axis], size, scale)` along an axis, each output from its two neighbours."""
  low, high, fraction = bilinear_neighbors(x.shape[axis], size, scale)
  fraction = fraction.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
  at_low, at_high = (jnp.take(x, index.astype(np.int32), axis, mode='clip') for index in (low, high))
  return (1 - fraction) * at_low + fraction * at_high


def upsample_rows(
  logits: Float[Array, 'b h w classes'], height: int, factor: int
) -> Float[Array, 'b classes height w+2']:
  """Upsamples the rows by an integer factor, classes first, the edge columns repeated on either side."""
  matrix = bilinear_matrix(logits.shape[1], height, float(factor)).astype(logits.dtype)
  rows = jnp.einsum('oh,bhwk->bkow', matrix, logits, precision=lax.Precision.HIGHEST)
  return lax.concatenate([rows[..., :1], rows, rows[..., -1:]], 3)


def phase_weights(factor: int) -> Float[np.ndarray, '{factor} 3']:
  """Weights of a pixel's predecessor, itself and its successor in each of the `factor` outputs over it."""
  offset = (np.arange(factor) + 0.5) / factor - 0.5
  return np.stack([np.maximum(-offset, 0), 1 - np.abs(offset), np.maximum(offset, 0)], axis=1)


def upsample_columns(
  padded: Float[Array, '*n padded_w'], factor: int
) -> Float[Array, '*n padded_w-2 {factor}']:
  """Upsamples columns whose edges are repeated by an integer factor; column j x factor + r is [j, r]."""
  weights = phase_weights(factor).astype(padded.dtype)
  return sum(shifted[..., None] * weights[:, shift] for shift, shifted in enumerate(_shifted(padded)))


def column_phases(padded: Float[Array, '*n padded_w'], factor: int) -> list[Float[Array, '*n padded_w-2']]:
  """`upsample_columns` as one array for each r."""
  shifted = _shifted(padded)
  return [_weighted_sum(weights, shifted) for weights in phase_weights(factor)]


def column_phases_transpose(gradients: Sequence[Float[Array, '*n w']]) -> Float[Array, '*n w+2']:
  """Gradient of `column_phases`' input, from that of each phase."""
  weights = phase_weights(len(gradients))
  sums = jnp.stack([_weighted_sum(weights[:, shift], gradients) for shift in range(3)])
  # Computed before they are shifted: otherwise every gradient would be computed for each of the shifts.
  sums = lax.optimization_barrier(sums)
  unpadded = ((0, 0),) * (sums.ndim - 2)
  return sum(jnp.pad(sums[shift], (*unpadded, (shift, 2 - shift))) for shift in range(3))


def _shifted(padded: Array) -> list[Array]:
  """Each column's predecessor, itself and its successor."""
  width = padded.shape[-1] - 2
  return [padded[..., shift : shift + width] for shift in range(3)]


def _weighted_sum(weights: np.ndarray, arrays: Sequence[Array]) -> Array:
  # float: a NumPy scalar would raise the type to float64.
  terms = (float(weight) * array for weight, array in zip(weights, arrays, strict=True) if weight)
  return sum(terms, start=jnp.zeros_like(arrays[0]))
