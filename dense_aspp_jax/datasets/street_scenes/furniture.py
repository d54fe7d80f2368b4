"""Street furniture at the kerb: lamps, traffic lights and signs, bollards, clutter."""

from __future__ import annotations

import math
import random

from dense_aspp_jax.datasets.street_scenes.body import Body, Pose
from dense_aspp_jax.datasets.street_scenes.canvas import CIRCLE, FRONT, Canvas, across
from dense_aspp_jax.datasets.street_scenes.light import CLOTHES, FLEET, HAIR, LAMP, TYRE, Color, mix, vary

_SIGNS = 'warning', 'round', 'stop', 'priority', 'yield', 'blue', 'blue', 'board', 'arrow', 'yellow', 'back'
_OCTAGON = [(math.cos((k + 0.5) * math.tau / 8), math.sin((k + 0.5) * math.tau / 8)) for k in range(8)]
_TRIANGLE = ((-1, -0.75), (0, 1), (1, -0.75))
_TRIANGLE_DOWN = ((-1, 0.75), (0, -1), (1, 0.75))
_SQUARE = ((-1, -1), (-1, 1), (1, 1), (1, -1))
_DIAMOND = ((-1, 0), (0, 1), (1, 0), (0, -1))
_ARROW = ((-0.12, -0.6), (-0.12, 0.2), (-0.4, 0.2), (0, 0.65), (0.4, 0.2), (0.12, 0.2), (0.12, -0.6))
_BOARD = ((-1.5, -0.6), (-1.5, 0.6), (1.3, 0.6), (1.7, 0), (1.3, -0.6))


def _post(canvas: Canvas, x: float, z: float, half: float, high: float) -> Body:
  """Casts the shadow of a post, and returns the post to draw."""
  post = Body(canvas, Pose(x, z), 'pole')
  post.cast_shadow(0, 0.1, half, high)
  return post


def draw_street_lamp(canvas: Canvas, x: float, z: float, high: float, color: Color) -> None:
  """Draws a lamp post with an arm over the road."""
  lamp = _post(canvas, x, z, 0.08, high)
  out = -math.copysign(1.7, x)
  lamp.limb((0, 0, 0), (0, 1.1, 0), 0.24, color)
  lamp.limb((0, 0, 0), (0, high, 0), 0.17, color, 0.7)
  lamp.limb((0, high - 0.05, 0), (out, high + 0.25, 0), 0.1, color)
  outline = ((-0.35, 0.3), (-0.3, 0.18), (0.3, 0.18), (0.35, 0.3))
  lit = ((255, 226, 160), LAMP) if canvas.light.lamps else (mix(color, (200, 200, 200), 0.3), FRONT)
  lamp.part([(out + side, high + up, 0) for side, up in outline], *lit)


def _draw_signal(canvas: Canvas, rng: random.Random, x: float, y: float, z: float, towards: bool) -> None:
  """Draws a traffic light from its lower end at `y`; `towards`: the lamps face the camera."""
  signal = Body(canvas, Pose(x, z), 'traffic light')
  black = vary(rng, rng.choice(((26, 28, 28), (40, 44, 42), (52, 56, 50), (190, 150, 50))), 0.3)
  signal.part(across(0, -0.3, 0.3, y - 0.1, y + 1.1), mix(black, (120, 120, 120), 0.25))
  housing = across(0, -0.2, 0.2, y, y + 1.0)
  if not towards:
    signal.detail(housing, mix(black, (90, 90, 86), 0.4))
    return
  signal.detail(housing, black)
  on = 2 - rng.choice((0, 0, 1, 2, 2))
  lamps = (((44, 150, 90), (60, 255, 150)), ((120, 90, 30), (255, 190, 50)), ((110, 30, 30), (255, 54, 40)))
  for k, (dark, bright) in enumerate(lamps):
    center = (x, y + 0.18 + 0.32 * k, z)
    if k == on:
      canvas.disc(center, 0.135, vary(rng, bright, 0.2, 20), normal=LAMP)
    else:
      canvas.disc(center, 0.12, mix(dark, (20, 20, 20), 0.6))


