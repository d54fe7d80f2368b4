"""Changes of light and camera, each a pure function of an image and what was drawn for it.

Colours are 0..255, before and after. Names and definitions are torchvision's where it has the operation.

From gamma on, an image is three planes, one per channel: a CPU computes the rows of a plane in vectors, but
pixels of three channels one by one. The four operations before are older and keep their form, and with it
the last bit of their results.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Key

Image = Float32[Array, 'h w 3']
Planes = list[Float32[Array, 'h w']]  # red, green, blue
Scalar = Float32[Array, '']

_GREY = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale
_KERNEL = 3  # standard deviations of the widest blur from the kernel's centre to its edge
_NO_BLUR = 0.1  # standard deviation in pixels at which the neighbours weigh exp(-50)
_NOISE_BITS = 10  # of each channel's random number; 32 bits are drawn for a pixel


def adjust_brightness(image: Image, factor: Scalar) -> Image:
  """Multiplies all colours."""
  return _mix(image, 0.0, factor)


def adjust_contrast(image: Image, inside: Bool[Array, 'h w'], factor: Scalar) -> Image:
  """Mixes with the mean grey of the pixels `inside`; 0: that grey, 1: unchanged."""
  mean = jnp.sum(_grey(image)[..., 0] * inside) / jnp.sum(inside)
  return _mix(image, mean, factor)


def adjust_saturation(image: Image, factor: Scalar) -> Image:
  """Mixes with each pixel's grey; 0: that grey, 1: unchanged."""
  return _mix(image, _grey(image), factor)


def adjust_hue(image: Image, shift: Scalar) -> Image:
  """Turns the colour circle by `shift` turns: RGB to hue, saturation and value, and back."""
  red, green, blue = image[..., 0], image[..., 1], image[..., 2]
  value = image.max(axis=-1)
  chroma = value - image.min(axis=-1)
  divisor = jnp.where(chroma > 0, chroma, 1.0)
  # Not value == red: a compiler may compute the two apart, with other roundings.
  sixth = jnp.where(  # hue in sixths of the circle
    (red >= green) & (red >= blue),
    (green - blue) / divisor,
    jnp.where(green >= blue, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
  )
  sixth = (sixth + 6.0 * shift)[..., None]
  # A channel falls by the chroma as the hue leaves its third of the circle.
  distance = (jnp.array([5.0, 3.0, 1.0], jnp.float32) + sixth) % 6.0
  fall = jnp.clip(jnp.minimum(distance, 4.0 - distance), 0.0, 1.0)
  return jnp.clip(value[..., None] - chroma[..., None] * fall, 0.0, 255.0)


def adjust_gamma(planes: Planes, exponent: Scalar) -> Planes:
  """Raises the colours, as numbers of 0..1, to a power; black and white stay."""
  # A third of the time of jnp.power on a CPU. The logarithm of 0 is -inf, whose exponential is 0 again.
  return [255.0 * jnp.exp(exponent * jnp.log(plane / 255.0)) for plane in planes]


def white_balance(planes: Planes, factors: Float32[Array, ' 3']) -> Planes:
  """Multiplies the channels by positive factors, made such that grey keeps its luminance."""
  weights = jnp.array(_GREY, jnp.float32)
  factors = factors * (jnp.sum(weights) / jnp.sum(weights * factors))
  return [jnp.minimum(factor * plane, 255.0) for factor, plane in zip(factors, planes, strict=True)]


def grayscale(planes: Planes, applies: Bool[Array, '']) -> Planes:
  """Each pixel's grey in all channels, where it applies."""
  grey = sum(weight * plane for weight, plane in zip(_GREY, planes, strict=True))
  return [jnp.where(applies, grey, plane) for plane in planes]


def gaussian_blur(planes: Planes, inside: Bool[Array, 'h w'], deviation: Scalar, largest: float) -> Planes:
  """Averages with Gaussian weights over the pixels `inside`, which are mirrored at the edges.

  Args:
    planes: The image.
    inside: Which pixels belong to it; the results of the others mean nothing.
    deviation: Standard deviation in pixels; below 0.1 the image is unchanged.
    largest: The largest that `deviation` can be. The kernel has ceil(3 largest) pixels to each side.
  """
  radius = math.ceil(_KERNEL * largest)
  offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
  weights = jnp.exp(-0.5 * jnp.square(offsets / jnp.maximum(deviation, _NO_BLUR)))

  def smooth(plane):
    size = plane.shape
    # Not zeros: a CPU fuses all that comes before into that padding, and computes it without vectors.
    plane = jnp.pad(plane, radius, mode='reflect')
    for axis in range(2):
      taps = (jax.lax.slice_in_dim(plane, i, i + size[axis], axis=axis) for i in range(len(offsets)))
      plane = sum(weight * tap for weight, tap in zip(weights, taps, strict=True))
    return plane

  total = jnp.maximum(smooth(inside.astype(jnp.float32)), 1.0)  # at least a pixel's own weight, where inside
  return [smooth(jnp.where(inside, plane, 0.0)) / total for plane in planes]


def gaussian_noise(planes: Planes, deviation: Scalar, key: Key[Array, '']) -> Planes:
  """Adds normal random numbers, independent for each channel and pixel.

  A number is one of the 1,024 quantiles that divide the normal distribution evenly, at most 3.3 standard
  deviations. One draw of 32 bits then serves the three channels of a pixel: a CPU is slow at drawing.

  Args:
    planes: The image.
    deviation: Standard deviation, of 0..1.
    key: Of this image.
  """
  bits = jax.random.bits(key, planes[0].shape)
  noisy = []
  for channel, plane in enumerate(planes):
    index = (bits >> channel * _NOISE_BITS & 2**_NOISE_BITS - 1).astype(jnp.int32)
    uniform = (2 * index + 1).astype(jnp.float32) / 2**_NOISE_BITS - 1.0  # within (-1, 1)
    normal = math.sqrt(2) * jax.lax.erf_inv(uniform)
    noisy.append(jnp.clip(plane + 255.0 * deviation * normal, 0.0, 255.0))
  return noisy


def _grey(image: Image) -> Float32[Array, 'h w 1']:
  return jnp.sum(image * jnp.array(_GREY, jnp.float32), axis=-1, keepdims=True)


def _mix(image: Image, other: Array | float, factor: Scalar) -> Image:
  return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 255.0)
