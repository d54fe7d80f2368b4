"""Which kernels take the time of a step, from a profile by JAX."""

from __future__ import annotations

import collections
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax

_STEPS = 3


class Kernel(NamedTuple):
  """All launches of kernels of one name, or on a CPU all runs of XLA operations of one name."""

  name: str  # without the numbers that tell copies apart
  milliseconds: float  # per step, over all devices
  launches: float  # per step


def trace(run: Callable[[], Any], directory: pathlib.Path) -> list[Kernel]:
  """Profiles a few steps.

  Args:
    run: As in `measure`; was run before.
    directory: Gets the profile, for TensorBoard or Perfetto.

  Returns:
    Kernels, the longest first. On a CPU an operation that calls others, such as a loop, has only the time
    that is not theirs. It may run on several cores: these are milliseconds on the clock.
  """
  before = set(directory.rglob('*.xplane.pb'))
  with jax.profiler.trace(directory):
    for _ in range(_STEPS):
      jax.block_until_ready(run())
  total, launches = collections.Counter(), collections.Counter()
  for path in set(directory.rglob('*.xplane.pb')) - before:
    for name, nanoseconds in _kernels(jax.profiler.ProfileData.from_file(str(path))):
      total[name] += nanoseconds
      launches[name] += 1
  return [
    Kernel(name, nanoseconds / 1e6 / _STEPS, launches[name] / _STEPS)
    for name, nanoseconds in total.most_common()
  ]


def _kernels(profile: jax.profiler.ProfileData) -> Iterator[tuple[str, float]]:
  """Name and nanoseconds of each kernel launched: on GPU streams, TPU cores, else in the host's threads."""
  planes = list(profile.planes)
  devices = [plane for plane in planes if plane.name.startswith('/device:')]
  for plane in devices or planes:
    for line in plane.lines:
      if not devices:
        operations = (event for event in line.events if _is_operation(event))
        for event, nanoseconds in _without_nested(operations):
          yield _without_numbers(event.name), nanoseconds
      elif line.name.startswith(('Stream', 'XLA Ops')):  # others sum them up
        for event in line.events:
          yield _without_numbers(event.name), event.duration_ns


def _is_operation(event: Any) -> bool:
  return not event.name.startswith('end: ') and any(key == 'hlo_op' for key, _ in event.stats)


def _without_nested(events: Iterable[Any]) -> Iterator[tuple[Any, float]]:
  """Events of a thread, each with the nanoseconds that it does not spend in others of them."""
  running: list[tuple[Any, float]] = []  # each with the time of those inside so far
  for event in sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)):
    while running and running[-1][0].start_ns + running[-1][0].duration_ns <= event.start_ns:
      yield _ended(running.pop())
    if running:
      outer, inside = running[-1]
      running[-1] = outer, inside + event.duration_ns
    running.append((event, 0.0))
  yield from map(_ended, running)


def _ended(event_and_inside: tuple[Any, float]) -> tuple[Any, float]:
  event, inside = event_and_inside
  return event, max(event.duration_ns - inside, 0.0)


def _without_numbers(name: str) -> str:
  """`fusion.12` and `loop_add_fusion_3` as `fusion` and `loop_add_fusion`; on TPUs without the operands."""
  return re.sub(r'[._]\d+', '', name.partition(' = ')[0].lstrip('%'))
