"""Houses, walls and fences along the street."""

from __future__ import annotations

import itertools
import math
import random

from dense_aspp_jax.datasets.street_scenes.canvas import ID, Canvas
from dense_aspp_jax.datasets.street_scenes.light import FRONT, LEFT, RIGHT, UP, Color, Point, mix, vary
from dense_aspp_jax.datasets.street_scenes.palettes import FACADES, ROOFS, SHOP_SIGNS


def _upright(x: float, low: float, high: float, near: float, far: float) -> list[Point]:
  """Corners of a rectangle on a wall along the street."""
  return [(x, low, near), (x, high, near), (x, high, far), (x, low, far)]


def _windows(canvas, rng, wall, depths, y, high, style, x, normal):
  """One storey of windows between the given bay limits along a wall at `x`."""
  frame, glass, sill, share, lit = style
  for z0, z1 in itertools.pairwise(depths):
    bay = z1 - z0
    if bay * abs(x) * canvas.camera.focal / (z0 * z1) < 3:  # too oblique or far away to show single windows
      continue
    margin = bay * (1 - share) / 2
    a, b = z0 + margin, z1 - margin
    if rng.random() < lit:
      canvas.lamp(_upright(x, y, y + high, a, b), vary(rng, (250, 208, 128), 0.2))
      continue
    if frame:
      e = 0.12
      canvas.polygon(_upright(x, y - e, y + high + e, a - e, b + e), frame, None, normal)
    shade = vary(rng, glass, 0.3)
    canvas.polygon(_upright(x, y, y + high, a, b), shade, None, normal)
    if sill and z0 < 40:
      middle = (a + b) / 2
      canvas.polygon(_upright(x, y, y + high, middle - 0.04, middle + 0.04), frame or wall, None, normal)


def _ground_floor(canvas, rng, depths, high, wall, x, normal):
  """Shop windows with a sign and awnings, or doors and a base course."""
  if rng.random() < 0.5:
    sign = vary(rng, rng.choice(SHOP_SIGNS))
    z0, z1 = depths[0] + 0.3, depths[-1] - 0.3
    canvas.polygon(_upright(x, high - 0.9, high - 0.3, z0, z1), sign, None, normal)
    for a, b in itertools.pairwise(depths):
      a, b = a + 0.25, b - 0.25
      pane = _upright(x, 0.4, high - 1, a, b)
      if canvas.light.lamps and rng.random() < 0.7:
        canvas.lamp(pane, vary(rng, (235, 205, 150), 0.2))
      else:
        canvas.polygon(pane, vary(rng, (72, 80, 88), 0.3), None, normal)
      if rng.random() < 0.35:
        out = x - math.copysign(1.1, x)
        top, low = high - 0.9, high - 1.6
        canvas.polygon([(x, top, a), (out, low, a), (out, low, b), (x, top, b)], sign, ID['building'], UP)
  else:
    base = mix(wall, (70, 66, 62), 0.5)
    z0, z1 = depths[0], depths[-1]
    canvas.polygon(_upright(x, 0, 0.7, z0, z1), base, None, normal)
    door = rng.randrange(len(depths) - 1)
    style = (mix(wall, (245, 245, 240), 0.5), (58, 62, 70), True, 0.5, 0.4 if canvas.light.lamps else 0.0)
    _windows(canvas, rng, wall, depths[: door + 1], 1.1, 1.6, style, x, normal)
    _windows(canvas, rng, wall, depths[door + 1 :], 1.1, 1.6, style, x, normal)
    middle = (depths[door] + depths[door + 1]) / 2
    color = vary(rng, rng.choice(((92, 60, 40), (60, 70, 84), (110, 40, 36), (70, 84, 66))))
    canvas.polygon(_upright(x, 0, 2.3, middle - 0.6, middle + 0.6), color, None, normal)


