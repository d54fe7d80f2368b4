"""Light, weather and colours of a generated street scene. Colours are RGB, 0..255, in full light."""

from __future__ import annotations

import dataclasses
import math
import random

Color = tuple[float, float, float]
Point = tuple[float, float, float]
Normal = Point | None  # a unit vector, or LAMP
LAMP = None  # in place of a normal: the surface emits light

PAINTS = (
  (222, 222, 222), (236, 236, 234), (40, 42, 46), (24, 24, 28), (128, 132, 138), (168, 172, 176),
  (92, 96, 104), (150, 30, 34), (36, 60, 120), (70, 110, 160), (52, 84, 66), (186, 160, 110),
  (120, 70, 40), (206, 170, 40),
)  # fmt: skip
FLEET = (
  (206, 50, 44), (232, 194, 48), (60, 110, 180), (236, 236, 230), (70, 140, 96), (180, 186, 190),
  (230, 130, 50), (90, 60, 110),
)  # fmt: skip
CLOTHES = (
  (32, 34, 42), (52, 60, 84), (90, 92, 98), (150, 150, 152), (214, 212, 206), (126, 34, 40), (60, 88, 130),
  (76, 86, 60), (150, 116, 82), (190, 170, 60), (110, 60, 96), (196, 110, 60),
)  # fmt: skip
HAIR = ((34, 28, 26), (70, 48, 34), (140, 104, 66), (96, 92, 90), (170, 160, 150))
FACADES = (
  (196, 178, 150), (214, 204, 184), (168, 92, 70), (142, 74, 60), (188, 140, 96), (150, 150, 148),
  (208, 188, 140), (120, 112, 104), (176, 164, 172), (150, 168, 176), (222, 216, 208), (104, 96, 96),
  (190, 122, 100), (168, 176, 150), (134, 140, 152), (226, 196, 150), (146, 168, 200), (116, 130, 96),
)  # fmt: skip
ROOFS = ((112, 62, 50), (84, 80, 84), (64, 62, 66), (136, 84, 62), (96, 92, 84))
TYRE = (26, 26, 28)


def mix(first: Color, second: Color, amount: float) -> Color:
  """Blends two colours or points; `amount` 0 gives the first, 1 the second."""
  (a, b, c), (x, y, z) = first, second
  return a + (x - a) * amount, b + (y - b) * amount, c + (z - c) * amount


def vary(rng: random.Random, color: Color, brightness: float = 0.12, hue: float = 8.0) -> Color:
  """Varies a colour: relative change of brightness, absolute change of each channel."""
  gain = rng.uniform(1 - brightness, 1 + brightness)
  uniform = rng.uniform
  return tuple([min(255.0, max(0.0, v * gain + uniform(-hue, hue))) for v in color])


