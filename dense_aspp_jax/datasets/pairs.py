"""The one check of an image with its label map, and what becomes of the pairs that fail it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.images import decode_image, decode_label_ids
from dense_aspp_jax.datasets.png import GREY, PNG_HEADER_BYTES, RGB, PngHeader, read_png_header
from dense_aspp_jax.datasets.published_files import TranslatedFile
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import say

T = TypeVar('T')
U = TypeVar('U')


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

  def attempt(check: Callable[..., T], *args: Any) -> T | None:
    try:
      return check(*args)
    except InputError as error:
      problems.append(str(error))
      return None

  def read(file: StoredFile, color_type: int) -> bytes:
    data = file.read()
    if published:
      _check_published(read_png_header(data, file.where), color_type, file.where)
    return data

  def read_label() -> tuple[bytes, np.ndarray]:
    data = read(pair.label, GREY)
    return data, decode_label_ids(data, label_set, pair.label.where)

  def read_image(label_size: tuple[int, ...] | None) -> tuple[bytes, np.ndarray]:
    data = read(pair.image, RGB)
    if published:
      return data, decode_image(data, pair.image.where, as_stored=None)
    as_stored = None if label_set.orientation is None else label_set.orientation == 'as_stored'
    return data, decode_image(data, pair.image.where, as_stored=as_stored, label_size=label_size)

  label = attempt(read_label)  # first: its size may tell how the image is to be read
  image = attempt(read_image, label[1].shape if label else None)
  problems.reverse()
  if image and label:
    attempt(_check_equal, image[1].shape[:2], label[1].shape, pair)
  labels = attempt(label_set.encode, label[1], pair.label.where) if label else None
  if problems:
    raise InputError('\n'.join(problems))
  return CheckedPair(Example(pair.image_id, image[0], label[0]), image[1], label[1], labels)


def check_published_headers(pair: Pair) -> tuple[int, int]:
  """Reads the headers of a published pair alone; returns height and width.

  Of a `TranslatedFile`, only the size is checked.

  Raises:
    InputError: An image that is no 8-bit RGB PNG, a label that is no 8-bit grey PNG, or sizes that differ.
  """
  translated = isinstance(pair.label, TranslatedFile)
  image, label = (
    read_png_header(file.read(PNG_HEADER_BYTES), file.where)
    for file in (pair.image, pair.label.original if translated else pair.label)
  )
  _check_published(image, RGB, pair.image.where)
  if not translated:
    _check_published(label, GREY, pair.label.where)
  _check_equal(image[:2], label[:2], pair)
  return image[:2]


class BadPairs:
  """The bad pairs of a split that are left out.

  Attributes:
    name: The split's, for messages.
    limit: How many may be left out.
    messages: What is wrong with each so far.
  """

  def __init__(self, name: str, limit: float, messages: Iterable[str] = ()):
    """Takes the attributes; `limit` may be `math.inf`."""
    self.name = name
    self.limit = limit
    self.messages = list(messages)

  def add(self, error: InputError) -> None:
    """Notes a pair that is left out.

    Raises:
      InputError: It is one more than the limit; lists all so far.
    """
    self.messages.append(str(error))
    if not self.limit:
      raise InputError(f'{error}\n`dense-aspp check-data` lists all problems of a dataset') from error
    if len(self.messages) > self.limit:
      raise InputError(
        f'{self.name}: {len(self.messages)} bad pairs so far, but at most {self.limit} may be left out '
        '(skip_bad). Correct them; `dense-aspp check-data` lists all problems of a dataset'
        + _lines(self.messages)
      ) from error

  def say(self, total: int) -> None:
    """Says which of `total` pairs were left out, if any were."""
    if self.messages:
      text = f'warning: {self.name}: {len(self.messages)} of {total} pairs left out, which cannot be used:'
      say(text + _lines(self.messages))


def map_good(function: Callable[[T], U], items: Iterable[T], bad: BadPairs) -> Iterator[U]:
  """As `map_in_threads`, without the items for which `function` raises InputError: `bad` takes those errors.

  Raises:
    InputError: More errors than `bad` takes.
  """

  def attempt(item: T) -> U | InputError:
    try:
      return function(item)
    except InputError as error:
      return error

  with contextlib.closing(map_in_threads(attempt, items)) as results:
    for result in results:
      if isinstance(result, InputError):
        bad.add(result)
      else:
        yield result


def _check_published(header: PngHeader, color_type: int, where: str) -> None:
  if (header.bit_depth, header.color_type) != (8, color_type):
    expected = '8-bit RGB' if color_type == RGB else 'label ids as 8-bit grey'
    raise InputError(f'{where}: {header.description} PNG; expected {expected}, as published')


def _check_equal(image_size: tuple[int, ...], label_size: tuple[int, ...], pair: Pair) -> None:
  if image_size != label_size:
    (height, width), (label_height, label_width) = image_size, label_size
    raise InputError(
      f'{pair.label.where}: label of {label_height}x{label_width} pixels (height x width) for an image of '
      f'{height}x{width} ({pair.image.where}); expected equal sizes. Correct the pair'
    )


def _lines(messages: Iterable[str]) -> str:
  return ''.join(f'\n  {line}' for message in messages for line in message.splitlines())
