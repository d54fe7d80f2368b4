"""Plans a generated street and paints its ground: road, markings, sidewalks, verges."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes import markings
from dense_aspp_jax.datasets.street_scenes.canvas import UP, Canvas, level
from dense_aspp_jax.datasets.street_scenes.light import Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.style import Style

LANE = 3.3  # metres
_PARKING = 2.2  # metres, width of a row of parked cars
_KINDS = ('city', 'city', 'suburb', 'suburb', 'outskirts')  # repeated values are more likely
_VERGE = {'city': 0.15, 'suburb': 0.45, 'outskirts': 0.6}  # share of sides with a strip of grass
_FOLIAGE = ((62, 92, 40), (78, 104, 48), (50, 80, 46), (96, 108, 52), (84, 92, 60))
_AUTUMN = ((150, 104, 46), (166, 126, 54), (132, 76, 44), (124, 112, 56))
_GRASS = ((92, 116, 58), (112, 122, 68), (128, 120, 82), (84, 104, 64), (138, 124, 92))
# Depths that divide the ground into slices, in metres.
_SLICES = (4, 5, 6, 7.5, 9, 11, 13.5, 17, 22, 29, 40, 56, 80, 115, 170, 260)
# A lengthwise strip of ground: left and right in metres, label, colour.
Strip = tuple[float, float, str, Color]


def paint_strips(canvas: Canvas, strips: Sequence[Strip], near: float = 1.5, far: float = 420.0) -> None:
  """Paints strips of ground between two depths, in slices from far to near."""
  depths = [near, *(z for z in _SLICES if near < z < far), far]
  slices = list(zip(depths[-2::-1], depths[:0:-1], strict=True))
  for left, right, label, color in strips:  # strip by strip: a slice of one must not fray those of the next
    for z0, z1 in slices:
      canvas.polygon(level(left, right, z0, z1), color, label, UP)


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of the street; distances from the camera's path in metres, all positive."""

  sign: int  # -1 left, 1 right
  kerb: float  # where the road ends
  verge: tuple[float, float] | None  # strip of grass
  walk: tuple[float, float]  # sidewalk
  plot: float  # where the plots begin
  kind: str  # 'city', 'suburb' or 'outskirts'
  parking: bool  # whether cars park at the kerb
  rural: bool = False  # whether grass takes the place of the sidewalk
  bays: float = 0.0  # metres, length of bays in which they park across; 0: they park along the kerb

  @property
  def edge(self) -> float:
    """Where the driving lanes end."""
    return self.kerb - (self.bays or (_PARKING if self.parking else 0.3))

  def strip(self, near: float, far: float, label: str, color: Color) -> Strip:
    """Strip of ground between two distances."""
    left, right = sorted((self.sign * near, self.sign * far))
    return left, right, label, color


