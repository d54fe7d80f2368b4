"""What the launches of a program read, write and compute, from its optimized HLO.

Every launch reads its operands and writes its results once: what a fusion computes stays in registers, and
no launch finds in the cache what another has written. A slice reads what it takes, an update in place writes
what it changes. A Pallas kernel of ours says itself what it moves (`kernel_cost`).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tools.gpu.hlo import (
  Computation,
  Instruction,
  Operand,
  Program,
  arrays_of_operand,
  bytes_of_operand,
)

# They only name memory.
_FREE = {
  *('parameter', 'constant', 'bitcast', 'tuple', 'get-tuple-element', 'after-all', 'opt-barrier'),
  *('optimization-barrier', 'partition-id', 'replica-id', 'domain', 'add-dependency'),
}
_FORM_OF_TARGET = {'__gpu$xla.gpu.triton': 'triton', 'mosaic_gpu_v2': 'mosaic', 'mosaic_gpu': 'mosaic'}
_COST = re.compile(r'([\w.]+)\[bytes=(\d+),flops=(\d+)\]')


class Launch(NamedTuple):
  """A launch, or all turns of a loop's.

  Attributes:
    name: Of the instruction.
    kind: Its opcode; the target of a call; 'triton' or 'mosaic' for a Pallas kernel.
    kernel: The name of a Pallas kernel; else ''.
    code: What tells one Pallas kernel from another; else ''.
    op_name: The path of JAX's names.
    read: Bytes.
    written: Bytes.
    flops: Two per multiply-add of products and convolutions.
    times: How often it is launched.
    declared: Whether a Pallas kernel says what it moves.
  """

  name: str
  kind: str
  kernel: str
  code: str
  op_name: str
  read: int
  written: int
  flops: int
  times: int
  declared: bool = False

  @property
  def num_bytes(self) -> int:
    """Read and written in one launch."""
    return self.read + self.written


def launches_of(program: Program) -> list[Launch]:
  """All launches of a program, in the order of its text."""
  return list(_of_computation(program, program.entry, 1))


def _of_computation(program: Program, computation: Computation, times: int) -> Iterator[Launch]:
  for instruction in computation.values():
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(('-done', '-update')):
      continue
    if opcode == 'while':
      turns = instruction.attribute(r'"known_trip_count":\{"n":"(\d+)"\}')
      body = program.computations[instruction.attribute(r'body=%?([\w.\-]+)')]
      yield from _of_computation(program, body, times * int(turns or 1))
    elif opcode == 'conditional':
      yield from max(_branches(program, instruction, times), key=_all_bytes)
    elif opcode in ('call', 'async-start') and (called := _called(program, instruction)):
      yield from _of_computation(program, called, times)
    else:
      yield _launch(program, computation, instruction, times)


def _launch(program: Program, computation: Computation, instruction: Instruction, times: int) -> Launch:
  kind, kernel, code, op_name = instruction.opcode, '', '', instruction.op_name
  read = sum(bytes_of_operand(computation, operand) for operand in instruction.operands)
  written, flops, declared = instruction.num_bytes, 0, False
  called = _called(program, instruction) if kind == 'fusion' else None
  if called and (wrapped := [i for i in called.values() if i.opcode == 'custom-call']):
    # A library's call or a kernel, with slices of its operands that need no copy.
    return _launch(program, called, wrapped[0], times)._replace(name=instruction.name)
  if called:
    kind = re.sub(r'[._]\d+', '', instruction.name)
    read, written = _read_by(called), _written_by(called)
    flops = sum(_dot_flops(called, inner) for inner in called.values() if inner.opcode == 'dot')
  elif kind == 'dynamic-update-slice':
    changed = bytes_of_operand(computation, instruction.operands[1])
    read, written = changed, changed
  elif kind in ('slice', 'dynamic-slice', 'gather'):
    read = written
  elif kind == 'dot':
    flops = _dot_flops(computation, instruction)
  elif kind == 'custom-call':
    target = instruction.attribute(r'custom_call_target="([^"]+)"')
    kind = _FORM_OF_TARGET.get(target, target)
    if kind in ('triton', 'mosaic'):
      code = instruction.attribute(r'kernel_hash = "([^"]*)"') or instruction.attribute(
        r'backend_config=(.*)$'
      )
      kernel, read, written, flops, declared = _kernel(op_name, read, written)
    elif target.startswith('__'):  # cuDNN, cuBLAS: a result and scratch memory
      written = instruction.arrays[0].num_bytes
      flops = _library_flops(computation, instruction)
  return Launch(instruction.name, kind, kernel, code, op_name, read, written, flops, times, declared)


def _kernel(op_name: str, read: int, written: int) -> tuple[str, int, int, int, bool]:
  """Name, bytes and operations: as it declares them; else its whole operands and results."""
  if costs := _COST.findall(op_name):
    name, num_bytes, flops = costs[-1]
    return name, max(int(num_bytes) - written, 0), min(int(num_bytes), written), int(flops), True
  *_, name, _ = f'//{op_name}'.split('/')
  return name, read, written, 0, False


def _read_by(fusion: Computation) -> int:
  """Bytes that a fusion reads of its operands."""
  users = defaultdict(list)
  for instruction in fusion.values():
    for number, operand in enumerate(instruction.operands):
      users[operand.name].append((instruction, number))

  def read(name: str, whole: int) -> int:
    total = 0
    for user, number in users[name]:
      if user.opcode in ('bitcast', 'reshape', 'get-tuple-element'):
        total += read(user.name, whole)
      elif number == 0 and user.opcode in ('slice', 'dynamic-slice', 'gather'):
        total += user.num_bytes
      elif not (number == 0 and user.opcode == 'dynamic-update-slice'):
        total += whole
    return min(total, whole)

  parameters = (i for i in fusion.values() if i.opcode == 'parameter')
  return sum(read(parameter.name, parameter.num_bytes) for parameter in parameters)


def _written_by(fusion: Computation) -> int:
  """Bytes that a fusion writes; an update at its root is in place."""
  root = next(instruction for instruction in fusion.values() if instruction.is_root)
  names = [operand.name for operand in root.operands] if root.opcode == 'tuple' else [root.name]
  total = 0
  for name in names:
    result = instruction = fusion[name]
    while instruction.opcode == 'bitcast' and instruction.operands:
      instruction = fusion[instruction.operands[0].name]
    if instruction.opcode == 'dynamic-update-slice':
      total += bytes_of_operand(fusion, instruction.operands[1])
    else:
      total += result.num_bytes
  return total


def _dot_flops(computation: Computation, dot: Instruction) -> int:
  contracted = dot.attribute(r'lhs_contracting_dims=\{([\d,]*)\}')
  return _product_flops(computation, dot, contracted)


def _library_flops(computation: Computation, call: Instruction) -> int:
  """Of a matrix product or a forward convolution; else 0."""
  if contracted := call.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]'):
    return _product_flops(computation, call, contracted.replace('"', ''))
  if labels := call.attribute(r'dim_labels=\w+_(\w+)->'):
    kernel = _sizes(computation, call.operands[1])
    return 2 * math.prod(call.arrays[0].sizes) * math.prod(kernel) // kernel[labels.index('o')]
  return 0


def _product_flops(computation: Computation, product: Instruction, contracted: str | None) -> int:
  sizes = _sizes(computation, product.operands[0])
  inner = math.prod(sizes[int(axis)] for axis in (contracted or '').split(',') if axis)
  return 2 * math.prod(product.arrays[0].sizes) * inner


def _sizes(computation: Computation, operand: Operand) -> tuple[int, ...]:
  return arrays_of_operand(computation, operand)[0].sizes


def _called(program: Program, instruction: Instruction) -> Computation | None:
  name = instruction.attribute(r'(?:calls|to_apply)=%?([\w.\-]+)')
  return program.computations.get(name)


def _branches(program: Program, conditional: Instruction, times: int) -> Iterator[list[Launch]]:
  names = conditional.attribute(r'branch_computations=\{([^}]*)\}') or ', '.join(
    re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', conditional.attributes)
  )
  for name in re.findall(r'[\w.\-]+', names):
    yield list(_of_computation(program, program.computations[name], times))


def _all_bytes(launches: list[Launch]) -> int:
  return sum(launch.times * launch.num_bytes for launch in launches)
