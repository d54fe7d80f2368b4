"""Convolutions whose gradients are matrix products on a CPU.

XLA's own weight gradient of a 1x1 convolution ran at a sixth of the rate of the same product (one core of an
AMD EPYC with AVX-512, float32, 8 images of 36x48 positions, 192 to 1152 channels: 161 ms against 29).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.separate import separately
from dense_aspp_jax.models.fused.statistics import accumulation_dtype
from dense_aspp_jax.models.fused.window import Window

_GATHERED = 64  # of so many channels, the taps of a kernel are gathered for a single product

_FEW_CHANNELS = 8
_FAST_FEATURES = 64


def convolution(
  x: Float[Array, 'b h w c'],
  kernel: Float[Array, 'kh kw c f'],
  window_strides: tuple[int, int],
  padding: str | Any,
  *,
  rhs_dilation: tuple[int, int] = (1, 1),
  **_: Any,
) -> Float[Array, 'b h2 w2 f']:
  """What `lax.conv_general_dilated` computes without groups; for `nn.Conv.conv_general_dilated`.

  Args:
    x: Feature maps.
    kernel: In `x`'s type.
    window_strides: Vertically and horizontally.
    padding: 'SAME', 'VALID' or pairs, as there.
    rhs_dilation: Dilation of the kernel.
    _: Other arguments that nn.Conv passes; always its defaults here.
  """
  window = Window.of(x.shape[1:3], kernel.shape[:2], window_strides, padding, rhs_dilation)
  return _convolve(window, x, kernel)


def product(x: Float[Array, '*n c'], kernel: Float[Array, 'c f'], dtype: DTypeLike) -> Float[Array, '*n f']:
  """A 1x1 convolution."""
  return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), preferred_element_type=dtype)


def sum_of_products(a: Float[Array, '*n ca'], b: Float[Array, '*n cb']) -> Float[Array, 'ca cb']:
  """a^T b, summed over all positions; in the type of sums.

  The operand of fewer channels is transposed, apart from the operations that made it: fused with them, that
  copy runs at less than 2 GB/s on a CPU.
  """
  if a.shape[-1] > b.shape[-1]:
    return lax.optimization_barrier(sum_of_products(b, a)).T  # or else XLA would transpose the wide one
  a, b = lax.optimization_barrier((a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])))
  return jnp.matmul(separately(jnp.transpose, a), b, preferred_element_type=accumulation_dtype(a.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(window: Window, x: Array, kernel: Array) -> Array:
  plain = functools.partial(_plain, window)
  if not _is_product(window, kernel):
    if kernel.shape[2] < _FEW_CHANNELS and kernel.shape[3] < _FAST_FEATURES:
      return lax.platform_dependent(x, kernel, cpu=functools.partial(_widened, window), default=plain)
    return plain(x, kernel)
  return lax.platform_dependent(x, kernel, cpu=lambda x, k: product(x, k[0, 0], x.dtype), default=plain)


def _forward(window: Window, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(window, x, kernel), (x, kernel)


def _backward(window: Window, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  plain = functools.partial(_plain, window)

  def x_by_plain(kernel: Array, gradient: Array) -> Array:
    return jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)[0]

  def kernel_by_plain(x: Array, gradient: Array) -> Array:
    return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(gradient)[0]

  def x_by_product(kernel: Array, gradient: Array) -> Array:
    return product(gradient, kernel[0, 0].T, gradient.dtype)

  x_on_cpu = x_by_product if _is_product(window, kernel) else x_by_plain
  kernel_on_cpu = functools.partial(_kernel_gradient, window, kernel.shape[:2])
  return (
    lax.platform_dependent(kernel, gradient, cpu=x_on_cpu, default=x_by_plain),
    lax.platform_dependent(x, gradient, cpu=kernel_on_cpu, default=kernel_by_plain),
  )


_convolve.defvjp(_forward, _backward)


def _is_product(window: Window, kernel: Array) -> bool:
  return kernel.shape[:2] == (1, 1) and window.strides == (1, 1) and not any(map(any, window.padding))


def _plain(window: Window, x: Array, kernel: Array) -> Array:
  return lax.conv_general_dilated(
    *(x, kernel, window.strides, window.padding),
    rhs_dilation=window.dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _widened(window: Window, x: Array, kernel: Array) -> Array:
  """Of an image: XLA takes 3 to 10 times as long on a CPU for 24 or 32 features as for 64."""
  features = kernel.shape[3]
  kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, _FAST_FEATURES - features)))
  return _plain(window, x, kernel)[..., :features]


def _kernel_gradient(window: Window, kernel_size: tuple[int, int], x: Array, gradient: Array) -> Array:
  """One product for each tap of the kernel, or for all of them together."""
  channels, features = x.shape[3], gradient.shape[3]
  padded = window.pad(x)
  taps = [
    window.tap(padded, index, gradient.shape[1:3]) for index in itertools.product(*map(range, kernel_size))
  ]
  if len(taps) * channels <= _GATHERED:
    taps = [jnp.concatenate(taps, axis=-1)]
  sums = jnp.concatenate([sum_of_products(tap, gradient) for tap in taps])
  return sums.reshape(*kernel_size, channels, features).astype(x.dtype)
