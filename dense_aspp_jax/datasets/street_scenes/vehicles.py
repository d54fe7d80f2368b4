"""Cars, trucks, buses and trams."""

from __future__ import annotations

import math
import random

from dense_aspp_jax.datasets.street_scenes.canvas import ID, Canvas, Pose
from dense_aspp_jax.datasets.street_scenes.light import FRONT, UP, mix, vary
from dense_aspp_jax.datasets.street_scenes.palettes import FLEET, GLASS, PAINTS, TYRE
from dense_aspp_jax.datasets.street_scenes.solids import (
  CIRCLE,
  box,
  extrude,
  facing,
  ground_contact,
  panel,
  reflection,
)

# Outlines of cars seen from the right, clockwise from the lower rear: (metres ahead of the rear, metres up,
# half width). A steep edge between two points above the belt line is a window: see `extrude`.
_CARS = {
  'hatchback': ((0, 0.3, 0.84), (0.02, 0.92, 0.86), (0.5, 1.46, 0.66), (1.9, 1.5, 0.66), (2.8, 0.98, 0.84),
                (3.8, 0.78, 0.82), (3.92, 0.3, 0.82)),
  'sedan': ((0, 0.32, 0.86), (0.02, 0.95, 0.86), (0.75, 1.0, 0.86), (1.35, 1.42, 0.66), (2.55, 1.44, 0.66),
            (3.4, 0.96, 0.86), (4.5, 0.76, 0.84), (4.62, 0.3, 0.84)),
  'estate': ((0, 0.35, 0.9), (0.02, 1.02, 0.91), (0.35, 1.64, 0.74), (2.7, 1.68, 0.74), (3.4, 1.08, 0.91),
             (4.5, 0.92, 0.88), (4.65, 0.34, 0.88)),
  'van': ((0, 0.35, 0.94), (0.02, 1.1, 0.95), (0.1, 1.92, 0.88), (3.6, 1.95, 0.86), (4.4, 1.15, 0.94),
          (5.0, 0.95, 0.92), (5.1, 0.34, 0.92)),
}  # fmt: skip


_CAR_WINDOWS = {
  'hatchback': (((0.55, 0.96), (0.72, 1.4), (1.42, 1.42), (1.42, 0.96)),
                ((1.5, 0.96), (1.5, 1.42), (1.88, 1.42), (2.6, 0.96))),
  'sedan': (((1.05, 1.0), (1.42, 1.36), (1.98, 1.37), (1.98, 0.98)),
            ((2.06, 0.98), (2.06, 1.37), (2.5, 1.37), (3.15, 0.98))),
  'estate': (((0.3, 1.08), (0.5, 1.56), (1.55, 1.59), (1.55, 1.07)),
             ((1.63, 1.07), (1.63, 1.59), (2.62, 1.6), (3.2, 1.08))),
  'van': (((2.7, 1.16), (2.7, 1.82), (3.55, 1.84), (4.2, 1.18)),),
}  # fmt: skip


def _wheel(canvas: Canvas, pose: Pose, side: float, ahead: float, radius: float, label: int) -> None:
  canvas.polygon(
    panel(pose, side, [(ahead + radius * a, radius + radius * b) for a, b in CIRCLE]), TYRE, label
  )
  if radius * canvas.camera.scale(pose.z) > 4:
    hub = [(ahead + 0.6 * radius * a, radius + 0.6 * radius * b) for a, b in CIRCLE]
    canvas.polygon(panel(pose, side, hub), (128, 130, 134), None, pose.turn(math.copysign(1, side), 0, 0))


def _lights(canvas: Canvas, pose: Pose, length: float, half: float, high: float, lit: bool) -> None:
  """Draws head or rear lights and the number plate of the visible end."""
  for end, color, dark in ((-1, (235, 30, 24), (130, 22, 24)), (1, (255, 246, 214), (206, 208, 206))):
    at = end * (length / 2 + 0.01)
    if not facing(canvas, pose.place(0, high, at), pose.turn(0, 0, end)):
      continue
    for side in (-1, 1):
      a, b = side * half * 0.72, side * half * 0.98
      shape = [
        pose.place(a, high - 0.1, at),
        pose.place(a, high + 0.08, at),
        pose.place(b, high + 0.1, at),
        pose.place(b, high - 0.1, at),
      ]
      if lit:
        canvas.lamp(shape, color)
      else:
        canvas.polygon(shape, dark)
    plate = [
      pose.place(w, high + h, at) for w, h in ((-0.26, -0.34), (-0.26, -0.22), (0.26, -0.22), (0.26, -0.34))
    ]
    canvas.polygon(plate, (222, 222, 214))
    bumper = [pose.place(s * half * 0.97, h, at) for s, h in ((-1, 0.37), (-1, 0.46), (1, 0.46), (1, 0.37))]
    canvas.polygon(bumper, (44, 44, 48))


