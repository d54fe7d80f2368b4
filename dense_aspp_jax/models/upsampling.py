"""Bilinear upsampling, align_corners=False: of whole arrays, and of logits that are never held at full size.

The latter is done in pieces that a compiler fuses with what reads them: the rows first, for all classes (a
factor smaller), then the columns class by class or phase by phase, elementwise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8


def bilinear_neighbors(
  size_in: int, size_out: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Which two inputs each output of bilinear interpolation lies between; see `bilinear_matrix`.

  Returns:
    Indices of both, int64 `[size_out]`, and the weight of the second, float64 in 0..1.
  """
  coordinate = np.clip((np.arange(size_out) + 0.5) / scale - 0.5, 0, size_in - 1)
  low = np.floor(coordinate).astype(np.int64)
  return low, np.minimum(low + 1, size_in - 1), coordinate - low


@functools.lru_cache(maxsize=64)
def bilinear_matrix(size_in: int, size_out: int, scale: float) -> np.ndarray:
  """Weights of bilinear interpolation along one axis, align_corners=False.

  Output pixel i samples input coordinate (i + 0.5) / scale - 0.5, clamped to the input, so that
  `bilinear_matrix(n, n * s, s) @ x` equals torch.nn.functional.interpolate(x, scale_factor=s,
  mode='bilinear', align_corners=False) along that axis.

  Returns:
    float32 `[size_out, size_in]`; each row sums to 1.
  """
  low, high, fraction = bilinear_neighbors(size_in, size_out, scale)
  matrix = np.zeros((size_out, size_in), np.float64)
  rows = np.arange(size_out)
  np.add.at(matrix, (rows, low), 1 - fraction)
  np.add.at(matrix, (rows, high), fraction)
  return matrix.astype(np.float32)


def upsample_bilinear(
  x: Float[Array, 'b h w c'], size: tuple[int, int], scale: tuple[float, float]
) -> Float[Array, 'b h2 w2 c']:
  """Bilinear upsampling (align_corners=False) to `size`, the grid anchored at the top left corner.

  As two matrix products, whose gradients are matrix products too: no scatter, so that two runs give
  equal bits on a GPU.

  Args:
    x: What is upsampled.
    size: Output height and width; may be less than scale x input (the rest is cropped).
    scale: Output pixels per input pixel, vertically and horizontally.
  """
  rows = bilinear_matrix(x.shape[1], size[0], scale[0]).astype(x.dtype)
  columns = bilinear_matrix(x.shape[2], size[1], scale[1]).astype(x.dtype)
  return upsample_by_matrices(x, rows, columns)


def upsample_by_matrices(
  x: Float[Array, 'b h w c'], rows: np.ndarray | Array, columns: np.ndarray | Array
) -> Float[Array, 'b h2 w2 c']:
  """Upsamples by a `bilinear_matrix` for each axis."""
  highest = lax.Precision.HIGHEST  # a GPU would round to tensor-float-32, a TPU to bfloat16
  x = jnp.einsum('oh,bhwc->bowc', rows, x, precision=highest)
  return jnp.einsum('pw,bowc->bopc', columns, x, precision=highest)


class Taps(NamedTuple):
  """Bilinear interpolation along an axis: which two inputs each output lies between, and their weights.

  As an argument of a compiled function it serves all sizes that are padded to the same number of outputs.
  """

  low: np.ndarray | Array
  high: np.ndarray | Array
  low_weight: np.ndarray | Array
  high_weight: np.ndarray | Array


@functools.lru_cache(maxsize=64)
def bilinear_taps(
  size_in: int, size_out: int, scale: float, padded: int | None = None, dtype: Any = np.float32
) -> Taps:
  """The rows of `bilinear_matrix` as `Taps`, followed by zeros up to `padded` outputs."""
  low, high, fraction = bilinear_neighbors(size_in, size_out, scale)
  fraction = fraction.astype(dtype)
  missing = (0, (padded or size_out) - size_out)
  arrays = low.astype(np.int32), high.astype(np.int32), 1 - fraction, fraction
  return Taps(*(np.pad(array, missing) for array in arrays))


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
  rows, columns = (
    bilinear_taps(logits.shape[axis], output_size[axis - 1], scale[axis - 1], dtype=logits.dtype)
    for axis in (1, 2)
  )
  return first_maximum(upsampled_classes(logits, rows, columns))[1]


def upsampled_classes(
  logits: Float[Array, 'b h w classes'], rows: Taps, columns: Taps
) -> list[Float[Array, 'b oh ow']]:
  """The upsampled logits, an array for each class."""
  of_rows = list(_interpolate(jnp.moveaxis(logits, 3, 0), 2, rows))
  # Computed before and apart from the columns; those and what reads them are then one pass.
  of_rows = lax.optimization_barrier(of_rows)
  return [_interpolate(row, 2, columns) for row in of_rows]


def first_maximum(classes: Sequence[Float[Array, '*n']]) -> tuple[Float[Array, '*n'], UInt8[Array, '*n']]:
  """The largest of arrays of equal shape, and which it is: the first of equal ones."""
  maximum, index = classes[0], jnp.zeros(classes[0].shape, jnp.uint8)
  for class_index, values in enumerate(classes[1:], start=1):
    index = jnp.where(values > maximum, jnp.uint8(class_index), index)
    maximum = jnp.maximum(maximum, values)
  return maximum, index


def _interpolate(x: Array, axis: int, taps: Taps) -> Array:
  """Interpolates along an axis, each output from its two neighbours."""
  low_weight, high_weight = (
    weight.reshape((-1,) + (1,) * (x.ndim - 1 - axis)) for weight in (taps.low_weight, taps.high_weight)
  )
  at_low, at_high = (jnp.take(x, index, axis, mode='clip') for index in (taps.low, taps.high))
  return low_weight * at_low + high_weight * at_high


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
