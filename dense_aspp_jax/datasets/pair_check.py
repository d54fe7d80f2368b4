"""The one check of an image and its label map, wherever they are read: all that may be wrong with a pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.images import PngHeader, decode_image, read_png_header
from dense_aspp_jax.datasets.label_colors import decode_label_ids
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import LabelSet

T = TypeVar('T')


class CheckedPair(NamedTuple):
  """A pair that can be used.

  Attributes:
    example: As it is stored.
    image: RGB, uint8 `[h, w, 3]`.
    label_ids: Label ids, uint8 `[h, w]`.
    labels: Class indices and `IGNORE_LABEL`, uint8 `[h, w]`.
  """

  example: Example
  image: np.ndarray
  label_ids: np.ndarray
  labels: np.ndarray


def check_pair(pair: Pair, label_set: LabelSet, published: bool = False) -> CheckedPair:
  """Reads and decodes a pair whole.

  Args:
    pair: Image and label map.
    label_set: The label ids that may occur, and whether labels are drawn in colours.
    published: Whether the formats must be those of Cityscapes and CamVid: image 8-bit RGB PNG, label
      8-bit grey PNG.

  Raises:
    InputError: All that is wrong with image and label, a line each: unreadable, truncated, damaged, a
      format or mode that does not fit, not upright, too many pixels, sizes that differ, unknown label ids.
  """
  problems: list[str] = []

  def attempt(check: Callable[[], T]) -> T | None:
    try:
      return check()
    except InputError as error:
      problems.append(str(error))
      return None

  def read_image() -> tuple[bytes, np.ndarray]:
    data = pair.image.read()
    if published:
      _check_published_image(read_png_header(data, pair.image.where), pair.image.where)
    return data, decode_image(data, pair.image.where, upright_only=True)

  def read_label() -> tuple[bytes, np.ndarray]:
    data = pair.label.read()
    if published:
      _check_published_label(read_png_header(data, pair.label.where), pair.label.where)
    return data, decode_label_ids(data, label_set, pair.label.where)

  image, label = attempt(read_image), attempt(read_label)
  if image and label:
    attempt(lambda: _check_equal(image[1].shape[:2], label[1].shape, pair))
  labels = attempt(lambda: label_set.encode(label[1], pair.label.where)) if label else None
  if problems:
    raise InputError('\n'.join(problems))
  return CheckedPair(Example(pair.image_id, image[0], label[0]), image[1], label[1], labels)


def check_published_headers(image: PngHeader, label: PngHeader, pair: Pair) -> None:
  """What `check_pair` says of published pairs and can be said of their headers alone. Raises InputError."""
  _check_published_image(image, pair.image.where)
  _check_published_label(label, pair.label.where)
  _check_equal(image[:2], label[:2], pair)


def _check_published_image(header: PngHeader, where: str) -> None:
  if (header.bit_depth, header.color_type) != (8, 2):
    raise InputError(f'{where}: {header.description} PNG; expected 8-bit RGB, as published')


def _check_published_label(header: PngHeader, where: str) -> None:
  if (header.bit_depth, header.color_type) != (8, 0):
    raise InputError(f'{where}: {header.description} PNG; expected label ids as 8-bit grey, as published')


def _check_equal(image_size: tuple[int, ...], label_size: tuple[int, ...], pair: Pair) -> None:
  if image_size != label_size:
    raise InputError(
      f'{pair.label.where}: label of {_by(label_size)} pixels (width x height) for an image of '
      f'{_by(image_size)} ({pair.image.where}); expected equal sizes. Correct the pair'
    )


def _by(size: tuple[int, ...]) -> str:
  return f'{size[1]}x{size[0]}'
