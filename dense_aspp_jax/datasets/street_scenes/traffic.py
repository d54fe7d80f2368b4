"""Vehicles on the lanes of a generated street, at its kerbs and on its sidewalks."""

from __future__ import annotations

import math
from collections.abc import Callable

from dense_aspp_jax.datasets.street_scenes import cars, people, vehicles
from dense_aspp_jax.datasets.street_scenes.body import Pose
from dense_aspp_jax.datasets.street_scenes.items import Items
from dense_aspp_jax.datasets.street_scenes.street import LANE, Side, Street
from dense_aspp_jax.datasets.street_scenes.style import Style


class Traffic:
  """Adds vehicles to the items of a street.

  Attributes:
    taken: Occupied stretches of each lane, by the lane's middle.
  """

  def __init__(self, items: Items, street: Street, style: Style):
    self.items, self.street, self.rng = items, street, items.rng
    self.objects = style.objects
    self.extra = items.fork()  # for what only the style `objects` has
    self.taken: dict[float, list[tuple[float, float]]] = {}
    self._add_traffic()

  def _take(self, lane: float, z0: float, z1: float) -> bool:
    """Reserves a stretch of a lane, if it is free."""
    taken = self.taken.setdefault(lane, [])
    if any(z0 < b and z1 > a for a, b in taken):
      return False
    taken.append((z0, z1))
    return True

  def _drive(self, draw: Callable, lane: float, heading: float, z: float, length: float, *args) -> None:
    """Adds a vehicle to a lane if there is room for it."""
    if self._take(lane, z - length / 2 - 1.2, z + length / 2 + 1.2):
      pose = Pose(lane + self.rng.uniform(-0.25, 0.25), z, heading + self.rng.uniform(-0.03, 0.03))
      self.items.add(z - length / 2, draw, self.items.fork(), pose, *args)

  def _cross(self, draw: Callable, z: float, length: float, *args) -> None:
    """Adds a vehicle that crosses at the junction, if all lanes are free there."""
    heading = self.rng.choice((-1, 1)) * math.pi / 2
    if all(self._take(lane, z - 2, z + 2) for lane, _ in self.street.lanes()):
      turn = 0.0 if draw is vehicles.draw_tram else self.rng.uniform(-0.1, 0.1)
      pose = Pose(self.rng.uniform(-0.5, 0.5) * (z * 0.5 + length / 2), z, heading + turn)
      self.items.add(z - 1.3, draw, self.items.fork(), pose, *args)

  def _add_traffic(self) -> None:
    rng = self.rng
    lanes = self.street.lanes()
    junction = sum(self.street.junction) / 2 if self.street.junction else None
    nearest = 6.5 + 6 * rng.random() ** 1.5
    if self.objects:  # the street ahead is often empty
      nearest *= self.extra.choice((1, 1, 1.5, 2.2, 3.5))
    if self.street.tram:
      count = rng.randint(2, 4)
      length = 8 * count
      if self.street.tram_crosses:
        self._cross(vehicles.draw_tram, junction, length, count)
      else:
        self._drive(vehicles.draw_tram, -LANE, math.pi, rng.uniform(9, 28) + length / 2, length, count)
    for draw, length in ((vehicles.draw_truck, 9), (vehicles.draw_bus, 12)):
      if rng.random() < 0.3:
        if junction and rng.random() < 0.25:
          self._cross(draw, junction, length)
        else:
          lane, heading = rng.choice(lanes)
          self._drive(draw, lane, heading, nearest + 3 + rng.uniform(0, 22) + length / 2, length)
    self._add_cycles()
    if junction and rng.random() < 0.5:
      self._cross(cars.draw_car, junction + rng.uniform(-2, 2), 5)
    for lane, heading in lanes:
      z = nearest + 2.5 + rng.uniform(0, 22)
      density = rng.uniform(6, 30)
      while z < 120:
        self._drive(cars.draw_car, lane, heading, z, 5)
        z += 6 + rng.uniform(0, density)
    for side in self.street.sides:
      if side.parking and (rng.random() < 0.85 or self.objects):
        if side.bays:
          self._park_across(side)
        else:
          self._park_cars(side.sign * (side.kerb - 1.05), 0.0 if side.sign > 0 else math.pi)

  def _park_cars(self, lane: float, heading: float) -> None:
    rng = self.rng
    full = rng.uniform(0.35, 0.95)
    z = rng.uniform(7, 11)
    if self.objects:
      z, full = self.extra.uniform(2.5, 9), self.extra.uniform(0.5, 1)
    turned = self.objects and self.extra.random() < 0.25
    while z < 130:
      if self.street.is_clear(z - 4) and self.street.is_clear(z + 3) and rng.random() < full:
        towards = math.pi * (turned and self.extra.random() < 0.5)
        if rng.random() < 0.06:
          self._drive(people.draw_motorcycle, lane, heading + rng.uniform(-0.7, 0.7), z, 2.4, False)
        elif rng.random() < 0.05:
          self._drive(vehicles.draw_truck, lane, heading, z + 2, 9)
        else:
          self._drive(cars.draw_car, lane, heading + towards, z, 4.9 - 1.6 * self.objects)
      z += 5.8 - 0.5 * self.objects

  def _park_across(self, side: Side) -> None:
    """Parks cars side by side, at a right angle to the street or aslant."""
    rng = self.extra
    angle = rng.choice((math.pi / 2, math.pi / 2, 1.1))
    full, z = rng.uniform(0.5, 1), rng.uniform(4, 9)
    x = side.sign * (side.kerb - side.bays / 2)
    while z < 90:
      if self.street.is_clear(z - 3) and self.street.is_clear(z + 3) and rng.random() < full:
        heading = side.sign * angle + math.pi * (rng.random() < 0.3) + rng.uniform(-0.06, 0.06)
        pose = Pose(x + rng.uniform(-0.3, 0.3), z, heading)
        self.items.add(z - 1, cars.draw_car, self.items.fork(), pose)
      z += 2.7 / math.sin(angle)

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
            self.items.add(z - 0.5, draw, self.items.fork(), pose, True)
    for side in self.street.sides:
      for draw, share in ((people.draw_bicycle, 0.4), (people.draw_motorcycle, 0.16)):
        if rng.random() < share:
          x = rng.choice((side.walk[1] - 0.5, side.walk[0] + 0.7))
          z, heading = 1.9 * x + rng.uniform(-1, 16), rng.uniform(0.9, 1.9) * rng.choice((-1, 1))
          for k in range(rng.randint(1, 4)):
            depth = z + k * 0.9
            if self.street.is_clear(depth):
              pose = Pose(side.sign * x, depth, heading + rng.uniform(-0.1, 0.1))
              self.items.add(depth, draw, self.items.fork(), pose, False)
