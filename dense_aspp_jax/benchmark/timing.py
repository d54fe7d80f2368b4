"""The time of a step: repeats, each of several steps, each ended by waiting for the device."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

REPEAT_SECONDS = 1.0  # a repeat takes about this long, so that its ends do not matter
TURN_SECONDS = 0.5  # likewise, of several measured in turn
REST_SECONDS = 1.0  # before a turn: on a CPU the threads of the one before spin for a while
_WARM_UP_STEPS = 3

# Seconds of so many steps: on the clock, and of this process on all cores.
Turn = Callable[[int], tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Timing:
  """The repeats of a measurement, and the milliseconds of a step, one entry per repeat.

  Attributes:
    steps: In each repeat.
    milliseconds: On the clock.
    cpu_milliseconds: Of the process that made the steps, summed over its threads.
  """

  steps: int
  milliseconds: tuple[float, ...]
  cpu_milliseconds: tuple[float, ...]

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
      'cpu_ms_per_step': float(np.median(self.cpu_milliseconds)),
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
  steps = max(1, math.ceil(REPEAT_SECONDS / seconds(run, 1, in_flight)[0]))
  return _timing(steps, [seconds(run, steps, in_flight) for _ in range(repeats)])


def measure_in_turn(turns: Mapping[str, Turn], *, repeats: int, rest: bool) -> dict[str, Timing]:
  """Times several, one after the other in every repeat, so that all see the same changes of the machine.

  Args:
    turns: What is measured, warmed up. Each makes one step before those that count.
    repeats: How often.
    rest: Whether `REST_SECONDS` go by before each turn.
  """
  steps = {name: max(1, math.ceil(TURN_SECONDS / turn(1)[0])) for name, turn in turns.items()}
  taken = {name: [] for name in turns}
  for _ in range(repeats):
    for name, turn in turns.items():
      time.sleep(REST_SECONDS if rest else 0)
      turn(1)  # its data is in the caches again
      taken[name].append(turn(steps[name]))
  return {name: _timing(steps[name], taken[name]) for name in turns}


def seconds(run: Callable[[], Any], steps: int, in_flight: int) -> tuple[float, float]:
  """Times so many steps once, see `measure`; returns seconds on the clock, and of this process."""
  pending = collections.deque()
  start, cpu_start = time.perf_counter(), time.process_time()
  for _ in range(steps):
    pending.append(run())
    if len(pending) > in_flight:
      jax.block_until_ready(pending.popleft())
  jax.block_until_ready(list(pending))
  return time.perf_counter() - start, time.process_time() - cpu_start


def _timing(steps: int, taken: list[tuple[float, float]]) -> Timing:
  return Timing(steps, *(tuple(1e3 * s / steps for s in column) for column in zip(*taken, strict=True)))