def draw_traffic_light(canvas: Canvas, rng: random.Random, x: float, z: float, reach: float) -> None:
  """Draws signals on a post at the kerb and, if `reach` > 0, on an arm of that many metres over the road."""
  color = vary(rng, rng.choice(((110, 114, 116), (70, 76, 72), (56, 58, 62))))
  high = 6.0 if reach else 3.6
  post = _post(canvas, x, z, 0.1, high)
  post.limb((0, 0, 0), (0, high, 0), 0.2 if reach else 0.14, color, 0.75)
  towards = x > 0 or rng.random() < 0.35
  _draw_signal(canvas, rng, x, 2.4, z - 0.05, towards)
  if reach:
    end = -math.copysign(reach, x)
    post.limb((0, high - 0.1, 0), (end, high + 0.15, 0), 0.13, color, 0.7)
    _draw_signal(canvas, rng, x + end, high - 0.8, z - 0.05, towards)


def draw_traffic_sign(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws a sign on a post: warning, prohibition, stop, priority, give way, blue, or a direction board."""
  kind = rng.choice(_SIGNS)
  y, r = rng.uniform(2.2, 2.7), rng.uniform(0.34, 0.46)
  gray = vary(rng, (128, 130, 132))
  _post(canvas, x, z, 0.05, y).limb((0, 0, 0), (0, y + 0.3, 0), 0.09, gray)
  faded = rng.uniform(0, 0.35)
  paints = (196, 36, 40), (236, 236, 232), (36, 84, 170)
  red, white, blue = (mix(vary(rng, paint), (150, 150, 150), faded) for paint in paints)

  def bar(half, low, high):
    return (-half, low), (-half, high), (half, high), (half, low)

  # Shapes, their size and colour; the first is the outline of the sign.
  if kind == 'warning':
    shapes = [(_TRIANGLE, 1.15, red), (_TRIANGLE, 0.75, white), (bar(0.1, -0.4, 0.35), 1, (20, 20, 20))]
  elif kind == 'yield':
    shapes = [(_TRIANGLE_DOWN, 1.15, red), (_TRIANGLE_DOWN, 0.75, white)]
  elif kind == 'round':
    ink = rng.choice(((24, 24, 24), red))
    shapes = [(CIRCLE, 1, red), (CIRCLE, 0.75, white), (bar(0.35, -0.2, 0.2), 1, ink)]
  elif kind == 'stop':
    shapes = [(_OCTAGON, 1, red), (bar(0.7, -0.18, 0.18), 1, white)]
  elif kind == 'priority':
    shapes = [(_DIAMOND, 1.1, white), (_DIAMOND, 0.8, (236, 190, 40))]
  elif kind == 'blue':
    shapes = [(rng.choice((CIRCLE, _SQUARE)), 1, blue), (_ARROW, 1, white)]
  elif kind == 'back':
    shapes = [(rng.choice((CIRCLE, _SQUARE, _TRIANGLE)), 1, (150, 152, 152))]
  else:
    green, yellow = (36, 110, 70), (238, 196, 50)
    color = {'board': rng.choice((blue, (236, 236, 230))), 'arrow': green, 'yellow': yellow}[kind]
    ink = white if color in (blue, green) else (30, 30, 30)
    shapes = [(_BOARD, 1.2, color)]
    for low, high in ((0.14, 0.3), (-0.3, -0.14)):
      shapes.append((((-1.2, low), (-1.2, high), (rng.uniform(0.2, 1), high), (0.6, low)), 1.2, ink))
    y += 0.25
  for k, (outline, scale, color) in enumerate(shapes):
    points = [(x + r * scale * a, y + r * scale * b, z - 0.06) for a, b in outline]
    canvas.polygon(points, color, None if k else 'traffic sign')


def draw_bollard(canvas: Canvas, x: float, z: float, color: Color) -> None:
  """Draws a bollard of 0.9 m."""
  bollard = _post(canvas, x, z, 0.07, 0.9)
  bollard.limb((0, 0, 0), (0, 0.9, 0), 0.16, color)
  canvas.limb((x, 0.65, z), (x, 0.8, z), 0.165, (220, 220, 216))


def draw_clutter(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws an object without a class: a bin, a bench, an advertising column, a cabinet (void: static)."""
  clutter = Body(canvas, Pose(x, z), 'static')
  kind = rng.choice(('bin', 'bench', 'column', 'cabinet'))
  color = vary(rng, rng.choice(((60, 84, 66), (90, 92, 96), (140, 110, 76), (60, 62, 70), (186, 120, 40))))
  if kind == 'bench':
    for y in (0.45, 0.75):
      clutter.limb((-0.8, y, 0), (0.8, y, 0), 0.16, (128, 94, 62))
    for side in (-0.7, 0.7):
      clutter.limb((side, 0, 0), (side, 0.8, 0), 0.08, (56, 56, 58))
    clutter.cast_shadow(-0.25, 0.25, 0.8, 0.4)
  elif kind == 'column':
    clutter.limb((0, 0, 0), (0, 2.9, 0), 1.1, (150, 146, 136))
    for left in (-0.5, -0.15, 0.2):
      low = rng.uniform(0.6, 1.2)
      clutter.detail(across(0, left, left + 0.3, low, low + 1.2), vary(rng, rng.choice(FLEET)))
    clutter.limb((0, 2.85, 0), (0, 3.05, 0), 1.3, (70, 74, 72))
    clutter.cast_shadow(-0.3, 0.3, 0.55, 2.8)
  else:
    high, half = (1.0, 0.3) if kind == 'bin' else (1.3, 0.55)
    clutter.cast_shadow(-0.25, 0.25, half, high)
    clutter.box(-0.25, 0.25, half, 0.0, high, color)
    clutter.detail(across(-0.26, -half, half, high - 0.12, high), mix(color, (20, 20, 20), 0.5))


def draw_belongings(canvas: Canvas, rng: random.Random, x: float, z: float) -> None:
  """Draws a movable object: a suitcase, a dog, a pushchair (void: dynamic)."""
  thing = Body(canvas, Pose(x, z), 'dynamic')
  color = vary(rng, rng.choice(CLOTHES + FLEET))
  kind = rng.choice(('suitcase', 'dog', 'pushchair'))
  thing.cast_shadow(-0.2, 0.2, 0.3, 0.5)
  if kind == 'suitcase':
    thing.limb((0, 0.06, 0), (0, 0.72, 0), 0.46, color)
    thing.line(across(0, -0.12, 0.12, 0.7, 1.0), 0.04, (50, 50, 54))
  elif kind == 'dog':
    coat = vary(rng, rng.choice(HAIR))
    for a in (-0.3, -0.22, 0.22, 0.3):
      thing.limb((a, 0.4, 0), (a, 0, 0), 0.08, coat)
    thing.limb((-0.34, 0.46, 0), (0.34, 0.48, 0), 0.24, coat)
    thing.limb((0.3, 0.5, 0), (0.46, 0.72, 0), 0.15, coat)
    thing.limb((0.42, 0.7, 0), (0.62, 0.66, 0), 0.14, coat, 0.6)
    thing.limb((-0.34, 0.5, 0), (-0.5, 0.7, 0), 0.06, coat)
  else:
    for a in (-0.28, 0.28):
      thing.disc((a, 0.13, 0), 0.13, TYRE)
    thing.part([(-0.4, 0.35, 0), (-0.45, 0.8, 0), (0.1, 0.95, 0), (0.35, 0.4, 0)], color)
    thing.line([(-0.2, 0.2, 0), (0.3, 0.5, 0), (0.55, 1.0, 0)], 0.05, (60, 60, 64))
