"""Fills a generated street with plots, furniture, traffic and people, and draws it from far to near."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from dense_aspp_jax.datasets.street_scenes import buildings, furniture, people, plants, vehicles, walls
from dense_aspp_jax.datasets.street_scenes.body import Pose
from dense_aspp_jax.datasets.street_scenes.canvas import Canvas
from dense_aspp_jax.datasets.street_scenes.light import FACADES, vary
from dense_aspp_jax.datasets.street_scenes.street import LANE, Side, Street, paint_strips
from dense_aspp_jax.datasets.street_scenes.style import Style

_END = 125.0  # metres; plots and street furniture stop here
_PLOTS = {
  'city': {'houses': 0.78, 'wall': 0.05, 'fence': 0.07, 'park': 0.1},
  'suburb': {'houses': 0.36, 'wall': 0.16, 'fence': 0.22, 'hedge': 0.14, 'park': 0.12},
  'outskirts': {'houses': 0.12, 'wall': 0.22, 'fence': 0.28, 'hedge': 0.08, 'park': 0.3},
}
_HEIGHTS = {'wall': (1.6, 3.2), 'fence': (1.2, 2.2), 'hedge': (1.0, 2.0)}  # metres
_STOREYS = {'city': (3, 7), 'suburb': (2, 3), 'outskirts': (1, 4)}


class Layout:
  """Everything that stands, drives or walks in one street, drawn in the order of depth."""

  def __init__(self, rng: random.Random, style: Style = Style()):  # noqa: B008 (frozen)
    self.rng = rng
    self.style = style
    self.street = Street(rng)
    self._items: list[tuple[int, float, Callable, tuple]] = []
    self._taken: dict[float, list[tuple[float, float]]] = {}  # by lane centre, occupied depths
    for side in self.street.sides:
      self._add_plots(side)
      self._add_furniture(side)
    self._add_signals()
    self._add_traffic()
    for side in self.street.sides:
      self._add_people(side)
    self._add_crossing_people()

  def draw(self, canvas: Canvas) -> None:
    """Draws the ground, then everything on it, from far to near."""
    self.street.draw_ground(canvas, self._fork())
    for _, _, draw, args in sorted(self._items, key=lambda item: item[:2]):
      draw(canvas, *args)

  def _fork(self) -> random.Random:
    """Random numbers for one object, so that how it is drawn, and whether, changes no other object."""
    return random.Random(self.rng.getrandbits(48))

  def _add(self, depth: float, draw: Callable, *args, row: int = 1) -> None:
    """Adds something to draw; `row` 0 is behind everything of row 1, whatever its depth."""
    self._items.append((row, -depth, draw, args))

  # Plots.

  def _add_plots(self, side: Side) -> None:
    rng = self.rng
    junction = self.street.junction
    kinds = _PLOTS[side.kind]
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
        self._add(end, buildings.draw_building, self._fork(), x, z, end, storeys, False, row=0)
      else:
        for _ in range(4):
          depth = rng.uniform(z, end)
          self._add_tree(x + rng.uniform(-4, 4), depth, rng.uniform(7, 13), row=0)
      z = end

  def _add_tree(self, x: float, z: float, high: float, row: int = 1) -> None:
    rng = self.rng
    kind = rng.choice(('round', 'round', 'tall', 'conifer') if row == 0 else ('round', 'round', 'tall'))
    self._add(
      z, plants.draw_tree, self._fork(), x, z, high, vary(rng, self.street.foliage, 0.15), kind, row=row
    )

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
    self._add(z1 + abs(x) * 0.02, buildings.draw_building, self._fork(), x, z0, z1, storeys)

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
      'hedge': (plants.draw_hedge, self._fork()),
    }[kind]
    z = z0
    while z < z1 - 0.2:
      end = min(z + 3, z1)
      self._add(end, draw, side.sign * side.plot, z, end, high, paint, option)
      z = end

  def _add_park(self, side: Side, z0: float, z1: float) -> None:
    rng = self.rng
    if side.kind == 'city':
      grass = side.strip(side.plot + 0.1, side.plot + 16, 'terrain', vary(rng, self.street.grass))
      self._add(z1, paint_strips, [grass], z0, z1, row=-1)
    for _ in range(rng.randint(2, 5)):
      x = side.sign * (side.plot + rng.uniform(1.5, 14))
      z = rng.uniform(z0, z1)
      if rng.random() < 0.35:
        high = rng.uniform(0.7, 1.8)
        self._add(z, plants.draw_bush, self._fork(), x, z, high, vary(rng, self.street.foliage), row=0)
      else:
        self._add_tree(x, z, rng.uniform(5, 12), row=0)

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
        self._add(z, furniture.draw_street_lamp, side.sign * (side.kerb + 0.45), z, high, color)
    if rng.random() < (0.75 if side.verge else 0.3):
      x = side.sign * (sum(side.verge) / 2 if side.verge else side.kerb + 0.9)
      high, gap = rng.uniform(4.5, 9), rng.uniform(8, 15)
      for z in self._clear_depths(rng.uniform(9, 20), gap):
        self._add_tree(x, z, high * rng.uniform(0.85, 1.15))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
      z = 1.9 * side.kerb + rng.uniform(0, 26)
      if self.street.is_clear(z):
        self._add(
          z, furniture.draw_traffic_sign, self._fork(), side.sign * (side.kerb + rng.uniform(0.3, 0.7)), z
        )
    if rng.random() < 0.2:
      start, color = rng.uniform(10, 20), vary(rng, (70, 72, 74))
      for k in range(rng.randint(4, 9)):
        z = start + 2 * k
        if self.street.is_clear(z):
          self._add(z, furniture.draw_bollard, side.sign * (side.kerb + 0.35), z, color)
    for _ in range(rng.choice((0, 0, 1, 2))):
      x = rng.choice((side.walk[1] - 0.6, side.walk[0] + 0.9))
      z = 1.9 * x + rng.uniform(0, 25)
      if self.street.is_clear(z):
        self._add(z, furniture.draw_clutter, self._fork(), side.sign * x, z)

  def _add_signals(self) -> None:
    rng = self.rng
    crossing, junction = self.street.crossing, self.street.junction
    if (crossing and rng.random() < (0.85 if junction else 0.5)) or rng.random() < 0.3:
      z = (crossing or rng.uniform(13, 28)) + rng.uniform(-0.6, 0.2)
      reach = rng.choice((0, 0, 2.5, 4.5))
      left, right = (side.sign * (side.kerb + 0.5) for side in self.street.sides)
      self._add(z, furniture.draw_traffic_light, self._fork(), left, z, 0)
      self._add(z, furniture.draw_traffic_light, self._fork(), right, z, reach)
      if junction and rng.random() < 0.6:
        z = junction[1] + 1
        self._add(z, furniture.draw_traffic_light, self._fork(), right, z, rng.choice((0, 4)))

  # Traffic.

  def _take(self, lane: float, z0: float, z1: float) -> bool:
    """Reserves a stretch of a lane, if it is free."""
    taken = self._taken.setdefault(lane, [])
    if any(z0 < b and z1 > a for a, b in taken):
      return False
    taken.append((z0, z1))
    return True

  def _drive(self, draw: Callable, lane: float, heading: float, z: float, length: float, *args) -> None:
    """Adds a vehicle to a lane if there is room for it."""
    if self._take(lane, z - length / 2 - 1.2, z + length / 2 + 1.2):
      pose = Pose(lane + self.rng.uniform(-0.25, 0.25), z, heading + self.rng.uniform(-0.03, 0.03))
      self._add(z - length / 2, draw, self._fork(), pose, *args)

  def _cross(self, draw: Callable, z: float, length: float, *args) -> None:
    """Adds a vehicle that crosses at the junction, if all lanes are free there."""
    heading = self.rng.choice((-1, 1)) * math.pi / 2
    if all(self._take(lane, z - 2, z + 2) for lane, _ in self.street.lanes()):
      turn = 0.0 if draw is vehicles.draw_tram else self.rng.uniform(-0.1, 0.1)
      pose = Pose(self.rng.uniform(-0.5, 0.5) * (z * 0.5 + length / 2), z, heading + turn)
      self._add(z - 1.3, draw, self._fork(), pose, *args)

  def _add_traffic(self) -> None:
    rng = self.rng
    lanes = self.street.lanes()
    junction = sum(self.street.junction) / 2 if self.street.junction else None
    nearest = 6.5 + 6 * rng.random() ** 1.5
    if self.street.tram:
      cars = rng.randint(2, 4)
      length = 8 * cars
      if self.street.tram_crosses:
        self._cross(vehicles.draw_tram, junction, length, cars)
      else:
        self._drive(vehicles.draw_tram, -LANE, math.pi, rng.uniform(9, 28) + length / 2, length, cars)
    for draw, length in ((vehicles.draw_truck, 9), (vehicles.draw_bus, 12)):
      if rng.random() < 0.3:
        if junction and rng.random() < 0.25:
          self._cross(draw, junction, length)
        else:
          lane, heading = rng.choice(lanes)
          self._drive(draw, lane, heading, nearest + 3 + rng.uniform(0, 22) + length / 2, length)
    self._add_cycles()
    if junction and rng.random() < 0.5:
      self._cross(vehicles.draw_car, junction + rng.uniform(-2, 2), 5)
    for lane, heading in lanes:
      z = nearest + 2.5 + rng.uniform(0, 22)
      density = rng.uniform(6, 30)
      while z < 120:
        self._drive(vehicles.draw_car, lane, heading, z, 5)
        z += 6 + rng.uniform(0, density)
    for side in self.street.sides:
      if side.parking and rng.random() < 0.85:
        self._park_cars(side.sign * (side.kerb - 1.05), 0.0 if side.sign > 0 else math.pi)

  def _park_cars(self, lane: float, heading: float) -> None:
    rng = self.rng
    full = rng.uniform(0.35, 0.95)
    z = rng.uniform(7, 11)
    while z < 130:
      if self.street.is_clear(z - 4) and self.street.is_clear(z + 3) and rng.random() < full:
        if rng.random() < 0.06:
          self._drive(people.draw_motorcycle, lane, heading + rng.uniform(-0.7, 0.7), z, 2.4, False)
        elif rng.random() < 0.05:
          self._drive(vehicles.draw_truck, lane, heading, z + 2, 9)
        else:
          self._drive(vehicles.draw_car, lane, heading, z, 4.9)
      z += 5.8

  def _add_cycles(self) -> None:
    """Adds ridden bicycles and motorcycles on the lanes, and others on the sidewalks."""
    rng = self.rng
    lanes = self.street.lanes()
    for draw, share in ((people.draw_bicycle, 0.55), (people.draw_motorcycle, 0.45)):
      if rng.random() < share:
        for _ in range(rng.choice((1, 1, 2))):
          lane, heading = rng.choice(lanes)
          z = 7 + rng.uniform(0, 18)
          if rng.random() < 0.25:
            z = self.street.crossing + 1.5 if self.street.crossing else z
            heading = rng.choice((-1, 1)) * math.pi / 2 + rng.uniform(-0.3, 0.3)
          else:
            heading += rng.uniform(-0.25, 0.25)
          if self._take(lane, z - 1.6, z + 1.6):
            pose = Pose(lane + rng.uniform(-0.4, 1.1) * math.cos(heading), z, heading)
            self._add(z - 0.5, draw, self._fork(), pose, True)
    for side in self.street.sides:
      for draw, share in ((people.draw_bicycle, 0.4), (people.draw_motorcycle, 0.16)):
        if rng.random() < share:
          x = rng.choice((side.walk[1] - 0.5, side.walk[0] + 0.7))
          z, heading = 1.9 * x + rng.uniform(-1, 16), rng.uniform(0.9, 1.9) * rng.choice((-1, 1))
          for k in range(rng.randint(1, 4)):
            depth = z + k * 0.9
            if self.street.is_clear(depth):
              pose = Pose(side.sign * x, depth, heading + rng.uniform(-0.1, 0.1))
              self._add(depth, draw, self._fork(), pose, False)

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
        self._add(depth, people.draw_person, self._fork(), pose, high, walks)
      if rng.random() < 0.18:
        self._add(z - 0.2, furniture.draw_belongings, self._fork(), side.sign * x - 0.6, z - 0.2)

  def _add_crossing_people(self) -> None:
    rng = self.rng
    crossing = self.street.crossing
    if not (crossing or rng.random() < 0.25):
      return
    left, right = self.street.sides
    for _ in range(rng.choice((0, 1, 2, 4))):
      z = (crossing + rng.uniform(0.3, 2.7)) if crossing else rng.uniform(9, 28)
      x = rng.uniform(-left.kerb, right.kerb)
      nearby = [taken for lane, taken in self._taken.items() if abs(lane - x) < 2]
      if any(a - 0.3 < z < b + 0.3 for taken in nearby for a, b in taken):
        continue
      heading = rng.choice((-1, 1)) * math.pi / 2 + rng.uniform(-0.25, 0.25)
      self._add(z, people.draw_person, self._fork(), Pose(x, z, heading), rng.uniform(1.2, 1.9))
