"""Random augmentation, in JAX: it runs on the device, inside the train step.

Scaling, cropping with padding, flipping and rotating are one resampling (`resampling`), so an image is read
once. Then light and camera change (`photometric`). Everything is off by default, which is the slides' recipe.

Random numbers depend on the key and on an image's row in the global batch alone, never on the number of
devices or on which other images are there.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key, UInt8

from dense_aspp_jax import fields
from dense_aspp_jax.training import photometric
from dense_aspp_jax.training.resampling import Window, cut_out, cut_out_rotated

# Folded into the key of an image.
_LATER = 2**31 - 1  # for the parameters added later, so that the first ones keep their random numbers
_NOISE = 2**31 - 2

_HIGHEST = {  # values allowed
  'flip_probability': 1,
  'hue': 0.5,
  'gamma': 3,  # exponents of 1/20 to 20
  'grayscale_probability': 1,
  'rotation': 180,
  'blur': 8,  # its kernel is unrolled
  'noise': 1,
}


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """The section `config.augmentation`: what may happen to a training image; all is off by default.

  Attributes:
    scale_range: Lowest and highest factor of the size. Drawn uniformly, not log-uniformly: so do mmseg
      and the DABNet line of recipes.
    crop_size: Height and width of what the network sees, None: the image's own size. The position is
      uniform over all that fit; a smaller image is placed at a uniform position within padding.
    flip_probability: Of mirroring left and right, 0..1.
    brightness: The factor is uniform in [max(0, 1 - brightness), 1 + brightness]; this and the next two
      are those of torchvision's ColorJitter.
    contrast: Same, mixing with the mean grey of the image.
    saturation: Same, mixing with each pixel's grey.
    hue: The shift is uniform in [-hue, hue] of the colour circle, 0..0.5.
    gamma: The exponent of the colours, as numbers of 0..1, is exp(u), u uniform in [-gamma, gamma], 0..3.
    white_balance: The factor of each channel is uniform in [1 - white_balance, 1 + white_balance], below 1.
      All three are then divided by the luminance that they give to white: grey gets a tint and keeps its
      luminance, which `brightness` and `gamma` are for.
    grayscale_probability: Of losing all colour, 0..1, as torchvision's RandomGrayscale.
    rotation: The angle is uniform in [-rotation, rotation] degrees, 0..180, about the crop's centre: the roll
      of the camera. The corners that it uncovers are padding.
    blur: The standard deviation of a Gaussian blur is uniform in [0, blur] pixels of what the network sees,
      0..8.
    noise: The standard deviation of normal noise is uniform in [0, noise], of colours 0..1. The noise is
      independent for each channel and pixel.
  """

  scale_range: tuple[float, float] = (1.0, 1.0)
  crop_size: tuple[int, int] | None = None
  flip_probability: float = 0.0
  brightness: float = 0.0
  contrast: float = 0.0
  saturation: float = 0.0
  hue: float = 0.0
  gamma: float = 0.0
  white_balance: float = 0.0
  grayscale_probability: float = 0.0
  rotation: float = 0.0
  blur: float = 0.0
  noise: float = 0.0

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    for name in ('scale_range', 'crop_size'):  # JSON has lists; jit needs what can be hashed
      value = getattr(self, name)
      object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
    if self.crop_size in ((), (None,)):  # what a command line makes of None where a tuple is expected
      object.__setattr__(self, 'crop_size', None)
    low_and_high = self.scale_range
    holds = isinstance(low_and_high, tuple) and len(low_and_high) == 2
    holds = holds and all(map(fields.is_number, low_and_high)) and 0 < low_and_high[0] <= low_and_high[1]
    fields.check('augmentation.scale_range', low_and_high, holds, 'two numbers, 0 < lowest <= highest')
    if self.crop_size is not None:
      fields.check_size('augmentation.crop_size', self.crop_size)
    for name in ('brightness', 'contrast', 'saturation'):
      fields.check_number(f'augmentation.{name}', getattr(self, name), at_least=0)
    for name, highest in _HIGHEST.items():
      fields.check_number(f'augmentation.{name}', getattr(self, name), at_least=0, at_most=highest)
    fields.check_number('augmentation.white_balance', self.white_balance, at_least=0, below=1)

  @property
  def scales(self) -> bool:
    """Whether the size changes."""
    return self.scale_range != (1, 1)

  @property
  def by_planes(self) -> bool:
    """Whether anything is on that `photometric` does channel by channel."""
    return any((self.gamma, self.white_balance, self.grayscale_probability, self.blur, self.noise))


class Draw(NamedTuple):
  """What was drawn for one image; see `draw`."""

  scaled_size: Int32[Array, ' 2']  # height and width of the whole image after scaling
  offset: Int32[Array, ' 2']  # row and column of the scaled image at the crop's top left; < 0 in padding
  flip: Bool[Array, '']
  brightness: Float32[Array, '']  # factor, 1: unchanged
  contrast: Float32[Array, '']  # factor
  saturation: Float32[Array, '']  # factor
  hue: Float32[Array, '']  # shift, in turns of the colour circle, 0: unchanged
  gamma: Float32[Array, '']  # exponent, 1: unchanged
  white_balance: Float32[Array, ' 3']  # factors of the channels
  grayscale: Bool[Array, '']
  rotation: Float32[Array, '']  # degrees, counter-clockwise
  blur: Float32[Array, '']  # standard deviation in pixels
  noise: Float32[Array, '']  # standard deviation, of 0..1


def draw(key: Key[Array, ''], augmentation: Augmentation, image_size: tuple[int, int]) -> Draw:
  """Draws the parameters of one image of a size (height, width) by its own key.

  Every parameter has a random number of its own, so that enabling one leaves the others as they were.
  """
  scale, row, column, flip, brightness, contrast, saturation, hue = jax.random.uniform(key, (8,))
  later = jax.random.uniform(jax.random.fold_in(key, _LATER), (8,))
  white_balance, (gamma, grayscale, rotation, blur, noise) = later[:3], later[3:]
  size = jnp.array(image_size, jnp.int32)
  crop = jnp.array(augmentation.crop_size or image_size, jnp.int32)
  scaled = jnp.maximum(jnp.round(_between(scale, *augmentation.scale_range) * size), 1).astype(jnp.int32)
  spare = scaled - crop
  positions = jnp.abs(spare) + 1
  index = (jnp.stack([row, column]) * positions).astype(jnp.int32)

  def factor(number, strength):
    return _between(number, max(0.0, 1.0 - strength), 1.0 + strength)

  return Draw(
    scaled_size=scaled,
    offset=jnp.minimum(spare, 0) + jnp.minimum(index, positions - 1),
    flip=flip < augmentation.flip_probability,
    brightness=factor(brightness, augmentation.brightness),
    contrast=factor(contrast, augmentation.contrast),
    saturation=factor(saturation, augmentation.saturation),
    hue=_between(hue, -augmentation.hue, augmentation.hue),
    gamma=jnp.exp(_between(gamma, -augmentation.gamma, augmentation.gamma)),
    white_balance=factor(white_balance, augmentation.white_balance),
    grayscale=grayscale < augmentation.grayscale_probability,
    rotation=_between(rotation, -augmentation.rotation, augmentation.rotation),
    blur=blur * augmentation.blur,
    noise=noise * augmentation.noise,
  )


def augment(
  batch: dict[str, Array],
  key: Key[Array, ''],
  augmentation: Augmentation,
  padding_color: tuple[float, float, float],
) -> dict[str, Array]:
  """Augments a batch; a pure function of its arguments, to be called under jit.

  The operations follow a photograph's way from the scene to the file, in this fixed order:

  1. Geometry: scale, rotation, crop, flip. Bilinear with pixel centres (align_corners=False, no antialiasing)
     for images, nearest for labels. First, because blur and noise are in pixels of what the network sees.
  2. Light: brightness, contrast, saturation, hue (torchvision shuffles these), gamma, white balance,
     grayscale. Grayscale is last: white balance would tint it.
  3. Camera: blur, then noise. A lens blurs the scene, not the noise of the sensor behind it.

  Each operation clips to 0..255. Padding takes part in none after geometry; it keeps `padding_color`.

  Args:
    batch: 'image' uint8 `[b, h, w, 3]`, 'label' uint8 `[b, h, w]`; other entries are not passed on.
    key: Of this step, as `fold_in(key(seed), step)`; row i of the batch uses `fold_in(key, i)`.
    augmentation: The ranges; static under jit.
    padding_color: RGB 0..255 of pixels outside the image; their label is `IGNORE_LABEL`.

  Returns:
    'image' float32 `[b, ch, cw, 3]` in 0..255, 'label' uint8 `[b, ch, cw]`, where (ch, cw) is the crop
    size. With everything off these are the input, converted.
  """

  def augment_row(row, image, label):
    row_key = jax.random.fold_in(key, row)
    drawn = draw(row_key, augmentation, image.shape[:2])
    return _augment_example(image, label, drawn, augmentation, padding_color, row_key)

  rows = jnp.arange(batch['image'].shape[0])
  image, label = jax.vmap(augment_row)(rows, batch['image'], batch['label'])
  return {'image': image, 'label': label}


def _between(number: Array, low: float, high: float) -> Array:
  """A number of [0, 1) stretched to [low, high)."""
  return low + number * (high - low)


def _augment_example(
  image: UInt8[Array, 'h w 3'],
  label: UInt8[Array, 'h w'],
  drawn: Draw,
  augmentation: Augmentation,
  padding_color: tuple[float, float, float],
  key: Key[Array, ''],
) -> tuple[Float32[Array, 'ch cw 3'], UInt8[Array, 'ch cw']]:
  image, label, inside = _move(image, label, drawn, augmentation)
  image = _jitter(image, inside, drawn, augmentation)
  if not augmentation.by_planes:
    return jnp.where(inside[..., None], image, jnp.array(padding_color, jnp.float32)), label
  planes = _change_planes([image[..., i] for i in range(3)], inside, drawn, augmentation, key)
  planes = [jnp.where(inside, plane, color) for plane, color in zip(planes, padding_color, strict=True)]
  return jnp.stack(planes, -1), label


def _move(
  image: UInt8[Array, 'h w 3'], label: UInt8[Array, 'h w'], drawn: Draw, augmentation: Augmentation
) -> tuple[Float32[Array, 'ch cw 3'], UInt8[Array, 'ch cw'], Bool[Array, 'ch cw']]:
  """Geometry; also returns which pixels lie inside the image."""
  crop = augmentation.crop_size or label.shape
  window = Window(drawn.scaled_size, drawn.offset, drawn.flip, drawn.rotation)
  if augmentation.rotation:
    return cut_out_rotated(image, label, crop, window)
  if augmentation.scales or augmentation.crop_size is not None:
    return cut_out(image, label, crop, window, augmentation.scales)
  if augmentation.flip_probability:
    image = jnp.where(drawn.flip, image[:, ::-1], image)
    label = jnp.where(drawn.flip, label[:, ::-1], label)
  return image.astype(jnp.float32), label, jnp.ones(label.shape, bool)


def _jitter(
  image: Float32[Array, 'h w 3'], inside: Bool[Array, 'h w'], drawn: Draw, augmentation: Augmentation
) -> Float32[Array, 'h w 3']:
  """Changes the colours; `inside` are the pixels that the mean grey is taken over."""
  if augmentation.brightness:
    image = photometric.adjust_brightness(image, drawn.brightness)
  if augmentation.contrast:
    image = photometric.adjust_contrast(image, inside, drawn.contrast)
  if augmentation.saturation:
    image = photometric.adjust_saturation(image, drawn.saturation)
  if augmentation.hue:
    image = photometric.adjust_hue(image, drawn.hue)
  return image


def _change_planes(
  planes: photometric.Planes,
  inside: Bool[Array, 'h w'],
  drawn: Draw,
  augmentation: Augmentation,
  key: Key[Array, ''],
) -> photometric.Planes:
  """The rest of light, and the camera; `inside` are the pixels that blur averages over."""
  if augmentation.gamma:
    planes = photometric.adjust_gamma(planes, drawn.gamma)
  if augmentation.white_balance:
    planes = photometric.white_balance(planes, drawn.white_balance)
  if augmentation.grayscale_probability:
    planes = photometric.grayscale(planes, drawn.grayscale)
  if augmentation.blur:
    planes = photometric.gaussian_blur(planes, inside, drawn.blur, augmentation.blur)
  if augmentation.noise:
    planes = photometric.gaussian_noise(planes, drawn.noise, jax.random.fold_in(key, _NOISE))
  return planes
