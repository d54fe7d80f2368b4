"""Averaging at test time: over scales, mirrored images and overlapping windows."""

from __future__ import annotations

import functools
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from dense_aspp_jax.datasets.png import MAX_SIDE, check_size
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.inputs import check_batch
from dense_aspp_jax.evaluation.outputs import CLASSES, PROBABILITIES, PROGRAMS_KEPT, check_outputs
from dense_aspp_jax.evaluation.predictor import (
  NETWORKS_KEPT,
  BatchPredictor,
  Predictor,
  over_devices,
  place_on_devices,
)
from dense_aspp_jax.evaluation.programs import Programs
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.models.upsampling import bilinear_matrix, upsample_by_matrices

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

  Each device computes one image at a time, so that a prediction depends on no other image. The network is
  compiled for each size that it sees, and apart from it the upsampling for each size of images.

  It takes and returns what `BatchPredictor` says, but has no logits. 'probabilities' are the averages.

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
    """Takes the network, variables and preprocessing of `predictor`.

    Raises:
      InputError: Scales that are no numbers above 0, or a window that is no height and width in pixels.
    """
    self.flip, self.scales = flip, checked_scales(scales)
    self.window = window = None if window is None else checked_window(window)
    self.preprocessing, self._predictor = predictor.preprocessing, predictor
    self.call_size = predictor.mesh.size
    self._spread = functools.partial(over_devices, mesh=predictor.mesh, together=1)
    version = functools.partial(
      _version, predictor.model, preprocessing=self.preprocessing, flip=flip, window=window
    )
    self._version, self._networks = self._spread(version), Programs(NETWORKS_KEPT * len(self.scales))
    self._averages = Programs(PROGRAMS_KEPT * len(self.scales))

  def to_json(self) -> dict[str, Any]:
    """`{"flip", "scales", "window"}`."""
    return {'flip': self.flip, 'scales': list(self.scales), 'window': self.window and list(self.window)}

  def check_outputs(self, outputs: str) -> None:
    """Raises InputError for logits too: what is averaged are probabilities."""
    check_outputs(outputs, (CLASSES, PROBABILITIES), ' with averaging at test time')

  def predict_resized(
    self, images: np.ndarray, output_size: tuple[int, int], outputs: str = CLASSES
  ) -> Num[np.ndarray, 'b oh ow *classes']:
    """Averages over the versions of each image; see `BatchPredictor`."""
    self.check_outputs(outputs)
    check_batch(images)
    groups = [images[first : first + self.call_size] for first in range(0, len(images), self.call_size)]
    totals = (self._total(group, tuple(output_size)) for group in groups)
    if outputs == CLASSES:
      # They stay on the devices, which compute them while the next images are resized.
      classes = [self._averages.run((x.shape, CLASSES), self._spread(_argmax), (), x) for x in totals]
      return np.concatenate([np.asarray(x) for x in classes])[: len(images)]
    count = len(self.scales) * (1 + self.flip)
    images_of_devices = itertools.chain.from_iterable(map(_shards, totals))
    return np.concatenate([x / np.float32(count) for x in itertools.islice(images_of_devices, len(images))])

  def _total(self, images: np.ndarray, output_size: tuple[int, int]) -> Float[Array, 'b oh ow classes']:
    """Sums the probabilities of all versions, of an image on each device."""
    mesh, model, variables = self._predictor.mesh, self._predictor.model, self._predictor.variables
    size, total = images.shape[1:3], ()
    for scale in self.scales:
      scaled = scaled_size(size, scale)
      check_size(*scaled[::-1], f'the image at scale {scale:g}')
      windowed = _has_windows(scaled, self.window)
      placed = place_on_devices(np.stack([resize_image(image, scaled) for image in images]), mesh, mesh.size)
      version = self._networks.run(placed.shape, self._version, variables, placed)
      if windowed:  # probabilities at the version's size
        ratio = output_size[0] / scaled[0], output_size[1] / scaled[1]
      else:
        ratio = model.logits_scale(scaled, output_size)
      matrices = tuple(map(bilinear_matrix, version.shape[-3:-1], output_size, ratio))
      add = self._spread(functools.partial(_add_version, windowed=windowed, flip=self.flip))
      key = version.shape, output_size, windowed, bool(total)
      total = (self._averages.run(key, add, matrices, (version, *total)),)
    return total[0]


