"""The theoretical receptive field of any network, by propagation through its operations.

A network is traced to a jaxpr (nothing is computed), and the range of input pixels that one position of
an array depends on is carried from operation to operation: convolution and pooling widen it, strides spread
it, and where branches meet the larger counts. Dumoulin and Visin, "A guide to convolution arithmetic for
deep learning", 2016, has the arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.layers import Features

# Added to the traced height and width, so that no pooling window but a global one is as large as its map; a
# multiple of every stride, which leaves the padding as it is.
_MARGIN = 512


@dataclasses.dataclass(frozen=True)
class Span:
  """Along one direction: position i depends on the pixels `i * stride + low` to `i * stride + high`."""

  low: int = 0
  high: int = 0
  stride: int = 1

  @property
  def size(self) -> int:
    """Pixels from end to end."""
    return self.high - self.low + 1

  def window(self, size: int, dilation: int = 1, stride: int = 1, padding: int = 0) -> Span:
    """The span behind a window of `size` positions, with `padding` positions put in front."""
    return Span(
      self.low - padding * self.stride,
      self.high + ((size - 1) * dilation - padding) * self.stride,
      self.stride * stride,
    )


@dataclasses.dataclass(frozen=True)
class Field:
  """The receptive field of one position of a feature map.

  Attributes:
    rows: Its span from top to bottom.
    columns: Its span from left to right.
    is_global: Whether a branch reads the mean over all positions too (squeeze and excitation), which is
      left out of the spans.
  """

  rows: Span
  columns: Span
  is_global: bool

  @property
  def size(self) -> int:
    """Its side in pixels, the larger one."""
    return max(self.rows.size, self.columns.size)


@dataclasses.dataclass(frozen=True)
class _Reach:
  """What an array depends on: the span of each of its axes that is one of the image's."""

  spans: dict[int, Span]
  is_global: bool = False


def propagate_field(module: nn.Module, input_shape: tuple[int, int, int]) -> Field:
  """Finds the receptive field of a network's output positions.

  Args:
    module: Maps `[b, h, w, c]` to `[b, h2, w2, c2]`; or an extractor, taken in its reference implementation.
    input_shape: Height, width and channels of its input; padding may depend on them (TensorFlow's 'SAME').

  Raises:
    RunError: It has an operation that this analysis does not know.
  """
  if hasattr(module, 'implementation'):
    module = module.clone(implementation='reference')
  height, width, channels = input_shape
  image = jax.ShapeDtypeStruct((1, height + _MARGIN, width + _MARGIN, channels), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), image)

  def output(image, variables):
    output = module.apply(variables, image)
    return output.last if isinstance(output, Features) else output

  traced = jax.make_jaxpr(output)(image, variables)
  unreached = [None] * (len(traced.jaxpr.invars) - 1)
  (reach,) = _walk(traced.jaxpr, [_Reach({1: Span(), 2: Span()}), *unreached])
  return Field(reach.spans[1], reach.spans[2], reach.is_global)


def _walk(jaxpr: Any, inputs: Sequence[_Reach | None]) -> list[_Reach | None]:
  """Carries what the inputs of a jaxpr depend on to its outputs; None: not on the image."""
  reaches = dict(zip(jaxpr.invars, inputs, strict=True))

  def reach_of(variable: Any) -> _Reach | None:
    return None if isinstance(variable, Literal) else reaches.get(variable)

  for equation in jaxpr.eqns:
    operands = [reach_of(variable) for variable in equation.invars]
    if any(operands):
      reaches.update(zip(equation.outvars, _apply(equation, operands), strict=True))
  return [reach_of(variable) for variable in jaxpr.outvars]


def _apply(equation: Any, operands: Sequence[_Reach | None]) -> list[_Reach | None]:
  name, params = equation.primitive.name, equation.params
  if name in _CALLS:
    inner = params.get('jaxpr', params.get('call_jaxpr'))
    return _walk(getattr(inner, 'jaxpr', inner), operands)
  if name in _ELEMENTWISE:
    return [_elementwise(equation, operands)]
  if name in _RULES:
    return [_RULES[name](equation, operands)]
  raise _unknown(equation)


