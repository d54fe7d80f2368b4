"""Which kernels take the time of a step, from a profile by JAX."""

from __future__ import annotations

import collections
import pathlib
import re
from collections.abc import Callable, Iterator
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
    Kernels, the longest first. On a CPU an operation that calls others includes their time.
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
      if devices and not line.name.startswith(('Stream', 'XLA Ops')):
        continue  # a summary of other lines
      for event in line.events:
        if devices or (not event.name.startswith('end: ') and any(key == 'hlo_op' for key, _ in event.stats)):
          yield _without_numbers(event.name), event.duration_ns


def _without_numbers(name: str) -> str:
  """`fusion.12` and `loop_add_fusion_3` as `fusion` and `loop_add_fusion`; on TPUs without the operands."""
  return re.sub(r'[._]\d+', '', name.partition(' = ')[0].lstrip('%'))
