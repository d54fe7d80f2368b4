"""The one check of an image with its label map, and what becomes of the pairs that fail it."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.images import decode_image, decode_label_ids
from dense_aspp_jax.datasets.png import PngHeader, read_png_header
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
  """Yields `function(item)` in order, without those for which it raises `InputError`.

  Args:
    function: Called by one thread per CPU, a few items ahead (Pillow and zlib release the GIL).
    items: One for each pair.
    bad: Takes the errors; past its limit it raises InputError.
  """
  num_workers = os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(num_workers) as executor:
    pending = collections.deque()

    def finished(at_most: int) -> Iterator[U]:
      while len(pending) > at_most:
        try:
          result = pending.popleft().result()
        except InputError as error:
          bad.add(error)
        else:
          yield result

    try:
      for item in items:
        pending.append(executor.submit(function, item))
        yield from finished(2 * num_workers)
      yield from finished(0)
    finally:
      for future in pending:
        future.cancel()


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


def _lines(messages: Iterable[str]) -> str:
  return ''.join(f'\n  {line}' for message in messages for line in message.splitlines())
