"""Checks of configuration fields, for the dataclasses that the sections of a configuration become."""

from __future__ import annotations

import math
import sys
from typing import Any, NoReturn

from dense_aspp_jax.errors import InputError


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
  """Raises InputError unless `value` is a height and a width in pixels, each at least 1."""
  holds = isinstance(value, tuple | list) and len(value) == 2 and all(is_integer(n, 1) for n in value)
  check(field, value, holds, '(height, width) in pixels')
