"""What happens to an image before the network sees it: resizing and normalization."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float32

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values 0..1; torchvision's references
IMAGENET_STD = (0.229, 0.224, 0.225)

_SIDE_MULTIPLE = 8
_ASPECT_TOLERANCE = 0.01


def network_size(
  native_size: tuple[int, int], image_size: tuple[int, int], keep_aspect: bool
) -> tuple[int, int]:
  """The size at which the network sees an image in evaluation and prediction.

  Args:
    native_size: Height and width of the stored image.
    image_size: Height and width that the network was trained at.
    keep_aspect: Whether images of another aspect ratio keep theirs.

  Returns:
    `image_size` if the aspect ratios agree within 1 % or need not be kept; else about as many pixels in
    the image's own aspect ratio, each side a multiple of 8, so that nothing is squeezed.
  """
  (height, width), (target_height, target_width) = native_size, image_size
  ratio = (width * target_height) / (height * target_width)
  if not keep_aspect or abs(ratio - 1) <= _ASPECT_TOLERANCE:
    return target_height, target_width
  scale = ((target_height * target_width) / (height * width)) ** 0.5
  new_height, new_width = (
    max(1, round(side * scale / _SIDE_MULTIPLE)) * _SIDE_MULTIPLE for side in (height, width)
  )
  return new_height, new_width


def normalize(
  image: Float32[Array, '*b h w 3'],
  mean: tuple[float, float, float],
  std: tuple[float, float, float],
) -> Float32[Array, '*b h w 3']:
  """Returns `(image / 255 - mean) / std`: `image` in 0..255, mean and deviation per channel of 0..1."""
  return (image / 255.0 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)
