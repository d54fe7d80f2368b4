"""Texture and shadows of the ground, computed for each pixel from its place in metres."""

from __future__ import annotations

import numpy as np
from PIL import ImageFilter

from dense_aspp_jax.datasets.street_scenes.canvas import ID, SUPERSAMPLING, Canvas
from dense_aspp_jax.datasets.street_scenes.sky import smooth_noise
from dense_aspp_jax.datasets.street_scenes.surfaces import grain, look_up, periodic_noise

_FARTHEST = 400.0  # metres
# Length and width of paving stones in metres, share of a stone by which rows are shifted, depth of joints.
_PAVING = (
  (0.6, 0.6, 0.0, 0.16), (0.9, 0.6, 0.5, 0.2), (0.45, 0.45, 0.0, 0.12), (0.2, 0.1, 0.5, 0.12),
  (0.12, 0.12, 0.5, 0.25), (3.0, 4.0, 0.0, 0.12),
)  # fmt: skip


def shade_ground(
  canvas: Canvas, noise: np.random.Generator, labels: np.ndarray, gain: np.ndarray, rays: tuple
) -> None:
  """Multiplies `gain` below the horizon by the texture of the ground and the shadows on it.

  Args:
    canvas: The painted canvas.
    noise: Moves the texture.
    labels: Label ids, `[h, w]`.
    gain: Of each pixel, `[h, w]`.
    rays: Direction of each pixel, as `Camera.rays` gives it.
  """
  height = len(labels)
  camera, style = canvas.camera, canvas.style
  first = max(0, min(height - 1, int((camera.horizon - abs(camera.roll) * canvas.width / 2) / SUPERSAMPLING)))
  right, down = (ray[first:] for ray in rays)
  road, walk, terrain = (labels[first:] == ID[name] for name in ('road', 'sidewalk', 'terrain'))
  # Metres ahead and to the right.
  z = camera.height / np.maximum(down, camera.height / _FARTHEST)
  x = right * z - camera.bends(z)
  texture = _photographed if style.textures else _plain
  ground = texture(noise, (road, walk, terrain), z, x, camera.height)
  if style.light:
    _shine(canvas, noise, ground, road, z, right)
  blur = ImageFilter.BoxBlur(max(1, height // 256))
  mask = np.asarray(canvas.shadows.reduce(SUPERSAMPLING).filter(blur))[first:].astype(np.float32) / 255
  if style.light:
    # The shade of leaves has holes; contact shadows are darker than those of the sun.
    holes = look_up(periodic_noise(0.6), z * 7, x * 9)
    mask *= 1 - 0.22 * holes.clip(-1, 1.5) * (mask < 0.55)
    strength = 1.12 * (1 - canvas.light.shaded((0.0, 1.0, 0.0)))
    contact = (mask - 0.59).clip(0, 0.29) / 0.29
    mask = (mask / 0.59).clip(0, 1) * strength * (1 - contact) + contact * np.maximum(strength, 0.8)
  else:
    mask *= 0.62 if canvas.light.casts_shadows else 0.5
  ground *= 1 - mask * (road | walk | terrain)
  gain[first:] *= ground


def _plain(noise, where, z, x, _) -> np.ndarray:
  road, walk, terrain = where
  texture = smooth_noise(noise, (128, 128), (24, 24), 3)
  near = np.exp(-z / 22)
  fine = texture[(z * 9).astype(np.int32) & 127, (x * 22).astype(np.int32) & 127]
  broad = texture[(z * 1.1).astype(np.int32) & 127, (x * 3.2).astype(np.int32) & 127]
  ground = np.ones(x.shape, np.float32)
  ground += road * (near * 0.07 * fine + 0.05 * broad)
  ground += terrain * (near * 0.22 * fine + 0.14 * broad)
  joints = ((x % 0.6 < 0.05) | (z % 0.6 < 0.06)) * near
  ground += walk * (0.05 * broad - 0.16 * joints)
  return ground


def _photographed(noise, where, z, x, camera_height) -> np.ndarray:
  road, walk, terrain = where
  uniform = noise.uniform
  z, x = z + np.float32(uniform(0, 200)), x + np.float32(uniform(100, 300))
  far = z - z.min()
  pixel = np.maximum(far, 2) / 460  # metres across, at about this focal length
  long = pixel * np.maximum(far, 2) / camera_height
  broad = look_up(periodic_noise(1.1), z * 2.6, x * 6)
  rough = look_up(periodic_noise(0.6), z * 9, x * 14) / (1 + np.square(long / 0.25))
  fine = grain(z * pixel / long, x, pixel)
  # Tyres and seams leave lengthwise traces that stay visible far ahead.
  traces = look_up(periodic_noise(0.8), z * 0.12, x * 9)
  result = np.ones(x.shape, np.float32)
  asphalt = uniform(0.01, 0.05) * broad + uniform(0.02, 0.05) * traces + uniform(0.01, 0.03) * rough
  asphalt += uniform(0.01, 0.04) * fine
  if uniform() < 0.6:
    width = np.abs(look_up(periodic_noise(1.8), z * 12, x * 16))
    worn = look_up(periodic_noise(1.4), z * 0.9, x * 2) > uniform(-0.6, 1)
    asphalt -= uniform(0.1, 0.35) * (width < 0.03) * worn / (1 + np.square(long / 0.3))
  result += road * asphalt
  deep, wide, shift, depth = _PAVING[noise.integers(len(_PAVING))]
  row = np.floor(z / deep)
  column = x / wide + shift * (row % 2)
  clear = 1 / (1 + np.square(long / deep) + np.square(pixel / wide))
  joints = ((z / deep - row) * deep < 0.035 + 0.5 * long.clip(0, 0.1)) | (column % 1 * wide < 0.03)
  stones = uniform(0.01, 0.06) * look_up(periodic_noise(0.0), row, column)
  slabs = clear * (stones - uniform(0.3, 1) * depth * joints) + 0.035 * broad + 0.025 * rough + 0.03 * fine
  result += walk * slabs
  result += terrain * (0.13 * broad + 0.12 * rough + 0.17 * fine)
  return result.clip(0.25, 1.8)


def _shine(
  canvas: Canvas, noise, ground: np.ndarray, road: np.ndarray, z: np.ndarray, right: np.ndarray
) -> None:
  """Asphalt reflects the sky at grazing angles, most of all when wet or against the sun."""
  x, y, ahead = canvas.light.sun_direction
  wet = noise.uniform() < 0.12
  gloss = noise.uniform(0.5, 1.1) if wet else noise.uniform(0, 0.3)
  shine = gloss * z / (z + 35)
  if ahead > 0.3 and canvas.light.casts_shadows:
    glare = np.exp(-np.square((right - x / ahead) / 0.28))
    shine += glare * (noise.uniform(0.1, 0.7) * (1 - y))
  ground *= 1 + road * (shine.clip(0, 0.9) - (0.3 if wet else 0))
