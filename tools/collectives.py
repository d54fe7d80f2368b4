"""The collectives of a compiled program, read from the text of XLA's optimized HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute', 'all-to-all')
_BITS = re.compile(r'[a-z]+(\d+)')
_ARRAY = re.compile(r'([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = (.*)')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{$')
_CALLED = re.compile(r'(?:calls|to_apply|body|condition)=%?([\w.\-]+)')
_GROUPS = re.compile(r'replica_groups=(mesh\[[^\]]*\] \{[^}]*\}|\{\{[\d,]+\}|\{\}|\[[\d,]+\]<=)')


class Part(NamedTuple):
  """One array of a collective; what XLA combines has several.

  Attributes:
    elements: Numbers that each device puts in.
    bytes: Their bytes.
    name: Where it comes from, as JAX names operations.
  """

  elements: int
  bytes: int
  name: str


class Collective(NamedTuple):
  """One collective of a program.

  Attributes:
    kind: One of `KINDS`.
    parts: Its arrays.
    group_size: Devices that take part in it together.
    executions: How often it runs in a run of the program.
    level: Two of equal level do not depend on each other: one launch could do both.
    feeds: Whether a later collective needs its result; what does not can run beside later work.
  """

  kind: str
  parts: tuple[Part, ...]
  group_size: int
  executions: int
  level: tuple[int, ...]
  feeds: bool

  @property
  def bytes(self) -> int:
    """Bytes that each device puts in, in one execution."""
    return sum(part.bytes for part in self.parts)


class _Instruction(NamedTuple):
  name: str
  shape: str
  opcode: str
  operands: list[str]
  attributes: str


def read_collectives(hlo: str) -> list[Collective]:
  """Finds all collectives that a program runs between more than one device.

  Those in the body of a loop count as often as it runs. Of asynchronous pairs the start is counted.

  Args:
    hlo: `compiled.as_text()`.

  Raises:
    ValueError: A collective that cannot be counted: in a branch, or in a loop of unknown length.
  """
  computations, entry = _computations(hlo)
  devices = re.search(r'num_partitions=(\d+)', hlo.partition('\n')[0])
  return list(_walk(computations, entry, int(devices[1]) if devices else 1))


def _computations(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
  computations, entry, current = {}, '', []
  for line in hlo.splitlines():
    if header := _COMPUTATION.match(line):
      current = computations[header[2]] = []
      entry = header[2] if header[1] else entry
    elif instruction := _INSTRUCTION.match(line):
      current.append(_instruction(*instruction.groups()))
  return computations, entry


def _instruction(name: str, text: str) -> _Instruction:
  text = re.sub(r'/\*.*?\*/', '', text)
  end = _closing(text) if text.startswith('(') else text.index(' ')
  shape, rest = text[:end], text[end:].lstrip()
  opcode, _, rest = rest.partition('(')
  end = _closing('(' + rest) - 1
  operands = re.findall(r'%([\w.\-]+)', rest[:end])
  return _Instruction(name, shape, opcode, operands, rest[end:])


def _closing(text: str) -> int:
  """Index behind the parenthesis that closes the first one."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return match.end()
  raise ValueError(f'unbalanced parentheses in HLO: {text[:100]}')


def _walk(computations: dict[str, list[_Instruction]], name: str, devices: int) -> Iterator[Collective]:
  """The collectives of a computation, and of all that it calls."""
  levels, found = {}, {}
  for instruction in computations[name]:
    own = _collective(instruction, devices)
    nested = [c for callee in _callees(instruction) for c in _walk(computations, callee, devices)]
    if own or nested:
      found[instruction.name] = own, nested
    before = max((levels.get(operand, 0) for operand in instruction.operands), default=0)
    levels[instruction.name] = before + (instruction.name in found)

  feeding = set()  # what a later collective depends on
  for instruction in reversed(computations[name]):
    if instruction.name in found or instruction.name in feeding:
      feeding.update(instruction.operands)

  for instruction in computations[name]:
    own, nested = found.get(instruction.name, (None, []))
    level, feeds = levels[instruction.name], instruction.name in feeding
    if own:
      yield Collective(*own, executions=1, level=(level,), feeds=feeds)
    runs = _runs(instruction) if nested else 1
    for c in nested:
      feeds_any = feeds or c.feeds or runs > 1
      yield c._replace(executions=runs * c.executions, level=(level, *c.level), feeds=feeds_any)


