"""Work of several threads, in order."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')
U = TypeVar('U')


def available_cpus() -> int:
  """CPUs that this process may use: a batch system or a container may leave it fewer than there are."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def map_in_threads(
  function: Callable[[T], U], items: Iterable[T], num_threads: int | None = None
) -> Iterator[U]:
  """Yields `function(item)` in order, from threads that work 2 * num_threads + 1 items ahead.

  What they call should release the GIL, as Pillow, zlib, NumPy and ArrayRecord do. An exception is raised in
  its turn.

  Args:
    function: What the threads call.
    items: Its arguments.
    num_threads: By default one per CPU that the process may use.
  """
  num_threads = num_threads or available_cpus()
  with concurrent.futures.ThreadPoolExecutor(num_threads) as executor:
    pending = collections.deque()
    try:
      for item in items:
        pending.append(executor.submit(function, item))
        if len(pending) > 2 * num_threads:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()