class Street:
  """The plan of one street: lanes, sides, junction, crossing and the colours of the ground."""

  def __init__(self, rng: random.Random, style: Style = Style()):  # noqa: B008 (frozen)
    self.style = style
    extra = random.Random(rng.getrandbits(48))  # for what a style adds
    self.bare = extra.random() < 0.3 and style.textures  # whether it is winter
    self.foliage = vary(rng, rng.choice(_FOLIAGE if rng.random() < 0.72 else _AUTUMN))
    self.grass = vary(rng, rng.choice(_GRASS))
    gray = rng.uniform(78, 132)
    self.asphalt = vary(rng, (gray, gray, gray + 3), 0, 5)
    pale = rng.uniform(108, 172)
    self.paving = vary(rng, (pale + 4, pale, pale - 6), 0, 8)
    self.own_lanes = rng.choice((1, 1, 2))  # the camera is in the leftmost of them, at x = 0
    self.other_lanes = rng.choice((1, 1, 2))  # oncoming, left of them
    self.tram = rng.random() < 0.24  # along the street, or across the junction
    kind = rng.choice(_KINDS)
    self.sides = tuple(
      self._plan_side(rng, extra, sign, kind if rng.random() < 0.75 else rng.choice(tuple(_VERGE)))
      for sign in (-1, 1)
    )
    # In metres ahead: near and far limit of a crossing street; near limit of a pedestrian crossing 3 m deep.
    self.junction = (z := rng.uniform(17, 36), z + rng.uniform(8, 11)) if rng.random() < 0.4 else None
    self.tram_crosses = self.tram and self.junction is not None and rng.random() < 0.3
    if self.junction:
      self.crossing = self.junction[0] - 4
    else:
      self.crossing = rng.uniform(11, 26) if rng.random() < 0.25 else None
    # Where houses close the street, behind a street across.
    ends = extra.random() < 0.2 and style.objects and not self.tram
    self.end = (self.junction[1] if self.junction else 20) + extra.uniform(14, 60) if ends else None

  def _plan_side(self, rng: random.Random, extra: random.Random, sign: int, kind: str) -> Side:
    parking = rng.random() < 0.6
    lanes = self.own_lanes - 0.5 if sign > 0 else self.other_lanes + 0.5
    bays = extra.uniform(4.9, 5.6) if extra.random() < 0.16 and parking and self.style.objects else 0.0
    kerb = lanes * LANE + (bays or (_PARKING if parking else 0.3))
    verge = (kerb, kerb + rng.uniform(1.2, 3.2)) if rng.random() < _VERGE[kind] else None
    start = verge[1] if verge else kerb
    rural = self.style.objects and extra.random() < {'city': 0, 'suburb': 0.1, 'outskirts': 0.4}[kind]
    wider = extra.choice((0, 0.5, 1, 2.5)) if self.style.objects else 0
    walk = (start, start + rng.uniform(2.0, 3.8) + wider)
    return Side(sign, kerb, verge, walk, walk[1] + rng.choice((0, 0, 0.6)), kind, parking, rural, bays)

  def is_clear(self, z: float) -> bool:
    """Whether depth `z` lies outside the junction and before the street's end."""
    if self.end and z > self.end - 11:
      return False
    return not self.junction or not self.junction[0] - 0.5 < z < self.junction[1] + 0.5

  def lanes(self) -> list[tuple[float, float]]:
    """Centre and heading of each driving lane."""
    own = [(k * LANE, 0.0) for k in range(self.own_lanes)]
    return own + [(-(k + 1) * LANE, math.pi) for k in range(self.other_lanes)]

  def draw_ground(self, canvas: Canvas, rng: random.Random) -> None:
    """Paints road, sidewalks, verges and markings."""
    left, right = self.sides
    paving = self.paving
    strips = [(-400.0, 400.0, 'terrain', self.grass), (-left.kerb, right.kerb, 'road', self.asphalt)]
    for side in self.sides:
      kerb, walk = side.kerb, side.walk
      if side.parking:
        strips.append(side.strip(side.edge, kerb, 'road', mix(self.asphalt, paving, rng.uniform(0, 0.4))))
      if side.rural:
        strips.append(side.strip(kerb, walk[1], 'terrain', vary(rng, self.grass)))
        continue
      strips.append(side.strip(*walk, 'sidewalk', paving))
      if side.kind == 'city':
        strips.append(side.strip(walk[1], side.plot + 14, 'sidewalk', mix(paving, (110, 104, 96), 0.3)))
      if side.verge:
        strips.append(side.strip(*side.verge, 'terrain', vary(rng, self.grass)))
      strips.append(side.strip(kerb - 0.12, kerb, 'sidewalk', mix(paving, (50, 50, 50), 0.4)))
      strips.append(side.strip(kerb, kerb + 0.2, 'sidewalk', mix(paving, (206, 204, 198), 0.5)))
    paint_strips(canvas, strips)
    if self.junction:
      paint_strips(canvas, [(-150.0, 150.0, 'road', mix(self.asphalt, (70, 70, 72), 0.1))], *self.junction)
    if self.end:
      paint_strips(canvas, [(-150.0, 150.0, 'road', self.asphalt)], self.end - 10, self.end - 2.5)
      paint_strips(canvas, [(-150.0, 150.0, 'sidewalk', paving)], self.end - 2.5, self.end)
    self._draw_markings(canvas, rng)

  def _draw_markings(self, canvas: Canvas, rng: random.Random) -> None:
    def paint(points, color):
      canvas.polygon(points, color, None, UP)

    def mark(x, z0, z1, wide, color):
      paint(level(x - wide / 2, x + wide / 2, z0, z1), color)

    def dash(x, period, length, wide, color):
      z = 2.0 + rng.uniform(0, period)
      while z < 110:
        if not self.junction or z + length < self.junction[0] - 4 or z > self.junction[1]:
          mark(x, z, min(z + length, 110), wide, color)
        z += period

    worn = 0.3 if self.style.objects else 0.55
    white = mix(self.asphalt, (236, 234, 228), rng.uniform(worn, 0.95))
    left, right = self.sides
    for _ in range(rng.randrange(5)):  # patches and seams of old repairs
      x, z = rng.uniform(-left.kerb + 1, right.kerb - 1), rng.uniform(4, 30)
      far, wide = z + rng.uniform(1, 7), rng.uniform(0.6, 2)
      mark(x, z, far, wide, mix(self.asphalt, (40, 40, 42), rng.uniform(0.1, 0.35)))
    middle = -LANE / 2
    look = random.Random(rng.getrandbits(48))
    if self.style.objects:
      left_edge, right_edge = -left.edge, right.edge
      markings.draw_traces(canvas, look, left_edge + 0.3, right_edge - 0.3, self.asphalt)
      markings.draw_kerb_lines(canvas, look, (-left.kerb, right.kerb), white, self.asphalt)
      lanes = [x for x, heading in self.lanes() if heading == 0]
      markings.draw_surface_signs(canvas, look, lanes, LANE, white, self.asphalt)
    if self.style.objects and look.random() < 0.25:
      pass  # a street without a line in the middle
    elif rng.random() < 0.25:
      dash(middle, 6, 6.05, 0.14, rng.choice((white, (220, 180, 60))))
    else:
      dash(middle, rng.choice((6, 9)), 3, 0.15, white)
    for k in (*range(1, self.own_lanes), *range(-1, -self.other_lanes, -1)):
      dash(middle + k * LANE, 6, 2.5, 0.13, white)
    for side in self.sides:
      if rng.random() < 0.6:
        dash(side.sign * side.edge, 5, 5.05, 0.11, white)
    if self.tram_crosses:
      for rail in (-0.72, 0.72):
        z = sum(self.junction) / 2 + rail
        paint(level(-90, 90, z - 0.05, z + 0.05), (150, 148, 144))
    elif self.tram:
      for lane in (-LANE, 0.0) if rng.random() < 0.5 else (-LANE,):
        for rail in (-0.72, 0.72):
          dash(lane + rail, 8, 8.05, 0.16, mix(self.asphalt, (50, 46, 44), 0.5))
          dash(lane + rail, 8, 8.05, 0.06, (170, 168, 164))
    if self.crossing:
      x = -left.kerb + 0.5
      while x < right.kerb - 0.5:
        mark(x, self.crossing, self.crossing + 3, 0.5, white)
        x += 1.0
      if self.junction:
        stop, wide = self.crossing - 1.2, LANE * self.own_lanes
        mark(middle + wide / 2, stop, stop + 0.45, wide, white)
    if rng.random() < 0.35:  # an arrow on the own lane
      z = rng.uniform(6, 11)
      mark(0, z, z + 2.6, 0.18, white)
      paint([(-0.45, 0, z + 2.5), (0, 0, z + 4), (0.45, 0, z + 2.5)], white)
    if rng.random() < 0.5:  # a manhole
      x, z = rng.uniform(-2, 2), rng.uniform(5, 14)
      points = [(x + 0.33 * math.cos(k * 0.524), 0, z + 0.33 * math.sin(k * 0.524)) for k in range(12)]
      paint(points, mix(self.asphalt, (44, 42, 40), 0.5))
