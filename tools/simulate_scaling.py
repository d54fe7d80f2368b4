"""Simulates what devices exchange in a training step and what that costs; nothing is measured.

  python -m tools.simulate_scaling --config=configs/default.py --step-ms=37.9

Compiles the train step for 2 and for 4 simulated devices of the CPU, reads the collectives of the two
programs, and prints the tables of docs/scaling.md. Fails if the gradient of a parameter is not summed over
the devices, or if the two programs, for images of different sizes, communicate differently. Extractors with
depthwise convolutions are not supported: on a CPU XLA sums the gradients of their kernels row by row.
"""

from __future__ import annotations

import argparse
import collections
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark.steps import compile_cold, resized, training_step
from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.training.config import parse_config

COMPILED_FOR = ((2, (64, 128)), (4, (96, 64)))  # devices, image size HxW
GRADIENTS = 'gradients of parameters'
US = 1e-6
ACHIEVED = 0.8  # share of the published bandwidth. Assumed.
_NAME = re.compile(r'%([\w.\-]+)')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)')
_UNKNOWN = re.compile(r'reduce-scatter|collective|all-to-all|all-.*-start|async-start')

Totals = dict[tuple[str, str], tuple[int, int]]  # (purpose, kind): arrays, bytes


class Part(NamedTuple):
  """One array of a collective: the numbers and bytes from each device, and JAX's name of it."""

  elements: int
  bytes: int
  name: str


class Collective(NamedTuple):
  """A collective, its arrays, and how often it runs in a step; those of equal level are independent."""

  kind: str
  parts: tuple[Part, ...]
  executions: int
  level: tuple[int, ...]


def read_collectives(hlo: str, num_devices: int) -> list[Collective]:
  """The collectives of a program, in its order, with those of the computations that it calls.

  Args:
    hlo: Text of an optimized HLO module for CPUs, callees before callers.
    num_devices: How many the program runs on.

  Raises:
    ValueError: A collective of another kind, in a branch, or in a loop of unknown length.
  """
  computations, current, levels = {}, [], {}
  for line in hlo.splitlines():
    if header := re.match(r'(?:ENTRY )?%([\w.\-]+) \(.*\{$', line):
      current, levels = computations.setdefault(header[1], []), {}
    if not (instruction := _INSTRUCTION.match(re.sub(r'/\*.*?\*/', '', line))):
      continue
    name, shape, opcode, rest = instruction.groups()
    operands, _, attributes = rest.partition('), ')
    runs, found = 1, [c for called in _NAME.findall(attributes) for c in computations.get(called, ())]
    if opcode in ('all-reduce', 'all-gather'):
      found = [Collective(opcode, _parts(opcode, shape, attributes, num_devices), 1, ())]
    elif found and opcode == 'while' and (count := re.search(r'known_trip_count[^}]*?(\d+)', attributes)):
      runs = int(count[1])
    elif _UNKNOWN.match(opcode) or (found and opcode in ('while', 'conditional')):
      raise ValueError(f'{name}: a collective that cannot be counted: {opcode}')
    level = max((levels.get(operand, 0) for operand in _NAME.findall(operands)), default=0) + bool(found)
    levels[name] = level
    current += [c._replace(executions=runs * c.executions, level=(level, *c.level)) for c in found]
  return current


