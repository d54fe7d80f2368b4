"""Houses across the end of a street, which face the camera."""

from __future__ import annotations

import random

from dense_aspp_jax.datasets.street_scenes.canvas import FRONT, UP, Canvas, across
from dense_aspp_jax.datasets.street_scenes.light import LAMP, mix, vary
from dense_aspp_jax.datasets.street_scenes.surfaces import DISPLAY, GLASS, MASONRY

_WALLS = ((206, 198, 182), (138, 90, 72), (160, 136, 104), (222, 218, 210), (150, 148, 144), (118, 76, 62))
_ROOFS = ((92, 66, 56), (70, 68, 72), (110, 78, 64))


def draw_fronts(canvas: Canvas, rng: random.Random, left: float, right: float, z: float) -> None:
  """Draws a closed row of houses at depth `z` from `left` to `right`."""
  x = left
  while x < right:
    wide = rng.uniform(7, 18)
    _draw_front(canvas, rng, x, x + wide, z, rng.randint(2, 5))
    x += wide


def _draw_front(
  canvas: Canvas, rng: random.Random, left: float, right: float, z: float, storeys: int
) -> None:
  material = rng.choice(MASONRY)
  surface = canvas.surface(material, z, FRONT)
  wall = vary(rng, rng.choice(_WALLS))
  storey, ground = rng.uniform(2.8, 3.3), rng.uniform(3.2, 4)
  high = ground + storey * (storeys - 1)
  canvas.polygon(across(z, left, right, 0, high), wall, 'building', FRONT, surface)
  roof = rng.choice(('flat', 'eaves', 'gable'))
  middle = (left + right) / 2
  tiles = canvas.surface('tiles', z, FRONT)
  if roof == 'eaves':
    slope = [(left, high, z), (left + 0.5, high + 2.5, z), (right - 0.5, high + 2.5, z), (right, high, z)]
    canvas.polygon(slope, vary(rng, rng.choice(_ROOFS)), 'building', UP, tiles)
  elif roof == 'gable':
    top = high + 0.35 * (right - left)
    canvas.polygon([(left, high, z), (middle, top, z), (right, high, z)], wall, 'building', FRONT, surface)
  count = max(2, round((right - left) / rng.uniform(2.2, 3.4)))
  step = (right - left) / count
  half, tall = step * rng.uniform(0.18, 0.36), rng.uniform(1.2, 1.9)
  frame = mix(wall, rng.choice(((240, 238, 232), (50, 48, 46))), 0.6)
  glass = rng.choice(((36, 40, 46), (60, 68, 76), (90, 100, 110)))
  lit = 0.35 if canvas.light.lamps else 0.0
  for k in range(count):
    at = left + (k + 0.5) * step
    for floor in range(1, storeys):
      low = ground + (floor - 1) * storey + 0.7
      canvas.polygon(across(z, at - half - 0.1, at + half + 0.1, low - 0.12, low + tall + 0.1), frame)
      pane = across(z, at - half, at + half, low, low + tall)
      if rng.random() < lit:
        canvas.polygon(pane, (250, 208, 128), None, LAMP)
      else:
        canvas.polygon(pane, vary(rng, glass, 0.3), None, FRONT, GLASS)
    if rng.random() < 0.75:
      canvas.polygon(
        across(z, at - step * 0.4, at + step * 0.4, 0.3, 2.6),
        vary(rng, (70, 76, 82), 0.4),
        None,
        FRONT,
        DISPLAY,
      )
    else:
      canvas.polygon(across(z, at - 0.55, at + 0.55, 0, 2.2), vary(rng, (84, 62, 50), 0.4))
  if rng.random() < 0.5:
    sign = vary(rng, rng.choice(((150, 40, 40), (40, 66, 120), (44, 90, 64), (60, 60, 64), (214, 210, 200))))
    canvas.polygon(across(z, left + 0.4, right - 0.4, 2.7, 3.2), sign)