def checked_scales(scales: Any, name: str = 'scales') -> tuple[float, ...]:
  """The scales as a tuple. Raises InputError unless they are one or more numbers above 0."""
  if not _are_positive(scales, numbers.Real) or not len(scales) or max(scales) > MAX_SIDE:
    raise InputError(f'{name} {scales!r}: expected one or more numbers above 0, at most {MAX_SIDE:,}')
  return tuple(map(float, scales))


def checked_window(window: Any, name: str = 'window') -> tuple[int, int]:
  """The window as a tuple. Raises InputError unless it is a height and a width in pixels."""
  if not _are_positive(window, numbers.Integral) or len(window) != 2:
    raise InputError(f'{name} {window!r}: expected height and width in pixels')
  return int(window[0]), int(window[1])


def _are_positive(values: Any, kind: type) -> bool:
  return isinstance(values, Sequence) and all(isinstance(v, kind) and 0 < v < math.inf for v in values)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
  """Height and width at a scale: `size` itself at 1, else multiples of 8, at least 8."""
  if scale == 1:
    return tuple(size)
  height, width = (max(1, round(scale * side / _SIDE_MULTIPLE)) * _SIDE_MULTIPLE for side in size)
  return height, width


def _has_windows(size: tuple[int, int], window: tuple[int, int] | None) -> bool:
  return window is not None and any(n > w for n, w in zip(size, window, strict=True))


def window_starts(side: int, window: int) -> list[int]:
  """Where windows begin along a side, in pixels: every two thirds of a window, the last one at the end."""
  if side <= window:
    return [0]
  stride = -(-2 * window // 3)
  return [*range(0, side - window, stride), side - window]


def _version(
  model: SegmentationModel,
  variables: Mapping[str, Any],
  images: UInt8[Array, 'b h w 3'],
  *,
  preprocessing: Preprocessing,
  flip: bool,
  window: tuple[int, int] | None,
) -> Float[Array, 'b views vh vw classes']:
  """Logits of images and, with `flip`, mirrored ones; with windows, probabilities at the images' size."""

  def logits(images):
    return model.apply(variables, preprocessing.normalize(images)).main

  def probabilities(images, size):
    return jax.nn.softmax(model.upsample_logits(logits(images), images.shape[1:3], size))

  count, size = len(images), images.shape[1:3]
  if flip:
    images = jnp.concatenate([images, images[:, :, ::-1]])
  if _has_windows(size, window):
    views = _averaged_over_windows(probabilities, images, window, model.num_classes)
  else:
    views = logits(images)
  return jnp.moveaxis(views.reshape(-1, count, *views.shape[1:]), 0, 1)


def _add_version(
  matrices: tuple[Array, Array],
  version_and_total: tuple[Array, ...],
  *,
  windowed: bool,
  flip: bool,
) -> Float[Array, 'b oh ow classes']:
  """Adds the probabilities of a version at the output's size to the total, if there is one yet."""
  version, *total = version_and_total
  views = jnp.moveaxis(version, 1, 0)
  count = views.shape[1]
  views = upsample_by_matrices(views.reshape(-1, *views.shape[2:]), *matrices)
  views = views if windowed else jax.nn.softmax(views)
  if flip:
    views = views[:count] + views[count:, :, ::-1]
  return sum(total, start=views)


def _shards(total: Array) -> list[np.ndarray]:
  """The image of each device, one after another."""
  return [np.asarray(s.data) for s in sorted(total.addressable_shards, key=lambda s: s.index[0].start or 0)]


def _argmax(_: tuple[()], total: Float[Array, 'b h w classes']) -> UInt8[Array, 'b h w']:
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
