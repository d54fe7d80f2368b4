"""Walls and fences along the street."""

from __future__ import annotations

import math

from dense_aspp_jax.datasets.street_scenes.canvas import FRONT, LEFT, RIGHT, Canvas, across, along, level
from dense_aspp_jax.datasets.street_scenes.light import Color, mix


def draw_wall(
  canvas: Canvas, x: float, z0: float, z1: float, high: float, color: Color, courses: bool
) -> None:
  """Draws a piece of free-standing wall at `x`, in brick courses or plain, with a coping."""
  inner = x + math.copysign(0.3, x)
  material = 'brick' if courses else 'concrete' if max(color) - min(color) < 40 else 'plaster'
  side, front = (canvas.surface(material, *p) for p in ((x, LEFT if x > 0 else RIGHT), (z0, FRONT)))
  canvas.polygon(across(z0, x, inner, 0, high), color, 'wall', FRONT, front)
  canvas.facade(x, z0, z1, 0, high, color, 'wall', side)
  if courses and z0 < 30 and not canvas.style.textures:
    for k in range(1, int(high / 0.3)):
      canvas.facade(x, z0, z1, k * 0.3, k * 0.3 + 0.04, mix(color, (60, 54, 50), 0.3))
  canvas.facade(x, z0, z1, high, high + 0.12, mix(color, (220, 214, 204), 0.35), 'wall')
  canvas.cast_shadow(level(x, inner, z0, z1), high)


def draw_fence(canvas: Canvas, x: float, z0: float, z1: float, high: float, color: Color, kind: str) -> None:
  """Draws a piece of fence at `x`: 'picket', 'railing' or 'mesh'. Its gaps are transparent.

  The label covers the gaps too, as in the Cityscapes annotations.
  """
  canvas.facade(x, z0, z1, 0, high, None, 'fence')
  step, wide = {'picket': (0.22, 0.13), 'railing': (0.16, 0.045), 'mesh': (0.3, 0.03)}[kind]
  if canvas.camera.scale(z1) * step * abs(x) / z1 < 2:  # the gaps blur into one tone
    step, wide = 3 * step, 2 * wide
  z = z0
  while z < z1:
    canvas.facade(x, z, z + wide, 0.05, high, color)
    z += step
  for y in (0.05, high / 3, high * 2 / 3, high - 0.05) if kind == 'mesh' else (0.25, high - 0.2):
    canvas.facade(x, z0, z1, y, y + 0.08, color)
  canvas.polygon(along(x, z0, z0 + 0.12, 0, high + 0.1), mix(color, (40, 40, 40), 0.3))
