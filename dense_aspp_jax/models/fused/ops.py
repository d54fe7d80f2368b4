"""The operations that a dense block is made of, forward and backward, in the form a device runs best.

Each is written here in XLA operations, for every device. Some also have kernels for NVIDIA GPUs (`mosaic_*`,
`gpu_*`), which are selected by form (`gpu_form`), platform, shape and type when the program is compiled.

`features` and `gradient` are the block's whole buffers: an operation on a layer of `cin` input channels reads
the first `cin` of them. `mask` excludes padded positions (see `space_to_batch`): they hold unspecified values
in what is returned, except in gradients, where they are 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dense_aspp_jax.models.fused import (
  cpu_tiles,
  gpu_1x1,
  gpu_3x3,
  gpu_tiles,
  mosaic_1x1,
  mosaic_1x1_backward,
  mosaic_3x3,
  mosaic_3x3_forward,
  mosaic_tiles,
)
from dense_aspp_jax.models.fused.arrays import TAPS, Kernel, Maps, Mask, Sums, masked
from dense_aspp_jax.models.fused.statistics import (
  Affine,
  Moments,
  accumulation_dtype,
  activation,
  moments,
)

_POSITIONS = (0, 1, 2)

# The modules with the kernels that are tried for each form of `gpu_form`.
_1X1 = {'mosaic': (mosaic_1x1, gpu_1x1), 'triton': (gpu_1x1,), 'xla': ()}
_1X1_BACKWARD = {'mosaic': (mosaic_1x1_backward, gpu_1x1), 'triton': (gpu_1x1,), 'xla': ()}
_3X3_FORWARD = {'mosaic': (mosaic_3x3_forward,), 'triton': (), 'xla': ()}
_3X3_BACKWARD = {'mosaic': (mosaic_3x3, gpu_3x3), 'triton': (gpu_3x3,), 'xla': ()}


def _or_by_kernel(
  modules: dict[str, tuple[ModuleType, ...]],
  *,
  cpu_form: Callable | None = None,
  differentiable: bool = False,
) -> Callable[[Callable], Callable]:
  """Decorates the XLA form of an operation: other devices run another form where that is supported.

  An NVIDIA GPU runs the kernel of the same name from the first of the `modules` of its form that supports the
  operands. A CPU runs the `cpu_form` if there is one. A kernel has no derivative of its own; that of a
  `differentiable` operation is the XLA form's.
  """

  def decorate(xla_form: Callable) -> Callable:
    @functools.wraps(xla_form)
    def operation(*operands, gpu: str = 'xla', **static):
      forms = {'default': xla_form, **({'cpu': cpu_form} if cpu_form else {})}
      supporting = [module for module in modules[gpu] if _supports(module, *operands)]
      if supporting:
        interpreted = gpu_tiles.INTERPRET or mosaic_tiles.INTERPRET
        forms['cpu' if interpreted else 'cuda'] = getattr(supporting[0], xla_form.__name__)
      return lax.platform_dependent(
        *operands, **{platform: functools.partial(form, **static) for platform, form in forms.items()}
      )

    return _with_xla_derivative(operation, xla_form) if differentiable else operation

  return decorate


def _with_xla_derivative(operation: Callable, xla_form: Callable) -> Callable:
  @functools.wraps(xla_form)
  def differentiable(*operands, gpu: str = 'xla', **static):
    function = jax.custom_vjp(functools.partial(operation, gpu=gpu, **static))
    function.defvjp(
      lambda *operands: (function(*operands), operands),
      lambda operands, gradient: jax.vjp(functools.partial(xla_form, **static), *operands)[1](gradient),
    )
    return function(*operands)

  return differentiable


@_or_by_kernel(_1X1, cpu_form=cpu_tiles.bn_relu_dot)
def bn_relu_dot(features: Maps, affine: Affine, kernel: Kernel, mask: Mask) -> tuple[Maps, Moments]:
  """A 1x1 convolution of relu(affine(features)), and the moments of its output."""
  z = _dot(activation(features[..., : len(kernel)], affine), kernel, features.dtype)
  return z, moments(z, mask)


@_or_by_kernel(_1X1, differentiable=True)
def bn_relu_dot_relu(
  features: Maps, affine: Affine, kernel: Kernel, second: Affine, *, channels: int
) -> Maps:
  """relu(second(z)) of a 1x1 convolution z of relu(affine(features)): both BNs of a layer at once.

  Of the first `channels` channels; the affine map and the kernel may be of more.
  """
  affine = Affine(*(values[:channels] for values in affine))
  z = _dot(activation(features[..., :channels], affine), kernel[:channels], features.dtype)
  return activation(z, second)


@_or_by_kernel(_1X1_BACKWARD, cpu_form=cpu_tiles.bn_relu_dot_backward)
def bn_relu_dot_backward(
  features: Maps,
  affines: Sequence[Affine],
  kernels: Sequence[Kernel],
  output_gradients: Sequence[Maps],
  gradient: Maps,
  *,
  start: int,
) -> tuple[Maps, list[Kernel], list[Sums]]:
  """The backward pass of `bn_relu_dot` in some layers, for equally many input channels of each.

  Without what flows through the moments of the outputs and of the inputs.

  Args:
    features: The block's buffer.
    affines: Of each layer, of the channels in question: `start` to `start` + their number.
    kernels: Of each layer, the rows of these channels.
    output_gradients: Of each layer.
    gradient: The buffer of the features' gradient.
    start: The first channel.

  Returns:
    `gradient` with what the layers add to these channels, and of each layer the kernel's gradient in the type
    of sums and the sums over the gradient of affine(features).
  """
  stop = start + len(kernels[0])
  x = features[..., start:stop]
  added = gradient[..., start:stop].astype(affines[0].scale.dtype)
  kernel_gradients, sums = [], []
  for affine, kernel, output_gradient in zip(affines, kernels, output_gradients, strict=True):
    a = activation(x, affine)
    g = jnp.where(a > 0, _dot(output_gradient, kernel.T, features.dtype), 0).astype(added.dtype)
    added = added + g * affine.scale
    kernel_gradients.append(_sum_of_products(a, output_gradient))
    sums.append(_sums(g, x, affine))
  gradient = lax.dynamic_update_slice(gradient, added.astype(gradient.dtype), (0, 0, 0, start))
  return gradient, kernel_gradients, sums


@jax.custom_vjp
def dot(x: Maps, kernel: Kernel) -> Maps:
  """A 1x1 convolution; a CPU computes its kernel's gradient in a form of its own."""
  return x @ kernel


