"""Pictures of crowns, bare branches and shrubs, drawn once per process and pasted at any size.

The bands of a picture are brightness, opacity, and what its label covers: as in the annotations of real
images, gaps between leaves or twigs belong to the tree. The light comes from the upper right.
"""

from __future__ import annotations

import functools
import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

_SIZE = 300  # pixels
_EACH = 5  # pictures of each kind


Sizes = tuple[Image.Image, ...]


@functools.cache
def pictures(kind: str) -> tuple[tuple[Sizes, Sizes], ...]:
  """Pictures of a kind ('round', 'conifer', 'bare', 'sparse', 'shrub'), each with its mirror image.

  Each comes in sizes that halve: scaling the nearest is several times faster.
  """
  found = []
  for k in range(_EACH):
    picture = _DRAW[kind](random.Random(f'{kind} {k}'))
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found.append(
      tuple(tuple(p.reduce(n) if n > 1 else p for n in (1, 2, 4, 8, 16)) for p in (picture, mirrored))
    )
  return tuple(found)


def _finish(drawing: Image.Image, reach: int) -> Image.Image:
  """Adds what the label covers: gaps up to about `reach` pixels wide are closed."""
  bright, opaque, _ = drawing.split()
  bright = bright.point([round(255 * (k / 255) ** 1.5) for k in range(256)])
  near = opaque.filter(ImageFilter.BoxBlur(reach)).point([0] * 64 + [255] * 192)
  inside = near.filter(ImageFilter.BoxBlur(reach)).point([0] * 150 + [255] * 106)
  covered = ImageChops.lighter(inside, opaque.point([0] * 140 + [255] * 116))
  return Image.merge('RGB', (bright, opaque, covered))


def _leaf(draw: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, size: float, bright: float):
  angle = rng.uniform(0, math.pi)
  a, b = size * math.cos(angle), size * math.sin(angle)
  c, d = -0.5 * b, 0.5 * a
  tone = int(255 * min(1.0, max(0.0, bright)))
  draw.polygon([x + a, y + b, x + c, y + d, x - a, y - b, x - c, y - d], (tone, 255, 0))


def _draw_leafy(rng: random.Random, height: float = 1.0, conifer: bool = False) -> Image.Image:
  """A mass of leaves in clumps; `height` below 1 for a shrub, which stands on the lower edge."""
  picture = Image.new('RGB', (_SIZE, int(_SIZE * height)))
  draw = ImageDraw.Draw(picture)
  half = _SIZE / 2
  bumps = [rng.uniform(0.55, 1.0) for _ in range(9)]

  def spot() -> tuple[float, float]:
    angle, share = rng.uniform(0, math.tau), math.sqrt(rng.random())
    if conifer:
      b = 1 - 2 * rng.random() ** 0.6
      return rng.uniform(-0.85, 0.85) * (0.95 - b) / 2, 0.92 * b
    turn = angle / math.tau * 9
    k = int(turn)
    edge = bumps[k % 9] + (bumps[(k + 1) % 9] - bumps[k % 9]) * (turn - k)
    return 0.88 * edge * share * math.cos(angle), 0.88 * edge * share * math.sin(angle)

  def place(a: float, b: float) -> tuple[float, float]:
    return half * (1 + a), (half * (1 - b)) if height == 1 else height * _SIZE * (1 - 0.5 * (b + 0.95))

  for _ in range(60):  # the dark inside
    x, y = place(*(0.86 * v for v in spot()))
    for _ in range(7):
      spread = rng.gauss(0, 16), rng.gauss(0, 16)
      _leaf(draw, rng, x + spread[0], y + spread[1], rng.uniform(6, 14), rng.uniform(0.0, 0.22))
  clumps = []
  for _ in range(64):
    a, b = spot()
    clumps.append((0.30 + 0.24 * b + 0.14 * a + rng.uniform(-0.2, 0.2), a, b))
  for base, a, b in sorted(clumps):
    x, y = place(a, b)
    wide = half * rng.uniform(0.07, 0.15)
    leaves = [(rng.gauss(0, wide), rng.gauss(0, wide * 0.7)) for _ in range(26)]
    for dx, dy in sorted(leaves, key=lambda leaf: -leaf[1]):
      bright = base + 0.2 * (-dy + 0.5 * dx) / wide + rng.uniform(-0.16, 0.22)
      _leaf(draw, rng, x + dx, y + dy, rng.uniform(2, 5.5), bright)
  return _finish(picture, 6)


def _draw_bare(rng: random.Random, leaves: float = 0.0) -> Image.Image:
  """Branches and twigs from the middle of the lower edge, with a few leaves left."""
  picture = Image.new('RGB', (_SIZE, _SIZE))
  draw = ImageDraw.Draw(picture)

  def grow(x: float, y: float, angle: float, length: float, wide: float, depth: int) -> None:
    end = x + length * math.sin(angle), y - length * math.cos(angle)
    tone = int(255 * min(1.0, max(0.0, 0.3 + 0.35 * math.sin(angle) + rng.uniform(-0.2, 0.25))))
    draw.line((x, y, *end), (tone, 255 if wide > 1.4 else 205, 0), max(1, round(wide)))
    if depth == 0:
      if rng.random() < leaves:
        _leaf(draw, rng, *end, rng.uniform(3, 7), rng.uniform(0.5, 1.0))
      return
    for _ in range(3 if depth > 4 or rng.random() < 0.3 else 2):
      turn = angle * 0.93 + rng.gauss(0, 0.48)
      grow(*end, turn, length * rng.uniform(0.62, 0.88), wide * 0.66, depth - 1)

  for _ in range(3):
    grow(_SIZE / 2, _SIZE - 1, rng.uniform(-0.5, 0.5), _SIZE * rng.uniform(0.19, 0.25), 7.5, 6)
  return _finish(picture, 9)


_DRAW = {
  'round': _draw_leafy,
  'conifer': lambda rng: _draw_leafy(rng, conifer=True),
  'bare': _draw_bare,
  'sparse': lambda rng: _draw_bare(rng, 0.7),
  'shrub': lambda rng: _draw_leafy(rng, 0.6),
}
