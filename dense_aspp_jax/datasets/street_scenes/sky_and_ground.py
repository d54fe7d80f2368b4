"""Sky, far background, and the strips of the ground."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.street_scenes.canvas import ID, Camera, Canvas
from dense_aspp_jax.datasets.street_scenes.light import UP, Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.palettes import FACADES, ROOFS
from dense_aspp_jax.datasets.street_scenes.plants import CLUMPS

_SKY_SCALE = 4  # the sky is smooth: computed this many times coarser than the canvas
_FAR = (1.5, 4, 5, 6, 7.5, 9, 11, 13.5, 17, 22, 29, 40, 56, 80, 115, 170, 260, 420)  # depths of ground slices


@dataclasses.dataclass(frozen=True)
class Strip:
  """A lengthwise strip of ground from `left` to `right` metres, of one label and colour."""

  left: float
  right: float
  label: int
  color: Color


def smooth_noise(
  rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], octaves: int
) -> np.ndarray:
  """Fractal noise, float32 `[h, w]` of mean about 0 and range about -1..1.

  Args:
    rng: Source of randomness.
    size: (h, w).
    cells: Rows and columns of the coarsest grid; each octave doubles them and halves the amplitude.
    octaves: Number of grids.
  """
  total = np.zeros(size, np.float32)
  for octave in range(octaves):
    grid = rng.uniform(-1, 1, (cells[0] << octave, cells[1] << octave)).astype(np.float32)
    layer = Image.fromarray(grid).resize(size[::-1], Image.Resampling.BICUBIC)
    total += np.asarray(layer) * 0.5**octave
  return total


def paint_sky(canvas: Canvas, noise: np.random.Generator) -> None:
  """Fills the canvas with sky: gradient, glow and disc of the sun, clouds."""
  camera, light = canvas.camera, canvas.light
  w = canvas.width // _SKY_SCALE
  rows = int(camera.horizon / _SKY_SCALE) + 2
  v = np.linspace(1, 0, rows, dtype=np.float32)[:, None]  # 1 at the top, 0 at the horizon
  u = np.arange(w, dtype=np.float32)[None]
  blend = v[..., None] ** 0.7
  sky = np.array(light.zenith, np.float32) * blend + np.array(light.horizon, np.float32) * (1 - blend)
  sky = np.broadcast_to(sky, (rows, w, 3)).copy()
  x, y, z = light.sun_direction
  glow = np.zeros((rows, w), np.float32)
  sun_shines = z > 0.2 and light.casts_shadows
  if sun_shines:
    sun_u = (camera.center + camera.focal * x / z) / _SKY_SCALE
    sun_v = (camera.horizon - camera.focal * y / z) / _SKY_SCALE
    distance = np.hypot(u - sun_u, np.arange(rows, dtype=np.float32)[:, None] - sun_v) / w
    glow = np.exp(-distance / 0.13)
    sky += glow[..., None] * 0.75 * (np.array((255, 240, 205), np.float32) - sky)
  if light.clouds > 0:
    cover = smooth_noise(noise, (rows, w), (3, 4), 4) + (light.clouds - 0.5) * 2.4
    cover = np.clip(cover * 1.4, 0, 1) * np.clip(v * 3 + 0.25, 0, 1)
    lit = smooth_noise(noise, (rows, w), (4, 6), 3) * 0.12 + 0.88 + 0.3 * glow
    top = np.array(mix(light.haze, (255, 255, 255), 0.45), np.float32)
    sky += cover[..., None] * 0.85 * (top * lit[..., None] - sky)
  if sun_shines:
    disc = np.clip((0.015 - distance) * w, 0, 1)
    sky += disc[..., None] * (np.array((255, 250, 228), np.float32) - sky)
  strip = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
  canvas.image.paste(strip.resize((canvas.width, rows * _SKY_SCALE), Image.Resampling.BILINEAR), (0, 0))
  canvas.labels.paste(ID['sky'], (0, 0, canvas.width, canvas.height))


def paint_backdrop(canvas: Canvas, rng: random.Random, foliage: Color) -> None:
  """Paints the backdrop: hills, roofs and trees, far away and hazy."""
  span = canvas.width / canvas.camera.focal  # metres of width per metre of depth
  z = rng.uniform(220, 300)
  shift = canvas.camera.bend(z)
  x = -span * z / 2 - shift - 20
  while x < span * z / 2 - shift + 20:
    if rng.random() < 0.55:
      wide, high = rng.uniform(12, 34), rng.uniform(8, 22) * rng.choice((1, 1, 1, 1.7))
      color = vary(rng, rng.choice(FACADES))
      canvas.polygon([(x, 0, z), (x, high, z), (x + wide, high, z), (x + wide, 0, z)], color, ID['building'])
      roof = [
        (x - 0.5, high, z),
        (x + wide * 0.2, high + 4, z),
        (x + wide * 0.8, high + 4, z),
        (x + wide, high, z),
      ]
      if rng.random() < 0.6:
        canvas.polygon(roof, rng.choice(ROOFS), ID['building'])
      for storey in range(1, int(high / 3.2)):
        y = storey * 3.2
        band = [(x + 1, y, z), (x + 1, y + 1.3, z), (x + wide - 1, y + 1.3, z), (x + wide - 1, y, z)]
        canvas.polygon(band, mix(color, (60, 66, 76), 0.45))
      x += wide
    else:
      wide = rng.uniform(6, 14)
      canvas.polygon(
        [(x - wide / 2, 0, z), (x - wide / 2, 4, z), (x + wide, 4, z), (x + wide, 0, z)],
        foliage,
        ID['vegetation'],
      )
      for _ in range(5):
        center = (x + rng.uniform(0, wide * 0.6), rng.uniform(3, 8), z)
        canvas.blob(center, rng.choice(CLUMPS), rng.uniform(3, 6), vary(rng, foliage, 0.2), ID['vegetation'])
      x += wide * 0.6


def paint_strips(canvas: Canvas, strips: list[Strip], near: float = _FAR[0], far: float = _FAR[-1]) -> None:
  """Paints strips of ground between two depths, far slices first."""
  depths = [near, *(z for z in _FAR if near < z < far), far]
  for z0, z1 in zip(depths[-2::-1], depths[:0:-1], strict=True):
    for strip in strips:
      corners = [(strip.left, 0, z0), (strip.left, 0, z1), (strip.right, 0, z1), (strip.right, 0, z0)]
      canvas.polygon(corners, strip.color, strip.label, UP)


def ground_coordinates(
  camera: Camera, size: tuple[int, int], supersampling: int
) -> tuple[int, np.ndarray, np.ndarray]:
  """Computes the ground position of the pixels below the horizon.

  Returns:
    First row below the horizon, and metres right and metres ahead, float32 `[rows, w]` and `[rows, 1]`.
  """
  first = max(0, min(size[0] - 1, int(camera.horizon / supersampling) + 1))
  v = (np.arange(first, size[0], dtype=np.float32)[:, None] + 0.5) * supersampling
  z = camera.focal * camera.height / np.maximum(v - camera.horizon, 0.5)
  u = (np.arange(size[1], dtype=np.float32)[None] + 0.5) * supersampling
  bend = np.array([camera.bend(float(d)) for d in z[:, 0]], np.float32)[:, None]
  return first, (u - camera.center) * z / camera.focal - bend, z
