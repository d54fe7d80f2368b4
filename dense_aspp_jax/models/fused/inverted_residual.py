"""The first half of an inverted residual block in inference: 1x1 expansion and depthwise convolution.

A CPU computes it for some of the expanded channels at a time, from the input to the depthwise convolution's
output: the expanded maps, six times as large as the input, then stay in a core's cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import products
from dense_aspp_jax.models.fused.depthwise import depthwise_convolution
from dense_aspp_jax.models.fused.statistics import Affine
from dense_aspp_jax.models.fused.window import Window

# Of a chunk's maps, as the depthwise convolution reads them. 0.5 to 2 MiB were within 3 % of each other.
_CHUNK_BYTES = 1.5 * 2**20
_LEAST_CHANNELS = 64  # of a chunk: narrower products are slower


class ConvNormArrays(NamedTuple):
  """A convolution and its BN, with running statistics, in inference."""

  kernel: Float[Array, 'kh kw c f']
  norm: Affine


def expanded_depthwise(
  x: Float[Array, 'b h w c'],
  expand: ConvNormArrays | None,
  depthwise: ConvNormArrays,
  window: Window,
  activation: Callable[[Array], Array],
) -> Float[Array, 'b h2 w2 e']:
  """1x1 convolution, BN, activation, depthwise convolution, BN, activation.

  Args:
    x: Feature maps.
    expand: The 1x1 convolution; None: there is none, x is what it would give.
    depthwise: Kernel [kh, kw, 1, e].
    window: Of the depthwise convolution.
    activation: Elementwise.
  """
  whole = functools.partial(_in_chunks, 1, window, activation)
  chunks = _number_of_chunks(x, depthwise.kernel, window)
  if expand is None or chunks == 1:
    return whole(x, expand, depthwise)
  return lax.platform_dependent(
    x, expand, depthwise, cpu=functools.partial(_in_chunks, chunks, window, activation), default=whole
  )


def _in_chunks(chunks: int, window: Window, activation: Callable, x: Array, expand, depthwise) -> Array:
  channels, outputs = depthwise.kernel.shape[3], []
  width = -(-channels // (16 * chunks)) * 16
  for start in range(0, channels, width):
    y = x
    if expand is not None:
      kernel, norm = _channels(expand, start, start + width)
      y = activation(norm(products.convolution(x, kernel, (1, 1), 'VALID')).astype(x.dtype))
    kernel, norm = _channels(depthwise, start, start + width)
    y = depthwise_convolution(y, kernel, window.strides, window.padding, rhs_dilation=window.dilation)
    outputs.append(activation(norm(y).astype(x.dtype)))
  return jnp.concatenate(outputs, axis=3)


def _channels(arrays: ConvNormArrays, start: int, stop: int) -> ConvNormArrays:
  return ConvNormArrays(arrays.kernel[..., start:stop], Affine(*(value[start:stop] for value in arrays.norm)))


def _number_of_chunks(x: Array, kernel: Array, window: Window) -> int:
  channels = kernel.shape[3]
  rows, columns = (
    n + extent - 1 for n, extent in zip(x.shape[1:3], window.extent(kernel.shape[:2]), strict=True)
  )
  positions = x.shape[0] * rows * columns
  wanted = -(-positions * channels * x.dtype.itemsize // _CHUNK_BYTES)
  return int(max(min(wanted, channels // _LEAST_CHANNELS), 1))
