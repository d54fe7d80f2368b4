"""Markings and traces on the road that not every street has. They belong to the road's label."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes.canvas import UP, Canvas, level
from dense_aspp_jax.datasets.street_scenes.light import Color, Point, mix, vary

_YELLOW = (206, 168, 60)
# Letters as strokes between points of a grid of 3 x 3: number = column + 3 * row from below.
_LETTERS = ((0, 6, 8), (6, 0, 2), (0, 6, 8, 5, 3), (0, 6, 2, 8), (8, 6, 0, 2, 8), (6, 8, 4, 2, 0), (0, 7, 2))


def _stroke(
  canvas: Canvas, start: tuple[float, float], end: tuple[float, float], wide: float, color: Color
) -> None:
  """Paints a straight line on the ground between two points (x, z)."""
  (x0, z0), (x1, z1) = start, end
  length = math.hypot(x1 - x0, z1 - z0) or 1.0
  a, b = wide / 2 * (z1 - z0) / length, wide / 2 * (x0 - x1) / length
  points: list[Point] = [(x0 + a, 0, z0 + b), (x1 + a, 0, z1 + b), (x1 - a, 0, z1 - b), (x0 - a, 0, z0 - b)]
  canvas.polygon(points, color, None, UP)


def _path(canvas: Canvas, points: Sequence[tuple[float, float]], wide: float, color: Color) -> None:
  for start, end in itertools.pairwise(points):
    _stroke(canvas, start, end, wide, color)


def draw_traces(canvas: Canvas, rng: random.Random, left: float, right: float, asphalt: Color) -> None:
  """Draws seams filled with tar, trenches that were closed again, covers and gullies."""
  dark = mix(asphalt, (26, 26, 28), rng.uniform(0.4, 0.8))
  for _ in range(rng.choice((0, 0, 1, 2, 4))):
    x, z = rng.uniform(left, right), rng.uniform(3, 25)
    points = [(x, z)]
    for _ in range(rng.randint(3, 8)):
      x, z = x + rng.gauss(0, 0.25), z + rng.uniform(0.6, 2.5)
      points.append((x, z))
    _path(canvas, points, rng.uniform(0.03, 0.09), dark)
  if rng.random() < 0.35:  # a trench along the road, and one across
    x, wide = rng.uniform(left, right), rng.uniform(0.5, 1.6)
    tone = mix(asphalt, rng.choice(((30, 30, 32), (150, 150, 150))), rng.uniform(0.1, 0.4))
    canvas.polygon(level(x, x + wide, 2, rng.uniform(15, 90)), tone, None, UP)
    z = rng.uniform(4, 25)
    canvas.polygon(level(left, right, z, z + rng.uniform(0.5, 1.5)), tone, None, UP)
  for _ in range(rng.choice((0, 1, 2, 3))):
    x, z, half = rng.uniform(left, right), rng.uniform(3, 25), rng.uniform(0.25, 0.45)
    cover = [(x + half * math.cos(k * 0.524), 0, z + half * math.sin(k * 0.524)) for k in range(12)]
    square = level(x - half, x + half, z - half, z + half)
    shape = cover if rng.random() < 0.6 else square
    canvas.polygon(shape, mix(asphalt, (36, 34, 32), rng.uniform(0.3, 0.8)), None, UP)


def draw_kerb_lines(
  canvas: Canvas, rng: random.Random, edges: tuple[float, float], white: Color, asphalt: Color
) -> None:
  """Draws single, double or zigzag lines along the kerbs."""
  yellow = mix(asphalt, _YELLOW, rng.uniform(0.4, 0.95))
  for kerb in edges:
    inward = -math.copysign(1, kerb)
    kind = rng.choice(('', '', 'double', 'double', 'single', 'zigzag'))
    color = rng.choice((yellow, yellow, white))
    for k in range(('single', 'double').index(kind) + 1 if kind in ('single', 'double') else 0):
      x = kerb + inward * (0.3 + 0.22 * k)
      _stroke(canvas, (x, 1.8), (x, 90), 0.09, color)
    if kind == 'zigzag':
      start = rng.uniform(3, 12)
      points = [(kerb + inward * (0.5 + 0.7 * (k % 2)), start + 2 * k) for k in range(rng.randint(4, 9))]
      _path(canvas, points, 0.12, white)


def draw_surface_signs(
  canvas: Canvas, rng: random.Random, lanes: Sequence[float], lane: float, white: Color, asphalt: Color
) -> None:
  """Draws words, turning arrows, a hatched area, a box to be kept clear, a cycle lane or bay lines."""
  kind = rng.choice(('words', 'arrow', 'hatched', 'box', 'cycle lane', 'numbers', ''))
  x, z = rng.choice(lanes), rng.uniform(5, 16)
  if kind in ('words', 'numbers'):
    high = rng.uniform(1.6, 3)
    for row in range(2 if kind == 'words' else 1):
      count = rng.randint(3, 5) if kind == 'words' else 2
      wide = 2.4 / count if kind == 'words' else 0.8
      for k in range(count):
        at = x - wide * count / 2 + k * wide
        grid = [(at + 0.35 * wide * (n % 3), z - row * (high + 1) + high / 2 * (n // 3)) for n in range(9)]
        _path(canvas, [grid[n] for n in rng.choice(_LETTERS)], 0.14, white)
  elif kind == 'arrow':
    turn = rng.choice((-1, 1))
    points = ((x, z), (x, z + 2), (x + turn * 0.6, z + 3))
    _path(canvas, points, 0.17, white)
    tip = [(x + turn * 0.35, 0, z + 3.3), (x + turn * 1.1, 0, z + 3.3), (x + turn * 0.75, 0, z + 2.5)]
    canvas.polygon(tip, white, None, UP)
  elif kind == 'hatched':
    x, half = -lane / 2, rng.uniform(0.5, 1.0)
    near, far = z, z + rng.uniform(10, 25)
    for side in (-half, half):
      _stroke(canvas, (x + side, near), (x + side, far), 0.12, white)
    depth = near
    while depth < far - 1:
      _stroke(canvas, (x - half, depth), (x + half, depth + 1.2), 0.22, white)
      depth += 1.6
  elif kind == 'box':
    color, deep = mix(asphalt, _YELLOW, rng.uniform(0.4, 0.9)), rng.uniform(6, 9)
    left, right = min(lanes) - lane / 2, max(lanes) + lane / 2
    _path(canvas, [(left, z), (right, z), (right, z + deep), (left, z + deep), (left, z)], 0.14, color)
    for k in range(1, 5):
      a = left + (right - left) * k / 5
      _stroke(canvas, (a, z), (right, z + deep * (1 - k / 5)), 0.12, color)
      _stroke(canvas, (a, z), (left, z + deep * k / 5), 0.12, color)
  elif kind == 'cycle lane':
    edge = max(lanes) + lane / 2
    tint = rng.choice((None, (150, 78, 66), (84, 120, 92)))
    if tint:
      tone = mix(asphalt, vary(rng, tint), rng.uniform(0.3, 0.7))
      canvas.polygon(level(edge - 1.3, edge, 1.8, 80), tone, None, UP)
    depth = 2.0
    while depth < 70:
      _stroke(canvas, (edge - 1.35, depth), (edge - 1.35, depth + 2.5), 0.13, white)
      depth += 4