def _elementwise(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  shape = equation.outvars[0].aval.shape
  for variable, reach in zip(equation.invars, operands, strict=True):
    if reach and (
      variable.aval.ndim != len(shape)
      or any(n not in (1, out) for n, out in zip(variable.aval.shape, shape, strict=True))
    ):
      raise _unknown(equation)
  return _merge(equation, operands)


def _convolution(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  params, reach = equation.params, operands[0]
  if operands[1] or any(n != 1 for n in params['lhs_dilation']):
    raise _unknown(equation)
  numbers = params['dimension_numbers']
  spans = {}
  for index, (axis, kernel_axis, out_axis) in enumerate(
    zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
  ):
    if axis in reach.spans:
      spans[out_axis] = reach.spans[axis].window(
        equation.invars[1].aval.shape[kernel_axis],
        params['rhs_dilation'][index],
        params['window_strides'][index],
        params['padding'][index][0],
      )
  return _Reach(spans, reach.is_global)


def _pooling(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  params, reach = equation.params, operands[0]
  if any(n != 1 for n in params['base_dilation']):
    raise _unknown(equation)
  sizes = equation.invars[0].aval.shape
  spans, is_global = {}, reach.is_global
  for axis, span in reach.spans.items():
    if params['window_dimensions'][axis] == sizes[axis] > 1:
      is_global = True
      continue
    spans[axis] = span.window(
      params['window_dimensions'][axis],
      params['window_dilation'][axis],
      params['window_strides'][axis],
      params['padding'][axis][0],
    )
  return _Reach(spans, is_global)


def _reduction(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  reduced = set(equation.params['axes'])
  kept = [axis for axis in range(equation.invars[0].aval.ndim) if axis not in reduced]
  return _move(_merge(equation, operands), {axis: index for index, axis in enumerate(kept)})


def _product(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  """A matrix product: batch axes first, then what is left of both sides; a contracted axis is read whole."""
  contracted, batch = equation.params['dimension_numbers']
  left = len(batch[0])
  moved = []
  for side, reach in enumerate(operands):
    free = [
      axis
      for axis in range(equation.invars[side].aval.ndim)
      if axis not in contracted[side] and axis not in batch[side]
    ]
    target = {axis: index for index, axis in enumerate(batch[side])}
    target |= {axis: left + index for index, axis in enumerate(free)}
    left += len(free)
    moved.append(reach and _move(reach, target))
  return _merge(equation, moved)


def _broadcast(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  return _move(operands[0], dict(enumerate(equation.params['broadcast_dimensions'])))


def _concatenate(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  reach = _merge(equation, operands)
  if equation.params['dimension'] in reach.spans:
    raise _unknown(equation)
  return reach


def _move(reach: _Reach, target: dict[int, int]) -> _Reach:
  """Gives axes their new places; one without a place was read whole."""
  spans = {target[axis]: span for axis, span in reach.spans.items() if axis in target}
  return _Reach(spans, reach.is_global or len(spans) < len(reach.spans))


def _merge(equation: Any, reaches: Sequence[_Reach | None]) -> _Reach:
  """Where branches meet, the hull of their spans counts."""
  spans: dict[int, Span] = {}
  for axis, span in ((axis, span) for reach in reaches if reach for axis, span in reach.spans.items()):
    other = spans.get(axis, span)
    if other.stride != span.stride:
      raise _unknown(equation)
    spans[axis] = Span(min(span.low, other.low), max(span.high, other.high), span.stride)
  return _Reach(spans, any(reach.is_global for reach in reaches if reach))


def _unknown(equation: Any) -> RunError:
  shapes = ', '.join(str(variable.aval.shape) for variable in equation.invars)
  return RunError(
    f'receptive field: the operation {equation.primitive.name!r} on {shapes} is not known to this analysis; '
    'add a rule to analysis/field_propagation.py'
  )


_Rule = Callable[[Any, Sequence[_Reach | None]], _Reach]
_CALLS = {'jit', 'custom_jvp_call', 'custom_vjp_call'}
# What the extractors and the cascade are made of, and changes of the compute type.
_ELEMENTWISE = {
  *('add', 'sub', 'mul', 'div', 'max', 'min'),
  *('neg', 'square', 'rsqrt', 'erfc', 'copy', 'convert_element_type'),
}
_RULES: dict[str, _Rule] = {
  'conv_general_dilated': _convolution,
  'reduce_window_max': _pooling,
  'reduce_window_sum': _pooling,
  'reduce_sum': _reduction,
  'dot_general': _product,
  'broadcast_in_dim': _broadcast,
  'concatenate': _concatenate,
}
