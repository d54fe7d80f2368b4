"""The operations of dense layers that have kernels, each alone: to compile them, check them and time them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dense_aspp_jax.models.fused import ops
from dense_aspp_jax.models.fused.statistics import Affine

GROUP = 4  # layers whose backward passes visit the channels in front of them together


class Layer(NamedTuple):
  """A dense layer: its maps (in space-to-batch layout), the channels of its block and its own."""

  maps: tuple[int, int, int]
  block: int
  channels: int
  bottleneck: int
  growth: int
  dilation: int = 1
  masked: bool = False


class Call(NamedTuple):
  """An operation on a layer.

  Attributes:
    operation: Its name in `ops`, with ' x4' for four layers at once.
    function: Under jit.
    arguments: Abstract arrays.
    donated: The number of the argument whose memory the first result takes; None: there is none.
    num_bytes: What has to be read and written, without weights and sums.
    flops: Of the products.
  """

  operation: str
  function: jax.stages.Wrapped
  arguments: tuple[Any, ...]
  donated: int | None
  num_bytes: int
  flops: int


def calls(layer: Layer, form: str) -> Iterator[Call]:
  """The operations of a layer, in the form that a GPU is to run."""
  bfloat16 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
  float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  positions, channels, bottleneck, growth = (math.prod(layer.maps), *layer[2:5])
  first, second = (Affine(*[float32((n,))] * 3) for n in (channels, bottleneck))
  features, z, y = (bfloat16((*layer.maps, n)) for n in (layer.block, bottleneck, growth))
  kernel, conv_kernel = bfloat16((channels, bottleneck)), bfloat16((3, 3, bottleneck, growth))
  mask = jax.ShapeDtypeStruct(layer.maps, bool) if layer.masked else None
  dot, conv = 2 * positions * channels * bottleneck, 18 * positions * bottleneck * growth

  def call(operation, arguments, values, flops, donated=None, **static):
    name, _, _ = operation.partition(' ')
    function = functools.partial(getattr(ops, name), **static)
    jitted = jax.jit(function, donate_argnums=() if donated is None else donated)
    return Call(operation, jitted, arguments, donated, 2 * positions * values, flops)

  forward = channels + bottleneck
  yield call('bn_relu_dot', (features, first, kernel, mask), forward, dot, gpu=form)
  if not layer.masked:
    arguments = features, first, kernel, second
    yield call('bn_relu_dot_relu', arguments, forward, dot, channels=channels, gpu=form)
  for layers in (1, GROUP):
    yield call(
      'bn_relu_dot_backward' + (f' x{layers}' if layers > 1 else ''),
      (features, [first] * layers, [kernel] * layers, [z] * layers, features),
      3 * channels + layers * bottleneck,
      2 * layers * dot,
      donated=4,
      start=0,
      gpu=form,
    )
  static = dict(dilation=layer.dilation, gpu=form)
  arguments = z, second, conv_kernel, mask, features
  forward = bottleneck + growth
  yield call('bn_relu_conv_into', arguments, forward, conv, donated=4, channel=channels, **static)
  arguments = z, second, conv_kernel, mask, y
  yield call('bn_relu_conv_backward', arguments, bottleneck + forward, 2 * conv, **static)
