"""People on foot, and bicycles and motorcycles with and without their riders."""

from __future__ import annotations

import math
import random

from dense_aspp_jax.datasets.street_scenes.canvas import ID, Canvas, Pose
from dense_aspp_jax.datasets.street_scenes.light import mix, vary
from dense_aspp_jax.datasets.street_scenes.palettes import CLOTHES, FLEET, HAIR, SKIN, TYRE
from dense_aspp_jax.datasets.street_scenes.solids import CIRCLE, ground_contact, panel


def draw_person(canvas: Canvas, rng: random.Random, pose: Pose, high: float, walks: bool = True) -> None:
  """Draws a person of `high` metres who stands or walks in the direction of the pose."""
  label = ID['person']
  skin, hair = vary(rng, rng.choice(SKIN)), rng.choice(HAIR)
  coat, legs = vary(rng, rng.choice(CLOTHES)), vary(rng, rng.choice(CLOTHES), 0.1)
  stride = rng.uniform(0.10, 0.20) * high * rng.choice((-1, 1)) if walks else 0.0
  long_coat = rng.random() < 0.3
  s = high
  canvas.cast_shadow(
    [
      (pose.x + a * 0.17 * s, pose.z + b * 0.13 * s)
      for a, b in ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9))
    ],
    high * 0.8,
  )
  hip, shoulder = 0.5 * s, 0.81 * s
  sides = sorted((-1, 1), key=lambda side: -pose.place(side, 0, 0)[2])

  def leg(side):
    ahead = side * stride
    ankle = pose.place(side * 0.05 * s, 0.05 * s if ahead < 0 else 0.03 * s, ahead)
    knee = pose.place(side * 0.055 * s, 0.27 * s, ahead * 0.55 + 0.02 * s)
    canvas.limb(pose.place(side * 0.05 * s, hip, 0), knee, 0.105 * s, legs, label, 0.8)
    canvas.limb(knee, ankle, 0.085 * s, legs, label, 0.7)
    heel, toe = (pose.place(side * 0.052 * s, 0.023 * s, ahead + d * s) for d in (-0.04, 0.11))
    canvas.limb(heel, toe, 0.05 * s, (34, 30, 30), label)

  def arm(side):
    ahead = -side * stride * 0.75
    elbow = pose.place(side * 0.145 * s, 0.62 * s, ahead * 0.4)
    hand = pose.place(side * 0.14 * s, 0.47 * s, ahead + 0.02 * s)
    sleeve = mix(coat, (0, 0, 0), 0.15)
    canvas.limb(pose.place(side * 0.115 * s, shoulder - 0.01 * s, 0), elbow, 0.07 * s, sleeve, label, 0.85)
    canvas.limb(elbow, hand, 0.058 * s, sleeve, label, 0.75)
    canvas.disc(hand, 0.026 * s, skin, label)

  leg(sides[0])
  arm(sides[0])
  leg(sides[1])
  hem = 0.3 * s if long_coat else 0.46 * s
  for side in sides:
    canvas.limb(
      pose.place(side * 0.06 * s, shoulder, 0),
      pose.place(side * 0.05 * s, hem, 0),
      0.13 * s,
      coat,
      label,
      1.0,
    )
  canvas.limb(pose.place(0, shoulder + 0.025 * s, 0), pose.place(0, hem, 0), 0.17 * s, coat, label, 1.05)
  canvas.limb(pose.place(-0.115 * s, shoulder, 0), pose.place(0.115 * s, shoulder, 0), 0.07 * s, coat, label)
  if rng.random() < 0.35:
    pack = vary(rng, rng.choice(CLOTHES))
    back = -1 if math.cos(pose.yaw) < 0.4 else 1
    if back > 0 or abs(math.sin(pose.yaw)) > 0.6:
      canvas.limb(
        pose.place(0, 0.79 * s, -0.07 * s), pose.place(0, 0.56 * s, -0.08 * s), 0.15 * s, pack, label
      )
  arm(sides[1])
  canvas.limb(pose.place(0, shoulder, 0), pose.place(0, 0.88 * s, 0), 0.055 * s, skin, label)
  head = pose.place(0, 0.92 * s, 0.015 * s)
  canvas.disc(head, 0.058 * s, skin, label, 1.25)
  seen_from_behind = math.cos(pose.yaw) > -0.2
  crown = pose.place(0, (0.93 if seen_from_behind else 0.965) * s, -0.012 * s)
  canvas.disc(crown, 0.06 * s, hair, label, 1.1 if seen_from_behind else 0.6)


