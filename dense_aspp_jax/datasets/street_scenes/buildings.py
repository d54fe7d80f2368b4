"""Houses along the street."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes.canvas import FRONT, LEFT, RIGHT, UP, Canvas, across, along, level
from dense_aspp_jax.datasets.street_scenes.light import FACADES, LAMP, ROOFS, Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.surfaces import DISPLAY, GLASS, MASONRY, PLAIN

_SHOP_SIGNS = ((170, 40, 40), (40, 70, 140), (40, 110, 70), (210, 170, 60), (60, 60, 64), (220, 216, 208))


# Colours of what the walls of photographed streets are made of.
_MASONRY = {
  'brick': ((138, 84, 66), (122, 72, 58), (168, 144, 108), (108, 68, 56), (184, 158, 120), (150, 108, 84)),
  'plaster': ((216, 208, 192), (226, 222, 214), (202, 192, 172), (232, 230, 226), (188, 172, 144),
              (172, 166, 158), (206, 186, 150), (196, 170, 150), (170, 182, 186)),
  'stone': ((174, 162, 138), (148, 140, 126), (122, 114, 102), (188, 178, 156)),
  'concrete': ((150, 148, 144), (126, 124, 122), (172, 170, 166), (104, 104, 106)),
}  # fmt: skip
_ROOFS = ((92, 66, 56), (84, 80, 82), (64, 62, 66), (116, 78, 62), (96, 92, 86), (74, 76, 82))


class _Facade:
  """The front of a house at `x`, of the colour `wall`, with windows between the depths `bays`."""

  def __init__(self, canvas: Canvas, rng: random.Random, x: float, bays: Sequence[float], wall: Color):
    self.canvas, self.rng, self.x, self.bays, self.wall = canvas, rng, x, bays, wall
    self.glass, self.display = (GLASS, DISPLAY) if canvas.style.textures else (PLAIN, PLAIN)

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
      canvas.facade(x, a, b, low, high, vary(rng, glass, 0.3), None, self.glass)
      if canvas.style.textures and z0 < 30:
        self._draw_depth(a, b, low, high)
      if divided and z0 < 40:
        middle = (a + b) / 2
        canvas.facade(x, middle - 0.04, middle + 0.04, low, high, frame or self.wall)

  def _draw_depth(self, a: float, b: float, low: float, high: float) -> None:
    """Draws what makes a window more than a pane: curtains, the shade of the lintel, a sill, a crossbar."""
    canvas, rng, x, wall = self.canvas, self.rng, self.x, self.wall
    kind = rng.random()
    if kind < 0.3:  # a blind or a net curtain
      canvas.facade(
        x, a, b, high - (high - low) * rng.uniform(0.2, 0.95), high, vary(rng, (168, 166, 158), 0.25)
      )
    elif kind < 0.5:
      inner = (b - a) * rng.uniform(0.15, 0.4)
      curtain = vary(rng, (150, 142, 130), 0.3)
      canvas.facade(x, a, a + inner, low, high, curtain)
      canvas.facade(x, b - inner, b, low, high, curtain)
    canvas.facade(x, a, b, high - 0.2, high, (14, 14, 16))
    canvas.facade(x, a - 0.1, b + 0.1, low - 0.16, low, mix(wall, (220, 216, 206), 0.45))
    if kind > 0.6:
      middle = low + (high - low) * rng.uniform(0.45, 0.7)
      canvas.facade(x, a, b, middle, middle + 0.07, mix(wall, (236, 234, 228), 0.6))

  def draw_shops(self, high: float, awnings: Sequence[bool]) -> None:
    """Draws a ground floor of shop windows with a sign, and an awning over some bays."""
    canvas, rng, x = self.canvas, self.rng, self.x
    sign = vary(rng, rng.choice(_SHOP_SIGNS))
    canvas.facade(x, self.bays[0] + 0.3, self.bays[-1] - 0.3, high - 0.9, high - 0.3, sign)
    if canvas.style.textures:
      self._draw_lettering(high, sign)
    for (a, b), awning in zip(itertools.pairwise(self.bays), awnings, strict=True):
      a, b = a + 0.25, b - 0.25
      if canvas.light.lamps and rng.random() < 0.7:
        canvas.polygon(along(x, a, b, 0.4, high - 1), vary(rng, (235, 205, 150), 0.2), None, LAMP)
      else:
        canvas.facade(x, a, b, 0.4, high - 1, vary(rng, (72, 80, 88), 0.3), None, self.display)
      if awning:
        out, top, low = x - math.copysign(1.1, x), high - 0.9, high - 1.6
        canvas.polygon([(x, top, a), (out, low, a), (out, low, b), (x, top, b)], sign, 'building', UP)

  def _draw_lettering(self, high: float, sign: Color) -> None:
    """Draws a name on the sign over a shop, as strokes, and door posts."""
    canvas, rng, x = self.canvas, self.rng, self.x
    ink = (236, 232, 220) if sum(sign) < 380 else (40, 40, 48)
    z, end = self.bays[0] + rng.uniform(0.6, 1.5), self.bays[-1] - 0.8
    while z < min(end, 50):
      wide = rng.uniform(0.12, 0.4)
      if rng.random() < 0.8:
        canvas.facade(x, z, z + wide, high - 0.72, high - rng.uniform(0.42, 0.55), ink)
      z += wide + rng.uniform(0.08, 0.3)
    for bay in self.bays[1:-1]:
      if bay < 50:
        canvas.facade(x, bay - 0.2, bay + 0.2, 0, high - 1, mix(self.wall, sign, 0.5))

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
  look = random.Random(rng.getrandbits(48))  # what does not change the plan of the house
  textures = canvas.style.textures
  material = (
    look.choice(MASONRY) if storeys < 5 else look.choice(('plaster', 'concrete', 'concrete', 'brick'))
  )
  if textures:
    wall = vary(look, mix(look.choice(_MASONRY[material]), (240, 238, 232), look.triangular(0, 0.8, 0)), 0.25)
  glassy = storeys >= 4 and rng.random() < 0.25
  storey, ground = rng.uniform(2.9, 3.4), rng.uniform(3.4, 4.2)
  floors = [ground + k * storey for k in range(storeys - 1)]  # heights of the upper storeys
  high = ground + storey * (storeys - 1)
  back = x + math.copysign(rng.uniform(9, 13), x)
  count = max(1, round((z1 - z0) / rng.uniform(2.4, 3.6)))
  facade = _Facade(canvas, look, x, [z0 + (z1 - z0) * k / count for k in range(count + 1)], wall)
  normal = LEFT if x > 0 else RIGHT
  pitched = (storeys <= 3 and rng.random() < 0.75) or (storeys == 4 and rng.random() < 0.4)
  roof = vary(look, look.choice(_ROOFS if textures else ROOFS))
  front, side = canvas.surface(material, x, normal), canvas.surface(material, z0, FRONT)
  ridge, top = (x + back) / 2, high + rng.uniform(2.5, 4)
  if pitched:
    slope = [(x, high, z0), (ridge, top, z0), (ridge, top, z1), (x, high, z1)]
    canvas.polygon(slope, roof, 'building', normal, canvas.surface('tiles', x, normal))
    canvas.polygon([(x, high, z0), (ridge, top, z0), (back, high, z0)], wall, 'building', FRONT, side)
    for _ in range(rng.randrange(3)):
      chimney = across(rng.uniform(z0, z1), ridge, ridge + 0.8, top - 0.6, top + 1)
      canvas.polygon(chimney, (116, 70, 58), 'building')
  canvas.polygon(across(z0, x, back, 0, high), wall, 'building', FRONT, side)
  if rng.random() < 0.8:
    for k in range(storeys):
      for share in (1 / 3, 2 / 3):
        left, right = x + (back - x) * (share - 0.06), x + (back - x) * (share + 0.08)
        pane = across(z0, left, right, k * storey + 1.2, k * storey + 2.7)
        if canvas.light.lamps and look.random() < 0.3:
          canvas.polygon(pane, (245, 205, 130), None, LAMP)
        else:
          if textures and z0 < 60:
            canvas.polygon(
              [(a, b + (0.15 if b > pane[0][1] else -0.15), c) for a, b, c in pane],
              mix(wall, (225, 222, 214), 0.5),
            )
          canvas.polygon(pane, vary(look, (62, 68, 78), 0.3), None, FRONT, facade.glass)
  outline = [(x, 0, z) for z in facade.bays] + [(x, high, z) for z in reversed(facade.bays)]
  canvas.polygon(outline, wall, 'building', normal, front)
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
  if textures:
    _draw_trim(canvas, look, x, (z0, z1), high, wall)
    if not glassy:
      glass = look.choice(((30, 34, 38), (50, 56, 62), (84, 94, 104), (22, 22, 24)))
      style = (*style[:1], glass, *style[2:])
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
      facade.draw_shops(ground, [rng.random() < 0.35 for _ in facade.bays[1:]])
    else:
      facade.draw_entrance()
    if not pitched:
      canvas.facade(x, z0, z1, high - 0.4, high, mix(wall, (20, 20, 24), 0.4))
      out, cornice = x - math.copysign(0.35, x), mix(wall, (235, 230, 220), 0.4)
      canvas.facade(out, z0, z1, high, high + 0.45, cornice, 'building')
  canvas.cast_shadow(level(x, back, z0, z1), high)


def _draw_trim(
  canvas: Canvas, rng: random.Random, x: float, ends: tuple[float, float], high: float, wall: Color
) -> None:
  """Draws rain pipes, a plinth and stains under the eaves, none of which a label shows."""
  z0, z1 = ends
  if z0 > 70:
    return
  for z in (z0 + 0.25, z1 - 0.3):
    if rng.random() < 0.6:
      canvas.facade(x, z, z + 0.12, 0, high, mix(wall, (40, 40, 44), rng.uniform(0.4, 0.9)))
  plinth = mix(wall, rng.choice(((70, 66, 62), (120, 116, 110), (40, 40, 42))), 0.6)
  canvas.facade(
    x, z0, z1, 0, rng.uniform(0.3, 0.9), plinth, None, canvas.surface('stone', x, LEFT if x > 0 else RIGHT)
  )
  canvas.facade(
    x, z0, z1, high - rng.uniform(0.25, 0.6), high, mix(wall, (30, 30, 32), rng.uniform(0.2, 0.6))
  )
