"""Trucks, buses and trams."""

from __future__ import annotations

import math
import random

from dense_aspp_jax.datasets.street_scenes.body import Body, Pose
from dense_aspp_jax.datasets.street_scenes.canvas import FRONT, UP, Canvas, across, along
from dense_aspp_jax.datasets.street_scenes.cars import GLASS_COLOR, draw_lights, draw_tyres, draw_wheel
from dense_aspp_jax.datasets.street_scenes.light import FLEET, LAMP, PAINTS, Color, Point, mix, vary
from dense_aspp_jax.datasets.street_scenes.plants import CLUMPS
from dense_aspp_jax.datasets.street_scenes.surfaces import GLASS


def draw_truck(canvas: Canvas, rng: random.Random, pose: Pose) -> None:
  """Draws a lorry, 7 to 9 m long: a cab and a box, a tarpaulin or an open load."""
  truck = Body(canvas, pose, 'truck')
  length, half, high = rng.uniform(6.8, 9), 1.22, rng.uniform(3.1, 3.9)
  cab = vary(rng, rng.choice(PAINTS + FLEET))
  load = vary(rng, rng.choice((*FLEET, (220, 220, 214), (150, 154, 150), (120, 124, 110))))
  rear, front = -length / 2, length / 2
  seam = front - 2.0
  axles = (rear + 1.2, rear + 2.3, front - 1.1)
  truck.cast_shadow(rear, front, half, high)
  open_load = rng.random() < 0.25

  def body():
    top = high if not open_load else 1.9
    side = truck.box(rear, seam - 0.1, half, 0.95, top, load)
    if side and not open_load:
      stripe = along(side * half, rear + 0.6, seam - 0.8, 1.9, 2.6)
      truck.detail(stripe, mix(load, rng.choice(FLEET), 0.7), truck.turn(side, 0, 0))
    if open_load:
      for k in range(5):
        heap = truck.place(rng.uniform(-0.5, 0.5), 1.9, rear + 0.8 + k * (length - 3.6) / 5)
        canvas.blob(heap, rng.choice(CLUMPS), 0.55, vary(rng, (122, 100, 76)), 'truck')
    if truck.shows_end(-1, rear):
      for w in (-0.02, half - 0.1, -half + 0.02):
        truck.detail(across(rear - 0.01, w, w + 0.06, 1, top), mix(load, (30, 30, 34), 0.5))
      for side in (-1, 1):
        lamp = across(rear - 0.02, side * (half - 0.1), side * (half - 0.5), 0.7, 0.9)
        truck.detail(lamp, (170, 30, 30))

  def cabin():
    profile = ((0, 0.5, half), (0, 2.7, half), (1.7, 2.75, half), (2.0, 1.5, half), (2.05, 0.45, half))
    side = truck.extrude(profile, cab, GLASS_COLOR, seam - 0.025)
    if side:
      outline = ((0.8, 1.55), (0.8, 2.4), (1.65, 2.4), (1.85, 1.55))
      window = [(side * half, up, seam + ahead) for ahead, up in outline]
      truck.detail(window, GLASS_COLOR, truck.turn(side, 0, 0))
    draw_lights(truck, 1, front + 0.06, half, 0.85, canvas.light.lamps)

  truck.box(rear, front - 0.2, half - 0.1, 0.45, 1.0, (52, 52, 56))
  draw_tyres(truck, half - 0.2, axles, 0.2, 0.7)
  for draw in (body, cabin) if math.cos(pose.yaw) < 0 else (cabin, body):
    draw()
  for side in (-1, 1):
    if canvas.camera.faces(truck.place(side * half, 1, 0), truck.turn(side, 0, 0)):
      for ahead in axles:
        draw_wheel(truck, side * (half - 0.02), ahead, 0.48)


def _pane(body: Body, rng: random.Random, points: list[Point], glass: Color, passengers: float) -> None:
  """Draws a window of a bus or tram, behind which a passenger may sit if it is lit."""
  if not body.canvas.light.lamps:
    body.detail(points, glass, UP if rng.random() < 0.15 else FRONT, GLASS)
    return
  body.detail(points, vary(rng, (206, 190, 146), 0.12), LAMP)
  if rng.random() < passengers:
    side, up, ahead = mix(points[0], points[3], rng.uniform(0.25, 0.75))
    shoulder, head = body.place(side, up + 0.45, ahead), body.place(side, up + 0.58, ahead)
    body.canvas.limb(body.place(side, up, ahead), shoulder, 0.42, (52, 48, 52))
    body.canvas.disc(head, 0.13, (60, 50, 46))


