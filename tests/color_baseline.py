"""A per-pixel colour classifier: the baseline that knows no neighbourhood.

It gives each pixel the class that its colour most often had. What a network scores above it, it owes
to shape and context.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dense_aspp_jax.labels import IGNORE_LABEL

_LEVELS = 16  # per channel
_BINS = _LEVELS**3


def _bins(image: np.ndarray) -> np.ndarray:
  """Index of each pixel's colour bin, 0..4095, int32 `[h, w]`."""
  levels = (image // (256 // _LEVELS)).astype(np.int32)
  return (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]


def fit_color_classifier(
  images: Iterable[np.ndarray], labels: Iterable[np.ndarray], num_classes: int
) -> np.ndarray:
  """Finds the most frequent class of each quantized colour.

  Args:
    images: RGB images, uint8 `[h, w, 3]`; sizes may differ.
    labels: Their class indices, uint8 `[h, w]`; pixels of `IGNORE_LABEL` are not counted.
    num_classes: Number of classes C.

  Returns:
    The class of each of the 16 x 16 x 16 colours, uint8 `[4096]`; colours that were never seen have the
    class that is most frequent overall. Ties go to the smaller class index.

  Raises:
    ValueError: Numbers of images and labels differ, or no pixel is labelled.
  """
  counts = np.zeros((_BINS, num_classes), np.int64)
  for image, label in zip(images, labels, strict=True):
    counted = label != IGNORE_LABEL
    pairs = _bins(image)[counted] * num_classes + label[counted]
    counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
  if not counts.any():
    raise ValueError('no labelled pixel to fit a colour classifier to')
  table = counts.argmax(1)
  table[counts.sum(1) == 0] = counts.sum(0).argmax()
  return table.astype(np.uint8)


def predict_color_classifier(table: np.ndarray, image: np.ndarray) -> np.ndarray:
  """Classifies each pixel by its colour alone.

  Args:
    table: What `fit_color_classifier` returned.
    image: RGB image, uint8 `[h, w, 3]`.

  Returns:
    Class indices, uint8 `[h, w]`.
  """
  return table[_bins(image)]
