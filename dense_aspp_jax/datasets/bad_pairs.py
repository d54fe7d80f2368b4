"""Leaves out pairs that cannot be used, up to a limit, and names them."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.progress import say

T = TypeVar('T')
U = TypeVar('U')


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


def map_good(
  function: Callable[[T], U], items: Iterable[T], bad: BadPairs, num_workers: int | None = None
) -> Iterator[U]:
  """Yields `function(item)` in order, without those for which it raises `InputError`.

  Args:
    function: Called by threads, a few items ahead (Pillow and zlib release the GIL).
    items: One for each pair.
    bad: Takes the errors; past its limit it raises InputError.
    num_workers: Threads; None: one per CPU.
  """
  num_workers = num_workers or os.cpu_count() or 1
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


def _lines(messages: Iterable[str]) -> str:
  return ''.join(f'\n  {line}' for message in messages for line in message.splitlines())
