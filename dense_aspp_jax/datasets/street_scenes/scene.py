"""One generated street scene: image and exact labels, drawn from `(seed, index)`."""

from __future__ import annotations

import math
import random

import numpy as np

from dense_aspp_jax.datasets.street_scenes.canvas import ID, SUPERSAMPLING, Camera, Canvas
from dense_aspp_jax.datasets.street_scenes.ground import shade_ground
from dense_aspp_jax.datasets.street_scenes.layout import Layout
from dense_aspp_jax.datasets.street_scenes.light import PAINTS, make_light, mix, vary
from dense_aspp_jax.datasets.street_scenes.sky import paint_backdrop, paint_sky
from dense_aspp_jax.datasets.street_scenes.street import LANE
from dense_aspp_jax.datasets.street_scenes.style import Style
from dense_aspp_jax.datasets.street_scenes.surfaces import texture_surfaces
from dense_aspp_jax.errors import InputError

SIZE = (256, 512)  # h, w of the stored scenes
MIN_SIZE = 64  # pixels, of height and width; smaller scenes show nothing

# Relative grain of surfaces, on top of what is drawn.
_GRAIN = {
  'vegetation': 0.10, 'terrain': 0.09, 'road': 0.025, 'sidewalk': 0.03, 'wall': 0.04, 'building': 0.018,
  'sky': 0.0,
}  # fmt: skip
_GRAIN_BY_ID = np.full(256, 0.012, np.float32)
_GRAIN_BY_ID[[ID[name] for name in _GRAIN]] = tuple(_GRAIN.values())


def render_scene(
  seed: int,
  index: int,
  size: tuple[int, int] = SIZE,
  style: Style = Style(),  # noqa: B008 (frozen)
) -> tuple[np.ndarray, np.ndarray]:
  """Draws one street scene.

  The same arguments give the same scene, in any order and process. Another version of Pillow may draw single
  border pixels differently.

  Args:
    seed: Seed of a series of scenes, not negative.
    index: Number of the scene in its series, not negative.
    size: (h, w) in pixels, each at least `MIN_SIZE`; the longer side shows 47 to 84 degrees.
    style: What it shows beyond plain shapes.

  Returns:
    Image, uint8 `[h, w, 3]` RGB, and Cityscapes label ids, uint8 `[h, w]`.

  Raises:
    InputError: The size is too small.
  """
  if min(size) < MIN_SIZE:
    raise InputError(f'street scene of size {tuple(size)}; expected at least {MIN_SIZE} pixels each way')
  noise = np.random.default_rng((seed, index))
  # Many single draws: `random` is several times faster. Each part has its own, whatever the style.
  plan, weather, view, far, end = (random.Random(int(n)) for n in noise.integers(2**62, size=5))
  of_sky, of_surfaces, of_ground, of_sensor = noise.spawn(4)
  light = make_light(weather, style.light)
  layout = Layout(plan, style)
  camera = _place_camera(view, size, style.camera, layout.street.own_lanes)
  canvas = Canvas(size, camera, light, style)
  paint_sky(canvas, of_sky)
  paint_backdrop(canvas, far, layout.street.foliage)
  layout.draw(canvas)
  if view.random() < (0.4 if style.camera else 0.6):
    _draw_bonnet(canvas, view)
  return _develop(canvas, end, (of_surfaces, of_ground, of_sensor))


def _place_camera(rng: random.Random, size: tuple[int, int], varied: bool, lanes: int) -> Camera:
  """Chooses the camera: as of one car, or of many."""
  height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
  yaw, horizon, high = rng.uniform(-0.07, 0.07), rng.uniform(0.40, 0.48), rng.uniform(1.3, 1.75)
  curvature = rng.choice((0, 1, 1)) * rng.uniform(-1, 1) / 450
  focal, roll, side = 0.9, 0.0, 0.0
  if varied:
    horizon, high = rng.uniform(0.35, 0.57), rng.uniform(1.15, 2.1)
    focal = math.exp(rng.uniform(math.log(0.56), math.log(1.15)))
    yaw += rng.gauss(0, 0.2 if rng.random() < 0.12 else 0.05)
    roll = max(-0.03, min(0.03, rng.gauss(0, 0.01)))
    curvature *= rng.choice((1, 1, 1.8))
    side = rng.gauss(0, 0.35) + LANE * (lanes > 1 and rng.random() < 0.4)
  focal *= max(width, height)
  # The lower edge shows the ground at least so many metres ahead of the camera, where drawing begins.
  focal = max(focal, 1.9 * (height * (1 - horizon) + abs(roll) * width / 2) / high)
  return Camera(focal, 0.5 * width, horizon * height, high, yaw, curvature, roll, side)


