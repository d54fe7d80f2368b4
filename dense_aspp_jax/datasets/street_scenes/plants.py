"""Trees, bushes and hedges."""

from __future__ import annotations

import math
import random

import numpy as np

from dense_aspp_jax.datasets.street_scenes.body import Body, Pose
from dense_aspp_jax.datasets.street_scenes.canvas import FRONT, LEFT, RIGHT, SHADOWS_TO, Canvas, across, level
from dense_aspp_jax.datasets.street_scenes.foliage import pictures
from dense_aspp_jax.datasets.street_scenes.light import Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.surfaces import BARK

CLUMPS = tuple(
  tuple(
    (r * math.cos(k * math.tau / 11), r * math.sin(k * math.tau / 11))
    for k, r in enumerate(np.random.default_rng(shape).uniform(0.45, 1.2, 11))
  )
  for shape in range(12)
)  # ragged outlines of leafy twigs
_BARK = (34, 28, 24), (150, 136, 116)  # dark and bright
# Crown of each kind of tree: its radius and the depth of its middle below the top, as shares of the tree's
# height, and its height divided by its width.
_CROWNS = {'round': (0.3, 0.27, 0.9), 'tall': (0.19, 0.36, 1.9), 'conifer': (0.2, 0.5, 2.2)}


def draw_tree(
  canvas: Canvas,
  rng: random.Random,
  x: float,
  z: float,
  high: float,
  foliage: Color,
  kind: str,
  bare: bool = False,
) -> None:
  """Draws a tree `high` metres tall: 'round', 'tall' or 'conifer'; `bare`: in winter."""
  bark = vary(rng, (66, 58, 50) if canvas.style.textures else (84, 70, 56))
  thick = 0.035 * high
  lean = rng.uniform(-0.3, 0.3)
  crown, below, stretch = _CROWNS[kind]
  crown, middle = crown * high, high - below * high
  Body(canvas, Pose(x, z), 'vegetation').cast_shadow(-0.2, 0.2, 0.2, high * 0.5)
  shade, boughs = (random.Random(rng.getrandbits(48)) for _ in range(2))  # not drawn in every picture
  if canvas.light.casts_shadows and z < SHADOWS_TO:
    dx, dz = (v * middle for v in canvas.light.shadow_offset)
    for shape in shade.sample(CLUMPS, 3):
      cx, cz = (at + shade.uniform(-1, 1) * crown * 0.6 for at in (x + dx, z + dz))
      canvas.shadow([(cx + crown * 0.8 * a, 0, cz + crown * 0.8 * b) for a, b in shape], 130)
  canvas.limb((x, 0, z), (x + lean, middle, z), thick, bark, 'vegetation', 0.6, BARK)
  pixels = crown * canvas.camera.scale(z)
  column, _ = canvas.camera.project(x, middle, z)
  if not -1.5 * pixels < column < canvas.width + 1.5 * pixels:
    return
  if pixels > 20:
    for _ in range(3):
      tip = (x + boughs.uniform(-0.7, 0.7) * crown, middle + boughs.uniform(-0.2, 0.5) * crown, z)
      canvas.limb((x + lean * 0.7, middle * 0.7, z), tip, thick * 0.5, bark, 'vegetation', 0.4)
  if canvas.style.textures:
    shape = 'conifer' if kind == 'conifer' else rng.choice(('bare', 'bare', 'sparse')) if bare else 'round'
    wide, tall = crown * rng.uniform(1.05, 1.4), crown * stretch * rng.uniform(1.05, 1.3)
    tones = _BARK if shape == 'bare' else leaf_tones(foliage)
    if shape == 'bare':
      wide, tall = 1.25 * wide, 1.25 * tall
    _paste(canvas, rng, shape, (x + lean, middle, z), (wide, tall), tones)
    if shape == 'round' and z < 70:  # a second mass makes the outline irregular
      side = rng.uniform(-0.6, 0.6) * crown
      part = rng.uniform(0.5, 0.8)
      center = (x + lean + side, middle + rng.uniform(-0.5, 0.35) * crown, z)
      _paste(canvas, rng, shape, center, (wide * part, tall * part), tones)
    return
  sun = canvas.light.sun_direction
  clumps, uniform, share = [], rng.uniform, rng.random
  for _ in range(min(80, 9 + int(pixels * 0.5))):
    angle, radius = uniform(0, math.tau), math.sqrt(share())
    a, b = radius * math.cos(angle), radius * math.sin(angle)
    if kind == 'conifer':
      b = share() ** 1.5 * 2 - 1
      a *= (1.05 - b) / 2
    bright = 0.45 * b + 0.3 * (a * sun[0] - 0.3 * sun[2]) + uniform(-0.35, 0.35)
    clumps.append((bright, a, b))
  clumps.sort()
  leaf = crown * (0.44 if pixels < 25 else 0.32 if pixels < 70 else 0.24)
  dark, pale = mix(foliage, (20, 30, 22), 0.62), mix(foliage, (226, 226, 140), 0.3)
  tones = [mix(dark, foliage, k / 5) for k in range(6)] + [mix(foliage, pale, k / 4) for k in range(1, 5)]
  for k, (bright, a, b) in enumerate(clumps):
    # The leaf faces outwards on the round crown, so that the sun shades it.
    normal = (0.7 * a, 0.55 + 0.4 * b, -0.5)
    tone = tones[min(9, max(0, int(5 + 6 * bright)))]
    center = (x + lean + a * (crown - leaf * 0.5), middle + b * (crown - leaf * 0.5) * stretch, z)
    size = leaf * uniform(0.7, 1.3) * (1.15 - 0.45 * k / len(clumps))
    canvas.blob(center, rng.choice(CLUMPS), size, tone, 'vegetation', normal)


