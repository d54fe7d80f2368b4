"""What stands about on the pavements of photographed streets, beside the furniture of all of them."""

from __future__ import annotations

import itertools
import math
import random

from dense_aspp_jax.datasets.street_scenes.body import Body, Pose
from dense_aspp_jax.datasets.street_scenes.canvas import LEFT, RIGHT, Canvas, across, along
from dense_aspp_jax.datasets.street_scenes.foliage import pictures
from dense_aspp_jax.datasets.street_scenes.light import FLEET, Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.surfaces import DISPLAY, GLASS

_DULL = ((60, 62, 66), (40, 42, 44), (54, 74, 60), (96, 98, 100), (44, 54, 78), (120, 116, 108), (84, 64, 50))


def draw_small_thing(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws a thing without a class: a wheeled bin, sacks, a board, a cone, a barrier, a table, a post box."""
  thing = Body(canvas, Pose(x, z, rng.uniform(-0.5, 0.5)), 'static')
  color = vary(rng, rng.choice(_DULL), 0.3)
  kind = rng.choice(('bin', 'bin', 'sacks', 'board', 'cone', 'barrier', 'table', 'box', 'planter'))
  thing.cast_shadow(-0.25, 0.25, 0.3, 0.8)
  if kind == 'bin':
    for k in range(rng.randint(1, 3)):
      side = 0.65 * k
      profile = [
        (side - 0.24, 0.08, -0.3),
        (side - 0.29, 1.0, -0.3),
        (side + 0.29, 1.0, -0.3),
        (side + 0.24, 0.08, -0.3),
      ]
      thing.part(profile, color)
      lid = vary(rng, rng.choice((color, (40, 60, 110), (120, 96, 40), (60, 100, 60))))
      thing.part(across(-0.32, side - 0.31, side + 0.31, 0.98, 1.08), lid)
  elif kind == 'sacks':
    for k in range(rng.randint(2, 4)):
      thing.disc((0.3 * k, 0.2, -0.1 * k), 0.24, vary(rng, (38, 38, 42), 0.4), 0.8)
  elif kind == 'board':
    thing.part([(-0.35, 0, 0), (-0.28, 1.05, 0), (0.28, 1.05, 0), (0.35, 0, 0)], color)
    thing.detail(across(-0.01, -0.22, 0.22, 0.25, 0.95), vary(rng, rng.choice((*FLEET, (226, 222, 210)))))
  elif kind == 'cone':
    thing.part([(-0.2, 0, 0), (-0.03, 0.7, 0), (0.03, 0.7, 0), (0.2, 0, 0)], (214, 84, 40))
    thing.detail([(-0.12, 0.3, 0), (-0.09, 0.45, 0), (0.09, 0.45, 0), (0.12, 0.3, 0)], (230, 230, 226))
  elif kind == 'barrier':
    for k in range(6):
      paint = ((206, 60, 48), (232, 230, 224))[k % 2]
      thing.part(across(0, -1.2 + 0.4 * k, -0.8 + 0.4 * k, 0.65, 0.95), paint)
    for side in (-1.0, 1.0):
      thing.limb((side, 0, 0), (side, 0.8, 0), 0.08, (90, 90, 90))
  elif kind == 'table':
    for side in (-0.6, 0.0, 0.6):
      thing.limb((side, 0, 0), (side, 0.72 if side == 0 else 0.8, 0), 0.06, (50, 50, 54))
    thing.part(across(0, -0.4, 0.4, 0.7, 0.76), color)
    if rng.random() < 0.4:
      thing.part([(-1.3, 2.1, 0), (0, 2.6, 0), (1.3, 2.1, 0)], vary(rng, rng.choice(FLEET)))
      thing.limb((0, 0.7, 0), (0, 2.5, 0), 0.06, (70, 66, 60))
  elif kind == 'box':
    thing.limb((0, 0, 0), (0, 1.4, 0), 0.5, (150, 34, 32) if rng.random() < 0.4 else color)
  else:
    thing.box(-0.35, 0.35, 0.5, 0.0, 0.5, color)
    center = (x, 0.75, z)
    foliage = vary(rng, (62, 92, 44), 0.2)
    canvas.sprite(
      rng.choice(pictures('shrub'))[0],
      center,
      (0.7, 0.4),
      (mix(foliage, (0, 0, 0), 0.8), foliage),
      'vegetation',
    )


def draw_shelter(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws a bus shelter, 3 to 4 m long, of glass with an advertisement (a building in Cityscapes)."""
  long = rng.uniform(3, 4)
  inner, outer = x + math.copysign(0.6, x), x - math.copysign(0.6, x)
  normal = LEFT if x > 0 else RIGHT
  frame = vary(rng, (70, 74, 78), 0.4)
  glass = mix((96, 106, 112), canvas.light.horizon, 0.15)
  canvas.polygon(along(inner, z, z + long, 0.2, 2.3), glass, 'building', normal, GLASS)
  for depth in (z + long, z):
    advert = depth == z and rng.random() < 0.7
    color = vary(rng, rng.choice(FLEET)) if advert else glass
    canvas.polygon(
      across(depth, *sorted((inner, x)), 0.2, 2.3), color, 'building', surface=DISPLAY if advert else GLASS
    )
    for post in (inner, x):
      canvas.limb((post, 0, depth), (post, 2.4, depth), 0.09, frame, 'building')
  canvas.polygon(across(z, *sorted((inner, outer)), 2.3, 2.48), frame, 'building')
  canvas.polygon(along(outer, z, z + long, 2.3, 2.48), frame, 'building', normal)
  canvas.shadow([(inner, 0, z), (inner, 0, z + long), (outer, 0, z + long), (outer, 0, z)], 130)


def draw_railing(canvas: Canvas, x: float, z0: float, z1: float, color: Color, posts: bool) -> None:
  """Draws a piece of railing between pavement and road, or of a guard rail with its `posts`."""
  if posts:  # a band of steel, which has no class
    canvas.facade(x, z0, z1, 0.45, 0.75, color, 'guard rail')
    canvas.facade(x, z0, z1, 0.57, 0.62, mix(color, (40, 40, 44), 0.5))
    canvas.limb((x, 0, z0), (x, 0.7, z0), 0.12, mix(color, (40, 40, 44), 0.3), 'guard rail')
    return
  canvas.facade(x, z0, z1, 0, 1.05, None, 'fence')
  for y in (0.15, 0.98):
    canvas.facade(x, z0, z1, y, y + 0.07, color)
  z, step = z0, 0.2 if canvas.camera.scale(z1) * 0.2 * abs(x) / z1 > 2 else 0.5
  while z < z1:
    canvas.facade(x, z, z + 0.05, 0.1, 1.0, color)
    z += step
  canvas.limb((x, 0, z0), (x, 1.08, z0), 0.08, color, 'fence')


def draw_wires(canvas: Canvas, rng: random.Random, x: float, depths: list[float], high: float) -> None:
  """Draws wires from pole to pole; annotations leave them out."""
  color = vary(rng, (52, 50, 50))
  for z0, z1 in itertools.pairwise(depths):
    for k in range(rng.choice((2, 3))):
      y = high - 0.35 * k
      sag = [(x, y - 1.6 * t * (1 - t), z0 + (z1 - z0) * t) for t in (0, 0.25, 0.5, 0.75, 1)]
      canvas.line(sag, 0.02, color)


def draw_pole(canvas: Canvas, rng: random.Random, x: float, z: float, high: float) -> None:
  """Draws a wooden or concrete pole that carries wires."""
  pole = Body(canvas, Pose(x, z), 'pole')
  color = vary(rng, rng.choice(((96, 78, 60), (120, 118, 112))), 0.2)
  pole.cast_shadow(0, 0.1, 0.1, high)
  pole.limb((0, 0, 0), (0, high + 0.3, 0), 0.26, color, 0.7)
  pole.limb((-0.8, high - 0.2, 0), (0.8, high - 0.2, 0), 0.12, color)


def draw_poster(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws a large advertisement on posts, across the pavement."""
  poster = Body(canvas, Pose(x, z), 'static')
  half, low, high = rng.choice(((0.7, 0.5, 2.5), (1.6, 2.0, 4.2), (0.6, 0.4, 1.9)))
  for side in (-half * 0.8, half * 0.8):
    poster.limb((side, 0, 0), (side, low + 0.1, 0), 0.12, (70, 72, 74))
  poster.part(across(0, -half, half, low, high), (54, 56, 60))
  face = across(-0.01, -half * 0.93, half * 0.93, low + 0.1, high - 0.1)
  poster.detail(face, vary(rng, rng.choice((*FLEET, (220, 216, 206), (232, 230, 224)))))
  for _ in range(rng.randint(1, 5)):  # pictures and lines of text
    a, b = sorted(rng.uniform(-half * 0.85, half * 0.85) for _ in range(2))
    c, d = sorted(rng.uniform(low + 0.2, high - 0.2) for _ in range(2))
    poster.detail(across(-0.02, a, b, c, max(d, c + 0.1)), vary(rng, rng.choice((*FLEET, (30, 30, 34)))))
  poster.cast_shadow(0, 0.15, half, high)
