"""Fills a generated street with plots, furniture, traffic and people, and draws it from far to near."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping

from dense_aspp_jax.datasets.street_scenes import buildings, clutter, fronts, furniture, people, plants, walls
from dense_aspp_jax.datasets.street_scenes.body import Pose
from dense_aspp_jax.datasets.street_scenes.canvas import Canvas
from dense_aspp_jax.datasets.street_scenes.items import Items
from dense_aspp_jax.datasets.street_scenes.light import FACADES, vary
from dense_aspp_jax.datasets.street_scenes.street import Side, Street, paint_strips
from dense_aspp_jax.datasets.street_scenes.style import Style
from dense_aspp_jax.datasets.street_scenes.traffic import Traffic

_END = 125.0  # metres; plots and street furniture stop here
_PLOTS = {
  'city': {'houses': 0.78, 'wall': 0.05, 'fence': 0.07, 'park': 0.1},
  'suburb': {'houses': 0.36, 'wall': 0.16, 'fence': 0.22, 'hedge': 0.14, 'park': 0.12},
  'outskirts': {'houses': 0.12, 'wall': 0.22, 'fence': 0.28, 'hedge': 0.08, 'park': 0.3},
}
_MORE_PLOTS = {  # with the style `objects`
  'city': {'houses': 0.66, 'wall': 0.05, 'fence': 0.07, 'park': 0.12, 'wood': 0.1},
  'suburb': {'houses': 0.32, 'wall': 0.1, 'fence': 0.14, 'hedge': 0.14, 'park': 0.12, 'wood': 0.18},
  'outskirts': {'houses': 0.1, 'wall': 0.1, 'fence': 0.16, 'hedge': 0.1, 'park': 0.22, 'wood': 0.32},
}
_HEIGHTS = {'wall': (1.6, 3.2), 'fence': (1.2, 2.2), 'hedge': (1.0, 2.0)}  # metres
_STOREYS = {'city': (3, 7), 'suburb': (2, 3), 'outskirts': (1, 4)}


class Layout:
  """Everything that stands, drives or walks in one street, drawn in the order of depth."""

  def __init__(self, rng: random.Random, style: Style = Style()):  # noqa: B008 (frozen)
    self.rng = rng
    self.style = style
    self.street = Street(rng, style)
    self.items = Items(rng)
    self.add, self.fork = self.items.add, self.items.fork
    for side in self.street.sides:
      self._add_plots(side)
      self._add_furniture(side)
    self._add_signals()
    if self.street.end:
      left, right = (side.sign * (side.plot + 3) for side in self.street.sides)
      self.add(self.street.end, fronts.draw_fronts, self.fork(), left, right, self.street.end)
    extra = random.Random(rng.getrandbits(48))
    for side in self.street.sides if style.objects else ():
      self._add_clutter(side, extra)
    traffic = Traffic(self.items, self.street, style)
    for side in self.street.sides:
      self._add_people(side)
    self._add_crossing_people(traffic.taken)

  def draw(self, canvas: Canvas) -> None:
    """Draws the ground, then everything on it, from far to near."""
    self.street.draw_ground(canvas, self.fork())
    self.items.draw(canvas)

  # Plots.

  def _add_plots(self, side: Side) -> None:
    rng = self.rng
    junction = self.street.junction
    kinds = (_MORE_PLOTS if self.style.objects else _PLOTS)[side.kind]
    z = rng.uniform(1.5, 6)
    while z < _END:
      kind = rng.choices(tuple(kinds), weights=tuple(kinds.values()))[0]
      end = z + rng.uniform(9, 20)
      if junction and z < junction[1] and end > junction[0]:
        end = junction[0]
        if end - z < 4:
          z = junction[1]
          continue
      if kind == 'houses':
        self._add_houses(side, z, end)
      elif kind == 'park':
        self._add_park(side, z, end)
      elif kind == 'wood':
        self._add_wood(side, z, end)
      else:
        self._add_pieces(side, z, end, kind, rng.uniform(*_HEIGHTS[kind]))
        for _ in range(rng.randint(1, 3)):
          x = side.sign * (side.plot + rng.uniform(3, 10))
          self._add_tree(x, rng.uniform(z + 2, end + 2), rng.uniform(5, 10), row=0)
      z = end
      if rng.random() < 0.12:
        z += rng.uniform(2, 5)
    z = rng.uniform(8, 20)  # the second row
    while z < _END:
      end = z + rng.uniform(14, 26)
      x = side.sign * (side.plot + rng.uniform(17, 26))
      if rng.random() < 0.5:
        storeys = rng.randint(*_STOREYS[side.kind])
        self.add(end, buildings.draw_building, self.fork(), x, z, end, storeys, False, row=0)
      else:
        for _ in range(4):
          depth = rng.uniform(z, end)
          self._add_tree(x + rng.uniform(-4, 4), depth, rng.uniform(7, 13), row=0)
      z = end

  def _add_tree(self, x: float, z: float, high: float, row: int = 1) -> None:
    rng = self.rng
    kind = rng.choice(('round', 'round', 'tall', 'conifer') if row == 0 else ('round', 'round', 'tall'))
    leaf = vary(rng, self.street.foliage, 0.15)
    bare = self.street.bare and kind != 'conifer'
    self.add(z, plants.draw_tree, self.fork(), x, z, high, leaf, kind, bare, row=row)

  def _add_houses(self, side: Side, z0: float, z1: float) -> None:
    rng = self.rng
    x = side.sign * (side.plot + rng.choice((0, 0, 0.5)))
    if side.kind == 'suburb' and rng.random() < 0.6:
      x += side.sign * rng.uniform(3, 6)
      z0, inner = z0 + rng.uniform(0.5, 2), z1 - rng.uniform(0.5, 2)
      if rng.random() < 0.6:
        self._add_pieces(side, z0 - 0.5, z1, rng.choice(('fence', 'wall', 'hedge')), 1.1)
      if rng.random() < 0.6:
        self._add_tree(side.sign * (side.plot + 2), rng.uniform(z0, z1), rng.uniform(4, 7))
      z1 = inner
    storeys = rng.randint(*_STOREYS[side.kind])
    self.add(z1 + abs(x) * 0.02, buildings.draw_building, self.fork(), x, z0, z1, storeys)

  def _add_pieces(self, side: Side, z0: float, z1: float, kind: str, high: float) -> None:
    """Adds a wall, fence or hedge in short pieces, so that objects behind it are drawn in the right order."""
    rng = self.rng
    style = rng.choice(('picket', 'railing', 'mesh'))
    colors = {
      'wall': (*FACADES, (150, 146, 140), (128, 124, 120)),
      'fence': ((128, 92, 62), (216, 212, 204), (64, 66, 66), (70, 92, 74), (150, 140, 128)),
      'hedge': (self.street.foliage,),
    }
    paint = vary(rng, rng.choice(colors[kind]))
    courses = rng.random() < 0.6
    draw, option = {
      'wall': (walls.draw_wall, courses),
      'fence': (walls.draw_fence, style),
      'hedge': (plants.draw_hedge, self.fork()),
    }[kind]
    z = z0
    while z < z1 - 0.2:
      end = min(z + 3, z1)
      self.add(end, draw, side.sign * side.plot, z, end, high, paint, option)
      z = end

  def _add_park(self, side: Side, z0: float, z1: float) -> None:
    rng = self.rng
    if side.kind == 'city':
      grass = side.strip(side.plot + 0.1, side.plot + 16, 'terrain', vary(rng, self.street.grass))
      self.add(z1, paint_strips, [grass], z0, z1, row=-1)
    for _ in range(rng.randint(2, 5)):
      x = side.sign * (side.plot + rng.uniform(1.5, 14))
      z = rng.uniform(z0, z1)
      if rng.random() < 0.35:
        high = rng.uniform(0.7, 1.8)
        self.add(z, plants.draw_bush, self.fork(), x, z, high, vary(rng, self.street.foliage), row=0)
      else:
        self._add_tree(x, z, rng.uniform(5, 12), row=0)

  def _add_wood(self, side: Side, z0: float, z1: float) -> None:
    """Adds a dense edge of trees and bushes."""
    rng = self.rng
    z = z0
    while z < z1:
      for near, far in ((0.8, 2.5), (2.5, 8))[: 1 + (z < 40)]:
        high = rng.uniform(0.8, 2.2)
        bush = vary(rng, self.street.foliage, 0.2)
        x = side.sign * (side.plot + rng.uniform(near, far))
        self.add(z, plants.draw_bush, self.fork(), x, z + rng.uniform(-0.5, 0.5), high, bush, row=0)
      if rng.random() < 0.8:
        self._add_tree(side.sign * (side.plot + rng.uniform(1.5, 7)), z, rng.uniform(6, 14), row=0)
      z += rng.uniform(1.5, 3) * (1 + z / 60)

  # Furniture.

  def _clear_depths(self, z: float, gap: float) -> Iterator[float]:
    """Depths `gap` metres apart, from `z` on, without those in the junction."""
    while z < _END:
      if self.street.is_clear(z):
        yield z
      z += gap

  def _add_furniture(self, side: Side) -> None:
    rng = self.rng
    if rng.random() < 0.75:
      color = vary(rng, rng.choice(((96, 100, 98), (60, 70, 64), (150, 152, 152), (44, 46, 50))))
      high, gap = rng.uniform(5, 8), rng.uniform(18, 30)
      for z in self._clear_depths(rng.uniform(7, 20), gap):
        self.add(z, furniture.draw_street_lamp, side.sign * (side.kerb + 0.45), z, high, color)
    if rng.random() < (0.75 if side.verge else 0.3):
      x = side.sign * (sum(side.verge) / 2 if side.verge else side.kerb + 0.9)
      high, gap = rng.uniform(4.5, 9), rng.uniform(8, 15)
      if self.style.objects:  # at times their crowns meet over the road
        high *= rng.choice((1, 1, 1.4, 1.7))
      for z in self._clear_depths(rng.uniform(9, 20), gap):
        self._add_tree(x, z, high * rng.uniform(0.85, 1.15))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
      z = 1.9 * side.kerb + rng.uniform(0, 26)
      if self.street.is_clear(z):
        self.add(
          z, furniture.draw_traffic_sign, self.fork(), side.sign * (side.kerb + rng.uniform(0.3, 0.7)), z
        )
    if rng.random() < 0.2:
      start, color = rng.uniform(10, 20), vary(rng, (70, 72, 74))
      for k in range(rng.randint(4, 9)):
        z = start + 2 * k
        if self.street.is_clear(z):
          self.add(z, furniture.draw_bollard, side.sign * (side.kerb + 0.35), z, color)
    for _ in range(rng.choice((0, 0, 1, 2))):
      x = rng.choice((side.walk[1] - 0.6, side.walk[0] + 0.9))
      z = 1.9 * x + rng.uniform(0, 25)
      if self.street.is_clear(z):
        self.add(z, furniture.draw_clutter, self.fork(), side.sign * x, z)

  def _add_clutter(self, side: Side, rng: random.Random) -> None:
    """Adds what only the style `objects` has; `rng` is its own."""
    walk, kerb = side.walk, side.kerb
    for _ in range(rng.choice((0, 2, 3, 5, 8))):
      x = rng.choice((walk[1] - 0.4, walk[1] - 0.4, walk[0] + 0.5))
      z = 1.3 * x + rng.expovariate(1 / 14)
      if self.street.is_clear(z):
        self.add(z, clutter.draw_small_thing, self.fork(), side.sign * x, z)
    if rng.random() < 0.25:
      z = 1.6 * kerb + rng.uniform(0, 25)
      if self.street.is_clear(z) and self.street.is_clear(z + 4):
        self.add(z + 2, clutter.draw_shelter, self.fork(), side.sign * (walk[0] + 1.1), z)
        self._add_group(side, walk[0] + 0.8, z - 0.8, rng.randint(1, 5), rng)
    if rng.random() < 0.25:
      z = 1.4 * kerb + rng.uniform(0, 25)
      if self.street.is_clear(z):
        self.add(z, clutter.draw_poster, self.fork(), side.sign * (walk[1] - 0.5), z)
    if rng.random() < (0.45 if side.kind == 'outskirts' else 0.2) and not side.parking:
      steel = side.kind == 'outskirts'
      color = vary(
        rng, (150, 152, 154) if steel else rng.choice(((60, 62, 64), (110, 114, 116), (44, 60, 50)))
      )
      z = rng.uniform(2, 12)
      end = z + rng.uniform(8, 60)
      while z < min(end, 70):
        if self.street.is_clear(z) and self.street.is_clear(z + 2):
          self.add(z + 2, clutter.draw_railing, side.sign * (kerb + 0.3), z, z + 2, color, steel)
        z += 2
    if rng.random() < 0.3 and side.kind != 'city':
      x, high = side.sign * (kerb + 0.7), rng.uniform(6, 8)
      depths = list(self._clear_depths(rng.uniform(4, 14), rng.uniform(18, 28)))
      for z in depths:
        self.add(z, clutter.draw_pole, self.fork(), x, z, high)
      self.add(_END, clutter.draw_wires, self.fork(), x, depths, high)
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
      x = rng.uniform(walk[0] + 0.4, walk[1] - 0.3)
      self._add_group(side, x, 1.2 * x + rng.expovariate(1 / 10), rng.choice((1, 2, 2, 3, 4)), rng)

  def _add_group(self, side: Side, x: float, z: float, count: int, rng: random.Random) -> None:
    """Adds people who stand or walk together."""
    heading, walks = rng.choice((0.0, math.pi)) + rng.uniform(-0.4, 0.4), rng.random() < 0.6
    for k in range(count if self.street.is_clear(z) else 0):
      at = x + (k % 2) * rng.uniform(0.5, 0.8), z + (k // 2) * rng.uniform(0.6, 1.1)
      pose = Pose(side.sign * at[0], at[1], heading if walks else rng.uniform(0, math.tau))
      self.add(at[1], people.draw_person, self.fork(), pose, rng.triangular(1.15, 1.95, 1.75), walks)

  def _add_signals(self) -> None:
    rng = self.rng
    crossing, junction = self.street.crossing, self.street.junction
    if (crossing and rng.random() < (0.85 if junction else 0.5)) or rng.random() < 0.3:
      z = (crossing or rng.uniform(13, 28)) + rng.uniform(-0.6, 0.2)
      reach = rng.choice((0, 0, 2.5, 4.5))
      left, right = (side.sign * (side.kerb + 0.5) for side in self.street.sides)
      self.add(z, furniture.draw_traffic_light, self.fork(), left, z, 0)
      self.add(z, furniture.draw_traffic_light, self.fork(), right, z, reach)
      if junction and rng.random() < 0.6:
        z = junction[1] + 1
        self.add(z, furniture.draw_traffic_light, self.fork(), right, z, rng.choice((0, 4)))

  # People.

  def _add_people(self, side: Side) -> None:
    rng = self.rng
    for _ in range(rng.choice((0, 1, 2, 3, 4, 6))):
      x = rng.uniform(side.walk[0] + 0.5, side.walk[1] - 0.4)
      z = 1.85 * x + rng.expovariate(1 / 14)
      if not self.street.is_clear(z):
        continue
      heading = rng.choice((0.0, math.pi)) + rng.uniform(-0.5, 0.5)
      walks = rng.random() < 0.8
      for k in range(rng.choice((1, 1, 1, 2, 2, 3))):
        high = rng.uniform(1.55, 1.92) if k < 2 or rng.random() < 0.4 else rng.uniform(1.0, 1.4)
        depth = z + rng.uniform(-0.2, 0.2)
        pose = Pose(side.sign * x + k * 0.62, depth, heading if walks else rng.uniform(0, 6.28))
        self.add(depth, people.draw_person, self.fork(), pose, high, walks)
      if rng.random() < 0.18:
        self.add(z - 0.2, furniture.draw_belongings, self.fork(), side.sign * x - 0.6, z - 0.2)

  def _add_crossing_people(self, lanes: Mapping[float, list[tuple[float, float]]]) -> None:
    rng = self.rng
    crossing = self.street.crossing
    if not (crossing or rng.random() < 0.25):
      return
    left, right = self.street.sides
    for _ in range(rng.choice((0, 1, 2, 4))):
      z = (crossing + rng.uniform(0.3, 2.7)) if crossing else rng.uniform(9, 28)
      x = rng.uniform(-left.kerb, right.kerb)
      nearby = [taken for lane, taken in lanes.items() if abs(lane - x) < 2]
      if any(a - 0.3 < z < b + 0.3 for taken in nearby for a, b in taken):
        continue
      heading = rng.choice((-1, 1)) * math.pi / 2 + rng.uniform(-0.25, 0.25)
      self.add(z, people.draw_person, self.fork(), Pose(x, z, heading), rng.uniform(1.2, 1.9))
