"""The theoretical receptive field of any network, by propagation through its operations.

The network is traced to a jaxpr; nothing is computed. The range of input pixels that one position of an
array depends on is carried from operation to operation: convolution and pooling widen it, strides spread
it, and branches that meet take the larger range. The arithmetic is that of Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning", 2016.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.layers import Features

# Added to the traced height and width, so that only global pooling has a window as large as its map. It is a
# multiple of every stride, which keeps the padding.
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
    is_global: Whether a branch also reads the mean over all positions (squeeze and excitation); the spans
      leave it out.
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
  """What an array depends on: the span along each axis that comes from the image's height or width."""

  spans: dict[int, Span]
  is_global: bool = False


def propagate_field(module: nn.Module, input_shape: tuple[int, int, int]) -> Field:
  """Finds the receptive field of a network's output positions.

  Args:
    module: Maps `[b, h, w, c]` to `[b, h2, w2, c2]`; or an extractor, taken in its reference implementation.
    input_shape: Height, width and channels of its input; padding may depend on them (TensorFlow's 'SAME').

  Raises:
    RunError: The network has an operation without a rule here.
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
  of_variables = [None] * (len(traced.jaxpr.invars) - 1)
  (reach,) = _walk(traced.jaxpr, [_Reach({1: Span(), 2: Span()}), *of_variables])
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
  rule = _merge if name in _ELEMENTWISE else _RULES.get(name)
  if rule is None:
    raise _unknown(equation)
  return [rule(equation, operands)]


def _convolution(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  params, (reach, kernel) = equation.params, operands
  if kernel or any(n != 1 for n in params['lhs_dilation']):
    raise _unknown(equation)
  numbers, kernel_shape = params['dimension_numbers'], equation.invars[1].aval.shape
  windows = zip(
    *(spec[2:] for spec in (numbers.lhs_spec, numbers.out_spec, numbers.rhs_spec)),
    *(params[name] for name in ('rhs_dilation', 'window_strides', 'padding')),
    strict=True,
  )
  spans = {
    out_axis: reach.spans[axis].window(kernel_shape[kernel_axis], dilation, stride, padding)
    for axis, out_axis, kernel_axis, dilation, stride, (padding, _) in windows
    if axis in reach.spans
  }
  return _Reach(spans, reach.is_global)


def _pooling(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  params, (reach, *_) = equation.params, operands
  if any(n != 1 for n in params['base_dilation']):
    raise _unknown(equation)
  names = ('window_dimensions', 'window_dilation', 'window_strides', 'padding')
  spans = {}
  for axis, span in reach.spans.items():
    size, dilation, stride, (padding, _) = (params[name][axis] for name in names)
    if not size == equation.invars[0].aval.shape[axis] > 1:  # else global: the axis is read whole
      spans[axis] = span.window(size, dilation, stride, padding)
  return _Reach(spans, reach.is_global or len(spans) < len(reach.spans))


def _reduction(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  kept = (axis for axis in range(equation.invars[0].aval.ndim) if axis not in equation.params['axes'])
  return _move(_merge(equation, operands), {axis: index for index, axis in enumerate(kept)})


def _product(equation: Any, operands: Sequence[_Reach | None]) -> _Reach:
  """A matrix product: batch axes first, then what is left of both sides; a contracted axis is read whole."""
  contracted, batch = equation.params['dimension_numbers']
  moved, position = [], len(batch[0])
  for side, reach in enumerate(operands):
    taken = {*contracted[side], *batch[side]}
    free = [axis for axis in range(equation.invars[side].aval.ndim) if axis not in taken]
    target = {axis: index for index, axis in enumerate(batch[side])}
    target |= {axis: index for index, axis in enumerate(free, position)}
    position += len(free)
    moved.append(reach and _move(reach, target))
  return _merge(equation, moved)


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
  """The hull of the spans of branches that meet."""
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
    f'receptive field: no rule for the operation {equation.primitive.name!r} on {shapes}; add one to '
    'analysis/field_propagation.py'
  )


_CALLS = {'jit', 'custom_jvp_call', 'custom_vjp_call'}
# The operations of the extractors and the cascade, and conversions of the compute type.
_ELEMENTWISE = {
  *('add', 'sub', 'mul', 'div', 'max', 'min'),
  *('neg', 'square', 'rsqrt', 'erfc', 'copy', 'convert_element_type'),
}
_RULES = {
  'conv_general_dilated': _convolution,
  'reduce_window_max': _pooling,
  'reduce_window_sum': _pooling,
  'reduce_sum': _reduction,
  'dot_general': _product,
  'broadcast_in_dim': lambda e, operands: _move(
    operands[0], dict(enumerate(e.params['broadcast_dimensions']))
  ),
  'concatenate': _concatenate,
}
