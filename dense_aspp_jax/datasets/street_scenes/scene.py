"""One generated street scene: image and exact labels, drawn from `(seed, index)`."""

from __future__ import annotations

import random

import numpy as np
from PIL import ImageFilter

from dense_aspp_jax.datasets.street_scenes.canvas import ID, SUPERSAMPLING, Camera, Canvas
from dense_aspp_jax.datasets.street_scenes.layout import Layout
from dense_aspp_jax.datasets.street_scenes.light import PAINTS, make_light, mix, vary
from dense_aspp_jax.datasets.street_scenes.sky import paint_backdrop, paint_sky, smooth_noise
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


def render_scene(seed: int, index: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
  """Draws one street scene.

  The same arguments give the same scene, in any order and process. Another version of Pillow may draw single
  border pixels differently.

  Args:
    seed: Seed of a series of scenes, not negative.
    index: Number of the scene in its series, not negative.
    size: (h, w) in pixels, each at least `MIN_SIZE`; the longer side shows about 58 degrees.

  Returns:
    Image, uint8 `[h, w, 3]` RGB, and Cityscapes label ids, uint8 `[h, w]`.

  Raises:
    InputError: The size is too small.
  """
  if min(size) < MIN_SIZE:
    raise InputError(f'street scene of size {tuple(size)}; expected at least {MIN_SIZE} pixels each way')
  noise = np.random.default_rng((seed, index))
  rng = random.Random(int(noise.integers(2**62)))  # many single draws: several times faster
  light = make_light(rng)
  height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
  camera = Camera(
    yaw=rng.uniform(-0.07, 0.07),
    focal=0.9 * max(width, height),
    center=0.5 * width,
    horizon=rng.uniform(0.40, 0.48) * height,
    height=rng.uniform(1.3, 1.75),
    curvature=rng.choice((0, 1, 1)) * rng.uniform(-1, 1) / 450,
  )
  canvas = Canvas(size, camera, light)
  layout = Layout(rng)
  paint_sky(canvas, noise)
  paint_backdrop(canvas, rng, layout.street.foliage)
  layout.draw(canvas)
  if rng.random() < 0.6:
    _draw_bonnet(canvas, rng)
  return _develop(canvas, rng, noise)


def _draw_bonnet(canvas: Canvas, rng: random.Random) -> None:
  """Draws the front of the car that carries the camera, at the bottom of the picture."""
  width, height = canvas.width, canvas.height
  paint = vary(rng, rng.choice(PAINTS))
  middle = width * rng.uniform(0.47, 0.53)
  top = height * rng.uniform(0.91, 0.96)
  bright, dark = mix(paint, canvas.light.horizon, 0.35), mix(paint, (10, 10, 14), 0.35)
  for k in range(24):
    shade = canvas.light.shade(mix(bright, dark, k / 23), (0.0, 0.9, -0.3), 0.0)
    upper = top + k * 0.004 * height
    half = width * (0.56 - 0.004 * k)
    box = (middle - half, upper, middle + half, upper + height * 0.5)
    canvas.draw('ellipse', box, shade, 'ego vehicle')


def _develop(canvas: Canvas, rng: random.Random, noise: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Averages the canvas down, and adds shadows, the grain of surfaces and the camera's noise."""
  middle = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
  labels = np.asarray(canvas.labels)[middle, middle].copy()
  size = labels.shape
  image = canvas.image.reduce(SUPERSAMPLING)
  # The camera meters the picture, not quite to a constant, and has its own saturation.
  target = rng.uniform(96, 128) * (0.9 if canvas.light.lamps else 1.0)
  exposure = min(1.9, max(0.75, (target / np.asarray(image)[::4, ::4].mean()) ** 0.75))
  gray = rng.uniform(-0.12, 0.4)
  saturation = exposure * ((1 - gray) * np.eye(3) + gray / 3)
  matrix = np.pad(saturation, ((0, 0), (0, 1)))  # Pillow wants a column of offsets
  image = np.asarray(image.convert('RGB', tuple(matrix.ravel())))
  fine, sensor = noise.standard_normal((2, *size), np.float32)
  coarse = noise.standard_normal(((size[0] + 1) // 2, (size[1] + 1) // 2), np.float32)
  coarse = coarse.repeat(2, 1).repeat(2, 0)[: size[0], : size[1]]
  fine *= 0.6
  fine += 0.8 * coarse
  gain = 1 + _GRAIN_BY_ID.take(labels) * fine
  _shade_ground(canvas, noise, labels, gain)
  v, u = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
  gain *= 1 - rng.uniform(0, 0.09) * (u * u + (v * v)[:, None])
  sensor *= rng.uniform(1, 3.5)
  tone = (255 * np.linspace(0, 1, 256) ** rng.uniform(0.85, 1.15) + 0.5).astype(np.uint8)
  result = np.empty_like(image)
  for k in range(3):  # by planes: NumPy's inner loops would be three pixels long
    plane = image[..., k] * gain
    plane += sensor
    result[..., k] = tone.take(plane.clip(0, 255, out=plane).astype(np.uint8))
  return result, labels


def _shade_ground(canvas: Canvas, noise: np.random.Generator, labels: np.ndarray, gain: np.ndarray) -> None:
  """Multiplies `gain` below the horizon by shadows and by texture that lies on the ground in perspective."""
  height, width = labels.shape
  camera = canvas.camera
  first = max(0, min(height - 1, int(camera.horizon / SUPERSAMPLING) + 1))
  # Of each pixel of the ground: metres ahead, [rows, 1], and metres to the right, [rows, w].
  v = (np.arange(first, height, dtype=np.float32)[:, None] + 0.5) * SUPERSAMPLING
  u = (np.arange(width, dtype=np.float32) + 0.5) * SUPERSAMPLING
  z = camera.focal * camera.height / np.maximum(v - camera.horizon, 0.5)
  bend = np.array([camera.bend(float(d)) for d in z[:, 0]], np.float32)[:, None]
  x = (u - camera.center) * z / camera.focal - bend
  texture = smooth_noise(noise, (128, 128), (24, 24), 3)
  near = np.exp(-z / 22)
  fine = texture[(z * 9).astype(np.int32) & 127, (x * 22).astype(np.int32) & 127]
  broad = texture[(z * 1.1).astype(np.int32) & 127, (x * 3.2).astype(np.int32) & 127]
  ground = np.ones(x.shape, np.float32)
  road, walk, terrain = (labels[first:] == ID[name] for name in ('road', 'sidewalk', 'terrain'))
  ground += road * (near * 0.07 * fine + 0.05 * broad)
  ground += terrain * (near * 0.22 * fine + 0.14 * broad)
  rows = np.broadcast_to(np.arange(len(z))[:, None], x.shape)[walk]  # a remainder takes as long as all else
  joints = ((x[walk] % 0.6 < 0.05) | (z % 0.6 < 0.06)[rows, 0]) * near[rows, 0]
  ground[walk] += 0.05 * broad[walk] - 0.16 * joints
  shadows = canvas.shadows.reduce(SUPERSAMPLING).filter(ImageFilter.BoxBlur(max(1, height // 256)))
  mask = np.asarray(shadows)[first:].astype(np.float32) / 255
  strength = 0.62 if canvas.light.casts_shadows else 0.5
  ground *= 1 - strength * mask * (road | walk | terrain)
  gain[first:] *= ground
