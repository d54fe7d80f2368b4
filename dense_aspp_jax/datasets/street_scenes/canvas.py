"""The drawing surface of the generated street scenes: camera, image and label map.

World coordinates are metres in the frame of the street: `x` to the right of the camera, `y` up from
the ground, `z` forward along the street. A curve of the street shifts everything at depth `z` to the
side by `Camera.bend(z)`, so that objects are placed as if the street were straight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from dense_aspp_jax.datasets.street_scenes.light import Color, Light, Normal, Point
from dense_aspp_jax.datasets.street_scenes.style import Style
from dense_aspp_jax.datasets.street_scenes.surfaces import MOST, PLAIN, Surface
from dense_aspp_jax.label_tables import CITYSCAPES

Label = str | None  # a name of Cityscapes
ID = {label.name: label.id for label in CITYSCAPES}  # label ids by name
SUPERSAMPLING = 2  # the image is drawn this many times larger, then averaged; labels take one sample
_NEAR = 1.2  # metres; closer points are moved here (always outside the picture)
SHADOWS_TO = 70.0  # metres; shadows of farther objects are too flat to see
_STRAIGHT_FROM = 140.0  # metres; from here on the street runs straight
CIRCLE = tuple((math.cos(k * math.tau / 14), math.sin(k * math.tau / 14)) for k in range(14))
# Unit normals of surfaces.
FRONT = (0.0, 0.0, -1.0)  # towards the camera
UP = (0.0, 1.0, 0.0)
LEFT = (-1.0, 0.0, 0.0)
RIGHT = (1.0, 0.0, 0.0)


def across(z: float, left: float, right: float, low: float, high: float) -> list[Point]:
  """Corners of an upright rectangle across the street, or across the length of an object."""
  return [(left, low, z), (left, high, z), (right, high, z), (right, low, z)]


def along(x: float, near: float, far: float, low: float, high: float) -> list[Point]:
  """Corners of an upright rectangle along the street, or along an object."""
  return [(x, low, near), (x, high, near), (x, high, far), (x, low, far)]


def level(left: float, right: float, near: float, far: float) -> list[Point]:
  """Corners of a rectangle on the ground."""
  return [(left, 0, near), (left, 0, far), (right, 0, far), (right, 0, near)]


def _convex_hull(points: list[Point]) -> list[Point]:
  """Corners of the convex hull of points on the ground, in order (monotone chain)."""
  points = sorted(points)
  hull = []
  for sweep in (points, points[::-1]):
    start = len(hull)
    for x, y, z in sweep:
      while len(hull) >= start + 2 and (
        (hull[-1][0] - hull[-2][0]) * (z - hull[-2][2]) <= (hull[-1][2] - hull[-2][2]) * (x - hull[-2][0])
      ):
        hull.pop()
      hull.append((x, y, z))
    hull.pop()
  return hull


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera; image lengths are in pixels of the canvas.

  A small pitch only shifts the horizon; a small roll turns the picture about the vanishing point.
  """

  focal: float  # focal length
  center: float  # column of the direction straight ahead
  horizon: float  # row of the horizon
  height: float  # above the ground, in metres
  yaw: float  # tangent of the street's direction at the camera
  curvature: float  # of the street in 1/metres, positive to the right
  roll: float = 0.0  # radians, clockwise
  side: float = 0.0  # of the camera, to the right of the middle of its lane, in metres

  def bend(self, z: float) -> float:
    """Sideways shift of the street at depth `z`, in metres."""
    if z > _STRAIGHT_FROM:
      return self.yaw * z - self.side + self.curvature * _STRAIGHT_FROM * (z - _STRAIGHT_FROM / 2)
    return self.yaw * z - self.side + self.curvature * z * z / 2

  def project(self, x: float, y: float, z: float) -> tuple[float, float]:
    """Column and row of a world point."""
    z = max(z, _NEAR)
    scale = self.focal / z
    u, v = scale * (x + self.bend(z)), scale * (self.height - y)
    return self.center + u - self.roll * v, self.horizon + v + self.roll * u

  def project_all(self, points: Sequence[Point]) -> list[float]:
    """Columns and rows of world points, alternating; neighbours often have one depth."""
    flat, depth = [], None
    center, horizon, height, roll = self.center, self.horizon, self.height, self.roll
    for x, y, z in points:
      if z != depth:
        depth, z = z, max(z, _NEAR)
        scale, shift = self.focal / z, self.bend(z)
      u, v = scale * (x + shift), scale * (height - y)
      flat += (center + u - roll * v, horizon + v + roll * u)
    return flat

  def rays(self, size: tuple[int, int], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions of every `step`-th pixel: metres right and down per metre ahead, float32 `[h, w]` each."""
    v = ((np.arange(size[0], dtype=np.float32)[:, None] + 0.5) * step - self.horizon) / self.focal
    u = ((np.arange(size[1], dtype=np.float32) + 0.5) * step - self.center) / self.focal
    return u + self.roll * v, v - self.roll * u

  def bends(self, z: np.ndarray) -> np.ndarray:
    """`bend` of an array."""
    near = np.minimum(z, _STRAIGHT_FROM)
    return self.yaw * z - self.side + self.curvature * near * (z - near / 2)

  def scale(self, z: float) -> float:
    """Pixels per metre at depth `z`."""
    return self.focal / max(z, _NEAR)

  def faces(self, point: Point, normal: Point) -> bool:
    """Whether a surface at `point` faces the camera."""
    x, y, z = point
    return normal[0] * -(x + self.bend(z)) + normal[1] * (self.height - y) - normal[2] * z > 0


class Canvas:
  """Image, label map and shadow mask of one scene, painted from far to near.

  Shapes are given in world coordinates; the first point determines the haze. A shape without a label leaves
  the label map unchanged (a detail of what is already there), one without a colour the image (a wheel with
  transparent gaps). The fourth band of the image says which of `surfaces` a pixel shows: `PLAIN` unless the
  shape has one.
  """

  def __init__(self, size: tuple[int, int], camera: Camera, light: Light, style: Style = Style()):  # noqa: B008 (frozen)
    self.height, self.width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    self.camera = camera
    self.light = light
    self.style = style
    self.surfaces: dict[Surface, int] = {}
    whole = (self.width, self.height)
    self.image, self.labels, self.shadows = (Image.new(mode, whole) for mode in ('RGBX', 'L', 'L'))
    self._on_image, self._on_labels = ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels)
    self._on_shadows = ImageDraw.Draw(self.shadows)

  def surface(self, material: str, at: float, normal: Normal) -> int:
    """The number of a textured plane, `at` x if its `normal` points to a side, else at z."""
    if not self.style.textures:
      return PLAIN
    shaded = self.light.shaded(normal) if self.style.light else 1.0
    key = Surface(material, round(at, 2), normal[0] != 0, round(shaded, 2))
    if key not in self.surfaces and len(self.surfaces) == MOST:
      return PLAIN
    return self.surfaces.setdefault(key, len(self.surfaces))

  def draw(self, shape: str, pixels: Sequence[float], color: Color | None, label: Label, **options) -> None:
    """Draws a shape of `ImageDraw`, in pixels of the canvas and in its final colour."""
    if color is not None:
      getattr(self._on_image, shape)(pixels, fill=color, **options)
    if label is not None:
      getattr(self._on_labels, shape)(pixels, fill=ID[label], **options)

  def _fill(self, pixels: Sequence[float], color: Color | None, label: Label) -> None:
    """Draws a polygon: most of what there is."""
    if color is not None:
      self._on_image.polygon(pixels, color)
    if label is not None:
      self._on_labels.polygon(pixels, ID[label])

  def _project(self, points: Sequence[Point]) -> list[float] | None:
    """Returns flat pixel coordinates, or None if everything lies left or right of the picture."""
    flat = self.camera.project_all(points)
    columns = flat[::2]
    return flat if max(columns) >= 0 and min(columns) < self.width else None

  def polygon(
    self,
    points: Sequence[Point],
    color: Color | None,
    label: Label = None,
    normal: Normal = FRONT,
    surface: int = PLAIN,
  ) -> None:
    """Paints a polygon."""
    flat = self._project(points)
    if flat:
      self._fill(flat, color and (*self.light.shade(color, normal, points[0][2]), surface), label)

  def facade(
    self,
    x: float,
    near: float,
    far: float,
    low: float,
    high: float,
    color: Color | None,
    label: Label = None,
    surface: int = PLAIN,
  ) -> None:
    """Paints an upright rectangle along the street that faces the street."""
    self.polygon(along(x, near, far, low, high), color, label, LEFT if x > 0 else RIGHT, surface)

  def line(self, points: Sequence[Point], width: float, color: Color, label: Label = None) -> None:
    """Paints a line `width` metres thick, at least one pixel."""
    flat = self._project(points)
    if flat:
      z = points[0][2]
      pixels = max(1, round(width * self.camera.scale(z)))
      self.draw('line', flat, self.light.shade(color, FRONT, z), label, width=pixels)

  def disc(
    self,
    center: Point,
    radius: float,
    color: Color,
    label: Label = None,
    stretch: float = 1.0,
    normal: Normal = FRONT,
  ) -> None:
    """Paints a disc that faces the camera; `stretch` is its height divided by its width."""
    u, v = self.camera.project(*center)
    a = radius * self.camera.scale(center[2])
    b = a * stretch
    if u + a >= 0 and u - a <= self.width:
      shade = self.light.shade(color, normal, center[2])
      self.draw('ellipse', (u - a, v - b, u + a, v + b), shade, label)

  def blob(
    self,
    center: Point,
    shape: Sequence[tuple[float, float]],
    radius: float,
    color: Color,
    label: Label = None,
    normal: Normal = FRONT,
  ) -> None:
    """Paints a flat shape, given in units of `radius`, that faces the camera but is lit by its `normal`."""
    u, v = self.camera.project(*center)
    radius *= self.camera.scale(center[2])
    margin = 1.2 * radius
    if -margin < u < self.width + margin and -margin < v < self.height + margin:
      flat = []
      for a, b in shape:
        flat += (u + radius * a, v - radius * b)
      self._fill(flat, self.light.shade(color, normal, center[2]), label)

  def limb(
    self,
    start: Point,
    end: Point,
    width: float,
    color: Color,
    label: Label = None,
    taper: float = 1.0,
    surface: int = PLAIN,
  ) -> None:
    """Paints a bar with a round section, `width` metres thick (`width * taper` at its end)."""
    u0, v0 = self.camera.project(*start)
    u1, v1 = self.camera.project(*end)
    du, dv = u1 - u0, v1 - v0
    length = math.hypot(du, dv) or 1.0
    half = width * self.camera.scale(start[2]) / 2 / length
    a, b = -dv * half, du * half
    c, d = a * taper, b * taper
    flat = [u0 + a, v0 + b, u1 + c, v1 + d, u1 - c, v1 - d, u0 - a, v0 - b]
    self._fill(flat, (*self.light.shade(color, FRONT, start[2]), surface), label)

  def sprite(
    self,
    pictures: Sequence[Image.Image],
    center: Point,
    half: tuple[float, float],
    tones: tuple[Color, Color],
    label: str,
  ) -> None:
    """Pastes a picture that faces the camera, `half` metres wide and high from its centre.

    The bands of the picture are brightness, opacity and what the label covers. `pictures` holds it at sizes
    that halve; `tones` are its darkest and its brightest colour in full light.
    """
    u, v = self.camera.project(*center)
    scale = self.camera.scale(center[2])
    a, b = half[0] * scale, half[1] * scale
    left, top = max(0, math.floor(u - a)), max(0, math.floor(v - b))
    right, low = min(self.width, math.ceil(u + a)), min(self.height, math.ceil(v + b))
    if right <= left or low <= top or b < 1:
      return
    picture = next((p for p in reversed(pictures) if p.width >= 1.5 * a), pictures[0])
    wide, high = picture.width / (2 * a), picture.height / (2 * b)
    box = ((left - u + a) * wide, (top - v + b) * high, (right - u + a) * wide, (low - v + b) * high)
    box = (max(0, box[0]), max(0, box[1]), min(picture.width, box[2]), min(picture.height, box[3]))
    patch = picture.resize((right - left, low - top), Image.Resampling.BILINEAR, box)
    matrix = []
    for dark, bright in zip(*(self.light.tint(tone, center[2]) for tone in tones), strict=True):
      matrix += ((bright - dark) / 255, 0, 0, dark)
    _, opaque, covered = patch.split()
    self.image.paste(patch.convert('RGB', tuple(matrix)), (left, top), opaque)
    mask = covered.convert('1', dither=Image.Dither.NONE)
    self.labels.paste(ID[label], (left, top, right, low), mask)

  def shadow(self, points: Sequence[Point], depth: int = 150) -> None:
    """Darkens the ground inside a polygon by `depth`, 0..255. Only visible ground shows it."""
    flat = self._project(points)
    if flat:
      self._on_shadows.polygon(flat, fill=depth)

  def cast_shadow(self, footprint: Sequence[Point], height: float) -> None:
    """Casts the shadow of an upright prism: the contact shadow, and the sun's if it is strong enough."""
    if footprint[0][2] > SHADOWS_TO:
      return
    if self.light.casts_shadows:
      dx, dz = (v * height for v in self.light.shadow_offset)
      self.shadow(_convex_hull([*footprint, *((x + dx, y, z + dz) for x, y, z in footprint)]))
    self.shadow(footprint, 225)