def leaf_tones(foliage: Color) -> tuple[Color, Color]:
  """Colours of a mass of leaves: the dark inside and the bright outside."""
  return mix(foliage, (8, 14, 8), 0.85), mix(foliage, (232, 232, 160), 0.5)


def _paste(canvas, rng, shape, center, half, tones) -> None:
  """Pastes a picture of `shape`, lit from the side of the sun."""
  picture = rng.choice(pictures(shape))[canvas.light.sun_direction[0] < 0]
  canvas.sprite(picture, center, half, tones, 'vegetation')


def draw_bush(canvas: Canvas, rng: random.Random, x: float, z: float, high: float, foliage: Color) -> None:
  """Draws a bush `high` metres tall."""
  if canvas.style.textures:
    canvas.shadow(level(x - high, x + high, z - 0.3, z + 0.3), 190)
    half = high * rng.uniform(0.8, 1.5), high * 0.5
    _paste(canvas, rng, 'shrub', (x, high * 0.46, z), half, leaf_tones(foliage))
    return
  for k in range(10):
    color = mix(foliage, (26, 34, 24), 0.45 - 0.05 * k + rng.uniform(-0.1, 0.1))
    center = (x + rng.uniform(-1, 1) * high * 0.8, (0.3 + 0.045 * k) * high, z)
    canvas.blob(center, rng.choice(CLUMPS), high * 0.34, color, 'vegetation', (0.0, 0.7, -0.6))
  canvas.shadow(level(x - high, x + high, z - 0.3, z + 0.3), 170)


def draw_hedge(
  canvas: Canvas, x: float, z0: float, z1: float, high: float, foliage: Color, rng: random.Random
) -> None:
  """Draws a clipped hedge along the street."""
  color = mix(foliage, (28, 36, 26), 0.3)
  back = x + math.copysign(0.9, x)
  side, front = (canvas.surface('leaves', *plane) for plane in ((x, LEFT if x > 0 else RIGHT), (z0, FRONT)))
  canvas.polygon(across(z0, x, back, 0, high), color, 'vegetation', FRONT, front)
  canvas.facade(x, z0, z1, 0, high, color, 'vegetation', side)
  z = z1
  if canvas.style.textures:
    while z > z0:  # shoots above the edge
      half = rng.uniform(0.6, 1.0), rng.uniform(0.2, 0.5)
      _paste(canvas, rng, 'shrub', (x, high - 0.05, z), half, leaf_tones(foliage))
      z -= 0.9
    canvas.cast_shadow(level(x, back, z0, z1), high)
    return
  while z > z0:
    for _ in range(2):
      tone = mix(color, (170, 178, 110), rng.uniform(-0.1, 0.3))
      canvas.blob((x, rng.uniform(0.25, 1) * high, z), rng.choice(CLUMPS), 0.28, tone, 'vegetation')
    z -= 0.7
  canvas.cast_shadow(level(x, back, z0, z1), high)
