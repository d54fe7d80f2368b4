"""People on foot, and bicycles and motorcycles with and without their riders."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes.body import Body, Pose, ring
from dense_aspp_jax.datasets.street_scenes.canvas import Canvas
from dense_aspp_jax.datasets.street_scenes.light import CLOTHES, FLEET, HAIR, LAMP, TYRE, Color, mix, vary

Spot = tuple[float, float]  # in the middle of a vehicle, metres ahead and up
_SKIN = ((232, 190, 164), (204, 156, 124), (150, 104, 78), (96, 66, 50))


def _far_side_first(body: Body) -> list[int]:
  return sorted((-1, 1), key=lambda side: -body.place(side, 0, 0)[2])


def draw_person(canvas: Canvas, rng: random.Random, pose: Pose, high: float, walks: bool = True) -> None:
  """Draws a person `high` metres tall, who stands or walks in the direction of the pose."""
  person = Body(canvas, pose, 'person', scale=high)
  skin, hair = vary(rng, rng.choice(_SKIN)), rng.choice(HAIR)
  coat, legs = vary(rng, rng.choice(CLOTHES)), vary(rng, rng.choice(CLOTHES), 0.1)
  if canvas.style.objects:  # most clothes are dark, some bright
    coat, legs = (mix(c, (18, 18, 22), rng.uniform(0, 0.9)) for c in (coat, legs))
    if rng.random() < 0.15:
      coat = mix(coat, (236, 232, 226), rng.uniform(0.5, 1))
  sleeve = mix(coat, (0, 0, 0), 0.15)
  stride = rng.uniform(0.10, 0.20) * rng.choice((-1, 1)) if walks else 0.0
  hem = 0.3 if rng.random() < 0.3 else 0.46
  wide = rng.uniform(0.92, 1.25) if canvas.style.objects else 1.0
  shoulder = 0.81
  Body(canvas, Pose(pose.x, pose.z), 'person', scale=high).cast_shadow(-0.117, 0.117, 0.153, 0.8)

  def leg(side):
    ahead = side * stride
    knee = (side * 0.055, 0.27, ahead * 0.55 + 0.02)
    person.limb((side * 0.05, 0.5, 0), knee, 0.105, legs, 0.8)
    person.limb(knee, (side * 0.05, 0.05 if ahead < 0 else 0.03, ahead), 0.085, legs, 0.7)
    person.limb((side * 0.052, 0.023, ahead - 0.04), (side * 0.052, 0.023, ahead + 0.11), 0.05, (34, 30, 30))

  def arm(side):
    ahead = -side * stride * 0.75
    elbow, hand = (side * 0.145, 0.62, ahead * 0.4), (side * 0.14, 0.47, ahead + 0.02)
    person.limb((side * 0.115, shoulder - 0.01, 0), elbow, 0.07, sleeve, 0.85)
    person.limb(elbow, hand, 0.058, sleeve, 0.75)
    person.disc(hand, 0.026, skin)

  far, near = _far_side_first(person)
  leg(far)
  arm(far)
  leg(near)
  for side in (far, near):
    person.limb((side * 0.06, shoulder, 0), (side * 0.05, hem, 0), 0.13, coat)
  person.limb((0, shoulder + 0.025, 0), (0, hem, 0), 0.17 * wide, coat, 1.05 * wide)
  person.limb((-0.115, shoulder, 0), (0.115, shoulder, 0), 0.07, coat)
  if rng.random() < 0.35:
    pack = vary(rng, rng.choice(CLOTHES))
    if math.cos(pose.yaw) >= 0.4 or abs(math.sin(pose.yaw)) > 0.6:
      person.limb((0, 0.79, -0.07), (0, 0.56, -0.08), 0.15, pack)
  if canvas.style.objects:  # the side away from the light, and what shows at the neck
    side = -0.05 if canvas.light.sun_direction[0] > 0 else 0.05
    shade = mix(coat, (4, 4, 8), 0.55)
    person.limb((side, shoulder - 0.01, 0.01), (side, hem, 0.01), 0.075, shade)
    if rng.random() < 0.4:
      person.limb((0, 0.83, 0.02), (0, 0.74, 0.02), 0.05, vary(rng, (214, 210, 204), 0.2), 0.4)
  arm(near)
  if canvas.style.objects and rng.random() < 0.3:
    bag = rng.choice((-0.17, 0.17))
    person.limb((bag, 0.5, 0.02), (bag, 0.36, 0.02), 0.13, vary(rng, rng.choice(CLOTHES)))
  person.limb((0, shoulder, 0), (0, 0.88, 0), 0.055, skin)
  person.disc((0, 0.92, 0.015), 0.058, skin, 1.25)
  if math.cos(pose.yaw) > -0.2:  # seen from behind
    person.disc((0, 0.93, -0.012), 0.06, hair, 1.1)
  else:
    person.disc((0, 0.965, -0.012), 0.06, hair, 0.6)


def _draw_rider(rider: Body, rng: random.Random, spots: Sequence[Spot], lean: float, helmet: Color) -> None:
  """Draws a rider: hips, hands and feet at three spots, the shoulders `lean` metres ahead of the hips."""
  seat, bar, foot = spots
  skin = vary(rng, rng.choice(_SKIN))
  coat, legs = vary(rng, rng.choice(CLOTHES)), vary(rng, rng.choice(CLOTHES), 0.1)
  sleeve = mix(coat, (0, 0, 0), 0.12)
  ahead, up = seat[0] + lean, seat[1] + 0.54  # of the shoulders

  def half(side):
    lift = 0.14 if side > 0 else 0.0
    knee = (side * 0.14, (seat[1] + foot[1]) / 2 + 0.12 + lift, max(seat[0], foot[0]) + 0.28)
    ankle = (side * 0.12, foot[1] + lift, foot[0])
    rider.limb((side * 0.1, seat[1], seat[0]), knee, 0.17, legs, 0.85)
    rider.limb(knee, ankle, 0.13, legs, 0.75)
    rider.limb(ankle, (side * 0.12, foot[1] + lift - 0.03, foot[0] + 0.2), 0.09, (30, 28, 28))
    elbow = (side * 0.26, (up + bar[1]) / 2 - 0.03, (ahead + bar[0]) / 2 - 0.02)
    rider.limb((side * 0.19, up, ahead), elbow, 0.12, sleeve, 0.85)
    rider.limb(elbow, (side * 0.25, bar[1], bar[0]), 0.1, sleeve, 0.8)

  far, near = _far_side_first(rider)
  half(far)
  for w in (-0.09, 0.09, 0):
    rider.limb((w, up + 0.04, ahead), (w, seat[1] - 0.06, seat[0] - 0.04), 0.25, coat, 0.95)
  rider.limb((-0.2, up, ahead), (0.2, up, ahead), 0.13, coat)
  half(near)
  head = (0, up + 0.24, ahead + 0.08)
  rider.limb((0, up, ahead), head, 0.11, skin)
  rider.disc(head, 0.105, skin, 1.25)
  rider.disc((0, up + 0.31, ahead + 0.07), 0.125, helmet, 0.75)


def draw_bicycle(canvas: Canvas, rng: random.Random, pose: Pose, ridden: bool) -> None:
  """Draws a bicycle, with its rider if `ridden`. The label covers the inside of the wheels."""
  bicycle = Body(canvas, pose, 'bicycle')
  color = vary(rng, rng.choice((*FLEET, (30, 30, 34), (30, 30, 34), (200, 200, 200))))
  r = 0.34
  bicycle.cast_shadow(-0.8, 0.8, 0.12, 1.3 if ridden else 0.7)
  for ahead in (-0.52, 0.52):
    rim = ring(0, ahead, r, r)
    bicycle.part(rim, None)
    bicycle.line([*rim, rim[0]], 0.05, TYRE)
    bicycle.limb((0, 0, ahead), (0, 2 * r, ahead), 0.05, TYRE)
    if canvas.camera.scale(pose.z) > 70:
      for spoke in zip(rim[:7], rim[7:], strict=True):
        canvas.line([bicycle.place(*end) for end in spoke], 0.01, (130, 130, 134))
    elif rng.random() < 0.7:
      spoke = (0, r, ahead + 0.75 * r), (0, r, ahead - 0.75 * r)
      canvas.line([bicycle.place(*end) for end in spoke], 0.03, (110, 110, 112))
  for a, b in (
    ((-0.52, r), (-0.05, 0.3)), ((-0.52, r), (-0.17, 0.76)), ((-0.05, 0.3), (-0.2, 0.86)),
    ((-0.17, 0.76), (0.34, 0.8)), ((-0.05, 0.3), (0.36, 0.72)), ((0.52, r), (0.35, 0.98)),
  ):  # fmt: skip
    bicycle.limb((0, a[1], a[0]), (0, b[1], b[0]), 0.05, color)
  bicycle.limb((0, 0.92, -0.32), (0, 0.92, -0.06), 0.09, (28, 26, 26))
  bicycle.limb((-0.28, 1.02, 0.36), (0.28, 1.02, 0.36), 0.05, (40, 40, 44))
  if ridden:
    helmet = vary(rng, rng.choice((*HAIR, (220, 220, 220), (200, 60, 50), (60, 90, 160))))
    lean = rng.uniform(0.12, 0.3)
    _draw_rider(Body(canvas, pose, 'rider'), rng, ((-0.2, 0.98), (0.36, 1.02), (-0.05, 0.16)), lean, helmet)


# Radius of the wheels, half the wheelbase, and panels in paint: from and to (ahead, up), and thickness.
_SCOOTER = 0.24, 0.58, (
  ((-0.75, 0.6), (-0.1, 0.55), 0.36), ((0.4, 0.3), (0.42, 1.0), 0.16), ((-0.1, 0.3), (0.4, 0.28), 0.12)
)  # fmt: skip
_MOTORCYCLE = 0.32, 0.7, (
  ((-0.1, 0.78), (0.42, 0.84), 0.27), ((-0.85, 0.84), (-0.45, 0.72), 0.14), ((0.5, 0.7), (0.6, 0.98), 0.2)
)  # fmt: skip


def draw_motorcycle(canvas: Canvas, rng: random.Random, pose: Pose, ridden: bool) -> None:
  """Draws a motorcycle or a scooter, with its rider if `ridden`."""
  motorcycle = Body(canvas, pose, 'motorcycle')
  paint = vary(rng, rng.choice((*FLEET, (30, 30, 34), (26, 26, 30))))
  dark = (38, 38, 42)
  radius, base, panels = _SCOOTER if rng.random() < 0.35 else _MOTORCYCLE
  motorcycle.cast_shadow(-1.0, 1.0, 0.3, 1.4 if ridden else 0.9)
  bars = (
    ((-base, radius), (-0.2, 0.5), 0.16, dark),
    ((base, radius), (0.45, 0.98), 0.1, (120, 120, 124)),
    ((-0.35, 0.42), (0.3, 0.42), 0.34, mix(dark, (110, 110, 112), 0.4)),
    *((*panel, paint) for panel in panels),
    ((-0.75, 0.8), (0.0, 0.78), 0.13, (26, 24, 24)),
  )
  for ahead in (-base, base):
    motorcycle.limb((0, 0, ahead), (0, 2 * radius, ahead), 0.17, TYRE)
    motorcycle.part(ring(0, ahead, radius, radius), TYRE)
    motorcycle.detail(ring(0, ahead, radius, 0.55 * radius), (132, 132, 136))
  for a, b, wide, color in bars:
    for w in (-0.08, 0.08):
      motorcycle.limb((w, a[1], a[0]), (w, b[1], b[0]), wide, color)
  motorcycle.limb((-0.36, 1.04, 0.36), (0.36, 1.04, 0.36), 0.06, dark)
  for side in (-0.36, 0.36):
    motorcycle.disc((side, 1.2, 0.36), 0.06, dark)
  if math.cos(pose.yaw) < 0:
    canvas.disc(motorcycle.place(0, 0.9, 0.62), 0.1, (255, 246, 214), 'motorcycle', normal=LAMP)
  else:
    motorcycle.disc((0, 0.9, -0.85), 0.1, (200, 30, 26))
  if ridden:
    helmet = vary(rng, rng.choice(((30, 30, 34), (224, 224, 224), (190, 40, 40), (50, 80, 160))))
    lean = rng.uniform(0.1, 0.3)
    _draw_rider(Body(canvas, pose, 'rider'), rng, ((-0.25, 0.86), (0.34, 1.06), (-0.05, 0.32)), lean, helmet)
