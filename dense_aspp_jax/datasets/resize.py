"""Resizing of images and label maps; Pillow and NumPy only."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes an image: along each axis, by area averaging where it shrinks, bilinearly where it grows.

  Args:
    image: uint8 `[h, w, 3]` or `[h, w]`.
    size: New (height, width).

  Returns:
    uint8 `[*size, 3]` or `[*size]`; the same array where the size is the same.
  """
  for axis, n_out in enumerate(size):
    n_in = image.shape[axis]
    if n_out < n_in and n_in % n_out:
      image = _area_average(image, n_out, axis)
    elif n_out != n_in:
      # Pillow's box filter counts pixels as inside or outside: exact only where whole ones are averaged.
      method = Image.Resampling.BOX if n_out < n_in else Image.Resampling.BILINEAR
      width, height = (image.shape[1], n_out) if axis == 0 else (n_out, image.shape[0])
      image = np.array(Image.fromarray(image).resize((width, height), method))
  return image


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a label map `[h, w]` of any type to `[*size]` by nearest neighbour.

  Pixel i of an axis takes source pixel `floor((i + 0.5) * n_in / n_out)`, the one under its centre
  (as `jax.image.resize(..., 'nearest')` does).
  """
  rows, columns = (
    (2 * np.arange(n_out) + 1) * n_in // (2 * n_out) for n_in, n_out in zip(label.shape, size, strict=True)
  )
  return label[rows[:, None], columns]


def _area_average(image: np.ndarray, n_out: int, axis: int) -> np.ndarray:
  """Averages over intervals of `n_in / n_out` pixels; a pixel on an edge counts by its share in each."""
  n_in = image.shape[axis]
  edges = np.arange(n_out + 1) * (n_in / n_out)
  first = edges[:-1].astype(np.int64)
  mean = np.float32(0)
  for offset in range(-(-n_in // n_out) + 1):  # pixels that an interval can touch
    index = first + offset
    share = np.clip(np.minimum(edges[1:], index + 1) - np.maximum(edges[:-1], index), 0, None)
    share = (share * (n_out / n_in)).astype(np.float32).reshape(-1, *[1] * (image.ndim - 1 - axis))
    mean = mean + share * image.take(index, axis, mode='clip')
  return np.rint(mean).astype(np.uint8)