def _callees(instruction: _Instruction) -> list[str]:
  """Computations that an instruction runs; those of an asynchronous one belong to its start."""
  if instruction.opcode in ('async-update', 'async-done'):
    return []
  attributes = instruction.attributes.partition(', metadata=')[0]
  branches = re.search(r'branch_computations=\{([^}]*)\}', attributes)
  named = re.findall(r'(?:true|false)_computation=%?([\w.\-]+)', attributes)
  listed = re.findall(r'[\w.\-]+', branches[1]) if branches else []
  return _CALLED.findall(attributes) + named + listed


def _runs(instruction: _Instruction) -> int:
  """How often what an instruction calls runs."""
  if instruction.opcode == 'while':
    count = re.search(r'known_trip_count[^}]*?(\d+)', instruction.attributes)
    if not count:
      raise ValueError(f'{instruction.name}: a loop of unknown length with collectives in it')
    return int(count[1])
  if instruction.opcode == 'conditional':
    raise ValueError(f'{instruction.name}: a branch with collectives in it')
  return 1


def _collective(instruction: _Instruction, devices: int) -> tuple[str, tuple[Part, ...], int] | None:
  kind = instruction.opcode.removesuffix('-start')
  if kind not in KINDS:
    return None
  group_size = devices if kind == 'collective-permute' else _group_size(instruction, devices)
  if group_size == 1:
    return None
  shape = instruction.shape
  if instruction.opcode.endswith('-start') and kind != 'all-reduce':
    shape = _second(shape)  # operands, results, ...
  arrays = _ARRAY.findall(shape)
  names = _names(instruction.attributes, len(arrays))
  parts = []
  for (dtype, dims), part_name in zip(arrays, names, strict=True):
    elements = math.prod(int(d) for d in dims.split(',') if d)
    # The text shows results; what each device puts in differs from them by the number of devices.
    elements = {'all-gather': elements // group_size, 'reduce-scatter': elements * group_size}.get(
      kind, elements
    )
    parts.append(Part(elements, elements * _item_bits(dtype) // 8, part_name))
  return kind, tuple(parts), group_size


def _second(shape: str) -> str:
  """The second element of a tuple of two or more."""
  elements, depth, start = [], 0, 1
  for match in re.finditer(r'[(){}\[\],]', shape):
    depth += {'(': 1, '{': 1, '[': 1, ',': 0}.get(match[0], -1)
    if (match[0] == ',' and depth == 1) or depth == 0:
      elements.append(shape[start : match.start()])
      start = match.end()
  return elements[1]


def _group_size(instruction: _Instruction, devices: int) -> int:
  groups = _GROUPS.search(instruction.attributes)
  if not groups:
    raise ValueError(f'{instruction.name}: replica groups not understood: {instruction.attributes[:200]}')
  text = groups[1]
  if text.startswith('mesh'):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", text))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", text.partition('{')[2]))
  if text.startswith('['):
    return math.prod(int(n) for n in re.findall(r'\d+', text)[1:])
  return len(text.split(',')) if text != '{}' else devices


def _names(attributes: str, count: int) -> list[str]:
  """Where each array comes from: XLA joins the names of what it combines, in order."""
  name = re.search(r'op_name="([^"]*)"', attributes)
  if not name:
    return [''] * count
  prefix, _, joined = name[1].partition('/(')
  listed = [f'{prefix}/{one}' for one in joined.removesuffix(')').split(':')]
  return listed if joined and len(listed) == count else [name[1]] * count


def _item_bits(dtype: str) -> int:
  return 8 if dtype == 'pred' else int(_BITS.match(dtype)[1])
