"""What is drawn in a street, from far to near."""

from __future__ import annotations

import random
from collections.abc import Callable

from dense_aspp_jax.datasets.street_scenes.canvas import Canvas


class Items:
  """Collects what is to be drawn, with random numbers from `rng`."""

  def __init__(self, rng: random.Random):
    self.rng = rng
    self._items: list[tuple[int, float, Callable, tuple]] = []

  def add(self, depth: float, draw: Callable, *args, row: int = 1) -> None:
    """Adds something to draw; `row` 0 is behind everything of row 1, whatever its depth."""
    self._items.append((row, -depth, draw, args))

  def fork(self) -> random.Random:
    """Random numbers for one object, so that how it is drawn, and whether, changes no other object."""
    return random.Random(self.rng.getrandbits(48))

  def draw(self, canvas: Canvas) -> None:
    """Draws everything, far things first."""
    for _, _, draw, args in sorted(self._items, key=lambda item: item[:2]):
      draw(canvas, *args)
