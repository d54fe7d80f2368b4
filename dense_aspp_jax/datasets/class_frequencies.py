"""Class weights of the loss from how often the classes occur in a training split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.progress import progress


def count_classes(
  split: Sequence[CachedExample], num_classes: int, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
  """Counts the pixels of each class in each image, with a progress bar.

  Args:
    split: Examples whose labels are class indices, as training has them.
    num_classes: Number of classes C.
    ignore_label: A class index whose pixels are not counted; `IGNORE_LABEL` never is.

  Returns:
    Numbers of pixels, int64 `[len(split), C]`.
  """

  def pixels_of(index: int) -> np.ndarray:
    return np.bincount(split[index].label.ravel(), minlength=256)[:num_classes]

  rows = map_in_threads(pixels_of, range(len(split)))
  pixels = np.stack(list(progress(rows, 'counting the classes', len(split), 'image')))
  if ignore_label < num_classes:
    pixels[:, ignore_label] = 0
  return pixels


def class_weights(pixels: np.ndarray, rule: str) -> tuple[float, ...]:
  """The weight of each class in the loss.

  Args:
    pixels: From `count_classes`.
    rule: A name in `CLASS_WEIGHTINGS`.

  Returns:
    One weight a class; 0 for a class without any pixel.

  Raises:
    InputError: Not a single pixel was counted.
  """
  present = pixels.any(axis=0)
  if not present.any():
    raise InputError(
      f'class weights ({rule}): the training split has no pixel of any class; check config.data.label_set'
    )
  weights = np.zeros(len(present))
  weights[present] = CLASS_WEIGHTINGS[rule](pixels[:, present])
  return tuple(weights.tolist())


def _enet(pixels: np.ndarray) -> np.ndarray:
  """1 / ln(1.02 + p), p the class's share of all counted pixels: Paszke et al., ENet, 2016."""
  return 1 / np.log(1.02 + pixels.sum(0) / pixels.sum())


def _median_frequency(pixels: np.ndarray) -> np.ndarray:
  """Median of the frequencies / frequency, each that in the images where the class occurs.

  Eigen and Fergus, ICCV 2015; used by SegNet. The median is over the classes that occur.
  """
  frequency = pixels.sum(0) / (pixels.sum(1) @ (pixels > 0))
  return np.median(frequency) / frequency


# Name of a rule in config.loss.class_weighting -> weights of classes that all have pixels.
CLASS_WEIGHTINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'enet': _enet,
  'median_frequency': _median_frequency,
}