def _dot_gradients(operands: tuple[Maps, Kernel], gradient: Maps) -> tuple[Maps, Kernel]:
  def default(x: Maps, kernel: Kernel, gradient: Maps) -> tuple[Maps, Kernel]:
    return jax.vjp(jnp.matmul, x, kernel)[1](gradient)

  return lax.platform_dependent(*operands, gradient, cpu=cpu_tiles.dot_backward, default=default)


dot.defvjp(lambda x, kernel: (dot(x, kernel), (x, kernel)), _dot_gradients)


def bn_relu_conv(z: Maps, affine: Affine, kernel: Kernel, mask: Mask, *, dilation: int) -> Maps:
  """A 3x3 convolution of relu(affine(z)), padded with zeros to keep the size.

  Without a kernel: on an H100 cuDNN took 56 us where a kernel took 67 (128 -> 32 channels, bfloat16).
  """
  return convolution_3x3(activation(z, affine, mask), kernel, dilation=dilation)


def convolution_3x3(a: Maps, kernel: Kernel, *, dilation: int, output_first: bool = False) -> Maps:
  """A 3x3 convolution, padded with zeros to keep the size.

  With `output_first` the kernel is `[k, 3, 3, ci]`, as cuDNN reads it; or else it is transposed every time.
  """
  dot_kernel = kernel.transpose(1, 2, 3, 0) if output_first else kernel
  plain = functools.partial(_convolution, dilation=dilation, layout='OHWI' if output_first else 'HWIO')
  return lax.platform_dependent(
    *(a, kernel, dot_kernel),
    cpu=lambda a, _, kernel: _convolution_as_dots(a, kernel, dilation),
    default=lambda a, kernel, _: plain(a, kernel),
  )


