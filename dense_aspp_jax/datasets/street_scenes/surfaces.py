"""Texture of upright surfaces: masonry, plaster, roofs, hedges, glass and shop windows.

The canvas notes for every pixel which plane it shows. Here the pixel's place on that plane is computed, in
metres, and its texture looked up there, so that texture follows perspective at no cost in drawing.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

# Numbers of surfaces without a plane; lower ones have one.
PLAIN, GLASS, DISPLAY, PAINT, CLOTH, BARK = 255, 254, 253, 252, 251, 250
MOST = 250  # surfaces with a plane
_SIZE = 256  # of the noise, which is periodic


class Surface(NamedTuple):
  """A textured plane."""

  material: str
  at: float  # metres to the right if it lies along the street, else metres ahead
  along: bool
  shaded: float  # share of its light that is left in the shadow of other houses


class _Material(NamedTuple):
  """Measures in metres; amplitudes are relative to the colour."""

  wide: float  # of a brick, block or tile
  high: float
  tones: float  # between blocks
  joints: float  # depth of the joints' tone
  stains: float  # over metres
  rough: float  # over decimetres
  grain: float  # between neighbouring pixels
  streaks: float  # that run down


_MATERIALS = {
  'brick': _Material(0.225, 0.075, 0.13, -0.22, 0.07, 0.06, 0.10, 0.03),
  'plaster': _Material(3.0, 3.0, 0.02, 0.0, 0.04, 0.02, 0.04, 0.03),
  'stone': _Material(0.7, 0.32, 0.10, -0.22, 0.08, 0.06, 0.08, 0.04),
  'concrete': _Material(2.4, 1.4, 0.04, -0.2, 0.05, 0.03, 0.05, 0.05),
  'tiles': _Material(0.3, 0.3, 0.12, -0.25, 0.10, 0.08, 0.09, 0.02),
  'boards': _Material(0.14, 9.0, 0.12, -0.35, 0.06, 0.05, 0.07, 0.04),
  'leaves': _Material(0.5, 0.5, 0.08, 0.0, 0.22, 0.30, 0.42, 0.0),
}  # fmt: skip
MASONRY = ('brick', 'brick', 'plaster', 'plaster', 'stone', 'concrete')
# Amplitude, cells of the noise per pixel of a picture 512 pixels wide, and slope of its spectrum.
_GLAZES = {
  GLASS: (0.35, 0.7, 1.5), DISPLAY: (0.45, 0.5, 1.2), PAINT: (0.045, 0.7, 1.2), CLOTH: (0.14, 1.0, 1.0),
  BARK: (0.3, 1.0, 0.7),
}  # fmt: skip
_NUMBER = {name: k for k, name in enumerate(_MATERIALS)}
_TABLE = np.array(tuple(_MATERIALS.values()), np.float32)


@functools.cache
def periodic_noise(slope: float) -> np.ndarray:
  """Noise of mean 0 and deviation 1, float32 `[256, 256]`, whose amplitude falls as frequency^-slope."""
  rng = np.random.default_rng(round(slope * 10))
  frequency = np.hypot(np.fft.fftfreq(_SIZE)[:, None], np.fft.fftfreq(_SIZE)) * _SIZE
  frequency[0, 0] = np.inf
  noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((_SIZE, _SIZE))) / frequency**slope).real
  return (noise / noise.std()).clip(-3, 3).astype(np.float32)


def look_up(table: np.ndarray, v: np.ndarray, u: np.ndarray) -> np.ndarray:
  """Entries of a periodic table of 256 x 256 at real positions."""
  index = v.astype(np.int32) & 255
  index <<= 8
  index += u.astype(np.int32) & 255
  return table.ravel().take(index)


def grain(v: np.ndarray, u: np.ndarray, pixel: np.ndarray) -> np.ndarray:
  """Noise between neighbouring pixels at places `v`, `u`; `pixel` is the size of a pixel in the same unit.

  It sticks to the surface, but is as coarse as the pixels are, so that it does not vanish in the distance.
  """
  cells = np.ldexp(np.float32(1), -np.frexp(pixel)[1])  # per metre, a power of two
  return look_up(periodic_noise(0.4), v * cells, u * cells)


def texture_surfaces(
  camera, surfaces: list[Surface], numbers: np.ndarray, rays: tuple, step: int, noise: np.random.Generator
) -> np.ndarray:
  """Gain of each pixel by the texture of its surface, float32 `[h, w]`.

  Args:
    camera: The camera.
    surfaces: By number.
    numbers: Surface of each pixel, uint8 `[h, w]`.
    rays: Direction of each pixel, as `Camera.rays` gives it.
    step: Canvas pixels per pixel.
    noise: Moves the texture.
  """
  gain = np.ones(numbers.shape, np.float32)
  offset = noise.uniform(0, 256, 2).astype(np.float32)
  skyline = noise.uniform(0.0, 1.0, 64).astype(np.float32)
  share = noise.uniform(-4, 16)  # height of the shade that the other side of the street casts, in metres
  _glaze(gain, numbers, offset)
  pixels = np.flatnonzero(numbers < len(surfaces))
  if not len(pixels):
    return gain
  number = numbers.ravel().take(pixels)
  material, at, along, shaded = (
    np.array(column, np.float32).take(number)
    for column in zip(*((_NUMBER[s.material], s.at, s.along, s.shaded) for s in surfaces), strict=True)
  )
  right, down = (np.broadcast_to(ray, numbers.shape).ravel().take(pixels) for ray in rays)
  slope = right - camera.yaw
  # The depth where the ray meets the plane x = at; the street's curve is small, so two steps suffice.
  steep = np.where(np.abs(slope) < 1e-3, np.float32(1e-3), slope)
  z = at / steep
  for _ in range(2):
    z = (at + camera.bends(z) - camera.yaw * z) / steep
  z = np.where(along > 0, z, at).clip(1, 400)
  s = np.where(along > 0, z, right * z)
  t = camera.height - down * z
  pixel = z * (step / camera.focal)
  oblique = np.where(along > 0, pixel * z / np.maximum(np.abs(at), 1), pixel)
  wide, high, tones, joints, stains, rough, fine, streaks = _TABLE.take(material.astype(np.int32), 0).T
  pink = periodic_noise(1.0)
  s_moved, t_moved = s + offset[0] + at * 3, t + offset[1]
  result = 1 + stains * look_up(pink, t_moved * 5, s_moved * 3)
  result += streaks * look_up(pink, t_moved * 0.7, s_moved * 14)
  sharp = 1 / (1 + np.square(oblique / 0.12))
  result += rough * sharp * look_up(periodic_noise(0.6), t_moved * 18, s_moved * 18)
  result += fine * grain(t_moved, s_moved, np.maximum(oblique, pixel)) * 0.6
  # Blocks in courses, every other course shifted by half a block.
  course = np.floor(t_moved / high)
  column = s_moved / wide + 0.5 * (course % 2)
  clear = 1 / (1 + np.square(np.maximum(oblique / wide, pixel / high) * 1.2))
  result += tones * clear * look_up(periodic_noise(0.0), course, column)
  joint = ((t_moved / high - course) < 0.14) | ((column % 1) * wide < 0.14 * high)
  result += joints * clear * joint
  result *= 1 - 0.38 * np.exp(-np.maximum(t, 0) * 1.6)  # the ground takes light away
  # The other side of the street shades the lower part, with the outline of its roofs.
  roofs = share + 5 * skyline.take((s * 0.09).astype(np.int32) & 63)
  result *= np.where(t < roofs, shaded, 1)
  gain.ravel()[pixels] = result.clip(0.15, 1.9)
  return gain


def _glaze(gain: np.ndarray, numbers: np.ndarray, offset: np.ndarray) -> None:
  """Glass and paint reflect blurred shapes; behind shop windows things stand about; clothes have folds."""
  scale = 512 / max(numbers.shape)
  for surface, (amount, cells, slope) in _GLAZES.items():
    rows, columns = np.nonzero(numbers == surface)
    v, u = (axis * np.float32(cells * scale) + at for axis, at in zip((rows, columns), offset, strict=True))
    gain[rows, columns] = (1 + amount * look_up(periodic_noise(slope), v, u)).clip(0.3, 3)
