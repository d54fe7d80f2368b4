"""Compiled functions of which only the last used are kept, so that memory stays bounded over any sizes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any

import jax


class Programs:
  """Compiles a function for each size (or other key) and keeps the programs that were used last.

  Threads may share it. Several that ask for the same new program wait for one compilation.
  """

  def __init__(self, kept: int):
    """Takes the number of programs to keep; the memory of the others is freed."""
    self._kept = kept
    self._programs: collections.OrderedDict[Hashable, _Program] = collections.OrderedDict()
    self._lock = threading.Lock()

  def run(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs the program of a key.

    Args:
      key: What the program is compiled for: all shapes and constants.
      function: What is compiled if there is no such program yet.
      *arguments: Of the function.
    """
    with self._lock:
      if key not in self._programs:
        self._programs[key] = _Program(function)
        while len(self._programs) > self._kept:
          self._programs.popitem(last=False)
      self._programs.move_to_end(key)
      program = self._programs[key]
    return program(*arguments)


class _Program:
  def __init__(self, function: Callable[..., Any]):
    # A function of its own: JAX keeps what it compiled as long as the function lives.
    self._compiled = jax.jit(lambda *arguments: function(*arguments))
    self._called, self._lock = False, threading.Lock()

  def __call__(self, *arguments: Any) -> Any:
    if self._called:
      return self._compiled(*arguments)
    with self._lock:
      result = self._compiled(*arguments)
      self._called = True
    return result
