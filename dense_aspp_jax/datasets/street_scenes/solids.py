"""Solid bodies and their shadows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from dense_aspp_jax.datasets.street_scenes.canvas import Canvas, Pose
from dense_aspp_jax.datasets.street_scenes.light import UP, Color, Point, mix

CIRCLE = tuple((math.cos(k * math.tau / 14), math.sin(k * math.tau / 14)) for k in range(14))


def facing(canvas: Canvas, point: Point, normal: Point) -> bool:
  """Whether a surface at `point` faces the camera."""
  x, y, z = point
  eye_x, eye_y = -(x + canvas.camera.bend(z)), canvas.camera.height - y
  return normal[0] * eye_x + normal[1] * eye_y - normal[2] * z > 0


def reflection(canvas: Canvas, pane: Sequence[Point], glass: Color) -> None:
  """Paints a streak of sky onto a pane given from its lower (or upper) edge to the opposite one."""
  a, b, c, d = pane
  streak = [mix(a, b, 0.15), mix(a, b, 0.38), mix(d, c, 0.62), mix(d, c, 0.39)]
  canvas.polygon(streak, mix(glass, canvas.light.horizon, 0.2), None, UP)


def extrude(
  canvas: Canvas, pose: Pose, profile: Sequence, paint: Color, label: int, glass: Color | None
) -> float:
  """Paints a body with a mirror-symmetric section along its length; returns the visible side (-1, 1)."""
  length = profile[-1][0]
  faces = []
  for (l0, h0, w0), (l1, h1, w1) in itertools.pairwise(profile):
    dl, dh = l1 - l0, h1 - h0
    size = math.hypot(dl, dh) or 1.0
    normal = pose.turn(0, dl / size, -dh / size)
    a, b = l0 - length / 2, l1 - length / 2
    corners = [pose.place(-w0, h0, a), pose.place(w0, h0, a), pose.place(w1, h1, b), pose.place(-w1, h1, b)]
    window = glass is not None and min(h0, h1) > 0.9 and abs(dh) > 0.3
    faces.append((corners[0][2] + corners[2][2], corners, normal, window, (l0, h0, w0, l1, h1, w1)))
  for _, corners, normal, window, (l0, h0, w0, l1, h1, w1) in sorted(faces, key=lambda face: -face[0]):
    if not facing(canvas, corners[0], normal):
      continue
    canvas.polygon(corners, paint, label, normal)
    if window:
      pane = []
      for t, s in ((0.1, -1), (0.1, 1), (0.88, 1), (0.88, -1)):
        w = (w0 + (w1 - w0) * t) * 0.9
        pane.append(pose.place(s * w, h0 + (h1 - h0) * t, l0 + (l1 - l0) * t - length / 2))
      canvas.polygon(pane, glass, None, mix(normal, UP, 0.4))
      reflection(canvas, pane, glass)
  seen = 0.0
  for side in (-1.0, 1.0):
    normal = pose.turn(side, 0, 0)
    outline = [pose.place(side * w, h, ahead - length / 2) for ahead, h, w in profile]
    if facing(canvas, outline[0], normal):
      canvas.polygon(outline, paint, label, normal)
      seen = side
  return seen


def box(
  canvas: Canvas,
  pose: Pose,
  rear: float,
  front: float,
  half: float,
  low: float,
  high: float,
  paint: Color,
  label: int,
) -> float:
  """Paints a box between two distances ahead of the pose; returns the visible side."""
  middle = pose.place(0, 0, (rear + front) / 2)
  part = Pose(middle[0], middle[2], pose.yaw)
  length = front - rear
  profile = ((0, low, half), (0, high, half), (length, high, half), (length, low, half))
  return extrude(canvas, part, profile, paint, label, None)


def panel(pose: Pose, side: float, points: Sequence[tuple[float, float]]) -> list[Point]:
  """World points of (ahead, up) points on the plane `side` metres from the middle."""
  return [pose.place(side, up, ahead) for ahead, up in points]


def ground_contact(canvas: Canvas, pose: Pose, length: float, half: float, high: float) -> None:
  """The shadow of a body of the given length, half width and height, in metres."""
  corners = ((-half, -length / 2), (half, -length / 2), (half, length / 2), (-half, length / 2))
  canvas.cast_shadow([(p[0], p[2]) for p in (pose.place(w, 0, ahead) for w, ahead in corners)], high)