def draw_car(canvas: Canvas, rng: random.Random, pose: Pose) -> None:
  """Draws a hatchback, sedan, estate or van, about 4 to 5 m long."""
  label = ID['car']
  kind = rng.choices(tuple(_CARS), weights=(4, 4, 3, 1.5))[0]
  profile = _CARS[kind]
  paint = vary(rng, rng.choice(PAINTS))
  length, half = profile[-1][0], profile[1][2]
  ground_contact(canvas, pose, length, half, 1.3)
  for end in (-1, 1):
    for side in (-1, 1):
      w, at = side * (half - 0.1), end * (length / 2 - 0.3)
      tyre = [pose.place(w + d, h, at) for d, h in ((-0.1, 0), (-0.1, 0.4), (0.1, 0.4), (0.1, 0))]
      canvas.polygon(tyre, TYRE, label)
  glass = mix(vary(rng, GLASS, 0.2), canvas.light.horizon, rng.uniform(0.05, 0.3))
  side = extrude(canvas, pose, profile, paint, label, glass)
  if side:
    normal = pose.turn(side, 0, 0)
    for window in _CAR_WINDOWS[kind]:
      up = profile[2][2]
      points = [
        pose.place(side * (half + (up - half) * max(0.0, (h - 0.95) / 0.5)), h, ahead - length / 2)
        for ahead, h in window
      ]
      canvas.polygon(points, glass, None, normal)
    reach = length / 2 - 0.1
    sill = panel(pose, side * half, [(-reach, 0.37), (-reach, 0.46), (reach, 0.46), (reach, 0.37)])
    canvas.polygon(sill, mix(paint, (20, 20, 24), 0.6), None, normal)
    for ahead in (-0.31, 0.31):
      arch = [(ahead * length + 0.38 * a, 0.3 + 0.38 * max(0.0, b)) for a, b in CIRCLE]
      canvas.polygon(panel(pose, side * half, arch), (18, 18, 20))
      _wheel(canvas, pose, side * half, ahead * length, 0.31, label)
  _lights(canvas, pose, length, half, 0.75, canvas.light.lamps or rng.random() < 0.3)


def draw_truck(canvas: Canvas, rng: random.Random, pose: Pose) -> None:
  """Draws a lorry, 7 to 9 m long: a cab and a box, a tarpaulin or an open load."""
  label = ID['truck']
  length, half, high = rng.uniform(6.8, 9), 1.22, rng.uniform(3.1, 3.9)
  cab = vary(rng, rng.choice(PAINTS + FLEET))
  load = vary(rng, rng.choice((*FLEET, (220, 220, 214), (150, 154, 150), (120, 124, 110))))
  rear, front = -length / 2, length / 2
  seam = front - 2.0
  ground_contact(canvas, pose, length, half, high)
  open_load = rng.random() < 0.25

  def chassis():
    box(canvas, pose, rear, front - 0.2, half - 0.1, 0.45, 1.0, (52, 52, 56), label)
    for ahead in (rear + 1.2, rear + 2.3, front - 1.1):
      for side in (-1, 1):
        tyre = [
          pose.place(side * (half - 0.2) + d, h, ahead)
          for d, h in ((-0.2, 0), (-0.2, 0.7), (0.2, 0.7), (0.2, 0))
        ]
        canvas.polygon(tyre, TYRE, label)

  def body():
    top = high if not open_load else 1.9
    side = box(canvas, pose, rear, seam - 0.1, half, 0.95, top, load, label)
    if side and not open_load:
      stripe = panel(
        pose, side * half, [(rear + 0.6, 1.9), (rear + 0.6, 2.6), (seam - 0.8, 2.6), (seam - 0.8, 1.9)]
      )
      canvas.polygon(stripe, mix(load, rng.choice(FLEET), 0.7), None, pose.turn(side, 0, 0))
    if open_load:
      for k in range(5):
        heap = pose.place(rng.uniform(-0.5, 0.5), 1.9, rear + 0.8 + k * (length - 3.6) / 5)
        canvas.blob(heap, [(0.5 * a, 0.5 * b) for a, b in CIRCLE], 1.1, vary(rng, (122, 100, 76)), label)
    if facing(canvas, pose.place(0, 1, rear), pose.turn(0, 0, -1)):
      for w in (-0.02, half - 0.1, -half + 0.02):
        bar = [pose.place(w + d, h, rear - 0.01) for d, h in ((0, 1), (0, top), (0.06, top), (0.06, 1))]
        canvas.polygon(bar, mix(load, (30, 30, 34), 0.5))
      for side in (-1, 1):
        lamp = [
          pose.place(side * (half - d), h, rear - 0.02)
          for d, h in ((0.1, 0.7), (0.1, 0.9), (0.5, 0.9), (0.5, 0.7))
        ]
        canvas.polygon(lamp, (170, 30, 30))

  def cabin():
    profile = ((0, 0.5, half), (0, 2.7, half), (1.7, 2.75, half), (2.0, 1.5, half), (2.05, 0.45, half))
    middle = pose.place(0, 0, seam + 1.0)
    part = Pose(middle[0], middle[2], pose.yaw)
    side = extrude(canvas, part, profile, cab, label, GLASS)
    if side:
      window = panel(part, side * half, [(-0.2, 1.55), (-0.2, 2.4), (0.65, 2.4), (0.85, 1.55)])
      canvas.polygon(window, GLASS, None, pose.turn(side, 0, 0))
    if facing(canvas, pose.place(0, 1, front), pose.turn(0, 0, 1)):
      _lights(canvas, part, 2.1, half, 0.85, canvas.light.lamps)

  parts = (chassis, body, cabin) if math.cos(pose.yaw) < 0 else (chassis, cabin, body)
  for part in parts:
    part()
  side = 1 if facing(canvas, pose.place(half, 1, 0), pose.turn(1, 0, 0)) else -1
  if facing(canvas, pose.place(side * half, 1, 0), pose.turn(side, 0, 0)):
    for ahead in (rear + 1.2, rear + 2.3, front - 1.1):
      _wheel(canvas, pose, side * (half - 0.02), ahead, 0.48, label)