@dataclasses.dataclass(frozen=True)
class Light:
  """Sky and light of one scene."""

  zenith: Color  # of the sky overhead
  horizon: Color  # of the sky
  sun_direction: Point  # unit vector towards the sun
  sun: Color  # gain of a surface that faces the sun, per channel
  ambient: Color  # gain of every surface, per channel
  haze: Color  # that distant objects fade to
  visibility: float  # distance in metres at which 63 % of a colour is haze
  clouds: float  # share of the sky, 0..1
  lamps: bool  # whether windows and lamps are lit
  cloud: Color = (235.0, 236.0, 238.0)  # of bright clouds
  metered: bool = True  # whether the exposure follows the mean of the picture

  def shade(self, color: Color, normal: Normal, z: float) -> tuple[int, int, int]:
    """Returns the colour of a surface or a lamp seen from distance `z`."""
    clear = math.exp(-z / self.visibility)
    if normal is LAMP:
      return tuple(int(v) for v in mix(self.haze, color, clear))
    (x, y, z), (u, v, w) = normal, self.sun_direction
    facing = max(0.0, x * u + y * v + z * w)
    (r, g, b), a, d, h = color, self.ambient, self.sun, self.haze
    hazy = 1 - clear
    r = int(r * (a[0] + facing * d[0]) * clear + h[0] * hazy)
    g = int(g * (a[1] + facing * d[1]) * clear + h[1] * hazy)
    b = int(b * (a[2] + facing * d[2]) * clear + h[2] * hazy)
    return r if r < 255 else 255, g if g < 255 else 255, b if b < 255 else 255

  def tint(self, color: Color, z: float) -> Color:
    """The colour of something leafy, whose parts face everywhere, at distance `z`."""
    clear = math.exp(-z / self.visibility)
    lit = [v * (a + 0.7 * d) for v, a, d in zip(color, self.ambient, self.sun, strict=True)]
    return mix(self.haze, lit, clear)

  def shaded(self, normal: Normal) -> float:
    """Share of a surface's light that is left when another object shades it."""
    facing = max(0.0, sum(a * b for a, b in zip(normal, self.sun_direction, strict=True)))
    return self.ambient[1] / (self.ambient[1] + facing * self.sun[1])

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
# As above, for light with a photograph's range: skies may be brighter than white, and then they are white.
_PHOTOGRAPHED = {
  'day': ((110, 158, 218), (214, 230, 244), (0.88, 0.82, 0.70), (0.30, 0.33, 0.38),
          (28, 62), (350, 1500), (0, 0.8)),
  'overcast': ((216, 220, 224), (240, 241, 242), (0.06, 0.06, 0.06), (0.66, 0.67, 0.68),
               (40, 70), (150, 900), (0.5, 1)),
  'white sky': ((290, 292, 294), (290, 290, 290), (0.46, 0.44, 0.38), (0.36, 0.37, 0.39),
                (15, 45), (250, 1200), (0.2, 0.9)),
  'low sun': ((150, 182, 222), (268, 252, 226), (1.0, 0.86, 0.64), (0.26, 0.28, 0.33),
              (8, 24), (160, 700), (0, 0.6)),
  'gloom': ((128, 142, 152), (196, 206, 208), (0.02, 0.02, 0.02), (0.30, 0.31, 0.33),
            (20, 50), (150, 900), (0.45, 0.9)),
  'haze': ((196, 204, 212), (226, 228, 230), (0.32, 0.31, 0.29), (0.50, 0.52, 0.55),
           (20, 50), (60, 180), (0, 0.6)),
  'dusk': ((76, 88, 130), (206, 168, 150), (0.08, 0.06, 0.06), (0.34, 0.34, 0.38),
           (5, 12), (150, 600), (0.1, 0.8)),
}  # fmt: skip
_BRIGHTEST = 1.35  # gain of the ground


def make_light(rng: random.Random, photographed: bool = False) -> Light:
  """Chooses the weather and the time of day, and varies them; `photographed`: with a photograph's range."""
  kinds, weights = (
    (_PHOTOGRAPHED, (5, 2.5, 4, 2.5, 1.5, 1, 0.6)) if photographed else (_LIGHTS, (4, 3, 3, 1.5))
  )
  kind = rng.choices(tuple(kinds), weights=weights)[0]
  zenith, horizon, sun, ambient, elevation, visibility, clouds = kinds[kind]
  azimuth = rng.uniform(0, math.tau)
  height = math.radians(rng.uniform(*elevation))
  level = math.cos(height)
  exposure = math.exp(rng.uniform(-0.45, 0.7)) if photographed else rng.uniform(0.82, 1.15)
  exposure = min(exposure, _BRIGHTEST / (ambient[1] + sun[1] * math.sin(height)))
  balance = [rng.uniform(1 - b, 1 + b) for b in (0.08, 0.02, 0.08)]
  tint = rng.uniform(0.9, 1.25) if photographed else rng.uniform(0.9, 1.08)
  horizon = vary(rng, horizon, 0.08, 8)
  most = 300.0 if photographed else 255.0

  def balanced(color: Color, gain: float) -> Color:
    return tuple(min(most, v * gain * b) for v, b in zip(color, balance, strict=True))

  return Light(
    zenith=balanced(vary(rng, zenith, 0.12, 10), tint),
    horizon=balanced(horizon, 1),
    sun_direction=(math.sin(azimuth) * level, math.sin(height), math.cos(azimuth) * level),
    sun=balanced(sun, exposure),
    ambient=balanced(ambient, exposure),
    haze=balanced(horizon, 0.74 * min(1, exposure) if photographed else 0.97),
    visibility=rng.uniform(*visibility),
    clouds=rng.uniform(*clouds),
    lamps=kind == 'dusk',
    cloud=balanced(mix(horizon, (262, 262, 262), rng.uniform(0.2, 0.9)), tint),
    metered=not photographed,
  )