def _sit(canvas, rng, pose, seat, bar, foot, lean, helmet):
  """Draws a rider: hips at `seat`, hands at `bar`, feet at `foot`, all (ahead, up) in metres."""
  label = ID['rider']
  skin = vary(rng, rng.choice(SKIN))
  coat, legs = vary(rng, rng.choice(CLOTHES)), vary(rng, rng.choice(CLOTHES), 0.1)
  shoulder = (seat[0] + lean, seat[1] + 0.54)
  sides = sorted((-1, 1), key=lambda side: -pose.place(side, 0, 0)[2])

  def half(side):
    lift = 0.14 if side > 0 else 0.0
    knee = pose.place(side * 0.14, (seat[1] + foot[1]) / 2 + 0.12 + lift, max(seat[0], foot[0]) + 0.28)
    ankle = pose.place(side * 0.12, foot[1] + lift, foot[0])
    canvas.limb(pose.place(side * 0.1, seat[1], seat[0]), knee, 0.17, legs, label, 0.85)
    canvas.limb(knee, ankle, 0.13, legs, label, 0.75)
    canvas.limb(
      ankle, pose.place(side * 0.12, foot[1] + lift - 0.03, foot[0] + 0.2), 0.09, (30, 28, 28), label
    )
    elbow = pose.place(side * 0.26, (shoulder[1] + bar[1]) / 2 - 0.03, (shoulder[0] + bar[0]) / 2 - 0.02)
    canvas.limb(
      pose.place(side * 0.19, shoulder[1], shoulder[0]), elbow, 0.12, mix(coat, (0, 0, 0), 0.12), label, 0.85
    )
    canvas.limb(elbow, pose.place(side * 0.25, bar[1], bar[0]), 0.1, mix(coat, (0, 0, 0), 0.12), label, 0.8)

  half(sides[0])
  for w in (-0.09, 0.09, 0):
    canvas.limb(
      pose.place(w, shoulder[1] + 0.04, shoulder[0]),
      pose.place(w, seat[1] - 0.06, seat[0] - 0.04),
      0.25,
      coat,
      label,
      0.95,
    )
  canvas.limb(
    pose.place(-0.2, shoulder[1], shoulder[0]), pose.place(0.2, shoulder[1], shoulder[0]), 0.13, coat, label
  )
  half(sides[1])
  head = pose.place(0, shoulder[1] + 0.24, shoulder[0] + 0.08)
  canvas.limb(pose.place(0, shoulder[1], shoulder[0]), head, 0.11, skin, label)
  canvas.disc(head, 0.105, skin, label, 1.25)
  canvas.disc(pose.place(0, shoulder[1] + 0.31, shoulder[0] + 0.07), 0.125, helmet, label, 0.75)


def draw_bicycle(canvas: Canvas, rng: random.Random, pose: Pose, ridden: bool) -> None:
  """Draws a bicycle, with its rider if it is `ridden`. The label covers the inside of its wheels."""
  label = ID['bicycle']
  color = vary(rng, rng.choice((*FLEET, (30, 30, 34), (30, 30, 34), (200, 200, 200))))
  r = 0.34
  ground_contact(canvas, pose, 1.6, 0.12, 1.3 if ridden else 0.7)
  for ahead in (-0.52, 0.52):
    rim = [(ahead + r * a, r + r * b) for a, b in CIRCLE]
    canvas.polygon(panel(pose, 0, rim), None, label)
    canvas.line(panel(pose, 0, [*rim, rim[0]]), 0.05, TYRE, label)
    canvas.limb(pose.place(0, 0, ahead), pose.place(0, 2 * r, ahead), 0.05, TYRE, label)
    if canvas.camera.scale(pose.z) > 70:
      for a, b in CIRCLE[:7]:
        canvas.line(
          panel(pose, 0, [(ahead + r * a, r + r * b), (ahead - r * a, r - r * b)]), 0.01, (130, 130, 134)
        )
    elif rng.random() < 0.7:
      inner = [(ahead + 0.75 * r * a, r + 0.75 * r * b) for a, b in CIRCLE]
      canvas.line(panel(pose, 0, [inner[0], inner[7]]), 0.03, (110, 110, 112))
  seat, bar, crank = (-0.2, 0.92), (0.36, 1.02), (-0.05, 0.3)
  for a, b in (
    ((-0.52, r), crank), ((-0.52, r), (-0.17, 0.76)), (crank, (-0.2, 0.86)), ((-0.17, 0.76), (0.34, 0.8)),
    (crank, (0.36, 0.72)), ((0.52, r), (0.35, 0.98)),
  ):  # fmt: skip
    canvas.limb(pose.place(0, a[1], a[0]), pose.place(0, b[1], b[0]), 0.05, color, label)
  canvas.limb(
    pose.place(0, seat[1], seat[0] - 0.12), pose.place(0, seat[1], seat[0] + 0.14), 0.09, (28, 26, 26), label
  )
  canvas.limb(pose.place(-0.28, bar[1], bar[0]), pose.place(0.28, bar[1], bar[0]), 0.05, (40, 40, 44), label)
  if ridden:
    helmet = vary(rng, rng.choice((*HAIR, (220, 220, 220), (200, 60, 50), (60, 90, 160))))
    _sit(canvas, rng, pose, (-0.2, 0.98), bar, (crank[0], 0.16), rng.uniform(0.12, 0.3), helmet)


