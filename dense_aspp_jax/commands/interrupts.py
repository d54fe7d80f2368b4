"""SIGINT (Ctrl-C) while a command is loaded: it ends at once, with 130 and no word.

An exception in the middle of an import would be lost, or be printed with all modules on its way.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


def end_at_interrupt() -> None:
  """From now on SIGINT ends the process, if it would raise KeyboardInterrupt; for use before the imports."""
  _replace(signal.default_int_handler, _end)


def raise_at_interrupt() -> None:
  """Undoes `end_at_interrupt`."""
  _replace(_end, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
  del frame
  os._exit(128 + number)  # nothing has begun that would have to be cleared away


def _replace(old: object, new: object) -> None:
  if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is old:
    signal.signal(signal.SIGINT, new)