def _glazed_box(canvas, rng, pose, rear, front, high, paint, trim, label, doors):
  """Draws a bus or tram body: box, band of windows, doors, end window and destination sign."""
  half, sill, top = 1.25, 1.25, high - 0.65
  lit = canvas.light.lamps
  glass = mix(GLASS, canvas.light.horizon, 0.15)

  def pane(points, passenger=0.0):
    if lit:
      canvas.lamp(points, vary(rng, (206, 190, 146), 0.12))
      if rng.random() < passenger:
        a, d = points[0], points[3]
        base = mix(a, d, rng.uniform(0.25, 0.75))
        canvas.limb(base, (base[0], base[1] + 0.45, base[2]), 0.42, (52, 48, 52))
        canvas.disc((base[0], base[1] + 0.58, base[2]), 0.13, (60, 50, 46))
    else:
      canvas.polygon(points, glass, None, UP if rng.random() < 0.15 else FRONT)

  side = box(canvas, pose, rear, front, half, 0.35, high, paint, label)
  if side:
    normal, w = pose.turn(side, 0, 0), side * half
    skirt = [(rear, 0.35), (rear, 0.75), (front, 0.75), (front, 0.35)]
    canvas.polygon(panel(pose, w, skirt), trim, None, normal)
    canvas.polygon(
      panel(pose, w, [(rear, top), (rear, high), (front, high), (front, top)]),
      mix(paint, trim, 0.35),
      None,
      normal,
    )
    count = max(2, round((front - rear) / 1.7))
    step = (front - rear) / count
    for k in range(count):
      a, b = rear + k * step + 0.09, rear + (k + 1) * step - 0.09
      if doors and k % 3 == 1:
        canvas.polygon(
          panel(pose, w, [(a, 0.4), (a, top), (b, top), (b, 0.4)]),
          mix(trim, (30, 30, 34), 0.5),
          None,
          normal,
        )
        pane(
          panel(
            pose,
            w,
            [
              (a + 0.1, 0.7),
              (a + 0.1, top - 0.1),
              ((a + b) / 2 - 0.04, top - 0.1),
              ((a + b) / 2 - 0.04, 0.7),
            ],
          )
        )
        pane(
          panel(
            pose,
            w,
            [
              ((a + b) / 2 + 0.04, 0.7),
              ((a + b) / 2 + 0.04, top - 0.1),
              (b - 0.1, top - 0.1),
              (b - 0.1, 0.7),
            ],
          )
        )
      else:
        pane(panel(pose, w, [(a, sill), (a, top), (b, top), (b, sill)]), passenger=0.6)
  for end, at in ((-1, rear - 0.01), (1, front + 0.01)):
    if facing(canvas, pose.place(0, 1, at), pose.turn(0, 0, end)):
      wide = half - 0.14
      base = 1.1 if end > 0 else 1.5
      screen = [pose.place(a * wide, h, at) for a, h in ((-1, base), (1, base), (1, top), (-1, top))]
      canvas.polygon(screen, glass)
      reflection(canvas, screen, glass)
      sign = [
        pose.place(a * 0.8, h, at)
        for a, h in ((-1, high - 0.5), (-1, high - 0.15), (1, high - 0.15), (1, high - 0.5))
      ]
      canvas.polygon(sign, (28, 28, 30))
      text = [
        pose.place(a * 0.6, h, at)
        for a, h in ((-1, high - 0.4), (-1, high - 0.26), (1, high - 0.26), (1, high - 0.4))
      ]
      canvas.lamp(text, (250, 176, 50))
      canvas.polygon(
        [pose.place(a * half, h, at) for a, h in ((-1, 0.36), (-1, 0.62), (1, 0.62), (1, 0.36))], trim
      )
      for s in (-1, 1):
        lamp = [pose.place(s * d, h, at) for d, h in ((0.85, 0.78), (0.85, 0.96), (1.15, 0.96), (1.15, 0.78))]
        if end > 0:
          canvas.lamp(lamp, (255, 246, 214)) if lit else canvas.polygon(lamp, (214, 214, 206))
        else:
          canvas.polygon(lamp, (190, 30, 28))
  return side


