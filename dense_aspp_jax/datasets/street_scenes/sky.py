"""Sky and far background."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.street_scenes.canvas import FRONT, ID, Canvas, across
from dense_aspp_jax.datasets.street_scenes.foliage import pictures
from dense_aspp_jax.datasets.street_scenes.light import FACADES, ROOFS, Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.plants import CLUMPS, leaf_tones

_SCALE = 4  # the sky is smooth: computed this many times coarser than the canvas


def smooth_noise(
  rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int], octaves: int
) -> np.ndarray:
  """Fractal noise, float32 `[h, w]` of mean about 0 and range about -1..1.

  The coarsest grid has (rows, columns) of `cells`; each octave doubles them and halves the amplitude.
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
  w = canvas.width // _SCALE
  rows = int((camera.horizon + abs(camera.roll) * canvas.width / 2) / _SCALE) + 2
  v = np.linspace(1, 0, rows, dtype=np.float32)[:, None]  # 1 at the top, 0 at the horizon
  u = np.arange(w, dtype=np.float32)[None]
  blend = np.broadcast_to(v[..., None] ** 0.7, (rows, w, 1))
  sky = np.array(light.zenith, np.float32) * blend + np.array(light.horizon, np.float32) * (1 - blend)
  x, y, z = light.sun_direction
  glow = np.zeros((rows, w), np.float32)
  sun_shines = z > 0.2 and light.casts_shadows
  if sun_shines:
    sun_u = (camera.center + camera.focal * x / z) / _SCALE
    sun_v = (camera.horizon - camera.focal * y / z) / _SCALE
    distance = np.hypot(u - sun_u, np.arange(rows, dtype=np.float32)[:, None] - sun_v) / w
    glow = np.exp(-distance / 0.13)
    sky += glow[..., None] * 0.75 * (np.array((255, 240, 205), np.float32) - sky)
  cover = smooth_noise(noise, (rows, w), (3, 4), 4) + (light.clouds - 0.5) * 2.4
  if canvas.style.light and noise.uniform() < 0.35:
    cover = np.full_like(cover, light.clouds)  # an even sky
  elif canvas.style.light:  # from thin veils to clouds with sharp edges
    cover = (cover + smooth_noise(noise, (rows, w), (16, 40), 3) * noise.uniform(0.1, 0.5)) * noise.uniform(
      0.6, 2
    )
  cover = np.clip(cover * 1.4, 0, 1) * np.clip(v * 3 + 0.25, 0, 1)
  lit = smooth_noise(noise, (rows, w), (4, 6), 3) * 0.12 + 0.88 + 0.3 * glow
  top = np.array(mix(light.haze, (255, 255, 255), 0.45), np.float32)
  if canvas.style.light:
    top = np.array(light.cloud, np.float32)
    lit += smooth_noise(noise, (rows, w), (5, 9), 4) * noise.uniform(0.3, 1) ** 3 * 0.2
  sky += cover[..., None] * 0.85 * (top * lit[..., None] - sky)
  if sun_shines:
    disc = np.clip((0.015 - distance) * w, 0, 1)
    sky += disc[..., None] * (np.array((255, 250, 228), np.float32) - sky)
  strip = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
  canvas.image.paste(strip.resize((canvas.width, rows * _SCALE), Image.Resampling.BILINEAR), (0, 0))
  canvas.labels.paste(ID['sky'], (0, 0, canvas.width, canvas.height))


def paint_backdrop(canvas: Canvas, rng: random.Random, foliage: Color) -> None:
  """Paints the backdrop: roofs and trees, far away and hazy."""
  span = canvas.width / canvas.camera.focal  # metres of width per metre of depth
  z = rng.uniform(220, 300)
  shift = canvas.camera.bend(z)
  x = -span * z / 2 - shift - 20
  plaster, tiles = canvas.surface('plaster', z, FRONT), canvas.surface('tiles', z, FRONT)
  while x < span * z / 2 - shift + 20:
    if rng.random() < 0.55:
      wide, high = rng.uniform(12, 34), rng.uniform(8, 22) * rng.choice((1, 1, 1, 1.7))
      color = vary(rng, rng.choice(FACADES))
      canvas.polygon(across(z, x, x + wide, 0, high), color, 'building', FRONT, plaster)
      ridge = [(x + wide * 0.2, high + 4, z), (x + wide * 0.8, high + 4, z)]
      if rng.random() < 0.6:
        roof = [(x - 0.5, high, z), *ridge, (x + wide, high, z)]
        canvas.polygon(roof, rng.choice(ROOFS), 'building', FRONT, tiles)
      for storey in range(1, int(high / 3.2)):
        y = storey * 3.2
        canvas.polygon(across(z, x + 1, x + wide - 1, y, y + 1.3), mix(color, (60, 66, 76), 0.45))
      x += wide
    else:
      wide = rng.uniform(6, 14)
      canvas.polygon(across(z, x - wide / 2, x + wide, 0, 4), foliage, 'vegetation')
      for _ in range(5):
        center = (x + rng.uniform(0, wide * 0.6), rng.uniform(3, 8), z)
        look = random.Random(rng.getrandbits(48))
        if canvas.style.textures:
          half = look.uniform(3, 7), look.uniform(2.5, 6)
          canvas.sprite(look.choice(pictures('round'))[0], center, half, leaf_tones(foliage), 'vegetation')
          continue
        canvas.blob(center, look.choice(CLUMPS), look.uniform(3, 6), vary(look, foliage, 0.2), 'vegetation')
      x += wide * 0.6
