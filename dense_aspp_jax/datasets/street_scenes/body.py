"""Objects drawn in their own coordinates."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes.canvas import CIRCLE, FRONT, UP, Canvas
from dense_aspp_jax.datasets.street_scenes.light import Color, Normal, Point, mix
from dense_aspp_jax.datasets.street_scenes.surfaces import CLOTH, GLASS, PAINT, PLAIN

_SURFACES = {**dict.fromkeys(('car', 'truck', 'bus', 'train'), PAINT), 'person': CLOTH, 'rider': CLOTH}


@dataclasses.dataclass(frozen=True)
class Pose:
  """Position and heading of an object that stands on the ground."""

  x: float  # metres to the right
  z: float  # metres ahead
  yaw: float = 0.0  # radians: 0 drives away from the camera, pi towards it, pi / 2 to the right


def ring(side: float, ahead: float, up: float, radius: float) -> list[Point]:
  """A circle on the plane `side` metres from the middle of an object, such as a wheel."""
  return [(side, up + radius * b, ahead + radius * a) for a, b in CIRCLE]


class Body:
  """One object of one label, drawn in its own coordinates: (to its right, up from the ground, ahead).

  Coordinates, thicknesses and radii are in units of `scale` metres. Normals are in world coordinates.
  """

  def __init__(self, canvas: Canvas, pose: Pose, label: str, scale: float = 1.0):
    self.canvas, self.pose, self.label, self.scale = canvas, pose, label, scale
    self._surface = _SURFACES.get(label, PLAIN)
    self._sine, self._cosine = math.sin(pose.yaw), math.cos(pose.yaw)

  def place(self, side: float, up: float, ahead: float) -> Point:
    """World point of a point of the object."""
    side, up, ahead = side * self.scale, up * self.scale, ahead * self.scale
    sine, cosine = self._sine, self._cosine
    return self.pose.x + side * cosine + ahead * sine, up, self.pose.z - side * sine + ahead * cosine

  def turn(self, side: float, up: float, ahead: float) -> Point:
    """World direction of a direction of the object."""
    sine, cosine = self._sine, self._cosine
    return side * cosine + ahead * sine, up, ahead * cosine - side * sine

  def shows_end(self, end: int, ahead: float) -> bool:
    """Whether the camera sees the rear (`end` -1) or the front (1), which lies at `ahead`."""
    return self.canvas.camera.faces(self.place(0, 0, ahead), self.turn(0, 0, end))

  def part(self, points: Sequence[Point], color: Color | None, normal: Normal = FRONT) -> None:
    """Paints a polygon with the object's label."""
    self.canvas.polygon([self.place(*p) for p in points], color, self.label, normal, self._surface)

  def detail(
    self, points: Sequence[Point], color: Color, normal: Normal = FRONT, surface: int = PLAIN
  ) -> None:
    """Paints a polygon onto what is already there."""
    self.canvas.polygon([self.place(*p) for p in points], color, None, normal, surface)

  def limb(self, start: Point, end: Point, width: float, color: Color, taper: float = 1.0) -> None:
    """Paints a bar of the given thickness."""
    ends = self.place(*start), self.place(*end)
    self.canvas.limb(*ends, width * self.scale, color, self.label, taper, self._surface)

  def disc(self, center: Point, radius: float, color: Color, stretch: float = 1.0) -> None:
    """Paints a disc that faces the camera."""
    self.canvas.disc(self.place(*center), radius * self.scale, color, self.label, stretch)

  def line(self, points: Sequence[Point], width: float, color: Color) -> None:
    """Paints a line, at least one pixel thick."""
    self.canvas.line([self.place(*p) for p in points], width * self.scale, color, self.label)

  def cast_shadow(self, rear: float, front: float, half: float, high: float) -> None:
    """Casts the shadow of a box between two distances ahead, of this half width and height."""
    corners = ((-half, 0, rear), (half, 0, rear), (half, 0, front), (-half, 0, front))
    self.canvas.cast_shadow([self.place(*corner) for corner in corners], high * self.scale)

  def reflection(self, pane: Sequence[Point], glass: Color) -> None:
    """Paints a streak of sky onto a pane, whose first two corners are its lower or its upper edge."""
    a, b, c, d = pane
    streak = [mix(a, b, 0.15), mix(a, b, 0.38), mix(d, c, 0.62), mix(d, c, 0.39)]
    self.detail(streak, mix(glass, self.canvas.light.horizon, 0.2), UP)

  def see_through(self, pane: Sequence[Point], glass: Color) -> None:
    """Paints what a windscreen or rear window shows: daylight from behind, and two seats."""
    a, b, c, d = pane if pane[0][1] < pane[2][1] else (*pane[2:], *pane[:2])

    def spots(*places: tuple[float, float]) -> list[Point]:
      return [mix(mix(a, b, across), mix(d, c, across), up) for across, up in places]

    daylight = mix(glass, self.canvas.light.horizon, 0.28)
    self.detail(spots((0.07, 0.3), (0.1, 0.88), (0.9, 0.88), (0.93, 0.3)), daylight, UP, GLASS)
    dark = mix(glass, (8, 8, 10), 0.7)
    for k in (0.28, 0.72):
      shoulders = (k - 0.13, 0.1), (k - 0.1, 0.42), (k + 0.1, 0.42), (k + 0.13, 0.1)
      head = (k - 0.06, 0.4), (k - 0.05, 0.66), (k + 0.05, 0.66), (k + 0.06, 0.4)
      self.detail(spots(*shoulders), dark)
      self.detail(spots(*head), dark)

  def extrude(
    self, profile: Sequence[Point], paint: Color, glass: Color | None = None, rear: float = 0.0
  ) -> int:
    """Paints a solid with a mirror-symmetric cross section along its length.

    Its `profile` has points (ahead of the rear, up, half width), clockwise from the lower rear as seen from
    the right. With `glass`, steep faces above the belt line are windows. Returns the side that the camera
    sees: -1 left, 1 right, or 0.
    """
    faces = []
    for (l0, h0, w0), (l1, h1, w1) in itertools.pairwise(profile):
      size = math.hypot(l1 - l0, h1 - h0)
      normal = self.turn(0, (l1 - l0) / size, (h0 - h1) / size)
      corners = [(-w0, h0, rear + l0), (w0, h0, rear + l0), (w1, h1, rear + l1), (-w1, h1, rear + l1)]
      faces.append((corners, normal, glass and min(h0, h1) > 0.9 and abs(h1 - h0) > 0.3))
    faces.sort(key=lambda face: -sum(self.place(*p)[2] for p in face[0][::2]))  # far ones first
    for corners, normal, window in faces:
      if not self.canvas.camera.faces(self.place(*corners[0]), normal):
        continue
      self.part(corners, paint, normal)
      if window:
        edges = (mix(corners[1], corners[2], t) for t in (0.1, 0.88))
        (w0, h0, a), (w1, h1, b) = ((0.9 * w, up, ahead) for w, up, ahead in edges)
        pane = [(-w0, h0, a), (w0, h0, a), (w1, h1, b), (-w1, h1, b)]
        self.detail(pane, glass, mix(normal, UP, 0.4), GLASS)
        if self.canvas.style.objects and self.pose.z < 45:
          self.see_through(pane, glass)
        elif not self.canvas.style.objects:
          self.reflection(pane, glass)
    seen = 0
    for side in (-1, 1):
      outline = [(side * w, h, rear + ahead) for ahead, h, w in profile]
      normal = self.turn(side, 0, 0)
      if self.canvas.camera.faces(self.place(*outline[0]), normal):
        self.part(outline, paint, normal)
        seen = side
    return seen

  def box(self, rear: float, front: float, half: float, low: float, high: float, paint: Color) -> int:
    """Paints a box between two distances ahead; returns the side that the camera sees."""
    profile = ((rear, low, half), (rear, high, half), (front, high, half), (front, low, half))
    return self.extrude(profile, paint)