def _draw_bonnet(canvas: Canvas, rng: random.Random) -> None:
  """Draws the front of the car that carries the camera, at the bottom of the picture."""
  width, height = canvas.width, canvas.height
  paint = vary(rng, rng.choice(PAINTS))
  middle = width * rng.uniform(0.47, 0.53)
  top = height * rng.uniform(0.91, 0.96)
  spread, steep = 0.56, 0.5
  if canvas.style.camera:
    top, spread, steep = height * rng.uniform(0.85, 0.97), rng.uniform(0.5, 0.75), rng.uniform(0.3, 0.6)
  bright, dark = mix(paint, canvas.light.horizon, 0.35), mix(paint, (10, 10, 14), 0.35)
  if canvas.style.camera:
    bright, dark = mix(bright, (10, 10, 14), rng.uniform(0.2, 0.8)), mix(dark, (10, 10, 14), 0.6)
  for k in range(24):
    shade = canvas.light.shade(mix(bright, dark, k / 23), (0.0, 0.9, -0.3), 0.0)
    upper = top + k * 0.004 * height
    half = width * (spread - 0.004 * k)
    box = (middle - half, upper, middle + half, upper + height * steep)
    canvas.draw('ellipse', box, shade, 'ego vehicle')


def _develop(
  canvas: Canvas, rng: random.Random, noises: tuple[np.random.Generator, ...]
) -> tuple[np.ndarray, np.ndarray]:
  """Averages the canvas down, and adds the texture of surfaces and the shadows."""
  of_surfaces, of_ground, of_sensor = noises
  middle = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
  labels = np.asarray(canvas.labels)[middle, middle].copy()
  size = labels.shape
  light, style = canvas.light, canvas.style
  rays = canvas.camera.rays(size, SUPERSAMPLING)
  if style.textures:
    numbers = np.asarray(canvas.image)[middle, middle, 3]
    gain = texture_surfaces(canvas.camera, list(canvas.surfaces), numbers, rays, SUPERSAMPLING, of_surfaces)
  else:
    gain = 1 + _GRAIN_BY_ID.take(labels) * _grain(of_surfaces, size)
  shade_ground(canvas, of_ground, labels, gain, rays)
  image = canvas.image.reduce(SUPERSAMPLING).convert('RGB')
  gray, exposure = rng.uniform(-0.12, 0.4), 1.0
  if light.metered:  # not quite to a constant
    target = rng.uniform(96, 128) * (0.9 if light.lamps else 1.0)
    exposure = min(1.9, max(0.75, (target / np.asarray(image)[::4, ::4].mean()) ** 0.75))
  else:
    gray += 0.15
  saturation = exposure * ((1 - gray) * np.eye(3) + gray / 3)
  matrix = np.pad(saturation, ((0, 0), (0, 1)))  # Pillow wants a column of offsets
  image = np.asarray(image.convert('RGB', tuple(matrix.ravel())))
  sensor, table = 0.0, np.arange(256, dtype=np.uint8)
  if not style.light:  # as of one camera; augmentation has more of them
    v, u = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
    gain *= 1 - rng.uniform(0, 0.09) * (u * u + (v * v)[:, None])
    sensor = of_sensor.standard_normal(size, np.float32) * rng.uniform(1, 3.5)
    table = (255 * np.linspace(0, 1, 256) ** rng.uniform(0.85, 1.15) + 0.5).astype(np.uint8)
  result = np.empty_like(image)
  for k in range(3):  # by planes: NumPy's inner loops would be three pixels long
    plane = image[..., k] * gain
    plane += sensor
    result[..., k] = table.take(plane.clip(0, 255, out=plane).astype(np.uint8))
  return result, labels


def _grain(noise: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
  """Noise between single pixels and between blocks of 2 x 2."""
  fine = noise.standard_normal(size, np.float32)
  coarse = noise.standard_normal(((size[0] + 1) // 2, (size[1] + 1) // 2), np.float32)
  return 0.6 * fine + 0.8 * coarse.repeat(2, 1).repeat(2, 0)[: size[0], : size[1]]