@_or_by_kernel(_3X3_FORWARD, differentiable=True)
def bn_relu_conv_into(
  z: Maps,
  affine: Affine | None,
  kernel: Kernel,
  mask: Mask,
  features: Maps,
  *,
  channel: int,
  dilation: int,
  output_first: bool = False,
  with_moments: bool = True,
) -> tuple[Maps, Moments | None]:
  """`features` with `bn_relu_conv` in its channels from `channel` on, and the moments of these.

  Without an affine map, z is activated already. `output_first`: see `convolution_3x3`.
  """
  a = masked(z, mask) if affine is None else activation(z, affine, mask)
  y = convolution_3x3(a, kernel, dilation=dilation, output_first=output_first)
  features = lax.dynamic_update_slice(features, y, (0, 0, 0, channel))
  return features, moments(y, mask) if with_moments else None


@_or_by_kernel(_3X3_BACKWARD, cpu_form=cpu_tiles.bn_relu_conv_backward)
def bn_relu_conv_backward(
  z: Maps, affine: Affine, kernel: Kernel, mask: Mask, output_gradient: Maps, *, dilation: int
) -> tuple[Maps, Kernel, Sums]:
  """The backward pass of `bn_relu_conv`; `output_gradient` is 0 where the mask does not hold.

  Both gradients are matrix products with the nine shifted copies of `output_gradient`. XLA's own weight
  gradient of a dilated convolution was measured 8 times slower on an H100.

  Returns:
    The gradient of affine(z), the kernel's gradient in the type of sums, and the sums over the former.
  """
  _, _, channels, features = kernel.shape
  a = activation(z, affine, mask)
  shifted = lax.optimization_barrier(
    jnp.concatenate([_shift(output_gradient, -i * dilation, -j * dilation) for i, j in TAPS], -1)
  )
  by_tap = kernel.transpose(0, 1, 3, 2).reshape(9 * features, channels)
  g = jnp.where(a > 0, _dot(shifted, by_tap, z.dtype), 0)
  kernel_gradient = _sum_of_products(a, shifted).reshape(channels, 3, 3, features).transpose(1, 2, 0, 3)
  return g, kernel_gradient, _sums(g.astype(affine.scale.dtype), z, affine)


def _supports(
  module: ModuleType, x: Maps, _: Any, kernel: Kernel | Sequence[Kernel], __: Any, *others: Any
) -> bool:
  buffers = others if module is mosaic_3x3_forward else ()
  return module.supports(x, kernel[0] if isinstance(kernel, list | tuple) else kernel, *buffers)


def _dot(x: Maps, kernel: Kernel, dtype: DTypeLike) -> Maps:
  return lax.dot_general(x, kernel, (((3,), (0,)), ((), ())), preferred_element_type=dtype)


def _sum_of_products(a: Maps, b: Maps) -> Kernel:
  """[ca, cb]: a^T b, summed over all positions."""
  contracted = ((_POSITIONS, _POSITIONS), ((), ()))
  return lax.dot_general(a, b, contracted, preferred_element_type=accumulation_dtype(a.dtype))


def _sums(g: Maps, x: Maps, affine: Affine) -> Sums:
  return jnp.sum(g, _POSITIONS), jnp.sum(g * (x.astype(g.dtype) - affine.mean), _POSITIONS)


def _shift(x: Maps, rows: int, columns: int) -> Maps:
  """Position (i, j) holds x at (i + rows, j + columns), 0 outside."""
  height, width = x.shape[1:3]
  if abs(rows) >= height or abs(columns) >= width:
    return jnp.zeros_like(x)
  pads = [(max(-n, 0), max(n, 0)) for n in (rows, columns)]
  x = x[:, max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)]
  return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _convolution(a: Maps, kernel: Kernel, dilation: int, layout: str) -> Maps:
  return lax.conv_general_dilated(
    *(a, kernel, (1, 1), [(dilation, dilation)] * 2),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', layout, 'NHWC'),
  )


def _convolution_as_dots(a: Maps, kernel: Kernel, dilation: int) -> Maps:
  """A matrix product for each tap, summed as rows and then as columns are shifted: the fastest on a CPU."""

  def column(j: int) -> Maps:
    return sum(_shift(_dot(a, kernel[i + 1, j + 1], a.dtype), i * dilation, 0) for i in (-1, 0, 1))

  return sum(_shift(lax.optimization_barrier(column(j)), 0, j * dilation) for j in (-1, 0, 1))
