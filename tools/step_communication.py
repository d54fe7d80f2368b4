"""What devices tell each other in one training step, read from the compiled program.

  python -m tools.step_communication --config=configs/default.py --output=communication.json

Compiles the train step of a configuration, exactly as training runs it, for 2 and for 4 devices that the CPU
stands in for, one small image each. Counts the collectives in the program, the bytes that each device puts
into them, and what they are for. Fails if the gradient of a parameter is not summed over the devices, or if
the two programs, for images of different sizes, differ in what they communicate.

On a CPU XLA exchanges bfloat16 as float32 and combines less than on a GPU or a TPU. Extractors with depthwise
convolutions are refused: their gradients have a form of their own on a CPU.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark.steps import compile_cold, resized, training_step
from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix
from dense_aspp_jax.labels import load_label_set
from dense_aspp_jax.provenance import provenance, write_json
from dense_aspp_jax.training.config_check import check_fields
from tools.collectives import Collective, Part, read_collectives

COMPILED_FOR = ((2, (64, 128)), (4, (96, 64)))  # devices, image size
GRADIENTS = 'gradients of parameters'
STATISTICS_GRADIENTS = 'gradients of batch statistics'
STATISTICS = 'batch statistics'
OTHER = 'loss and accuracy'


@dataclasses.dataclass(frozen=True)
class Communication:
  """What a training step communicates.

  Attributes:
    parameters: Trained numbers.
    state_bytes: Parameters, running statistics and the optimizer's state.
    gradient_bytes: Bytes of the parameters' gradients that each device puts in.
    rows: For each purpose and kind of collective: 'purpose', 'kind', 'arrays' and 'bytes' of a step.
    collectives: In the order of the program.
  """

  parameters: int
  state_bytes: int
  gradient_bytes: int
  rows: list[dict[str, Any]]
  collectives: list[Collective]


def main(arguments: Sequence[str] | None = None) -> int:
  """Compiles, checks, prints a table and writes JSON; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add_config_argument(parser)
  parser.add_argument('--output', required=True, type=pathlib.Path, help='JSON file')
  args, args.config_arguments = parser.parse_known_args(arguments)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', max(devices for devices, _ in COMPILED_FOR))
  try:
    config = read_config_file(args)
    check_fields(config)
    communication = checked_communication(config)
    print(table(communication))
    write_json(args.output, record(config, communication) | {'config_file': args.config})
  except (InputError, RunError) as error:
    print(f'step_communication: {error}', file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  return 0


def checked_communication(config: ConfigDict) -> Communication:
  """Compiles for each of `COMPILED_FOR` and compares.

  Raises:
    RunError: What is communicated depends on these, or a parameter's gradient is not summed.
  """
  first, *others = [step_communication(config, *numbers) for numbers in COMPILED_FOR]
  for numbers, other in zip(COMPILED_FOR[1:], others, strict=True):
    if other.rows != first.rows:
      raise RunError(f'{COMPILED_FOR[0]} communicate {first.rows}, {numbers} communicate {other.rows}')
  return first


def step_communication(config: ConfigDict, num_devices: int, image_size: tuple[int, int]) -> Communication:
  """Compiles the train step for so many of JAX's devices, each with one image of each accumulated part.

  Args:
    config: Checked.
    num_devices: At least 2.
    image_size: Height and width.

  Raises:
    RunError: A parameter's gradient is not summed over the devices.
  """
  config = resized(config, num_devices * config.training.gradient_accumulation, image_size)
  step = training_step(config, Mesh(np.array(jax.devices()[:num_devices]), ('data',)))
  state = step.lowered.args_info[0][0]
  compiled, _ = compile_cold(step)  # the cache keeps no names: it may give those of a like program
  collectives = read_collectives(compiled.as_text())
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)]
  totals = collections.defaultdict(lambda: {'arrays': 0, 'bytes': 0})
  for purpose, collective, part in purposes(collectives, sizes):
    total = totals[purpose, collective.kind]
    total['arrays'] += collective.executions
    total['bytes'] += collective.executions * part.bytes
  return Communication(
    parameters=sum(sizes),
    state_bytes=sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
    gradient_bytes=sum(total['bytes'] for (purpose, _), total in totals.items() if purpose == GRADIENTS),
    rows=[{'purpose': p, 'kind': kind, **total} for (p, kind), total in sorted(totals.items())],
    collectives=collectives,
  )


def purposes(
  collectives: list[Collective], parameter_sizes: Sequence[int]
) -> Iterator[tuple[str, Collective, Part]]:
  """What each array is for.

  An array of the backward pass as large as a parameter is the gradient of one, as often as there are
  parameters of this size; the sums of a norm's backward pass are both its gradient and a statistic's.

  Args:
    collectives: Of a training step.
    parameter_sizes: Numbers in each parameter.

  Raises:
    RunError: A parameter is left over.
  """
  missing = collections.Counter(parameter_sizes)
  for collective in collectives:
    for part in collective.parts:
      if 'feature_logits' not in part.name:
        purpose = OTHER
      elif 'transpose(' not in part.name:
        purpose = STATISTICS
      elif collective.kind == 'all-reduce' and missing[part.elements]:
        missing[part.elements] -= 1
        purpose = GRADIENTS
      else:
        purpose = STATISTICS_GRADIENTS
      yield purpose, collective, part
  if missing := +missing:
    raise RunError(
      f'no sum over the devices for the gradients of parameters of {sorted(missing)} numbers; those of '
      'depthwise kernels are summed row by row on a CPU, which is not what a GPU or a TPU does'
    )


def launches(communication: Communication) -> list[dict[str, Any]]:
  """The collectives as plain data: 'kind', 'bytes', 'executions', 'level', 'feeds'."""
  return [
    {'kind': c.kind, 'bytes': c.bytes, 'executions': c.executions, 'level': list(c.level), 'feeds': c.feeds}
    for c in communication.collectives
  ]


def record(config: ConfigDict, communication: Communication) -> dict[str, Any]:
  """All of it as plain JSON data, with where it comes from."""
  height, width = config.data.image_size
  return {
    'parameters': communication.parameters,
    'state_bytes': communication.state_bytes,
    'gradient_bytes': communication.gradient_bytes,
    'rows': communication.rows,
    'launches': launches(communication),
    'record_bytes': height * width * 4,  # image and label, uint8
    'evaluation_bytes': ConfusionMatrix(load_label_set(config.data.label_set)).counts.nbytes,
    'compiled_for': COMPILED_FOR,
    'config': config.to_dict(),
    'provenance': provenance(),
  }


def table(communication: Communication) -> str:
  """Markdown: a row for each purpose and kind."""
  lines = ['| what | collective | arrays | bytes a device puts in |', '|---|---|---|---|']
  lines += [
    f'| {row["purpose"]} | {row["kind"]} | {row["arrays"]:,} | {row["bytes"]:,} |'
    for row in communication.rows
  ]
  feeding = sum(c.executions for c in communication.collectives if c.feeds)
  levels = len({(c.level, c.kind) for c in communication.collectives})
  lines += [
    '',
    f'{communication.parameters:,} parameters; gradients of them: {communication.gradient_bytes:,} bytes.',
    f'{sum(c.executions for c in communication.collectives)} collectives as the CPU compiler combines them, '
    f'of which later ones wait for {feeding}; {levels} if all that are independent of each other were one.',
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main())
