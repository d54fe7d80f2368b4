"""The drawing surface of the generated street scenes: camera, light, image and label in lockstep.

World coordinates are metres in the frame of the street: `x` to the right of the camera, `y` up from
the ground, `z` forward along the street. A curve of the street shifts everything at depth `z` to the
side by `Camera.bend(z)`, so that objects are placed as if the street were straight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from dense_aspp_jax.datasets.street_scenes.light import FRONT, Color, Light, Point
from dense_aspp_jax.labels import CITYSCAPES

ID = {label.name: label.id for label in CITYSCAPES}  # label ids by name
SUPERSAMPLING = 2  # the image is drawn this many times larger, then averaged; labels take one sample
NEAR = 1.2  # metres; closer points are moved here (always outside the picture)
_SHADOWS_TO = 70.0  # metres; shadows of farther objects are too flat to see
_STRAIGHT_FROM = 140.0  # metres; from here on the street runs straight


def _convex_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
  """Corners of the convex hull, in order (monotone chain)."""
  points = sorted(points)
  hull = []
  for sweep in (points, points[::-1]):
    start = len(hull)
    for x, y in sweep:
      while len(hull) >= start + 2 and (
        (hull[-1][0] - hull[-2][0]) * (y - hull[-2][1]) <= (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0])
      ):
        hull.pop()
      hull.append((x, y))
    hull.pop()
  return hull


@dataclasses.dataclass(frozen=True)
class Camera:
  """A level pinhole camera; image lengths are in pixels of the canvas.

  Attributes:
    focal: Focal length.
    center: Column of the direction straight ahead.
    horizon: Row of the horizon.
    height: Height above the ground in metres.
    yaw: Tangent of the street's direction at the camera.
    curvature: Curvature of the street in 1/metres, positive to the right.
  """

  focal: float
  center: float
  horizon: float
  height: float
  yaw: float
  curvature: float

  def bend(self, z: float) -> float:
    """Sideways shift of the street at depth `z`, in metres."""
    if z > _STRAIGHT_FROM:
      return self.yaw * z + self.curvature * _STRAIGHT_FROM * (z - _STRAIGHT_FROM / 2)
    return self.yaw * z + self.curvature * z * z / 2

  def project(self, x: float, y: float, z: float) -> tuple[float, float]:
    """Column and row of a world point."""
    z = max(z, NEAR)
    scale = self.focal / z
    return self.center + scale * (x + self.bend(z)), self.horizon + scale * (self.height - y)

  def scale(self, z: float) -> float:
    """Pixels per metre at depth `z`."""
    return self.focal / max(z, NEAR)


@dataclasses.dataclass(frozen=True)
class Pose:
  """Position and heading of an object that stands on the ground.

  Attributes:
    x: Metres to the right.
    z: Metres ahead.
    yaw: Heading in radians: 0 drives away from the camera, pi towards it, pi / 2 to the right.
  """

  x: float
  z: float
  yaw: float = 0.0

  def place(self, side: float, up: float, ahead: float) -> Point:
    """World point of the object's own coordinates, in metres."""
    sine, cosine = math.sin(self.yaw), math.cos(self.yaw)
    return self.x + side * cosine + ahead * sine, up, self.z - side * sine + ahead * cosine

  def turn(self, side: float, up: float, ahead: float) -> Point:
    """World direction of a direction in the object's own coordinates."""
    sine, cosine = math.sin(self.yaw), math.cos(self.yaw)
    return side * cosine + ahead * sine, up, ahead * cosine - side * sine


