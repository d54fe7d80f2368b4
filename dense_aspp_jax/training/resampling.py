"""Scaling, cropping, padding, mirroring and rotating an image and its labels, in one resampling.

Images are bilinear with pixel centres (align_corners=False, no antialiasing), labels nearest neighbour.
Positions are integers all the way: the weights are exact, and no device rounds a label to another pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from dense_aspp_jax.labels import IGNORE_LABEL

_BITS = 15  # of the fraction of a position in a rotated image; the other 16 reach 65,536 pixels
_PIXEL = 1 << _BITS


class Window(NamedTuple):
  """Where a crop lies."""

  scaled_size: Int32[Array, ' 2']  # height and width of the whole image after scaling
  offset: Int32[Array, ' 2']  # row and column of the scaled image at the crop's top left; < 0 in padding
  flip: Bool[Array, '']
  rotation: Float32[Array, '']  # degrees, counter-clockwise


def cut_out(
  image: UInt8[Array, 'h w 3'],
  label: UInt8[Array, 'h w'],
  crop: tuple[int, int],
  window: Window,
  scales: bool,
) -> tuple[Float32[Array, 'ch cw 3'], UInt8[Array, 'ch cw'], Bool[Array, 'ch cw']]:
  """Resamples without rotation: rows are gathered and mixed, then columns.

  Args:
    image: The image.
    label: Its labels.
    crop: Height and width of the result.
    window: What the result shows; its rotation is ignored.
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


def cut_out_rotated(
  image: UInt8[Array, 'h w 3'], label: UInt8[Array, 'h w'], crop: tuple[int, int], window: Window
) -> tuple[Float32[Array, 'ch cw 3'], UInt8[Array, 'ch cw'], Bool[Array, 'ch cw']]:
  """As `cut_out`, with the scaled image turned about the crop's centre before it is cut out and mirrored.

  The map from the crop to the image is rounded, to 2^-15 pixel for each half pixel of the crop: the corners
  of a crop of 1024x1024 move by at most 1/32 pixel. All else is exact.
  """
  y, x = _positions(crop, label.shape, window)
  height, width = label.shape
  top, bottom, y_weight, in_rows = _neighbors(y, height)
  left, right, x_weight, in_columns = _neighbors(x, width)
  # Colour and label in one integer: four numbers are gathered for each pixel instead of thirteen.
  red, green, blue = (image[..., channel].astype(jnp.int32) << 8 * channel for channel in range(3))
  packed = (red | green | blue | label.astype(jnp.int32) << 24).ravel()
  taps = [
    [jnp.take(packed, rows * width + columns, mode='clip') for columns in (left, right)]
    for rows in (top, bottom)
  ]

  def interpolated(channel):
    upper, lower = (
      _mix(*((tap >> 8 * channel & 255).astype(jnp.float32) for tap in pair), x_weight) for pair in taps
    )
    return _mix(upper, lower, y_weight)

  nearest = jnp.where(y_weight < 0.5, *(jnp.where(x_weight < 0.5, *pair) for pair in taps)) >> 24 & 255
  inside = in_rows & in_columns
  label = jnp.where(inside, nearest, IGNORE_LABEL).astype(jnp.uint8)
  return jnp.stack([interpolated(channel) for channel in range(3)], -1), label, inside


def _positions(crop: tuple[int, int], size: tuple[int, int], window: Window) -> Int32[Array, '2 ch cw']:
  """The row and column that each pixel of the crop shows, in 2^-15 pixel from the image's corner."""
  angle = jnp.deg2rad(window.rotation)
  cosine, sine = jnp.cos(angle), jnp.sin(angle)
  center = 2 * window.offset + jnp.array(crop)  # of the crop, in half pixels of the scaled image
  scale = jnp.array(size, jnp.float32) / window.scaled_size.astype(jnp.float32)
  matrix = scale[:, None] * jnp.array([[cosine, sine, center[0]], [-sine, cosine, center[1]]])
  matrix = jnp.round(matrix * (_PIXEL // 2)).astype(jnp.int32)
  height, width = crop  # from here on in half pixels from the crop's centre
  row, column = 2 * jnp.arange(height) + 1 - height, 2 * jnp.arange(width) + 1 - width
  column = jnp.where(window.flip, -column, column)
  # The shares of the row and the column in a position. A product of matrices is computed once; anything else
  # a CPU fuses into the gathers, where it computes sine and cosine anew for each pixel.
  of_row = jnp.pad(jnp.stack([row, 0 * row, jnp.ones_like(row)]), ((0, 0), (0, width)))
  of_column = jnp.pad(jnp.stack([0 * column, column, 0 * column]), ((0, 0), (height, 0)))
  shares = matrix @ (of_row + of_column)
  return shares[:, :height, None] + shares[:, None, height:]


def _neighbors(position: Int32[Array, 'ch cw'], size: int) -> tuple[Array, Array, Array, Array]:
  """The two pixels around a position along an axis, the weight of the second, and whether it is inside."""
  pixel = position >> _BITS
  corner = jnp.clip(position - _PIXEL // 2, 0, (size - 1) * _PIXEL)  # as in `_taps`
  low = corner >> _BITS
  weight = (corner & (_PIXEL - 1)).astype(jnp.float32) / _PIXEL
  return low, jnp.minimum(low + 1, size - 1), weight, (pixel >= 0) & (pixel < size)


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
