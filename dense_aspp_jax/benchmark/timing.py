"""The time of a step: repeats, each of several steps, each ended by waiting for the device."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

REPEAT_SECONDS = 1.0  # a repeat takes about this long, so that its ends do not matter
_WARM_UP_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Timing:
  """The repeats of a measurement: `steps` in each, and the milliseconds of a step, one entry per repeat."""

  steps: int
  milliseconds: tuple[float, ...]

  @property
  def median(self) -> float:
    """Milliseconds of a step."""
    return float(np.median(self.milliseconds))

  def to_json(self, images: int) -> dict[str, Any]:
    """Median and spread as plain JSON data, given the images of a step."""
    lowest, low, high, highest = np.percentile(self.milliseconds, (0, 25, 75, 100)).tolist()
    return {
      'repeats': len(self.milliseconds),
      'steps_per_repeat': self.steps,
      'ms_per_step': self.median,
      'ms_quartiles': [low, high],
      'ms_range': [lowest, highest],
      'images_per_second': 1e3 * images / self.median,
      'images_per_second_quartiles': [1e3 * images / high, 1e3 * images / low],
    }


def measure(run: Callable[[], Any], *, repeats: int, in_flight: int) -> Timing:
  """Times a step after a warm-up.

  Args:
    run: Dispatches one step; returns arrays that are ready when the step is done.
    repeats: How often. Each has as many steps as fit in a second, by the warm-up, at least one.
    in_flight: Steps that are dispatched before the first of them is waited for, as in training, so that
      the device never waits for the host; 0: each is waited for.
  """
  for _ in range(_WARM_UP_STEPS - 1):
    jax.block_until_ready(run())
  steps = max(1, math.ceil(REPEAT_SECONDS / seconds(run, 1, in_flight)))
  return Timing(steps, tuple(1e3 * seconds(run, steps, in_flight) / steps for _ in range(repeats)))


def seconds(run: Callable[[], Any], steps: int, in_flight: int) -> float:
  """Times so many steps once; see `measure`."""
  pending = collections.deque()
  start = time.perf_counter()
  for _ in range(steps):
    pending.append(run())
    if len(pending) > in_flight:
      jax.block_until_ready(pending.popleft())
  jax.block_until_ready(list(pending))
  return time.perf_counter() - start
