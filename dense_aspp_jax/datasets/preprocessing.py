"""What happens to an image before the network sees it: resizing and normalization."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float32, Num

from dense_aspp_jax import fields

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of values 0..1; torchvision's references
IMAGENET_STD = (0.229, 0.224, 0.225)

_SIDE_MULTIPLE = 8
_ASPECT_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """Size and normalization of the network's input; stored in `config.data`.

  Attributes:
    image_size: Height and width that the network is trained at.
    mean: RGB, of values 0..1.
    std: RGB, of values 0..1.
    keep_aspect: Whether images of another aspect ratio keep theirs in evaluation and prediction; training
      images always get `image_size`.
  """

  image_size: tuple[int, int]
  mean: tuple[float, float, float] = IMAGENET_MEAN
  std: tuple[float, float, float] = IMAGENET_STD
  keep_aspect: bool = True

  def __post_init__(self):
    """Checks the values; raises InputError."""
    fields.check_size('data.image_size', self.image_size)
    for name in ('mean', 'std'):
      value = getattr(self, name)
      holds = isinstance(value, tuple | list) and len(value) == 3 and all(map(fields.is_number, value))
      fields.check(f'data.{name}', value, holds, 'three numbers')
    fields.check('data.std', self.std, min(self.std) > 0, 'three numbers above 0')
    fields.check_bool('data.keep_aspect', self.keep_aspect)
    for name in ('image_size', 'mean', 'std'):  # JSON has lists; jit needs what can be hashed
      object.__setattr__(self, name, tuple(getattr(self, name)))

  def input_size(self, native_size: tuple[int, int]) -> tuple[int, int]:
    """The size at which the network sees an image in evaluation and prediction.

    Args:
      native_size: Height and width of the stored image.

    Returns:
      `image_size` if the aspect ratios agree within 1 % or need not be kept; else about as many pixels in
      the image's own aspect ratio, each side a multiple of 8, so that nothing is squeezed.
    """
    (height, width), (target_height, target_width) = native_size, self.image_size
    ratio = (width * target_height) / (height * target_width)
    if not self.keep_aspect or abs(ratio - 1) <= _ASPECT_TOLERANCE:
      return target_height, target_width
    scale = ((target_height * target_width) / (height * width)) ** 0.5
    new_height, new_width = (
      max(1, round(side * scale / _SIDE_MULTIPLE)) * _SIDE_MULTIPLE for side in (height, width)
    )
    return new_height, new_width

  def normalize(self, image: Num[Array, '*b h w 3']) -> Float32[Array, '*b h w 3']:
    """Returns `(image / 255 - mean) / std`, where `image` is RGB in 0..255."""
    image = image.astype(jnp.float32) / 255.0
    return (image - jnp.array(self.mean, jnp.float32)) / jnp.array(self.std, jnp.float32)
