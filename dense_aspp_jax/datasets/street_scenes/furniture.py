"""Street furniture at the kerb: lamps, traffic lights and signs, bollards, clutter."""

from __future__ import annotations

import math
import random

from dense_aspp_jax.datasets.street_scenes.canvas import ID, Canvas, Pose
from dense_aspp_jax.datasets.street_scenes.light import Color, mix, vary
from dense_aspp_jax.datasets.street_scenes.palettes import CLOTHES, FLEET, HAIR, TYRE
from dense_aspp_jax.datasets.street_scenes.solids import CIRCLE, box, ground_contact


def draw_street_lamp(canvas: Canvas, x: float, z: float, high: float, color: Color) -> None:
  """Draws a lamp post with an arm over the road."""
  label = ID['pole']
  out = x - math.copysign(1.7, x)
  canvas.cast_shadow([(x - 0.08, z), (x + 0.08, z), (x + 0.08, z + 0.1), (x - 0.08, z + 0.1)], high)
  canvas.limb((x, 0, z), (x, 1.1, z), 0.24, color, label)
  canvas.limb((x, 0, z), (x, high, z), 0.17, color, label, 0.7)
  canvas.limb((x, high - 0.05, z), (out, high + 0.25, z), 0.1, color, label)
  head = [
    (out - 0.35, high + 0.3, z),
    (out - 0.3, high + 0.18, z),
    (out + 0.3, high + 0.18, z),
    (out + 0.35, high + 0.3, z),
  ]
  if canvas.light.lamps:
    canvas.lamp(head, (255, 226, 160), label)
  else:
    canvas.polygon(head, mix(color, (200, 200, 200), 0.3), label)


def _signal(canvas, rng, x, y, z, towards):
  """A traffic light whose housing hangs with its lower end at `y`."""
  label = ID['traffic light']
  black = vary(rng, rng.choice(((26, 28, 28), (40, 44, 42), (52, 56, 50), (190, 150, 50))), 0.3)
  housing = [(x - 0.2, y, z), (x - 0.2, y + 1.0, z), (x + 0.2, y + 1.0, z), (x + 0.2, y, z)]
  board = [(x - 0.3, y - 0.1, z), (x - 0.3, y + 1.1, z), (x + 0.3, y + 1.1, z), (x + 0.3, y - 0.1, z)]
  canvas.polygon(board, mix(black, (120, 120, 120), 0.25), label)
  if not towards:
    canvas.polygon(housing, mix(black, (90, 90, 86), 0.4))
    return
  canvas.polygon(housing, black)
  on = rng.choice((0, 0, 1, 2, 2))
  lamps = (((44, 150, 90), (60, 255, 150)), ((120, 90, 30), (255, 190, 50)), ((110, 30, 30), (255, 54, 40)))
  for k, (dark, bright) in enumerate(lamps):
    center = (x, y + 0.18 + 0.32 * k, z)
    index = {0: 2, 1: 1, 2: 0}[on]
    if k == index:
      canvas.disc(center, 0.135, vary(rng, bright, 0.2, 20), shines=True)
    else:
      canvas.disc(center, 0.12, mix(dark, (20, 20, 20), 0.6))


def draw_traffic_light(canvas: Canvas, rng: random.Random, x: float, z: float, reach: float) -> None:
  """Draws signals on a post at the kerb and, if `reach` > 0, on an arm of that many metres over the road."""
  pole = ID['pole']
  color = vary(rng, rng.choice(((110, 114, 116), (70, 76, 72), (56, 58, 62))))
  high = 6.0 if reach else 3.6
  canvas.cast_shadow([(x - 0.1, z), (x + 0.1, z), (x + 0.1, z + 0.1), (x - 0.1, z + 0.1)], high)
  canvas.limb((x, 0, z), (x, high, z), 0.2 if reach else 0.14, color, pole, 0.75)
  towards = x > 0 or rng.random() < 0.35
  _signal(canvas, rng, x, 2.4, z - 0.05, towards)
  if reach:
    end = x - math.copysign(reach, x)
    canvas.limb((x, high - 0.1, z), (end, high + 0.15, z), 0.13, color, pole, 0.7)
    _signal(canvas, rng, end, high - 0.8, z - 0.05, towards)


