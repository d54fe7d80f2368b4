"""Reads pickles of plain data without executing anything.

The standard library's `Unpickler`, even with a custom `find_class`, lets BUILD modify allowed objects (such
as the defaults of a function), hashes any key (nested tuples take exponential time) and allocates as many
memo slots as the file asks for. Here `pickletools` splits the stream into opcodes, which executes nothing,
and the few opcodes that state dicts need are applied to lists, tuples and dicts.
"""

from __future__ import annotations

import dataclasses
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO


class RefusedError(ValueError):
  """The file holds something that is not allowed; the message names it."""


class NotPlainError(RefusedError):
  """The pickle refers to objects other than tensors."""


@dataclasses.dataclass(frozen=True)
class Global:
  """A name that a pickle refers to, such as 'torch.FloatStorage'; nothing is imported for it."""

  name: str


_MOST_COPIED_ITEMS = 100_000  # by all calls together: repeating one list many times would fill the memory


def unpickle(
  stream: BinaryIO,
  functions: Mapping[str, Callable[..., Any] | None],
  persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
  """Reads one pickle to its end.

  Args:
    stream: At the start of the pickle; positioned after its end on return.
    functions: Replacements for the names in it; None for a name that may be mentioned but not called.
      Attributes that the pickle sets on an object (`_metadata` on a state dict) are dropped.
    persistent_load: Turns a persistent id into an object; None: persistent ids are an error.

  Returns:
    None, bool, int, float, str, `Global`, a result of `functions` or `persistent_load`, or a list, tuple or
    dict of these; keys are str or int. It may be deeply nested or contain itself: do not recurse into it.

  Raises:
    NotPlainError: It holds a name that is not in `functions`, or an opcode that no state dict needs.
    Exception: Of any type, if it is malformed.
  """
  machine = _Machine(functions, persistent_load)
  for opcode, argument, _ in pickletools.genops(stream):
    if opcode.name == 'STOP':
      break
    machine.execute(opcode.name, argument)
  return machine.result()


def ordered_dict(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
  """Replaces `collections.OrderedDict`; Python 2 pickled it with its items."""
  return {_key(key): value for key, value in pairs}


class _Machine:
  """A stack, the stacks below each open mark, and a memo."""

  def __init__(self, functions, persistent_load):
    self._functions = functions
    self._persistent_load = persistent_load
    self._stack: list[Any] = []
    self._below_marks: list[list[Any]] = []
    self._memo: dict[int, Any] = {}
    self._copied_items = 0

  def result(self) -> Any:
    if self._below_marks:
      raise ValueError('the pickle ends within a mark')
    (value,) = self._stack
    return value

  def execute(self, name: str, argument: Any) -> None:
    match name:
      case 'PROTO':
        if argument > pickle.HIGHEST_PROTOCOL:
          raise RefusedError(
            f'the pickle is of protocol {argument}; expected at most {pickle.HIGHEST_PROTOCOL}'
          )
      case 'FRAME':
        pass
      case 'BININT' | 'BININT1' | 'BININT2' | 'LONG1' | 'BINFLOAT':
        self._stack.append(argument)
      case 'BINUNICODE' | 'SHORT_BINUNICODE' | 'BINSTRING' | 'SHORT_BINSTRING':
        self._stack.append(argument)
      case 'NONE':
        self._stack.append(None)
      case 'NEWTRUE' | 'NEWFALSE':
        self._stack.append(name == 'NEWTRUE')
      case 'MARK':
        self._below_marks.append(self._stack)
        self._stack = []
      case 'BINPUT' | 'LONG_BINPUT':
        self._memo[argument] = self._stack[-1]
      case 'MEMOIZE':
        self._memo[len(self._memo)] = self._stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        self._stack.append(self._memo[argument])
      case 'EMPTY_TUPLE' | 'EMPTY_LIST' | 'EMPTY_DICT':
        self._stack.append({'EMPTY_TUPLE': (), 'EMPTY_LIST': [], 'EMPTY_DICT': {}}[name])
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        items = self._pop(int(name[-1]))
        self._stack.append(tuple(items))
      case 'TUPLE':
        items = self._pop_to_mark()
        self._stack.append(tuple(items))
      case 'APPEND' | 'APPENDS':
        items = self._pop(1) if name == 'APPEND' else self._pop_to_mark()
        _as(list, self._stack[-1]).extend(items)
      case 'SETITEM' | 'SETITEMS':
        items = self._pop(2) if name == 'SETITEM' else self._pop_to_mark()
        target = _as(dict, self._stack[-1])
        target.update(ordered_dict(zip(items[::2], items[1::2], strict=True)))
      case 'GLOBAL':
        self._stack.append(self._global(*argument.split(' ', 1)))
      case 'STACK_GLOBAL':
        module, attribute = self._pop(2)
        self._stack.append(self._global(module, attribute))
      case 'REDUCE':
        function, arguments = self._pop(2)
        self._stack.append(self._call(function, arguments))
      case 'BUILD':
        self._pop(1)
        _as(dict, self._stack[-1])
      case 'BINPERSID' if self._persistent_load:
        (persistent_id,) = self._pop(1)
        self._stack.append(self._persistent_load(persistent_id))
      case _:
        what = f'{name} {argument[:200]!r}' if isinstance(argument, str) else name
        raise NotPlainError(f'the pickle has the opcode {what}, which no state dict needs')

  def _global(self, module: Any, attribute: Any) -> Global:
    name = f'{_as(str, module)}.{_as(str, attribute)}'
    if name not in self._functions:
      raise NotPlainError(f'the pickle refers to {name[:200]!r}, which is not part of a state dict')
    return Global(name)

  def _call(self, function: Any, arguments: Any) -> Any:
    call = self._functions[_as(Global, function).name]
    if call is None:
      raise NotPlainError(f'the pickle calls {function.name!r}')
    self._copied_items += sum(len(a) for a in _as(tuple, arguments) if isinstance(a, list | tuple | dict))
    if self._copied_items > _MOST_COPIED_ITEMS:
      raise RefusedError(f'the pickle passes more than {_MOST_COPIED_ITEMS} items to functions')
    return call(*arguments)

  def _pop(self, count: int) -> list[Any]:
    first = len(self._stack) - count
    if first < 0:
      raise IndexError('the stack is too short')
    items = self._stack[first:]
    del self._stack[first:]
    return items

  def _pop_to_mark(self) -> list[Any]:
    items, self._stack = self._stack, self._below_marks.pop()
    return items


def _as(kind: type, value: Any) -> Any:
  if not isinstance(value, kind):
    raise TypeError(f'a {type(value).__name__} stands where a {kind.__name__} is expected')
  return value


def _key(value: Any) -> str | int:
  if not isinstance(value, str | int):  # hashing nested tuples can take exponential time
    raise TypeError(f'a {type(value).__name__} is the key of a dict; expected a str or an int')
  return value