def draw_bus(canvas: Canvas, rng: random.Random, pose: Pose) -> None:
  """Draws a city bus, 10 to 12 m long, with one deck or two."""
  label = ID['bus']
  length = rng.uniform(10, 12)
  high = rng.choice((3.0, 3.1, 3.1, 4.3))
  paint, trim = vary(rng, rng.choice(FLEET)), vary(rng, rng.choice(((40, 42, 48), (220, 220, 216), *FLEET)))
  ground_contact(canvas, pose, length, 1.25, high)
  for end in (-1, 1):
    for side in (-1, 1):
      w, at = side * 1.05, end * (length / 2 - 0.3)
      canvas.polygon(
        [pose.place(w + d, h, at) for d, h in ((-0.17, 0), (-0.17, 0.5), (0.17, 0.5), (0.17, 0))], TYRE, label
      )
  if high > 4:
    upper = min(high, 4.3)
    side = box(canvas, pose, -length / 2, length / 2, 1.25, 2.9, upper, paint, label)
    if side:
      band = panel(
        pose,
        side * 1.25,
        [
          (-length / 2 + 0.3, 3.2),
          (-length / 2 + 0.3, 3.95),
          (length / 2 - 0.3, 3.95),
          (length / 2 - 0.3, 3.2),
        ],
      )
      canvas.polygon(band, GLASS, None, pose.turn(side, 0, 0))
    for end in (-1, 1):
      at = end * (length / 2 + 0.01)
      if facing(canvas, pose.place(0, 3, at), pose.turn(0, 0, end)):
        canvas.polygon(
          [pose.place(a * 1.1, h, at) for a, h in ((-1, 3.2), (-1, 3.95), (1, 3.95), (1, 3.2))], GLASS
        )
  side = _glazed_box(canvas, rng, pose, -length / 2, length / 2, min(high, 3.1), paint, trim, label, True)
  if side:
    for ahead in (-length * 0.27, length * 0.3):
      _wheel(canvas, pose, side * 1.25, ahead, 0.48, label)


def draw_tram(canvas: Canvas, rng: random.Random, pose: Pose, cars: int) -> None:
  """Draws a tram of up to four joined cars of 8 m, standing on its tracks, with its pantograph."""
  label = ID['train']
  paint, trim = vary(rng, rng.choice(FLEET)), vary(rng, rng.choice(((60, 62, 68), (224, 222, 214), *FLEET)))
  high, length = 3.4, 8.0
  total = cars * length
  ground_contact(canvas, pose, total, 1.25, high)
  order = sorted(range(cars), key=lambda k: -pose.place(0, 0, (k + 0.5) * length - total / 2)[2])
  for k in order:
    rear = k * length - total / 2
    box(canvas, pose, rear, rear + length, 1.1, 0.1, 0.4, (44, 44, 48), label)
    box(canvas, pose, rear - 0.1, rear + length + 0.1, 1.1, 0.4, high - 0.1, (38, 38, 42), label)
    _glazed_box(canvas, rng, pose, rear + 0.2, rear + length - 0.2, high, paint, trim, label, True)
    box(
      canvas, pose, rear + 2, rear + length - 2, 0.8, high, high + 0.25, mix(trim, (90, 90, 94), 0.6), label
    )
  middle = (order[-1] + 0.5) * length - total / 2
  knee = pose.place(0, high + 0.9, middle - 0.9)
  canvas.line(
    [pose.place(0, high + 0.25, middle), knee, pose.place(0, high + 1.7, middle)], 0.06, (48, 48, 52), label
  )
  canvas.line(
    [pose.place(-0.8, high + 1.7, middle), pose.place(0.8, high + 1.7, middle)], 0.07, (48, 48, 52), label
  )
