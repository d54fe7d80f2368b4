"""Signals that end a training: it stops after the step, in all processes after the same one."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from dense_aspp_jax.errors import Stopped, termination_signals
from dense_aspp_jax.progress import say


class StopSignals:
  """Handles SIGINT and `termination_signals` inside its `with` block; only the first that comes counts.

  A signal that arrives when there is nothing left to stop ends the program where the block ends. Several
  processes agree through JAX's preemption service, whose own handler of SIGTERM stays in place; other signals
  are handed on to it.

  Attributes:
    received: The first signal, None if none came.
  """

  def __init__(self):
    self.received: signal.Signals | None = None
    self._before: dict[signal.Signals, object] = {}

  def __enter__(self) -> StopSignals:
    if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
      handled = {signal.SIGINT, *termination_signals()}
      if jax.process_count() > 1:
        handled.discard(signal.SIGTERM)
      self._before = {number: signal.signal(number, self._note) for number in handled}
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
    if self.received is not None and kind is None:
      raise Stopped(self.received, f'stopped by {self.received.name}; the run was at its end and is complete')

  def due(self, step: int) -> bool:
    """Whether the run stops after this step; every process must ask after every step."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.received is not None

  def check(self) -> None:
    """Raises `Stopped` if a signal came; several processes first finish the evaluation, and then agree."""
    if self.received is not None and jax.process_count() == 1:
      raise self.stopped()

  def stopped(self) -> Stopped:
    """What ends the run."""
    return Stopped(self.received or signal.SIGTERM)

  def _note(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.received is None:
      self.received = signal.Signals(number)
      say(f'{self.received.name}: the run stops after this step and saves; the same command resumes it')
      if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)
