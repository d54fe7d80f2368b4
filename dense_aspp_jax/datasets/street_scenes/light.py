"""Light, weather and colour of a generated street scene."""

from __future__ import annotations

import dataclasses
import math
import random

Color = tuple[float, float, float]
Point = tuple[float, float, float]

# Unit normals of surfaces.
FRONT = (0.0, 0.0, -1.0)  # towards the camera
UP = (0.0, 1.0, 0.0)
LEFT = (-1.0, 0.0, 0.0)
RIGHT = (1.0, 0.0, 0.0)


def mix(first: Color, second: Color, amount: float) -> Color:
  """Blends two colours; `amount` 0 gives the first, 1 the second."""
  return tuple(a + (b - a) * amount for a, b in zip(first, second, strict=True))


def vary(rng: random.Random, color: Color, brightness: float = 0.12, hue: float = 8.0) -> Color:
  """Varies a colour: relative change of brightness, absolute change of each channel."""
  gain = rng.uniform(1 - brightness, 1 + brightness)
  return tuple(min(255.0, max(0.0, v * gain + rng.uniform(-hue, hue))) for v in color)


@dataclasses.dataclass(frozen=True)
class Light:
  """Sky and light of one scene; colours are RGB 0..255, gains multiply them.

  Attributes:
    zenith: Colour of the sky overhead.
    horizon: Colour of the sky at the horizon.
    sun_direction: Unit vector towards the sun.
    sun: Gain of a surface that faces the sun, per channel.
    ambient: Gain of every surface, per channel.
    haze: Colour that distant objects fade to.
    visibility: Distance in metres at which 63 % of a colour is haze.
    clouds: Share of the sky covered by clouds, 0..1.
    lamps: Whether windows and lamps are lit.
  """

  zenith: Color
  horizon: Color
  sun_direction: Point
  sun: Color
  ambient: Color
  haze: Color
  visibility: float
  clouds: float
  lamps: bool

  def shade(self, color: Color, normal: Point, z: float) -> tuple[int, int, int]:
    """Returns the colour of a lit surface seen from distance `z`."""
    s = self.sun_direction
    facing = normal[0] * s[0] + normal[1] * s[1] + normal[2] * s[2]
    facing = facing if facing > 0 else 0.0
    clear = math.exp(-z / self.visibility)
    (r, g, b), a, d, h = color, self.ambient, self.sun, self.haze
    r = r * (a[0] + facing * d[0]) * clear + h[0] * (1 - clear)
    g = g * (a[1] + facing * d[1]) * clear + h[1] * (1 - clear)
    b = b * (a[2] + facing * d[2]) * clear + h[2] * (1 - clear)
    return min(255, int(r)), min(255, int(g)), min(255, int(b))

  def glow(self, color: Color, z: float) -> tuple[int, int, int]:
    """Returns the colour of a lamp seen from distance `z`."""
    return tuple(int(v) for v in mix(self.haze, color, math.exp(-z / self.visibility)))

  @property
  def shadow_offset(self) -> tuple[float, float]:
    """Where the shadow of a point one metre high falls: metres along x and z."""
    x, y, z = self.sun_direction
    y = max(y, 0.3)
    return -x / y, -z / y

  @property
  def casts_shadows(self) -> bool:
    """Whether the sun is strong enough for distinct shadows."""
    return self.sun[1] > 0.25


# zenith, horizon, gain of the sun, ambient gain, elevation in degrees, visibility in metres, clouds
_LIGHTS = {
  'day': ((88, 138, 206), (198, 214, 228), (0.72, 0.69, 0.62), (0.50, 0.53, 0.58),
          (30, 65), (250, 900), (0, 0.75)),
  'overcast': ((176, 182, 188), (206, 208, 208), (0.10, 0.10, 0.10), (0.76, 0.78, 0.80),
               (40, 70), (80, 400), (0.6, 1)),
  'low sun': ((120, 152, 200), (244, 214, 168), (0.98, 0.78, 0.50), (0.42, 0.43, 0.48),
              (9, 24), (140, 450), (0, 0.6)),
  'dusk': ((62, 72, 118), (212, 150, 128), (0.14, 0.10, 0.10), (0.47, 0.45, 0.52),
           (5, 12), (120, 400), (0.1, 0.7)),
}  # fmt: skip


def make_light(rng: random.Random) -> Light:
  """Chooses weather and time of day: clear, overcast, low sun or dusk, each with its own variation."""
  kind = rng.choices(tuple(_LIGHTS), weights=(4, 3, 3, 1.5))[0]
  zenith, horizon, sun, ambient, elevation, visibility, clouds = _LIGHTS[kind]
  azimuth = rng.uniform(0, math.tau)
  height = math.radians(rng.uniform(*elevation))
  exposure = rng.uniform(0.82, 1.15)
  balance = [rng.uniform(1 - b, 1 + b) for b in (0.08, 0.02, 0.08)]
  gain = [exposure * b for b in balance]
  tint = rng.uniform(0.9, 1.08)
  horizon = vary(rng, horizon, 0.08, 8)
  return Light(
    zenith=tuple(min(255.0, v * tint * b) for v, b in zip(vary(rng, zenith, 0.12, 10), balance, strict=True)),
    horizon=tuple(min(255.0, v * b) for v, b in zip(horizon, balance, strict=True)),
    sun_direction=(
      math.sin(azimuth) * math.cos(height),
      math.sin(height),
      math.cos(azimuth) * math.cos(height),
    ),
    sun=tuple(v * g for v, g in zip(sun, gain, strict=True)),
    ambient=tuple(v * g for v, g in zip(ambient, gain, strict=True)),
    haze=tuple(min(255.0, v * b * 0.97) for v, b in zip(horizon, balance, strict=True)),
    visibility=rng.uniform(*visibility),
    clouds=rng.uniform(*clouds),
    lamps=kind == 'dusk',
  )