def draw_motorcycle(canvas: Canvas, rng: random.Random, pose: Pose, ridden: bool) -> None:
  """Draws a motorcycle, or a scooter, with its rider if it is `ridden`."""
  label = ID['motorcycle']
  paint = vary(rng, rng.choice((*FLEET, (30, 30, 34), (26, 26, 30))))
  dark = (38, 38, 42)
  scooter = rng.random() < 0.35
  r = 0.24 if scooter else 0.32
  base = 0.58 if scooter else 0.7
  ground_contact(canvas, pose, 2.0, 0.3, 1.4 if ridden else 0.9)
  bars = [
    ((-base, r), (-0.2, 0.5), 0.16, dark), ((base, r), (0.45, 0.98), 0.1, (120, 120, 124)),
    ((-0.35, 0.42), (0.3, 0.42), 0.34, mix(dark, (110, 110, 112), 0.4)),
  ]  # fmt: skip
  if scooter:
    bars += [
      ((-0.75, 0.6), (-0.1, 0.55), 0.36, paint),
      ((0.4, 0.3), (0.42, 1.0), 0.16, paint),
      ((-0.1, 0.3), (0.4, 0.28), 0.12, paint),
    ]
  else:
    bars += [
      ((-0.1, 0.78), (0.42, 0.84), 0.27, paint),
      ((-0.85, 0.84), (-0.45, 0.72), 0.14, paint),
      ((0.5, 0.7), (0.6, 0.98), 0.2, paint),
    ]
  bars += [((-0.75, 0.8), (0.0, 0.78), 0.13, (26, 24, 24))]
  for ahead in (-base, base):
    canvas.limb(pose.place(0, 0, ahead), pose.place(0, 2 * r, ahead), 0.17, TYRE, label)
    canvas.polygon(panel(pose, 0, [(ahead + r * a, r + r * b) for a, b in CIRCLE]), TYRE, label)
    canvas.polygon(
      panel(pose, 0, [(ahead + 0.55 * r * a, r + 0.55 * r * b) for a, b in CIRCLE]), (132, 132, 136)
    )
  for a, b, wide, color in bars:
    for w in (-0.08, 0.08):
      canvas.limb(pose.place(w, a[1], a[0]), pose.place(w, b[1], b[0]), wide, color, label)
  canvas.limb(pose.place(-0.36, 1.04, 0.36), pose.place(0.36, 1.04, 0.36), 0.06, dark, label)
  for side in (-1, 1):
    canvas.disc(pose.place(side * 0.36, 1.2, 0.36), 0.06, dark, label)
  if math.cos(pose.yaw) < 0:
    canvas.disc(pose.place(0, 0.9, 0.62), 0.1, (255, 246, 214), label, shines=True)
  else:
    canvas.disc(pose.place(0, 0.9, -0.85), 0.1, (200, 30, 26), label)
  if ridden:
    helmet = vary(rng, rng.choice(((30, 30, 34), (224, 224, 224), (190, 40, 40), (50, 80, 160))))
    _sit(canvas, rng, pose, (-0.25, 0.86), (0.34, 1.06), (-0.05, 0.32), rng.uniform(0.1, 0.3), helmet)
