"""Houses, walls and fences along the street."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes.canvas import LEFT, RIGHT, UP, Canvas, across, along, level
from dense_aspp_jax.datasets.street_scenes.light import FACADES, LAMP, ROOFS, Color, mix, vary

_SHOP_SIGNS = ((170, 40, 40), (40, 70, 140), (40, 110, 70), (210, 170, 60), (60, 60, 64), (220, 216, 208))


class _Facade:
  """The front of a house at `x`, of the colour `wall`, with windows between the depths `bays`."""

  def __init__(self, canvas: Canvas, rng: random.Random, x: float, bays: Sequence[float], wall: Color):
    self.canvas, self.rng, self.x, self.bays, self.wall = canvas, rng, x, bays, wall

  def draw_windows(self, bays: Sequence[float], low: float, high: float, style: tuple, lit: float) -> None:
    """Draws a storey of windows; their style: frame or None, glass, divided or not, share of the bay."""
    frame, glass, divided, share = style
    canvas, rng, x = self.canvas, self.rng, self.x
    for z0, z1 in itertools.pairwise(bays):
      bay = z1 - z0
      if bay * abs(x) * canvas.camera.focal / (z0 * z1) < 3:  # too oblique or too far away
        continue
      margin = bay * (1 - share) / 2
      a, b = z0 + margin, z1 - margin
      if rng.random() < lit:
        canvas.polygon(along(x, a, b, low, high), vary(rng, (250, 208, 128), 0.2), None, LAMP)
        continue
      if frame:
        canvas.facade(x, a - 0.12, b + 0.12, low - 0.12, high + 0.12, frame)
      canvas.facade(x, a, b, low, high, vary(rng, glass, 0.3))
      if divided and z0 < 40:
        middle = (a + b) / 2
        canvas.facade(x, middle - 0.04, middle + 0.04, low, high, frame or self.wall)

  def draw_shops(self, high: float) -> None:
    """Draws a ground floor of shop windows with a sign and awnings."""
    canvas, rng, x = self.canvas, self.rng, self.x
    sign = vary(rng, rng.choice(_SHOP_SIGNS))
    canvas.facade(x, self.bays[0] + 0.3, self.bays[-1] - 0.3, high - 0.9, high - 0.3, sign)
    for a, b in itertools.pairwise(self.bays):
      a, b = a + 0.25, b - 0.25
      if canvas.light.lamps and rng.random() < 0.7:
        canvas.polygon(along(x, a, b, 0.4, high - 1), vary(rng, (235, 205, 150), 0.2), None, LAMP)
      else:
        canvas.facade(x, a, b, 0.4, high - 1, vary(rng, (72, 80, 88), 0.3))
      if rng.random() < 0.35:
        out, top, low = x - math.copysign(1.1, x), high - 0.9, high - 1.6
        canvas.polygon([(x, top, a), (out, low, a), (out, low, b), (x, top, b)], sign, 'building', UP)

  def draw_entrance(self) -> None:
    """Draws a ground floor with a door, windows and a base course."""
    canvas, rng, x, bays = self.canvas, self.rng, self.x, self.bays
    canvas.facade(x, bays[0], bays[-1], 0, 0.7, mix(self.wall, (70, 66, 62), 0.5))
    door = rng.randrange(len(bays) - 1)
    style = (mix(self.wall, (245, 245, 240), 0.5), (58, 62, 70), True, 0.5)
    for beside in (bays[: door + 1], bays[door + 1 :]):
      self.draw_windows(beside, 1.1, 2.7, style, 0.4 if canvas.light.lamps else 0.0)
    middle = (bays[door] + bays[door + 1]) / 2
    color = vary(rng, rng.choice(((92, 60, 40), (60, 70, 84), (110, 40, 36), (70, 84, 66))))
    canvas.facade(x, middle - 0.6, middle + 0.6, 0, 2.3, color)

  def draw_balconies(self, y: float, rail: Color) -> None:
    """Draws balconies at height `y` on every other bay, from far to near."""
    canvas, x, wall = self.canvas, self.x, self.wall
    out = x - math.copysign(0.9, x)
    for a, b in list(itertools.pairwise(self.bays))[::2][::-1]:
      if b < 60:
        floor = [(x, y, b), (out, y, b), (out, y, a), (x, y, a)]
        canvas.polygon(floor, mix(wall, (40, 40, 44), 0.5), 'building')
        canvas.polygon(across(a, x, out, y, y + 1), mix(rail, wall, 0.3), 'building')
        canvas.facade(out, a, b, y, y + 1, rail, 'building')


def draw_building(
  canvas: Canvas, rng: random.Random, x: float, z0: float, z1: float, storeys: int, detailed: bool = True
) -> None:
  """Draws a house along the street from `z0` to `z1`: roof, side towards the camera, and the facade at `x`.

  Houses that are not `detailed`, in the second row, have no doors, shops or balconies.
  """
  wall = vary(rng, rng.choice(FACADES))
  glassy = storeys >= 4 and rng.random() < 0.25
  storey, ground = rng.uniform(2.9, 3.4), rng.uniform(3.4, 4.2)
  floors = [ground + k * storey for k in range(storeys - 1)]  # heights of the upper storeys
  high = ground + storey * (storeys - 1)
  back = x + math.copysign(rng.uniform(9, 13), x)
  count = max(1, round((z1 - z0) / rng.uniform(2.4, 3.6)))
  facade = _Facade(canvas, rng, x, [z0 + (z1 - z0) * k / count for k in range(count + 1)], wall)
  normal = LEFT if x > 0 else RIGHT
  pitched = (storeys <= 3 and rng.random() < 0.75) or (storeys == 4 and rng.random() < 0.4)
  roof = vary(rng, rng.choice(ROOFS))
  ridge, top = (x + back) / 2, high + rng.uniform(2.5, 4)
  if pitched:
    slope = [(x, high, z0), (ridge, top, z0), (ridge, top, z1), (x, high, z1)]
    canvas.polygon(slope, roof, 'building', normal)
    canvas.polygon([(x, high, z0), (ridge, top, z0), (back, high, z0)], wall, 'building')
    for _ in range(rng.randrange(3)):
      chimney = across(rng.uniform(z0, z1), ridge, ridge + 0.8, top - 0.6, top + 1)
      canvas.polygon(chimney, (116, 70, 58), 'building')
  canvas.polygon(across(z0, x, back, 0, high), wall, 'building')
  if rng.random() < 0.8:
    for k in range(storeys):
      for share in (1 / 3, 2 / 3):
        left, right = x + (back - x) * (share - 0.06), x + (back - x) * (share + 0.08)
        pane = across(z0, left, right, k * storey + 1.2, k * storey + 2.7)
        if canvas.light.lamps and rng.random() < 0.3:
          canvas.polygon(pane, (245, 205, 130), None, LAMP)
        else:
          canvas.polygon(pane, vary(rng, (62, 68, 78), 0.3))
  outline = [(x, 0, z) for z in facade.bays] + [(x, high, z) for z in reversed(facade.bays)]
  canvas.polygon(outline, wall, 'building', normal)
  if glassy:
    glass = mix(rng.choice(((70, 92, 112), (96, 110, 112), (60, 72, 84))), wall, 0.15)
    style = (None, glass, False, 0.88)
    window = storey - 0.7
  else:
    frame = rng.choice((mix(wall, (250, 248, 240), 0.7), mix(wall, (40, 36, 34), 0.4), None))
    glass = rng.choice(((58, 64, 74), (84, 98, 112), (46, 46, 50)))
    style = (frame, glass, rng.random() < 0.5, rng.uniform(0.35, 0.6))
    window = rng.uniform(1.3, 1.9)
  band = rng.random() < 0.5
  for floor in floors:
    if band:
      canvas.facade(x, z0, z1, floor, floor + 0.2, mix(wall, (240, 236, 226), 0.35))
    low = floor + (storey - window) * 0.45
    facade.draw_windows(facade.bays, low, low + window, style, 0.35 if canvas.light.lamps else 0.0)
  if detailed and storeys > 2 and not glassy and rng.random() < 0.3:
    rail = mix(wall, rng.choice(((236, 234, 228), (60, 62, 66))), 0.7)
    for floor in floors:
      facade.draw_balconies(floor, rail)
  if detailed:
    if rng.random() < 0.5:
      facade.draw_shops(ground)
    else:
      facade.draw_entrance()
    if not pitched:
      canvas.facade(x, z0, z1, high - 0.4, high, mix(wall, (20, 20, 24), 0.4))
      out, cornice = x - math.copysign(0.35, x), mix(wall, (235, 230, 220), 0.4)
      canvas.facade(out, z0, z1, high, high + 0.45, cornice, 'building')
  canvas.cast_shadow(level(x, back, z0, z1), high)


def draw_wall(
  canvas: Canvas, x: float, z0: float, z1: float, high: float, color: Color, courses: bool
) -> None:
  """Draws a piece of free-standing wall at `x`, in brick courses or plain, with a coping."""
  inner = x + math.copysign(0.3, x)
  canvas.polygon(across(z0, x, inner, 0, high), color, 'wall')
  canvas.facade(x, z0, z1, 0, high, color, 'wall')
  if courses and z0 < 30:
    for k in range(1, int(high / 0.3)):
      canvas.facade(x, z0, z1, k * 0.3, k * 0.3 + 0.04, mix(color, (60, 54, 50), 0.3))
  canvas.facade(x, z0, z1, high, high + 0.12, mix(color, (220, 214, 204), 0.35), 'wall')
  canvas.cast_shadow(level(x, inner, z0, z1), high)


def draw_fence(canvas: Canvas, x: float, z0: float, z1: float, high: float, color: Color, kind: str) -> None:
  """Draws a piece of fence at `x`: 'picket', 'railing' or 'mesh'. Its gaps are transparent.

  The label covers the gaps too, as in the Cityscapes annotations.
  """
  canvas.facade(x, z0, z1, 0, high, None, 'fence')
  step, wide = {'picket': (0.22, 0.13), 'railing': (0.16, 0.045), 'mesh': (0.3, 0.03)}[kind]
  if canvas.camera.scale(z1) * step * abs(x) / z1 < 2:  # the gaps blur into one tone
    step, wide = 3 * step, 2 * wide
  z = z0
  while z < z1:
    canvas.facade(x, z, z + wide, 0.05, high, color)
    z += step
  for y in (0.05, high / 3, high * 2 / 3, high - 0.05) if kind == 'mesh' else (0.25, high - 0.2):
    canvas.facade(x, z0, z1, y, y + 0.08, color)
  canvas.polygon(along(x, z0, z0 + 0.12, 0, high + 0.1), mix(color, (40, 40, 40), 0.3))