def _parts(opcode: str, shape: str, attributes: str, devices: int) -> tuple[Part, ...]:
  arrays = re.findall(r'[a-z]+(\d*)\[([\d,]*)\]', shape)
  # XLA joins the names of the operations that it combines, in order.
  name = re.search(r'op_name="([^"]*)"|$', attributes)[1] or ''
  prefix, _, joined = name.partition('/(')
  names = [f'{prefix}/{one}' for one in joined.removesuffix(')').split(':')]
  if not joined or len(names) != len(arrays):
    names = [name] * len(arrays)
  parts = []
  for (bits, dims), part_name in zip(arrays, names, strict=True):
    elements = math.prod(int(d) for d in dims.split(',') if d)
    if opcode == 'all-gather':  # the shape is that of the result
      elements //= devices
    parts.append(Part(elements, elements * int(bits or 8) // 8, part_name))  # pred has a byte
  return tuple(parts)


class System(NamedTuple):
  """Hosts of 8 GPUs: bytes a second from a GPU within its host, and from a host; seconds of a network hop."""

  within: float
  between: float
  hop: float

  def seconds(self, kind: str, num_bytes: float, devices: int) -> float:
    """Seconds of a collective with so many bytes from each device: a ring, or a tree for sums if shorter.

    The latencies are those of NVIDIA's NCCL 2.28.7 (src/graph/tuning.cc, protocol LL).
    """
    hosts = math.ceil(devices / 8)
    bandwidth = ACHIEVED * (self.within if hosts == 1 else self.between)
    near = 0.6 * US * (1.8 if hosts > 1 else 1)
    ring = (devices - hosts) * near + (hosts - 1) * max(self.hop, 2.7 * US)
    if kind == 'all-gather':
      return 6.6 * US + ring + (devices - 1) * num_bytes / bandwidth
    tree = (math.ceil(devices / hosts) - 1) * near + math.ceil(math.log2(hosts)) * max(self.hop, 5 * US)
    return 6.6 * US + 2 * min(ring, tree) + 2 * (devices - 1) / devices * num_bytes / bandwidth


SYSTEMS = {  # bandwidths: data sheets of H100 and DGX H100
  'NVLink + InfiniBand, 8 x 400 Gb/s': System(450e9, 400e9, 0),
  'NVLink + Ethernet, 100 Gb/s': System(450e9, 12.5e9, 20 * US),
}


def step_collectives(
  config: ConfigDict, num_devices: int, image_size: tuple[int, int]
) -> tuple[list[Collective], Totals]:
  """The collectives of the train step, compiled for one image on each device, and their `totals`.

  Args:
    config: Checked.
    num_devices: At least 2, at most those that JAX has.
    image_size: HxW.

  Raises:
    RunError: A parameter's gradient is not summed over the devices.
  """
  config = resized(config, num_devices * config.training.gradient_accumulation, image_size)
  step = training_step(config, Mesh(np.array(jax.devices()[:num_devices]), ('data',)))
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(step.lowered.args_info[0][0].params)]
  compiled, _ = compile_cold(step)  # the persistent cache may give the names of another program
  collectives = read_collectives(compiled.as_text(), num_devices)
  return collectives, totals(collectives, sizes)


def totals(collectives: Sequence[Collective], parameter_sizes: Sequence[int]) -> Totals:
  """Arrays and bytes a step, by purpose and kind.

  A sum of the backward pass with the size of a parameter is the gradient of one, as often as there are
  parameters of that size; the sums of a norm's backward pass are both its gradient and a statistic's.

  Raises:
    RunError: No sum is found for a parameter.
  """
  missing = collections.Counter(parameter_sizes)
  arrays, num_bytes = collections.Counter(), collections.Counter()
  for c in collectives:
    for part in c.parts:
      if 'SegmentationModel' not in part.name:
        purpose = 'loss and accuracy'
      elif 'transpose(' not in part.name:
        purpose = 'batch statistics'
      elif c.kind == 'all-reduce' and missing[part.elements]:
        missing[part.elements] -= 1
        purpose = GRADIENTS
      else:
        purpose = 'gradients of batch statistics'
      arrays[purpose, c.kind] += c.executions
      num_bytes[purpose, c.kind] += c.executions * part.bytes
  if missing := +missing:
    raise RunError(f'no sum over the devices for the gradients of parameters of {sorted(missing)} numbers')
  return {key: (arrays[key], num_bytes[key]) for key in sorted(arrays)}


def added_seconds(collectives: Sequence[Collective], system: System, devices: int) -> tuple[float, float]:
  """What communication adds to a step, none of it beside computation: at least and at most.

  At most: all collectives one after another, as the CPU compiler combined them. At least: those that do not
  depend on each other in one.
  """
  joined = collections.Counter()
  for c in collectives:
    joined[c.kind, c.executions, c.level] += sum(part.bytes for part in c.parts)
  least = sum(n * system.seconds(kind, size, devices) for (kind, n, _), size in joined.items())
  return least, sum(
    c.executions * system.seconds(c.kind, sum(part.bytes for part in c.parts), devices) for c in collectives
  )


def tables(
  collectives: Sequence[Collective], exchanged: Totals, step_ms: float, images: int
) -> Iterator[str]:
  """Lines of Markdown: what is exchanged, and the time it adds on several devices."""
  yield '| what | collective | arrays | bytes from each device |\n|---|---|---|---|'
  for (purpose, kind), (arrays, num_bytes) in exchanged.items():
    yield f'| {purpose} | {kind} | {arrays:,} | {num_bytes:,} |'
  launches, levels = sum(c.executions for c in collectives), len({(c.level, c.kind) for c in collectives})
  yield f'\n{launches} collectives; {levels} if those that do not depend on each other were joined.\n'
  yield f'| devices | batch | {" | ".join(SYSTEMS)} |\n|{"---|" * (2 + len(SYSTEMS))}'
  for devices in (2**i for i in range(1, 11)):
    row = f'| {devices} | {devices * images:,} |'
    for system in SYSTEMS.values():
      least, most = (1e3 * seconds for seconds in added_seconds(collectives, system, devices))
      slow, fast = (100 * step_ms / (step_ms + added) for added in (most, least))
      row += f' {least:.1f} to {most:.1f} ms, {slow:.0f} to {fast:.0f} % |'
    yield row


def main(arguments: Sequence[str] | None = None) -> int:
  """Compiles, checks and prints; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add_config_argument(parser)
  parser.add_argument('--step-ms', type=float, required=True, help='of a step on one H100')
  args, args.config_arguments = parser.parse_known_args(arguments)
  try:
    config = read_config_file(args)
    parse_config(config)
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', max(devices for devices, _ in COMPILED_FOR))
    (found, exchanged), (_, other) = (step_collectives(config, *numbers) for numbers in COMPILED_FOR)
    if exchanged != other:
      raise RunError(f'what is communicated depends on the devices or the size: {exchanged}, {other}')
    print(*tables(found, exchanged, args.step_ms, config.training.batch_size), sep='\n')
  except (InputError, RunError) as error:
    print(f'simulate_scaling: {error}', file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  return 0


if __name__ == '__main__':
  sys.exit(main())
