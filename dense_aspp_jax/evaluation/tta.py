"""Averaging at test time: over scales, mirrored images and overlapping windows."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.evaluation.predictor import (
  BatchPredictor,
  Predictor,
  place_on_devices,
  step_on_devices,
)
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.models.upsampling import upsample_bilinear

_SIDE_MULTIPLE = 8


class AveragingPredictor(BatchPredictor):
  """Predicts the arg max of class probabilities averaged over versions of an image.

  The versions are the image at each scale and, with `flip`, each of them mirrored, all with equal weight. Of
  each, the logits are upsampled once to the output's size and the softmax taken; a mirrored one is mirrored
  back.

  With `window`, a version larger than it in a side is cut into windows of exactly that size, at a stride of
  two thirds of it (rounded up), the last one flush with the border; a side no larger than the window stays
  whole. Where windows overlap, the mean of their probabilities is taken, at the version's size; the result is
  then resized bilinearly to the output's. The windows lie as in mmsegmentation's mode 'slide', which averages
  logits.

  Differs from the paper: its published code averages the logarithms of the softmax.

  Each device computes one image at a time, so that a prediction depends on no other image. Each shape of
  images costs a compilation.

  Attributes:
    flip: Whether mirrored images are averaged too.
    scales: Factors of the image's sides; at 1 it stays as it is.
    window: Height and width, or None.
  """

  def __init__(
    self,
    predictor: Predictor,
    *,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    window: tuple[int, int] | None = None,
  ):
    """Takes the network, variables and preprocessing of `predictor`."""
    self.flip, self.scales, self.window = flip, scales, window
    self.preprocessing, self._predictor = predictor.preprocessing, predictor
    predict = functools.partial(
      _predict_averaged, predictor.model, preprocessing=self.preprocessing, flip=flip, window=window
    )
    self._step = step_on_devices(predict, predictor.mesh, together=1)

  def to_json(self) -> dict[str, Any]:
    """`{"flip", "scales", "window"}`."""
    return {'flip': self.flip, 'scales': list(self.scales), 'window': self.window and list(self.window)}

  def predict_batch(
    self, images: UInt8[np.ndarray, 'b h w 3'], output_size: tuple[int, int]
  ) -> UInt8[np.ndarray, 'b oh ow']:
    """Averages over the versions of each image; see `BatchPredictor`."""
    mesh, size = self._predictor.mesh, images.shape[1:3]
    predictions = []
    for first in range(0, len(images), mesh.size):
      group = images[first : first + mesh.size]
      versions = tuple(
        place_on_devices(np.stack([resize_image(image, scaled) for image in group]), mesh, mesh.size)
        for scaled in (scaled_size(size, scale) for scale in self.scales)
      )
      # Stays on the devices, which compute it while the next images are resized.
      predictions.append(self._step(self._predictor.variables, versions, tuple(output_size)))
    return np.concatenate([np.asarray(p) for p in predictions])[: len(images)]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
  """Height and width at a scale: `size` itself at 1, else multiples of 8, at least 8."""
  if scale == 1:
    return tuple(size)
  height, width = (max(1, round(scale * side / _SIDE_MULTIPLE)) * _SIDE_MULTIPLE for side in size)
  return height, width


def window_starts(side: int, window: int) -> list[int]:
  """Where windows begin along a side, in pixels: every two thirds of a window, the last one at the end."""
  if side <= window:
    return [0]
  stride = -(-2 * window // 3)
  return [*range(0, side - window, stride), side - window]


def _predict_averaged(
  model: SegmentationModel,
  variables: Mapping[str, Any],
  versions: tuple[UInt8[Array, 'b _ _ 3'], ...],
  *,
  output_size: tuple[int, int],
  preprocessing: Preprocessing,
  flip: bool,
  window: tuple[int, int] | None,
) -> UInt8[Array, 'b oh ow']:
  """Class indices of images given at each scale."""

  def probabilities(images, size):
    logits = model.apply(variables, preprocessing.normalize(images)).main
    return jax.nn.softmax(model.upsample_logits(logits, images.shape[1:3], size))

  total = jnp.zeros((), jnp.float32)
  for images in versions:
    count, size = len(images), images.shape[1:3]
    if flip:
      images = jnp.concatenate([images, images[:, :, ::-1]])
    if window is None or (size[0] <= window[0] and size[1] <= window[1]):
      version = probabilities(images, output_size)
    else:
      windowed = _averaged_over_windows(probabilities, images, window, model.num_classes)
      scale = output_size[0] / size[0], output_size[1] / size[1]
      version = upsample_bilinear(windowed, output_size, scale)
    if flip:
      version = version[:count] + version[count:, :, ::-1]
    total = total + version
  return jnp.argmax(total, axis=-1).astype(jnp.uint8)


def _averaged_over_windows(
  probabilities: Any, images: UInt8[Array, 'b h w 3'], window: tuple[int, int], num_classes: int
) -> Float[Array, 'b h w classes']:
  """Mean of `probabilities(windows, size)` over the windows that each pixel lies in."""
  batch, *size, _ = images.shape
  height, width = (min(pair) for pair in zip(size, window, strict=True))
  starts = [(y, x) for y in window_starts(size[0], height) for x in window_starts(size[1], width)]
  counts = np.zeros((*size, 1), np.float32)
  for y, x in starts:
    counts[y : y + height, x : x + width] += 1

  def add_window(total, start):
    corner = (0, *start, 0)
    pixels = jax.lax.dynamic_slice(images, corner, (batch, height, width, 3))
    here = jax.lax.dynamic_slice(total, corner, (batch, height, width, num_classes))
    here = here + probabilities(pixels, (height, width))
    return jax.lax.dynamic_update_slice(total, here, corner), None

  zeros = jnp.zeros((batch, *size, num_classes), jnp.float32)
  total, _ = jax.lax.scan(add_window, zeros, np.array(starts, np.int32))
  return total / counts