def _glazed_box(
  body: Body, rng: random.Random, rear: float, front: float, high: float, paint: Color, trim: Color
) -> int:
  """Draws the body of a bus or a tram car: box, windows, doors and signs; returns the visible side."""
  half, sill, top = 1.25, 1.25, high - 0.65
  lit = body.canvas.light.lamps
  glass = mix(GLASS_COLOR, body.canvas.light.horizon, 0.15)
  side = body.box(rear, front, half, 0.35, high, paint)
  if side:
    normal, w = body.turn(side, 0, 0), side * half
    body.detail(along(w, rear, front, 0.35, 0.75), trim, normal)
    body.detail(along(w, rear, front, top, high), mix(paint, trim, 0.35), normal)
    count = max(2, round((front - rear) / 1.7))
    step = (front - rear) / count
    for k in range(count):
      a, b = rear + k * step + 0.09, rear + (k + 1) * step - 0.09
      if k % 3 == 1:
        middle = (a + b) / 2
        body.detail(along(w, a, b, 0.4, top), mix(trim, (30, 30, 34), 0.5), normal)
        for start, end in ((a + 0.1, middle - 0.04), (middle + 0.04, b - 0.1)):
          _pane(body, rng, along(w, start, end, 0.7, top - 0.1), glass, 0.0)
      else:
        _pane(body, rng, along(w, a, b, sill, top), glass, 0.6)
        if body.canvas.style.objects and not lit:  # daylight from the other side, over the seats
          daylight = mix(glass, body.canvas.light.horizon, 0.22)
          body.detail(along(w, a + 0.08, b - 0.12, sill + 0.4, top - 0.08), daylight, normal, GLASS)
  for end, at in ((-1, rear - 0.01), (1, front + 0.01)):
    if body.shows_end(end, at):
      wide = half - 0.14
      base = 1.1 if end > 0 else 1.5
      screen = [(-wide, base, at), (wide, base, at), (wide, top, at), (-wide, top, at)]
      body.detail(screen, glass, FRONT, GLASS)
      if body.canvas.style.objects:
        body.see_through(screen, glass)
        lit_sky = mix(paint, body.canvas.light.horizon, 0.3)
        body.detail(across(at, -half * 0.95, half * 0.95, base - 0.16, base - 0.06), lit_sky)
        body.part(across(at, -half * 0.9, half * 0.9, 0.2, 0.36), (16, 16, 18))
      else:
        body.reflection(screen, glass)
      body.detail(across(at, -0.8, 0.8, high - 0.5, high - 0.15), (28, 28, 30))
      body.detail(across(at, -0.6, 0.6, high - 0.4, high - 0.26), (250, 176, 50), LAMP)
      body.detail(across(at, -half, half, 0.36, 0.62), trim)
      for s in (-1, 1):
        lamp = across(at, s * 0.85, s * 1.15, 0.78, 0.96)
        if end < 0:
          body.detail(lamp, (190, 30, 28))
        else:
          body.detail(lamp, *(((255, 246, 214), LAMP) if lit else ((214, 214, 206), FRONT)))
  return side


def draw_bus(canvas: Canvas, rng: random.Random, pose: Pose) -> None:
  """Draws a city bus, 10 to 12 m long, with one deck or two."""
  bus = Body(canvas, pose, 'bus')
  length = rng.uniform(10, 12)
  high = rng.choice((3.0, 3.1, 3.1, 4.3))
  paint, trim = vary(rng, rng.choice(FLEET)), vary(rng, rng.choice(((40, 42, 48), (220, 220, 216), *FLEET)))
  rear, front = -length / 2, length / 2
  bus.cast_shadow(rear, front, 1.25, high)
  draw_tyres(bus, 1.05, (rear + 0.3, front - 0.3), 0.17, 0.5)
  if high > 4:
    side = bus.box(rear, front, 1.25, 2.9, high, paint)
    if side:
      bus.detail(along(side * 1.25, rear + 0.3, front - 0.3, 3.2, 3.95), GLASS_COLOR, bus.turn(side, 0, 0))
    for end, at in ((-1, rear - 0.01), (1, front + 0.01)):
      if bus.shows_end(end, at):
        bus.detail(across(at, -1.1, 1.1, 3.2, 3.95), GLASS_COLOR)
  side = _glazed_box(bus, rng, rear, front, min(high, 3.1), paint, trim)
  if side:
    for ahead in (-length * 0.27, length * 0.3):
      draw_wheel(bus, side * 1.25, ahead, 0.48)


def draw_tram(canvas: Canvas, rng: random.Random, pose: Pose, cars: int) -> None:
  """Draws a tram of up to four joined cars of 8 m, standing on its tracks, with its pantograph."""
  tram = Body(canvas, pose, 'train')
  paint, trim = vary(rng, rng.choice(FLEET)), vary(rng, rng.choice(((60, 62, 68), (224, 222, 214), *FLEET)))
  high, length = 3.4, 8.0
  total = cars * length
  tram.cast_shadow(-total / 2, total / 2, 1.25, high)
  middles = [(k + 0.5) * length - total / 2 for k in range(cars)]
  for middle in sorted(middles, key=lambda ahead: -tram.place(0, 0, ahead)[2]):
    rear, front = middle - length / 2, middle + length / 2
    tram.box(rear, front, 1.1, 0.1, 0.4, (44, 44, 48))
    tram.box(rear - 0.1, front + 0.1, 1.1, 0.4, high - 0.1, (38, 38, 42))
    _glazed_box(tram, rng, rear + 0.2, front - 0.2, high, paint, trim)
    tram.box(rear + 2, front - 2, 0.8, high, high + 0.25, mix(trim, (90, 90, 94), 0.6))
  bow = [(0, high + 0.25, middle), (0, high + 0.9, middle - 0.9), (0, high + 1.7, middle)]
  tram.line(bow, 0.06, (48, 48, 52))
  tram.line([(-0.8, high + 1.7, middle), (0.8, high + 1.7, middle)], 0.07, (48, 48, 52))