class Canvas:
  """Image, label map and shadow mask of one scene, painted from far to near.

  Every shape is given in world coordinates. A `label` of None leaves the label map unchanged (details of an
  object that is already there), a `color` of None leaves the image unchanged (wheels with transparent gaps).
  """

  def __init__(self, size: tuple[int, int], camera: Camera, light: Light):
    self.height, self.width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    self.camera = camera
    self.light = light
    self.image = Image.new('RGB', (self.width, self.height))
    self.labels = Image.new('L', (self.width, self.height))
    self.shadows = Image.new('L', (self.width, self.height))
    self._on_image = ImageDraw.Draw(self.image)
    self._on_labels = ImageDraw.Draw(self.labels)
    self._on_shadows = ImageDraw.Draw(self.shadows)

  def _project(self, points: Iterable[Point]) -> list[float] | None:
    """Returns flat pixel coordinates, or None if everything lies left or right of the picture."""
    camera = self.camera
    focal, center, horizon, height = camera.focal, camera.center, camera.horizon, camera.height
    yaw, half_curvature = camera.yaw, camera.curvature / 2
    flat = []
    left, right = math.inf, -math.inf
    for x, y, z in points:
      if z < NEAR:
        z = NEAR
      scale = focal / z
      bend = z * (yaw + half_curvature * z) if z < _STRAIGHT_FROM else camera.bend(z)  # the hot spot
      u = center + scale * (x + bend)
      flat.append(u)
      flat.append(horizon + scale * (height - y))
      if u < left:
        left = u
      if u > right:
        right = u
    return flat if right >= 0 and left < self.width else None

  def _polygon(self, flat: list[float], color: tuple[int, int, int] | None, label: int | None) -> None:
    if color is not None:
      self._on_image.polygon(flat, fill=color)
    if label is not None:
      self._on_labels.polygon(flat, fill=label)

  def polygon(
    self, points: Sequence[Point], color: Color | None, label: int | None = None, normal: Point = FRONT
  ) -> None:
    """Paints a lit polygon with the haze of its first point."""
    flat = self._project(points)
    if flat:
      self._polygon(flat, color and self.light.shade(color, normal, points[0][2]), label)

  def lamp(self, points: Sequence[Point], color: Color, label: int | None = None) -> None:
    """Paints a polygon that emits light."""
    flat = self._project(points)
    if flat:
      self._polygon(flat, self.light.glow(color, points[0][2]), label)

  def disc(
    self,
    center: Point,
    radius: float,
    color: Color,
    label: int | None = None,
    stretch: float = 1.0,
    normal: Point = FRONT,
    shines: bool = False,
  ) -> None:
    """Paints a disc that faces the camera; `stretch` is its height divided by its width."""
    u, v = self.camera.project(*center)
    z = center[2]
    a = radius * self.camera.scale(z)
    b = a * stretch
    if u + a < 0 or u - a > self.width:
      return
    shade = self.light.glow(color, z) if shines else self.light.shade(color, normal, z)
    box = (u - a, v - b, u + a, v + b)
    self._on_image.ellipse(box, fill=shade)
    if label is not None:
      self._on_labels.ellipse(box, fill=label)

  def blob(
    self,
    center: Point,
    shape: Sequence[tuple[float, float]],
    radius: float,
    color: Color,
    label: int | None = None,
    normal: Point = FRONT,
  ) -> None:
    """Paints a flat shape, given in units of `radius`, that faces the camera but is lit by its `normal`."""
    u, v = self.camera.project(*center)
    radius *= self.camera.scale(center[2])
    if -1.2 * radius < u < self.width + 1.2 * radius and v > -1.2 * radius:
      flat = [c for a, b in shape for c in (u + radius * a, v - radius * b)]
      self._polygon(flat, self.light.shade(color, normal, center[2]), label)

  def limb(
    self, start: Point, end: Point, width: float, color: Color, label: int | None = None, taper: float = 1.0
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
    self._polygon(flat, self.light.shade(color, FRONT, start[2]), label)

  def line(self, points: Sequence[Point], width: float, color: Color, label: int | None = None) -> None:
    """Paints a line `width` metres thick, at least one pixel."""
    flat = self._project(points)
    if flat:
      pixels = max(1, round(width * self.camera.scale(points[0][2])))
      self._on_image.line(flat, fill=self.light.shade(color, FRONT, points[0][2]), width=pixels)
      if label is not None:
        self._on_labels.line(flat, fill=label, width=pixels)

  def shadow(self, points: Sequence[Point], depth: int = 150) -> None:
    """Darkens the ground inside a polygon by `depth`, 0..255. Only visible ground shows it."""
    flat = self._project(points)
    if flat:
      self._on_shadows.polygon(flat, fill=depth)

  def cast_shadow(self, footprint: Sequence[tuple[float, float]], height: float) -> None:
    """Casts the shadow of an upright prism: the contact shadow, and the sun's if it is strong enough.

    Args:
      footprint: `(x, z)` corners on the ground, in order.
      height: Height of the prism in metres.
    """
    if footprint[0][1] > _SHADOWS_TO:
      return
    if self.light.casts_shadows:
      dx, dz = (v * height for v in self.light.shadow_offset)
      moved = [(x + dx, z + dz) for x, z in footprint]
      self.shadow([(x, 0, z) for x, z in _convex_hull([*footprint, *moved])])
    self.shadow([(x, 0, z) for x, z in footprint], 225)

  def ellipse_px(self, box: Sequence[float], color: tuple[int, int, int], label: int) -> None:
    """Paints an ellipse, given in pixels of the canvas, in its final colour."""
    self._on_image.ellipse(box, fill=color)
    self._on_labels.ellipse(box, fill=label)