def draw_traffic_sign(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws a sign on a post: warning, prohibition, stop, priority, give way, blue, or a direction board."""
  label = ID['traffic sign']
  kind = rng.choice(
    ('warning', 'round', 'stop', 'priority', 'yield', 'blue', 'blue', 'board', 'arrow', 'yellow', 'back')
  )
  y, r = rng.uniform(2.2, 2.7), rng.uniform(0.34, 0.46)
  post = vary(rng, (128, 130, 132))
  canvas.cast_shadow([(x - 0.05, z), (x + 0.05, z), (x + 0.05, z + 0.1), (x - 0.05, z + 0.1)], y)
  canvas.limb((x, 0, z), (x, y + 0.3, z), 0.09, post, ID['pole'])
  z -= 0.06

  def shape(points, scale, color, ident=None, dy=0.0):
    canvas.polygon([(x + scale * a, y + dy + scale * b, z) for a, b in points], color, ident)

  faded = rng.uniform(0, 0.35)
  red, white, blue = (
    mix(vary(rng, c), (150, 150, 150), faded) for c in ((196, 36, 40), (236, 236, 232), (36, 84, 170))
  )
  triangle = ((-1, -0.75), (0, 1), (1, -0.75))
  square = ((-1, -1), (-1, 1), (1, 1), (1, -1))
  octagon = [(math.cos((k + 0.5) * math.tau / 8), math.sin((k + 0.5) * math.tau / 8)) for k in range(8)]
  if kind in ('warning', 'yield'):
    flip = 1 if kind == 'warning' else -1
    points = [(a, b * flip) for a, b in triangle]
    shape(points, r * 1.15, red, label)
    shape(points, r * 0.75, white)
    if kind == 'warning':
      shape(((-0.1, -0.4), (-0.1, 0.35), (0.1, 0.35), (0.1, -0.4)), r, (20, 20, 20))
  elif kind == 'round':
    shape(CIRCLE, r, red, label)
    shape(CIRCLE, r * 0.75, white)
    shape(((-0.35, -0.2), (-0.35, 0.2), (0.35, 0.2), (0.35, -0.2)), r, rng.choice(((24, 24, 24), red)))
  elif kind == 'stop':
    shape(octagon, r, red, label)
    shape(((-0.7, -0.18), (-0.7, 0.18), (0.7, 0.18), (0.7, -0.18)), r, white)
  elif kind == 'priority':
    diamond = ((-1, 0), (0, 1), (1, 0), (0, -1))
    shape(diamond, r * 1.1, white, label)
    shape(diamond, r * 0.8, (236, 190, 40))
  elif kind == 'blue':
    points = rng.choice((CIRCLE, square))
    shape(points, r, blue, label)
    shape(
      ((-0.12, -0.6), (-0.12, 0.2), (-0.4, 0.2), (0, 0.65), (0.4, 0.2), (0.12, 0.2), (0.12, -0.6)), r, white
    )
  elif kind == 'back':
    shape(rng.choice((CIRCLE, square, triangle)), r, (150, 152, 152), label)
  else:
    color = {'board': rng.choice((blue, (236, 236, 230))), 'arrow': (36, 110, 70), 'yellow': (238, 196, 50)}[
      kind
    ]
    points = ((-1.5, -0.6), (-1.5, 0.6), (1.3, 0.6), (1.7, 0), (1.3, -0.6))
    ink = white if color in (blue, (36, 110, 70)) else (30, 30, 30)
    shape(points, r * 1.2, color, label, 0.25)
    for dy in (0.22, -0.22):
      shape(
        ((-1.2, dy - 0.08), (-1.2, dy + 0.08), (rng.uniform(0.2, 1), dy + 0.08), (0.6, dy - 0.08)),
        r * 1.2,
        ink,
        None,
        0.25,
      )


def draw_bollard(canvas: Canvas, x: float, z: float, color: Color) -> None:
  """Draws a bollard of 0.9 m."""
  canvas.cast_shadow([(x - 0.07, z), (x + 0.07, z), (x + 0.07, z + 0.1), (x - 0.07, z + 0.1)], 0.9)
  canvas.limb((x, 0, z), (x, 0.9, z), 0.16, color, ID['pole'])
  canvas.limb((x, 0.65, z), (x, 0.8, z), 0.165, (220, 220, 216))


def draw_clutter(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws an object without a class: a bin, a bench, an advertising column, a cabinet (void: static)."""
  label = ID['static']
  kind = rng.choice(('bin', 'bench', 'column', 'cabinet'))
  pose = Pose(x, z, 0.0)
  color = vary(rng, rng.choice(((60, 84, 66), (90, 92, 96), (140, 110, 76), (60, 62, 70), (186, 120, 40))))
  if kind == 'bench':
    for y in (0.45, 0.75):
      canvas.limb((x - 0.8, y, z), (x + 0.8, y, z), 0.16, (128, 94, 62), label)
    for side in (-0.7, 0.7):
      canvas.limb((x + side, 0, z), (x + side, 0.8, z), 0.08, (56, 56, 58), label)
    ground_contact(canvas, pose, 0.5, 0.8, 0.4)
  elif kind == 'column':
    canvas.limb((x, 0, z), (x, 2.9, z), 1.1, (150, 146, 136), label)
    for k in range(3):
      a = x - 0.5 + k * 0.35
      y = rng.uniform(0.6, 1.2)
      poster = [(a, y, z), (a, y + 1.2, z), (a + 0.3, y + 1.2, z), (a + 0.3, y, z)]
      canvas.polygon(poster, vary(rng, rng.choice(FLEET)))
    canvas.limb((x, 2.85, z), (x, 3.05, z), 1.3, (70, 74, 72), label)
    ground_contact(canvas, pose, 0.6, 0.55, 2.8)
  else:
    high, half = (1.0, 0.3) if kind == 'bin' else (1.3, 0.55)
    ground_contact(canvas, pose, 0.5, half, high)
    box(canvas, pose, -0.25, 0.25, half, 0.0, high, color, label)
    rim = [(x + a * half, high + b, z - 0.26) for a, b in ((-1, -0.12), (-1, 0), (1, 0), (1, -0.12))]
    canvas.polygon(rim, mix(color, (20, 20, 20), 0.5))


def draw_belongings(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws a movable object: a suitcase, a dog, a pushchair (void: dynamic)."""
  label = ID['dynamic']
  color = vary(rng, rng.choice(CLOTHES + FLEET))
  kind = rng.choice(('suitcase', 'dog', 'push-chair'))
  ground_contact(canvas, Pose(x, z), 0.4, 0.3, 0.5)
  if kind == 'suitcase':
    canvas.limb((x, 0.06, z), (x, 0.72, z), 0.46, color, label)
    canvas.line(
      [(x - 0.12, 0.7, z), (x - 0.12, 1.0, z), (x + 0.12, 1.0, z), (x + 0.12, 0.7, z)],
      0.04,
      (50, 50, 54),
      label,
    )
  elif kind == 'dog':
    coat = vary(rng, rng.choice(HAIR))
    for a in (-0.3, -0.22, 0.22, 0.3):
      canvas.limb((x + a, 0.4, z), (x + a, 0, z), 0.08, coat, label)
    canvas.limb((x - 0.34, 0.46, z), (x + 0.34, 0.48, z), 0.24, coat, label)
    canvas.limb((x + 0.3, 0.5, z), (x + 0.46, 0.72, z), 0.15, coat, label)
    canvas.limb((x + 0.42, 0.7, z), (x + 0.62, 0.66, z), 0.14, coat, label, 0.6)
    canvas.limb((x - 0.34, 0.5, z), (x - 0.5, 0.7, z), 0.06, coat, label)
  else:
    for a in (-0.28, 0.28):
      canvas.disc((x + a, 0.13, z), 0.13, TYRE, label)
    canvas.polygon(
      [(x - 0.4, 0.35, z), (x - 0.45, 0.8, z), (x + 0.1, 0.95, z), (x + 0.35, 0.4, z)], color, label
    )
    canvas.line([(x - 0.2, 0.2, z), (x + 0.3, 0.5, z), (x + 0.55, 1.0, z)], 0.05, (60, 60, 64), label)
