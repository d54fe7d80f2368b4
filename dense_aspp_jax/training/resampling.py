"""Scaling, cropping, padding and mirroring an image and its labels, in one resampling.

Images are bilinear with pixel centres (align_corners=False, no antialiasing), labels nearest neighbour.
Positions are integers all the way: the weights are exact, and no device rounds a label to another pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from dense_aspp_jax.labels import IGNORE_LABEL


class Window(NamedTuple):
  """Where a crop lies."""

  scaled_size: Int32[Array, ' 2']  # height and width of the whole image after scaling
  offset: Int32[Array, ' 2']  # row and column of the scaled image at the crop's top left; < 0 in padding
  flip: Bool[Array, '']


def cut_out(
  image: UInt8[Array, 'h w 3'],
  label: UInt8[Array, 'h w'],
  crop: tuple[int, int],
  window: Window,
  scales: bool,
) -> tuple[Float32[Array, 'ch cw 3'], UInt8[Array, 'ch cw'], Bool[Array, 'ch cw']]:
  """Resamples: rows are gathered and mixed, then columns.

  Args:
    image: The image.
    label: Its labels.
    crop: Height and width of the result.
    window: What the result shows.
    scales: Whether the scaled size may differ from the image's.

  Returns:
    Image, labels, and which pixels lie inside the image. Labels outside are `IGNORE_LABEL`.
  """
  rows, columns = (
    _taps(label.shape[axis], crop[axis], window.scaled_size[axis], window.offset[axis], flip)
    for axis, flip in enumerate((False, window.flip))
  )
  inside = rows.inside[:, None] & columns.inside
  label = jnp.where(inside, _take(label, rows, columns), IGNORE_LABEL).astype(jnp.uint8)
  if scales:
    return _interpolate(_interpolate(image, rows, 0), columns, 1), label, inside
  return _take(image, rows, columns).astype(jnp.float32), label, inside


class _Taps(NamedTuple):
  """Which source pixels the pixels of the crop read, along one axis."""

  inside: Bool[Array, ' n']
  nearest: Int32[Array, ' n']
  low: Int32[Array, ' n']
  high: Int32[Array, ' n']
  weight: Float32[Array, ' n']  # of `high`


def _taps(n_in: int, n_out: int, n_scaled: Array, offset: Array, flip: Array | bool) -> _Taps:
  """Along an axis of `n_in` pixels, scaled to `n_scaled`, from which `n_out` are cut at `offset`."""
  position = jnp.arange(n_out)
  position = jnp.where(flip, n_out - 1 - position, position) + offset  # in the scaled image
  center = (2 * position + 1) * n_in  # in the source, in units of 1 / (2 n_scaled) pixel
  unit = 2 * n_scaled
  last = n_in - 1
  corner = jnp.clip(center - n_scaled, 0, last * unit)  # the same minus half a pixel
  low = corner // unit
  return _Taps(
    inside=(position >= 0) & (position < n_scaled),
    nearest=jnp.clip(center // unit, 0, last),
    low=low,
    high=jnp.minimum(low + 1, last),
    weight=(corner % unit).astype(jnp.float32) / unit.astype(jnp.float32),
  )


def _take(values: Array, rows: _Taps, columns: _Taps) -> Array:
  """Nearest neighbour."""
  return jnp.take(jnp.take(values, rows.nearest, 0, mode='clip'), columns.nearest, 1, mode='clip')


def _interpolate(values: Array, taps: _Taps, axis: int) -> Float32[Array, ' ...']:
  low, high = (
    jnp.take(values, index, axis, mode='clip').astype(jnp.float32) for index in (taps.low, taps.high)
  )
  weight = jnp.expand_dims(taps.weight, tuple(i for i in range(values.ndim) if i != axis))
  return _mix(low, high, weight)


def _mix(low: Array, high: Array, weight: Array) -> Array:
  return low + weight * (high - low)