def draw_building(
  canvas: Canvas, rng: random.Random, x: float, z0: float, z1: float, storeys: int, detailed: bool = True
) -> None:
  """Draws a house along the street: side towards the camera, roof, and the facade at `x`.

  Args:
    canvas: The canvas.
    rng: Chooses colours, windows, roof.
    x: Sideways position of the facade; its sign is the side of the street.
    z0: Near end.
    z1: Far end.
    storeys: Number of storeys.
    detailed: False for houses in the second row, which have windows but no doors or shops.
  """
  side = math.copysign(1.0, x)
  normal = LEFT if side > 0 else RIGHT
  wall = vary(rng, rng.choice(FACADES))
  glassy = storeys >= 4 and rng.random() < 0.25
  storey, ground = rng.uniform(2.9, 3.4), rng.uniform(3.4, 4.2)
  high = ground + storey * (storeys - 1)
  back = x + side * rng.uniform(9, 13)
  bays = max(1, round((z1 - z0) / rng.uniform(2.4, 3.6)))
  depths = [z0 + (z1 - z0) * k / bays for k in range(bays + 1)]
  label = ID['building']
  pitched = (storeys <= 3 and rng.random() < 0.75) or (storeys == 4 and rng.random() < 0.4)
  roof = vary(rng, rng.choice(ROOFS))
  ridge, top = (x + back) / 2, high + rng.uniform(2.5, 4)
  if pitched:
    canvas.polygon([(x, high, z0), (ridge, top, z0), (ridge, top, z1), (x, high, z1)], roof, label, normal)
    canvas.polygon([(x, high, z0), (ridge, top, z0), (back, high, z0)], wall, label)
    for _ in range(rng.randrange(3)):
      z = rng.uniform(z0, z1)
      chimney = [
        (ridge, top - 0.6, z),
        (ridge, top + 1, z),
        (ridge + 0.8, top + 1, z),
        (ridge + 0.8, top - 0.6, z),
      ]
      canvas.polygon(chimney, (116, 70, 58), label)
  canvas.polygon([(x, 0, z0), (x, high, z0), (back, high, z0), (back, 0, z0)], wall, label, FRONT)
  if rng.random() < 0.8:
    for level in range(storeys):
      for k in (1, 2):
        a = x + (back - x) * (k / 3 - 0.06)
        b = x + (back - x) * (k / 3 + 0.08)
        y = level * storey + 1.2
        pane = [(a, y, z0), (a, y + 1.5, z0), (b, y + 1.5, z0), (b, y, z0)]
        if canvas.light.lamps and rng.random() < 0.3:
          canvas.lamp(pane, (245, 205, 130))
        else:
          canvas.polygon(pane, vary(rng, (62, 68, 78), 0.3))
  outline = [(x, 0, z) for z in depths] + [(x, high, z) for z in reversed(depths)]
  canvas.polygon(outline, wall, label, normal)
  lit = 0.35 if canvas.light.lamps else 0.0
  if glassy:
    style = (
      None,
      mix(rng.choice(((70, 92, 112), (96, 110, 112), (60, 72, 84))), wall, 0.15),
      False,
      0.88,
      lit,
    )
    window = storey - 0.7
  else:
    frame = rng.choice((mix(wall, (250, 248, 240), 0.7), mix(wall, (40, 36, 34), 0.4), None))
    style = (
      frame,
      rng.choice(((58, 64, 74), (84, 98, 112), (46, 46, 50))),
      rng.random() < 0.5,
      rng.uniform(0.35, 0.6),
      lit,
    )
    window = rng.uniform(1.3, 1.9)
  band = rng.random() < 0.5
  for level in range(1, storeys):
    y = ground + (level - 1) * storey
    if band:
      line = _upright(x, y, y + 0.2, z0, z1)
      canvas.polygon(line, mix(wall, (240, 236, 226), 0.35), None, normal)
    _windows(canvas, rng, wall, depths, y + (storey - window) * 0.45, window, style, x, normal)
  if detailed and storeys > 2 and not glassy and rng.random() < 0.3:
    out = x - side * 0.9
    rail = mix(wall, rng.choice(((236, 234, 228), (60, 62, 66))), 0.7)
    for level in range(1, storeys):
      y = ground + (level - 1) * storey
      for a, b in list(itertools.pairwise(depths))[::2][::-1]:
        if b < 60:
          canvas.polygon(
            [(x, y, b), (out, y, b), (out, y, a), (x, y, a)], mix(wall, (40, 40, 44), 0.5), label
          )
          canvas.polygon(
            [(x, y, a), (x, y + 1, a), (out, y + 1, a), (out, y, a)], mix(rail, wall, 0.3), label
          )
          canvas.polygon(_upright(out, y, y + 1, a, b), rail, label, normal)
  if detailed:
    _ground_floor(canvas, rng, depths, ground, wall, x, normal)
    if not pitched:
      out = x - side * 0.35
      eaves = _upright(x, high - 0.4, high, z0, z1)
      canvas.polygon(eaves, mix(wall, (20, 20, 24), 0.4), None, normal)
      cornice = _upright(out, high, high + 0.45, z0, z1)
      canvas.polygon(cornice, mix(wall, (235, 230, 220), 0.4), label, normal)
  canvas.cast_shadow([(x, z0), (x, z1), (back, z1), (back, z0)], high)


def draw_wall(
  canvas: Canvas, x: float, z0: float, z1: float, high: float, color: Color, courses: bool
) -> None:
  """Draws a piece of free-standing wall at `x`, in brick courses or plain, with a coping."""
  normal = LEFT if x > 0 else RIGHT
  label = ID['wall']
  inner = x + math.copysign(0.3, x)
  canvas.polygon([(x, 0, z0), (x, high, z0), (inner, high, z0), (inner, 0, z0)], color, label)
  canvas.polygon(_upright(x, 0, high, z0, z1), color, label, normal)
  if courses and z0 < 30:
    joint = mix(color, (60, 54, 50), 0.3)
    for k in range(1, int(high / 0.3)):
      y = k * 0.3
      canvas.polygon(_upright(x, y, y + 0.04, z0, z1), joint, None, normal)
  coping = _upright(x, high, high + 0.12, z0, z1)
  canvas.polygon(coping, mix(color, (220, 214, 204), 0.35), label, normal)
  canvas.cast_shadow([(x, z0), (x, z1), (inner, z1), (inner, z0)], high)


def draw_fence(canvas: Canvas, x: float, z0: float, z1: float, high: float, color: Color, kind: str) -> None:
  """Draws a piece of fence at `x`: 'picket', 'railing' or 'mesh'. Its gaps are transparent.

  The label covers the gaps too, as in the Cityscapes annotations.
  """
  normal = LEFT if x > 0 else RIGHT
  canvas.polygon(_upright(x, 0, high, z0, z1), None, ID['fence'])
  step = {'picket': 0.22, 'railing': 0.16, 'mesh': 0.3}[kind]
  wide = {'picket': 0.13, 'railing': 0.045, 'mesh': 0.03}[kind]
  if canvas.camera.scale(z1) * step * abs(x) / z1 < 2:  # the gaps blur into one tone
    step, wide = 3 * step, 2 * wide
  z = z0
  while z < z1:
    canvas.polygon(_upright(x, 0.05, high, z, z + wide), color, None, normal)
    z += step
  rails = (0.25, high - 0.2) if kind != 'mesh' else (0.05, high / 3, high * 2 / 3, high - 0.05)
  for y in rails:
    canvas.polygon(_upright(x, y, y + 0.08, z0, z1), color, None, normal)
  canvas.polygon(_upright(x, 0, high + 0.1, z0, z0 + 0.12), mix(color, (40, 40, 40), 0.3), None)
