"""Changes of light, each a pure function of an image and what was drawn for it.

Colours are 0..255, before and after. Names and definitions are torchvision's where it has the operation.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

Image = Float32[Array, 'h w 3']
Scalar = Float32[Array, '']

_GREY = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale


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


def _grey(image: Image) -> Float32[Array, 'h w 1']:
  return jnp.sum(image * jnp.array(_GREY, jnp.float32), axis=-1, keepdims=True)


def _mix(image: Image, other: Array | float, factor: Scalar) -> Image:
  return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 255.0)
