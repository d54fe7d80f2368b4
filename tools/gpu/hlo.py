"""Reads the text of an optimized program (HLO), as XLA dumps it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_SIZES = {
  **dict.fromkeys(('pred', 's8', 'u8', 'f8e4m3fn', 'f8e5m2'), 1),
  **dict.fromkeys(('bf16', 'f16', 's16', 'u16'), 2),
  **dict.fromkeys(('f32', 's32', 'u32'), 4),
  **dict.fromkeys(('f64', 's64', 'u64', 'c64'), 8),
  'c128': 16,
}
_ARRAY = re.compile(rf'\b({"|".join(_SIZES)})\[([\d,]*)\]')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_OPERAND = re.compile(r'%([\w.\-]+)(?:#(\d+))?')


class Array(NamedTuple):
  """An array's type and sizes."""

  dtype: str
  sizes: tuple[int, ...]

  @property
  def num_bytes(self) -> int:
    """Bytes of its elements."""
    return _SIZES[self.dtype] * math.prod(self.sizes)


class Operand(NamedTuple):
  """The result of another instruction, or one element of it."""

  name: str
  element: int | None


class Instruction(NamedTuple):
  """An instruction; `arrays` are its results, several for a tuple."""

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[Operand, ...]
  attributes: str
  is_root: bool

  @property
  def num_bytes(self) -> int:
    """Bytes of all results."""
    return sum(array.num_bytes for array in self.arrays)

  @property
  def op_name(self) -> str:
    """Where it comes from: the path of JAX's names."""
    return self.attribute(r'op_name="([^"]*)"') or ''

  def attribute(self, pattern: str) -> str | None:
    """The first group of a pattern in its attributes."""
    found = re.search(pattern, self.attributes)
    return found and found[1]


Computation = dict[str, Instruction]


class Program(NamedTuple):
  """All computations by name, and the one that is run."""

  computations: dict[str, Computation]
  entry: Computation


def read_program(text: str) -> Program:
  """Reads the text of an HLO module.

  Raises:
    ValueError: It has no entry.
  """
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      current = computations[header[2]] = {}
      entry = current if header[1] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None and (found := _INSTRUCTION.match(line)):
      root, name, shape, opcode, rest = found.groups()
      inside, attributes = _split_at_closing(rest)
      operands = tuple(Operand(n, int(i) if i else None) for n, i in _OPERAND.findall(inside))
      current[name] = Instruction(name, opcode, arrays_of(shape), operands, attributes, bool(root))
  if entry is None:
    raise ValueError('found no line "ENTRY ..."; expected the text of an HLO module')
  return Program(computations, entry)


def arrays_of(shape: str) -> tuple[Array, ...]:
  """The arrays of a shape, which may be a tuple."""
  return tuple(
    Array(dtype, tuple(int(size) for size in sizes.split(',') if size))
    for dtype, sizes in _ARRAY.findall(shape)
  )


def arrays_of_operand(computation: Computation, operand: Operand) -> tuple[Array, ...]:
  """What an instruction gets from an operand."""
  arrays = computation[operand.name].arrays
  return arrays if operand.element is None else arrays[operand.element : operand.element + 1]


def bytes_of_operand(computation: Computation, operand: Operand) -> int:
  """Bytes of what an instruction gets from an operand."""
  return sum(array.num_bytes for array in arrays_of_operand(computation, operand))


def _split_at_closing(text: str) -> tuple[str, str]:
  """What is before and behind the parenthesis that closes one opened before the text."""
  depth = 1
  for found in re.finditer(r'[()]', text):
    depth += 1 if found[0] == '(' else -1
    if depth == 0:
      return text[: found.start()], text[found.end() :]
  return text, ''
