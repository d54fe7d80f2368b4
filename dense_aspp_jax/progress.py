"""Progress display: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import tqdm

T = TypeVar('T')
SECONDS_BETWEEN_LINES = 10.0
_silent = False


def progress_bar(
  total: int | None, description: str, unit: str = 'it', initial: int = 0, hidden: bool = False
) -> tqdm.tqdm:
  """Makes a tqdm bar on stderr; if stderr is not a terminal, one plain line at most every 10 seconds.

  Args:
    total: Number of items, None if unknown.
    description: The text before the bar.
    unit: The name of one item.
    initial: Items already done, for a resumed run.
    hidden: Whether to show nothing, for work inside other work that has a bar.
  """
  options = dict(total=total, desc=description, unit=unit, initial=initial, disable=hidden or _silent)
  if sys.stderr.isatty():
    return tqdm.tqdm(**options, dynamic_ncols=True)
  return tqdm.tqdm(
    **options,
    file=_Lines(sys.stderr),
    mininterval=SECONDS_BETWEEN_LINES,
    miniters=1,
    position=0,  # no cursor movement for nested bars
    bar_format='{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]',
  )


def progress(
  iterable: Iterable[T], description: str, total: int | None = None, unit: str = 'it'
) -> Iterator[T]:
  """Yields the items of `iterable` under a `progress_bar`."""
  if total is None and hasattr(iterable, '__len__'):
    total = len(iterable)
  with progress_bar(total, description, unit) as bar:
    for item in iterable:
      yield item
      bar.update()


def say(text: str) -> None:
  """Prints a line for the user on stderr, above any bar."""
  if not _silent:
    tqdm.tqdm.write(text, file=sys.stderr)


def be_silent() -> None:
  """Suppresses bars and lines of this process, because another process shows them."""
  global _silent
  _silent = True


class _Lines:
  """Turns tqdm's carriage returns into separate lines."""

  def __init__(self, file):
    self._file = file

  def write(self, text: str) -> None:
    line = text.strip('\r\n ')
    if line:
      self._file.write(line + '\n')

  def flush(self) -> None:
    self._file.flush()
