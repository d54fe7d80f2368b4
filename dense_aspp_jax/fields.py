"""Checks of configuration fields, for the dataclasses that the sections of a configuration become."""

from __future__ import annotations

import builtins
import math
import sys
import types
import typing
from typing import Any, NoReturn

from dense_aspp_jax.errors import InputError

_SIDE = 2**16  # pixels; the longest side of an image


def reject(field: str, value: Any, expected: str) -> NoReturn:
  """Raises the InputError for a field with a value outside its range.

  Args:
    field: 'section.field', as in a configuration.
    value: What was found.
    expected: What is allowed, such as 'an integer of at least 1'.
  """
  found = ' '.join(repr(value).split())  # a section's has several lines
  raise InputError(f'config.{field} = {found}: expected {expected}')


def check(field: str, value: Any, holds: bool, expected: str) -> None:
  """Raises InputError unless `holds`; see `reject`."""
  if not holds:
    reject(field, value, expected)


def is_number(value: Any) -> bool:
  """Whether a value is a finite int or float; True and False are none."""
  if not isinstance(value, int | float) or isinstance(value, bool):
    return False
  return abs(value) <= sys.float_info.max  # also where an int is too large for math.isfinite


def is_integer(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
  """Whether a value is an int, `low` to `high`; True and False are none."""
  return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def fits(value: Any, hint: Any) -> bool:
  """Whether a value has the type of an annotation.

  Args:
    value: JSON data, or a dataclass of such.
    hint: A class, `Any`, a union, or a list or dict of such. int and float are as in `is_integer` and
      `is_number`.
  """
  args = typing.get_args(hint)
  match typing.get_origin(hint):
    case typing.Union | types.UnionType:
      return any(fits(value, arg) for arg in args)
    case builtins.list:
      return isinstance(value, list) and all(fits(v, args[0]) for v in value)
    case builtins.dict:
      return isinstance(value, dict) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
  if hint in (int, float):
    return is_integer(value) if hint is int else is_number(value)
  return hint is Any or isinstance(value, hint)


def check_types(instance: Any) -> None:
  """Raises TypeError, which names the field, unless those of a dataclass fit their annotations."""
  for name, hint in typing.get_type_hints(type(instance)).items():
    if not fits(value := getattr(instance, name), hint):
      raise TypeError(f'{name} = {value!r}')


def check_bool(field: str, value: Any) -> None:
  """Raises InputError unless `value` is True or False."""
  check(field, value, isinstance(value, bool), 'True or False')


def check_string(field: str, value: Any, expected: str = 'a string') -> None:
  """Raises InputError unless `value` is a string that is not empty."""
  check(field, value, isinstance(value, str) and bool(value), expected)


def check_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
  """Raises InputError unless `value` is one of `choices`."""
  check(field, value, isinstance(value, str) and value in choices, f'one of {", ".join(choices)}')


def check_integer(field: str, value: Any, low: int, high: float = math.inf) -> None:
  """Raises InputError unless `value` is an integer, `low` to `high`."""
  expected = f'an integer of at least {low}' if high == math.inf else f'an integer, {low} to {high}'
  check(field, value, is_integer(value, low, high), expected)


def check_number(
  field: str,
  value: Any,
  *,
  at_least: float = -math.inf,
  above: float = -math.inf,
  at_most: float = math.inf,
  below: float = math.inf,
) -> None:
  """Raises InputError unless `value` is a finite number within the bounds."""
  bounds = {'at least': at_least, 'above': above, 'at most': at_most, 'below': below}
  named = [f'{word} {bound:g}' for word, bound in bounds.items() if math.isfinite(bound)]
  holds = is_number(value) and at_least <= value <= at_most and above < value < below
  check(field, value, holds, ' '.join(['a number', ', '.join(named)]).rstrip())


def check_size(field: str, value: Any) -> None:
  """Raises InputError unless `value` is a height and a width in pixels, each 1 to 65536."""
  holds = isinstance(value, tuple | list) and len(value) == 2 and all(is_integer(n, 1, _SIDE) for n in value)
  check(field, value, holds, f'(height, width) in pixels, each 1 to {_SIDE}')
