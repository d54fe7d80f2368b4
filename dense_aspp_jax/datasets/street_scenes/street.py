"""Plans a generated street and paints its ground: road, markings, sidewalks, verges."""

from __future__ import annotations

import dataclasses
import math
import random

from dense_aspp_jax.datasets.street_scenes.canvas import ID, Canvas
from dense_aspp_jax.datasets.street_scenes.light import UP, Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.palettes import AUTUMN, FOLIAGE, GRASS
from dense_aspp_jax.datasets.street_scenes.sky_and_ground import Strip, paint_strips

LANE = 3.3  # metres
PARKING = 2.2  # metres, width of a row of parked cars
_KINDS = ('city', 'city', 'suburb', 'suburb', 'outskirts')  # repeated values are more likely
_VERGE = {'city': 0.15, 'suburb': 0.45, 'outskirts': 0.6}  # share of sides with a strip of grass


@dataclasses.dataclass
class Side:
  """One side of the street; distances from the camera's path in metres, all positive."""

  sign: int  # -1 left, 1 right
  kerb: float
  walk: tuple[float, float]  # sidewalk
  plot: float  # where the plots begin
  verge: tuple[float, float] | None  # strip of grass
  kind: str  # 'city', 'suburb' or 'outskirts'
  parking: bool


class Street:
  """The plan of one street: lanes, sides, junction, crossing and the colours of the ground.

  Attributes:
    own_lanes: Lanes in the camera's direction; the camera is in the leftmost of them, at x = 0.
    other_lanes: Oncoming lanes, left of them.
    tram: Whether a tram runs here; `tram_crosses` if it does so across the junction.
    sides: Left and right side.
    junction: Near and far limit of a crossing street, in metres ahead, or None.
    crossing: Where a pedestrian crossing 3 m deep begins, in metres ahead, or None.
  """

  def __init__(self, rng: random.Random):
    self.foliage = vary(rng, rng.choice(FOLIAGE if rng.random() < 0.72 else AUTUMN))
    self.grass = vary(rng, rng.choice(GRASS))
    gray = rng.uniform(78, 132)
    self.asphalt = vary(rng, (gray, gray, gray + 3), 0, 5)
    pale = rng.uniform(108, 172)
    self.paving = vary(rng, (pale + 4, pale, pale - 6), 0, 8)
    self.own_lanes = rng.choice((1, 1, 2))
    self.other_lanes = rng.choice((1, 1, 2))
    self.tram = rng.random() < 0.24
    kind = rng.choice(_KINDS)
    self.sides = tuple(
      self._plan_side(rng, sign, kind if rng.random() < 0.75 else rng.choice(tuple(_VERGE)))
      for sign in (-1, 1)
    )
    self.junction = (z := rng.uniform(17, 36), z + rng.uniform(8, 11)) if rng.random() < 0.4 else None
    self.tram_crosses = self.tram and self.junction is not None and rng.random() < 0.3
    self.crossing = (
      self.junction[0] - 4 if self.junction else rng.uniform(11, 26) if rng.random() < 0.25 else None
    )

  def _plan_side(self, rng: random.Random, sign: int, kind: str) -> Side:
    parking = rng.random() < 0.6
    lanes = self.own_lanes - 0.5 if sign > 0 else self.other_lanes + 0.5
    kerb = lanes * LANE + (PARKING if parking else 0.3)
    verge = None
    start = kerb
    if rng.random() < _VERGE[kind]:
      verge = (kerb, kerb + rng.uniform(1.2, 3.2))
      start = verge[1]
    walk = (start, start + rng.uniform(2.0, 3.8))
    return Side(sign, kerb, walk, walk[1] + rng.choice((0, 0, 0.6)), verge, kind, parking)

  def is_clear(self, z: float) -> bool:
    """Whether depth `z` is outside the junction."""
    return not self.junction or not self.junction[0] - 0.5 < z < self.junction[1] + 0.5

  def lanes(self) -> list[tuple[float, float]]:
    """Centre and heading of each driving lane."""
    own = [(k * LANE, 0.0) for k in range(self.own_lanes)]
    return own + [(-(k + 1) * LANE, math.pi) for k in range(self.other_lanes)]

  def draw_ground(self, canvas: Canvas, rng: random.Random) -> None:
    """Paints road, sidewalks, verges and markings."""
    left, right = self.sides
    walk, terrain, road = ID['sidewalk'], ID['terrain'], ID['road']
    strips = [Strip(-400.0, 400.0, terrain, self.grass), Strip(-left.kerb, right.kerb, road, self.asphalt)]
    for side in self.sides:
      if side.parking:
        a, b = side.kerb - PARKING, side.kerb
        strips.append(self._strip(side, a, b, road, mix(self.asphalt, self.paving, rng.uniform(0, 0.4))))
      strips.append(self._strip(side, *side.walk, walk, self.paving))
      if side.kind == 'city':
        strips.append(
          self._strip(side, side.walk[1], side.plot + 14, walk, mix(self.paving, (110, 104, 96), 0.3))
        )
      if side.verge:
        strips.append(self._strip(side, *side.verge, terrain, vary(rng, self.grass)))
      stone = mix(self.paving, (206, 204, 198), 0.5)
      strips.append(self._strip(side, side.kerb - 0.12, side.kerb, walk, mix(self.paving, (50, 50, 50), 0.4)))
      strips.append(self._strip(side, side.kerb, side.kerb + 0.2, walk, stone))
    paint_strips(canvas, strips)
    if self.junction:
      z0, z1 = self.junction
      paint_strips(canvas, [Strip(-150.0, 150.0, road, mix(self.asphalt, (70, 70, 72), 0.1))], z0, z1)
    self._draw_markings(canvas, rng)

  @staticmethod
  def _strip(side: Side, near: float, far: float, label: int, color: Color) -> Strip:
    a, b = sorted((side.sign * near, side.sign * far))
    return Strip(a, b, label, color)

  def _mark(self, canvas: Canvas, x: float, z0: float, z1: float, wide: float, color: Color) -> None:
    corners = [(x - wide / 2, 0, z0), (x - wide / 2, 0, z1), (x + wide / 2, 0, z1), (x + wide / 2, 0, z0)]
    canvas.polygon(corners, color, None, UP)

  def _dash(
    self,
    canvas: Canvas,
    rng: random.Random,
    x: float,
    period: float,
    length: float,
    wide: float,
    color: Color,
  ) -> None:
    z = 2.0 + rng.uniform(0, period)
    while z < 110:
      if not self.junction or z + length < self.junction[0] - 4 or z > self.junction[1]:
        self._mark(canvas, x, z, min(z + length, 110), wide, color)
      z += period

  def _draw_markings(self, canvas: Canvas, rng: random.Random) -> None:
    white = mix(self.asphalt, (236, 234, 228), rng.uniform(0.55, 0.95))
    yellow = (220, 180, 60)
    left, right = self.sides
    for _ in range(rng.randrange(5)):  # patches and seams of old repairs
      x, z = rng.uniform(-left.kerb + 1, right.kerb - 1), rng.uniform(4, 30)
      self._mark(
        canvas,
        x,
        z,
        z + rng.uniform(1, 7),
        rng.uniform(0.6, 2),
        mix(self.asphalt, (40, 40, 42), rng.uniform(0.1, 0.35)),
      )
    middle = -LANE / 2
    if rng.random() < 0.25:
      self._dash(canvas, rng, middle, 6, 6.05, 0.14, rng.choice((white, yellow)))
    else:
      self._dash(canvas, rng, middle, rng.choice((6, 9)), 3, 0.15, white)
    for k in range(1, self.own_lanes):
      self._dash(canvas, rng, middle + k * LANE, 6, 2.5, 0.13, white)
    for k in range(1, self.other_lanes):
      self._dash(canvas, rng, middle - k * LANE, 6, 2.5, 0.13, white)
    for side in self.sides:
      if rng.random() < 0.6:
        edge = side.kerb - (PARKING if side.parking else 0.3)
        self._dash(canvas, rng, side.sign * edge, 5, 5.05, 0.11, white)
    if self.tram_crosses:
      for z in (sum(self.junction) / 2 + rail for rail in (-0.72, 0.72)):
        rail = [(-90, 0, z - 0.05), (-90, 0, z + 0.05), (90, 0, z + 0.05), (90, 0, z - 0.05)]
        canvas.polygon(rail, (150, 148, 144), None, UP)
    elif self.tram:
      for lane in (-LANE, 0.0) if rng.random() < 0.5 else (-LANE,):
        for rail in (-0.72, 0.72):
          self._dash(canvas, rng, lane + rail, 8, 8.05, 0.16, mix(self.asphalt, (50, 46, 44), 0.5))
          self._dash(canvas, rng, lane + rail, 8, 8.05, 0.06, (170, 168, 164))
    if self.crossing:
      x = -left.kerb + 0.5
      while x < right.kerb - 0.5:
        self._mark(canvas, x, self.crossing, self.crossing + 3, 0.5, white)
        x += 1.0
      if self.junction:
        stop = self.crossing - 1.2
        wide = LANE * self.own_lanes
        self._mark(canvas, -LANE / 2 + wide / 2, stop, stop + 0.45, wide, white)
    if rng.random() < 0.35:  # an arrow on the own lane
      z = rng.uniform(6, 11)
      self._mark(canvas, 0, z, z + 2.6, 0.18, white)
      head = [(-0.45, 0, z + 2.5), (0, 0, z + 4), (0.45, 0, z + 2.5)]
      canvas.polygon(head, white, None, UP)
    if rng.random() < 0.5:  # a manhole
      x, z = rng.uniform(-2, 2), rng.uniform(5, 14)
      points = [(x + 0.33 * math.cos(k * 0.524), 0, z + 0.33 * math.sin(k * 0.524)) for k in range(12)]
      canvas.polygon(points, mix(self.asphalt, (44, 42, 40), 0.5), None, UP)
