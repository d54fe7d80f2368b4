"""Cars, and the parts that they share with larger vehicles."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes.body import Body, Pose, ring
from dense_aspp_jax.datasets.street_scenes.canvas import CIRCLE, FRONT, Canvas, across, along
from dense_aspp_jax.datasets.street_scenes.light import LAMP, PAINTS, TYRE, Color, Point, mix, vary
from dense_aspp_jax.datasets.street_scenes.surfaces import GLASS

GLASS_COLOR = (48, 56, 66)
# Paints as common as they are in photographed streets.
_COMMON_PAINTS = (
  (176, 180, 184), (150, 154, 160), (196, 198, 200), (34, 36, 40), (22, 22, 26), (60, 62, 68), (92, 96, 102),
  (228, 228, 226), (236, 236, 234), (36, 46, 84), (44, 60, 104), (120, 24, 30), (148, 30, 34), (40, 62, 56),
  (128, 118, 100), (70, 100, 140),
)  # fmt: skip
# Outlines of cars seen from the right, clockwise from the lower rear: (metres ahead of the rear, metres up,
# half width). A steep edge between two points above the belt line is a window: see `Body.extrude`.
_CARS = {
  'hatchback': ((0, 0.3, 0.84), (0.02, 0.92, 0.86), (0.5, 1.46, 0.66), (1.9, 1.5, 0.66), (2.8, 0.98, 0.84),
                (3.8, 0.78, 0.82), (3.92, 0.3, 0.82)),
  'sedan': ((0, 0.32, 0.86), (0.02, 0.95, 0.86), (0.75, 1.0, 0.86), (1.35, 1.42, 0.66), (2.55, 1.44, 0.66),
            (3.4, 0.96, 0.86), (4.5, 0.76, 0.84), (4.62, 0.3, 0.84)),
  'estate': ((0, 0.35, 0.9), (0.02, 1.02, 0.91), (0.35, 1.64, 0.74), (2.7, 1.68, 0.74), (3.4, 1.08, 0.91),
             (4.5, 0.92, 0.88), (4.65, 0.34, 0.88)),
  'van': ((0, 0.35, 0.94), (0.02, 1.1, 0.95), (0.1, 1.92, 0.88), (3.6, 1.95, 0.86), (4.4, 1.15, 0.94),
          (5.0, 0.95, 0.92), (5.1, 0.34, 0.92)),
  'city car': ((0, 0.3, 0.78), (0.02, 0.9, 0.8), (0.35, 1.42, 0.64), (1.7, 1.5, 0.64), (2.5, 1.02, 0.79),
               (3.3, 0.8, 0.77), (3.4, 0.3, 0.77)),
  'off-roader': ((0, 0.42, 0.9), (0.02, 1.06, 0.93), (0.25, 1.72, 0.77), (3.0, 1.76, 0.77),
                 (3.6, 1.16, 0.93), (4.5, 1.04, 0.9), (4.62, 0.42, 0.9)),
  'minivan': ((0, 0.34, 0.9), (0.02, 1.05, 0.92), (0.2, 1.7, 0.76), (2.6, 1.74, 0.76), (3.7, 1.1, 0.9),
              (4.3, 0.92, 0.88), (4.4, 0.34, 0.88)),
}  # fmt: skip
_DETAILS_TO = 45.0  # metres
_PLAIN_KINDS = 4  # of those, which version 1 of the data set has
_CAR_WINDOWS = {
  'hatchback': (((0.55, 0.96), (0.72, 1.4), (1.42, 1.42), (1.42, 0.96)),
                ((1.5, 0.96), (1.5, 1.42), (1.88, 1.42), (2.6, 0.96))),
  'sedan': (((1.05, 1.0), (1.42, 1.36), (1.98, 1.37), (1.98, 0.98)),
            ((2.06, 0.98), (2.06, 1.37), (2.5, 1.37), (3.15, 0.98))),
  'estate': (((0.3, 1.08), (0.5, 1.56), (1.55, 1.59), (1.55, 1.07)),
             ((1.63, 1.07), (1.63, 1.59), (2.62, 1.6), (3.2, 1.08))),
  'van': (((2.7, 1.16), (2.7, 1.82), (3.55, 1.84), (4.2, 1.18)),),
  'city car': (((0.42, 0.96), (0.6, 1.37), (1.25, 1.41), (1.25, 0.95)),
               ((1.33, 0.95), (1.33, 1.41), (1.68, 1.42), (2.3, 0.98))),
  'off-roader': (((0.3, 1.12), (0.42, 1.63), (1.55, 1.66), (1.55, 1.12)),
                 ((1.63, 1.12), (1.63, 1.66), (2.92, 1.67), (3.35, 1.18))),
  'minivan': (((0.22, 1.1), (0.35, 1.6), (1.3, 1.64), (1.3, 1.09)),
              ((1.38, 1.09), (1.38, 1.64), (2.52, 1.65), (3.4, 1.12))),
}  # fmt: skip


def draw_tyres(body: Body, side: float, axles: Sequence[float], half: float, high: float) -> None:
  """Draws tyres as seen along the vehicle, below its body."""
  if body.pose.z > 2 * _DETAILS_TO:
    return
  for ahead in axles:
    for w in (-side, side):
      body.part(across(ahead, w - half, w + half, 0, high), TYRE)


def draw_wheel(body: Body, side: float, ahead: float, radius: float) -> None:
  """Draws a wheel as seen from its side."""
  if body.pose.z > 2 * _DETAILS_TO:
    return
  body.part(ring(side, ahead, radius, radius), TYRE)
  if radius * body.canvas.camera.scale(body.pose.z) > 4:
    normal = body.turn(math.copysign(1, side), 0, 0)
    body.detail(ring(side, ahead, radius, 0.6 * radius), (128, 130, 134), normal)
    if body.canvas.style.objects and body.pose.z < _DETAILS_TO / 2:
      body.detail(ring(side, ahead, radius, 0.66 * radius), (190, 192, 196), normal)
      spokes = [(side, radius * (1 + 0.55 * b), ahead + radius * 0.55 * a) for a, b in CIRCLE[::3]]
      body.detail(spokes, (52, 54, 58), normal)
      body.detail(ring(side, ahead, radius, 0.2 * radius), (170, 172, 176), normal)


def draw_lights(body: Body, end: int, at: float, half: float, high: float, lit: bool) -> None:
  """Draws the lights, the number plate and the bumper of the rear (`end` -1) or the front (1)."""
  if not body.shows_end(end, at):
    return
  color, dark = ((255, 246, 214), (206, 208, 206)) if end > 0 else ((235, 30, 24), (130, 22, 24))
  for side in (-1, 1):
    a, b = side * half * 0.72, side * half * 0.98
    shape = [(a, high - 0.1, at), (a, high + 0.08, at), (b, high + 0.1, at), (b, high - 0.1, at)]
    body.detail(shape, *((color, LAMP) if lit else (dark, FRONT)))
  body.detail(across(at, -0.26, 0.26, high - 0.34, high - 0.22), (222, 222, 214))
  body.detail(across(at, -half * 0.97, half * 0.97, 0.37, 0.46), (44, 44, 48))


def draw_car(canvas: Canvas, rng: random.Random, pose: Pose) -> None:
  """Draws a car, 3.4 to 5 m long: a hatchback, sedan, estate, van, city car, off-roader or minivan."""
  detailed = canvas.style.objects
  near = detailed and pose.z < _DETAILS_TO
  kinds = tuple(_CARS)
  if detailed:
    kind = rng.choices(kinds, weights=(4, 3, 3, 1.5, 2, 2, 1.5))[0]
    paint = vary(rng, rng.choice(_COMMON_PAINTS))
    scale = rng.uniform(0.94, 1.07)
  else:
    kind = rng.choices(kinds[:_PLAIN_KINDS], weights=(4, 4, 3, 1.5))[0]
    paint, scale = vary(rng, rng.choice(PAINTS)), 1.0
  car = Body(canvas, pose, 'car', scale)
  profile = _CARS[kind]
  length, half, upper_half = profile[-1][0], profile[1][2], profile[2][2]
  rear = -length / 2
  car.cast_shadow(rear, -rear, half, 1.3)
  draw_tyres(car, half - 0.1, (rear + 0.3, -rear - 0.3), 0.1, 0.4)
  glass = mix(vary(rng, GLASS_COLOR, 0.2), canvas.light.horizon, rng.uniform(0.05, 0.3))
  if detailed:
    glass = vary(rng, rng.choice(((22, 24, 28), (38, 42, 48), (58, 66, 74))), 0.2)
    glass = mix(glass, canvas.light.horizon, rng.triangular(0, 0.5, 0))
  side = car.extrude(_rounded(profile) if detailed else profile, paint, glass, rear)
  if side:
    normal, w = car.turn(side, 0, 0), side * half
    if near:
      _draw_side(car, rng, w, (rear, -rear), paint, normal)
    for window in _CAR_WINDOWS[kind]:
      widths = [half - (half - upper_half) * max(0.0, (up - 0.95) / 0.5) for _, up in window]
      pane = [(side * width, up, rear + ahead) for width, (ahead, up) in zip(widths, window, strict=True)]
      car.detail(pane, glass, normal, GLASS)
      if near:  # the sky, above what stands on the other side
        a, b, c, d = pane
        lower, upper = [mix(a, b, 0.45), mix(d, c, 0.45)], [mix(c, d, 0.06), mix(b, a, 0.06)]
        tone = mix(glass, canvas.light.horizon, 0.3)
        car.detail([lower[0], lower[1], *upper], tone, normal, GLASS)
    car.detail(along(w, rear + 0.1, -rear - 0.1, 0.37, 0.46), mix(paint, (20, 20, 24), 0.6), normal)
    for ahead in (-0.31 * length, 0.31 * length):
      car.detail([(w, 0.3 + 0.38 * max(0.0, b), ahead + 0.38 * a) for a, b in CIRCLE], (18, 18, 20))
      draw_wheel(car, w, ahead, 0.31)
  lit = rng.random() < 0.3 or canvas.light.lamps
  for end in (-1, 1):
    at = end * (0.01 - rear)
    if near:
      _draw_end(car, rng, end, at, (half, profile[1][1]), paint)
    draw_lights(car, end, at, half, 0.75, lit)


def _rounded(profile: Sequence[Point], cut: float = 0.12) -> list[Point]:
  """Cuts the corners of a profile."""
  result = [profile[0]]
  for before, corner, after in zip(profile, profile[1:], profile[2:], strict=False):
    result += [mix(corner, before, cut), mix(corner, after, cut)]
  return [*result, profile[-1]]


def _draw_side(
  car: Body, rng: random.Random, w: float, ends: tuple[float, float], paint: Color, normal: Point
) -> None:
  """Draws what a side of a car reflects, above the ground, below the sky, and the gaps of its doors."""
  rear, front = ends
  sky, dark = mix(paint, car.canvas.light.horizon, rng.uniform(0.08, 0.35)), mix(paint, (12, 12, 14), 0.55)
  car.detail(along(w, rear + 0.1, front - 0.15, 0.3, 0.6), dark, normal)
  car.detail(along(w, rear + 0.08, front - 0.5, 0.74, 0.88), sky, normal)
  car.detail(along(w, rear + 0.1, front - 0.6, 0.88, 0.92), mix(sky, (250, 250, 250), 0.4), normal)
  if car.canvas.camera.scale(car.pose.z) > 40:
    for ahead in (-0.9, 0.1, 1.0):
      car.detail(along(w, ahead, ahead + 0.03, 0.42, 0.95), mix(paint, (10, 10, 12), 0.7), normal)
      car.detail(along(w, ahead + 0.12, ahead + 0.3, 0.8, 0.84), dark, normal)
  mirror = car.place(w * 1.12, 1.0, front * 0.42)
  car.canvas.disc(mirror, 0.11, mix(paint, (16, 16, 18), 0.5), 'car', 0.75)


def _draw_end(
  car: Body, rng: random.Random, end: int, at: float, size: tuple[float, float], paint: Color
) -> None:
  """Draws the rear (`end` -1) or the front of a car: bumper, shade below, grille."""
  if not car.shows_end(end, at):
    return
  half, belt = size
  black, dark = (14, 14, 16), mix(paint, (12, 12, 14), 0.45)
  sky = mix(paint, car.canvas.light.horizon, rng.uniform(0.1, 0.35))
  car.part(across(at, -half * 0.9, half * 0.9, 0.2, 0.36), black)
  car.detail(across(at, -half * 0.97, half * 0.97, 0.36, 0.56), dark if rng.random() < 0.7 else (44, 44, 48))
  if end < 0:
    car.detail(across(at, -half * 0.9, half * 0.9, belt - 0.14, belt - 0.03), sky)
    if rng.random() < 0.5:
      high = rng.uniform(1.0, 1.35)
      for s in (-1, 1):
        car.part(across(at, s * half * 0.84, s * half, 0.7, high), (96, 18, 20))
  else:
    wide = half * rng.uniform(0.4, 0.62)
    car.detail(across(at, -wide, wide, 0.56, 0.7), (30, 30, 32))
    car.detail(across(at, -wide * 1.2, wide * 1.2, 0.38, 0.46), black)
