"""Class weights of the loss from how often the classes occur in a training split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.progress import progress


class ClassCounts(NamedTuple):
  """How often each class occurs in a split.

  Attributes:
    pixels: Its pixels, int64 `[C]`.
    pixels_where_present: Counted pixels, of all classes, of the images in which it occurs, int64 `[C]`.
    images: Images in which it occurs, int64 `[C]`.
  """

  pixels: np.ndarray
  pixels_where_present: np.ndarray
  images: np.ndarray


def count_classes(
  split: Sequence[CachedExample], num_classes: int, ignore_label: int = IGNORE_LABEL
) -> ClassCounts:
  """Counts the pixels of each class, with a progress bar.

  Args:
    split: Examples whose labels are class indices, as training has them.
    num_classes: Number of classes C.
    ignore_label: A class index whose pixels are not counted; `IGNORE_LABEL` never is.
  """

  def pixels_of(index: int) -> np.ndarray:
    pixels = np.bincount(split[index].label.ravel(), minlength=256)[:num_classes]
    if ignore_label < num_classes:
      pixels[ignore_label] = 0
    return pixels

  counts = ClassCounts(*np.zeros((3, num_classes), np.int64))
  images = map_in_threads(pixels_of, range(len(split)))
  for pixels in progress(images, 'counting the classes', len(split), 'image'):
    present = pixels > 0
    counts.pixels[:] += pixels
    counts.pixels_where_present[present] += pixels.sum()
    counts.images[:] += present
  return counts


def class_weights(counts: ClassCounts, rule: str) -> tuple[float, ...]:
  """The weight of each class in the loss.

  Args:
    counts: From `count_classes`.
    rule: A name in `CLASS_WEIGHTINGS`.

  Returns:
    One weight a class; 0 for a class without any pixel.

  Raises:
    InputError: Not a single pixel was counted.
  """
  present = counts.pixels > 0
  if not present.any():
    raise InputError(
      f'class weights ({rule}): the training split has no pixel of any class; check config.data.label_set'
    )
  weights = np.zeros(len(present))
  weights[present] = CLASS_WEIGHTINGS[rule](ClassCounts(*(x[present] for x in counts)))
  return tuple(weights.tolist())


def _enet(counts: ClassCounts) -> np.ndarray:
  """1 / ln(1.02 + p), p the class's share of all counted pixels: Paszke et al., ENet, 2016."""
  return 1 / np.log(1.02 + counts.pixels / counts.pixels.sum())


def _median_frequency(counts: ClassCounts) -> np.ndarray:
  """Median of the frequencies / frequency, each that in the images where the class occurs.

  Eigen and Fergus, ICCV 2015; used by SegNet. The median is over the classes that occur.
  """
  frequency = counts.pixels / counts.pixels_where_present
  return np.median(frequency) / frequency


# Name of a rule in config.loss.class_weighting -> weights of classes that all have pixels.
CLASS_WEIGHTINGS: dict[str, Callable[[ClassCounts], np.ndarray]] = {
  'enet': _enet,
  'median_frequency': _median_frequency,
}
