"""What augmentation defines, pixel by pixel in NumPy and float64, and what the package makes of a batch."""

import colorsys
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.augmentation import Augmentation, augment, draw

PADDING = (10.0, 20.0, 30.0)
KEY = 7
GREY = np.array([0.2989, 0.587, 0.114])
GEOMETRY = dict(scale_range=(0.5, 2.0), crop_size=(9, 14), flip_probability=0.5)
LIGHT = dict(
  brightness=0.4,
  contrast=0.3,
  saturation=0.2,
  hue=0.1,
  gamma=0.5,
  white_balance=0.3,
  grayscale_probability=0.3,
)
CAMERA = dict(blur=1.5, noise=0.05)
EVERYTHING = Augmentation(**GEOMETRY, rotation=20.0, **LIGHT, **CAMERA)

augment_jit = jax.jit(augment, static_argnames=('augmentation', 'padding_color'))


def make_batch(size, count=4, seed=0):
  generator = np.random.default_rng(seed)
  return {
    'image': generator.integers(0, 256, (count, *size, 3), np.uint8),
    'label': generator.integers(0, 20, (count, *size), np.uint8),
  }


def run(batch, augmentation, key=KEY):
  result = augment_jit(batch, jax.random.key(key), augmentation=augmentation, padding_color=PADDING)
  return {name: np.asarray(array) for name, array in result.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draw_rows(augmentation, size, count, key):
  return jax.vmap(lambda row: draw(jax.random.fold_in(key, row), augmentation, size))(jnp.arange(count))


def draws(augmentation, size, count, key=KEY):
  """What `augment` draws, one dict of NumPy values per row."""
  drawn = jax.device_get(draw_rows(augmentation, size, count, jax.random.key(key)))._asdict()
  return [{name: values[row] for name, values in drawn.items()} for row in range(count)]


def source_positions(size, drawn, crop):
  """Row and column in the image, from its corner, that each pixel of the crop shows."""
  rows, columns = np.mgrid[: crop[0], : crop[1]] + 0.5
  if drawn['flip']:
    columns = crop[1] - columns
  angle = math.radians(drawn['rotation'])
  down, right = rows - crop[0] / 2, columns - crop[1] / 2
  rows = math.cos(angle) * down + math.sin(angle) * right + crop[0] / 2
  columns = math.cos(angle) * right - math.sin(angle) * down + crop[1] / 2
  scale = np.array(size) / drawn['scaled_size']
  return (rows + drawn['offset'][0]) * scale[0], (columns + drawn['offset'][1]) * scale[1]


def reference_resample(image, label, drawn, crop):
  """Scales, rotates, cuts out, mirrors: pixel by pixel."""
  height, width = label.shape
  out_image = np.full((*crop, 3), PADDING)
  out_label = np.full(crop, IGNORE_LABEL, np.uint8)
  positions = source_positions(label.shape, drawn, crop)
  for i, j in np.ndindex(crop):
    y, x = (position[i, j] for position in positions)
    if not (0 <= y < height and 0 <= x < width):
      continue
    out_label[i, j] = label[int(y), int(x)]
    y, x = np.clip(y - 0.5, 0, height - 1), np.clip(x - 0.5, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    out_image[i, j] = (1 - fy) * ((1 - fx) * image[top, left] + fx * image[top, right]) + fy * (
      (1 - fx) * image[bottom, left] + fx * image[bottom, right]
    )
  return out_image, out_label


def reference_light(image, inside, drawn):
  """Brightness to grayscale in the documented order, as torchvision defines them; `image` 0..255."""

  def mix(first, second, factor):
    return np.clip(float(factor) * first + (1 - float(factor)) * second, 0, 255)

  image = mix(image, 0.0, drawn['brightness'])
  image = mix(image, (image @ GREY)[inside].mean(), drawn['contrast'])
  image = mix(image, (image @ GREY)[..., None], drawn['saturation'])
  shifted = np.empty_like(image)
  for index in np.ndindex(image.shape[:2]):
    hue, saturation, value = colorsys.rgb_to_hsv(*image[index] / 255)
    shifted[index] = np.array(colorsys.hsv_to_rgb((hue + float(drawn['hue'])) % 1, saturation, value)) * 255
  image = 255 * (shifted / 255) ** float(drawn['gamma'])
  factors = drawn['white_balance'].astype(float)
  image = np.clip(image * factors * GREY.sum() / (GREY @ factors), 0, 255)
  return np.repeat((image @ GREY)[..., None], 3, -1) if drawn['grayscale'] else image


def reference_blur(image, inside, deviation, radius):
  """Each pixel's mean over its window, weighted; beyond the edges both image and `inside` are mirrored."""
  colors, counts = (
    np.pad(values, ((radius, radius), (radius, radius), (0, 0)), 'reflect')
    for values in (np.where(inside[..., None], image, 0), inside[..., None].astype(float))
  )
  weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(float(deviation), 0.1)) ** 2)
  weights = np.outer(weights, weights)[..., None]
  blurred = np.zeros_like(image)
  for i, j in zip(*np.nonzero(inside), strict=True):
    window = np.s_[i : i + 2 * radius + 1, j : j + 2 * radius + 1]
    blurred[i, j] = (weights * colors[window]).sum((0, 1)) / (weights * counts[window]).sum()
  return blurred
