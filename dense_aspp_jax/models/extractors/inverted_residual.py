"""The inverted residual blocks of MobileNetV3 and EfficientNet-Lite."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.extractors.extractor import Extractor
from dense_aspp_jax.models.fused.batch_norm import Activation
from dense_aspp_jax.models.fused.inverted_residual import ConvNormArrays, expanded_depthwise
from dense_aspp_jax.models.fused.window import Window
from dense_aspp_jax.models.layers import (
  BatchNorm,
  Features,
  convolution,
  kernel_and_bias,
  rematerialized,
  strides_and_dilations,
)

# Of both families: torchvision/models/mobilenetv3.py and TensorFlow's EfficientNet.
EPSILON = 1e-3
MOMENTUM = 0.99


class Block(NamedTuple):
  """An inverted residual block as it is defined for ImageNet."""

  kernel_size: int  # of the depthwise convolution
  expanded_channels: int
  features: int
  squeeze_excite: bool
  activation: Activation
  stride: int


class ConvNorm(nn.Module):
  """Convolution, BN and, if given, an activation; kernel to padding are those of `layers.convolution`."""

  features: int
  kernel_size: int
  activation: Activation | None = None
  stride: int = 1
  dilation: int = 1
  implementation: str = 'fused'
  depthwise: bool = False
  padding: str | None = None
  momentum: float = MOMENTUM
  dtype: DTypeLike = jnp.float32

  def setup(self):
    """Declares convolution and BN."""
    self.conv = convolution(
      self.features,
      self.kernel_size,
      stride=self.stride,
      dilation=self.dilation,
      implementation=self.implementation,
      depthwise=self.depthwise,
      padding=self.padding,
      dtype=self.dtype,
    )
    self.norm = BatchNorm(momentum=self.momentum, epsilon=EPSILON, dtype=self.dtype)

  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 features']:
    """Maps one feature map to the next."""
    return self.norm.activated(self.conv(x), train, self.activation, self.implementation)

  def arrays(self, channels: int) -> ConvNormArrays:
    """What inference needs of it, for an input of `channels` channels."""
    kernel, _ = kernel_and_bias(self.conv, channels)
    return ConvNormArrays(kernel.astype(self.dtype), self.norm.affine(self.features, None))

  def window(self, size: tuple[int, int]) -> Window:
    """How the kernel moves over a map of this size."""
    conv = self.conv
    return Window.of(size, conv.kernel_size, conv.strides, conv.padding, conv.kernel_dilation)


def squeezed_channels(channels: int) -> int:
  """A quarter of the channels, rounded to a multiple of 8 but not below 90 % of it."""
  quarter = channels // 4
  squeezed = max(8, (quarter + 4) // 8 * 8)
  return squeezed + 8 if squeezed < 0.9 * quarter else squeezed


class SqueezeExcite(nn.Module):
  """Scales each channel by a function of all channels' means (ReLU, then hard sigmoid).

  `squeezed_channels` lie in between. The means are taken in float32.
  """

  implementation: str
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Scales `x`."""
    conv = functools.partial(
      convolution, kernel_size=1, use_bias=True, implementation=self.implementation, dtype=self.dtype
    )
    y = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype)
    y = nn.relu(conv(squeezed_channels(x.shape[-1]), name='fc1')(y))
    y = conv(x.shape[-1], name='fc2')(y)
    return x * nn.hard_sigmoid(y)


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise convolution, squeeze and excitation, 1x1 projection.

  The input is added where the definition has stride 1, even if other strides are left out here, and as many
  channels go in as come out. As many expanded channels as the input's: no expansion.

  Attributes:
    block: The definition.
    stride: Of the depthwise convolution; 1 where that of the definition is left out.
    dilation: Of the depthwise convolution.
    padding: Of the depthwise convolution, see `layers.convolution`.
    implementation: One of `IMPLEMENTATIONS`.
  """

  block: Block
  stride: int
  dilation: int
  padding: str | None
  implementation: str
  momentum: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 c2']:
    """Maps one feature map to the next."""
    kernel_size, expanded_channels, features, squeeze_excite, activation, defined_stride = self.block
    shared = {'implementation': self.implementation, 'dtype': self.dtype}
    conv_norm, expand = functools.partial(ConvNorm, momentum=self.momentum, **shared), None
    if expanded_channels != x.shape[-1]:
      expand = conv_norm(expanded_channels, 1, activation, name='expand')
    depthwise = conv_norm(
      expanded_channels,
      kernel_size,
      activation,
      stride=self.stride,
      dilation=self.dilation,
      depthwise=True,
      padding=self.padding,
      name='depthwise',
    )
    if train or self.implementation == 'reference':
      y = depthwise(expand(x, train) if expand else x, train)
    else:
      arrays = expand and expand.arrays(x.shape[-1]), depthwise.arrays(expanded_channels)
      y = expanded_depthwise(x, *arrays, depthwise.window(x.shape[1:3]), activation)
    if squeeze_excite:
      y = SqueezeExcite(**shared, name='squeeze_excite')(y)
    y = conv_norm(features, 1, name='project')(y, train)
    return x + y if defined_stride == 1 and x.shape[-1] == features else y


class InvertedResidualExtractor(Extractor, kw_only=True):
  """An extractor that is a stem of stride 2, inverted residual blocks and a 1x1 convolution."""

  momentum: float = MOMENTUM

  def run_blocks(
    self,
    x: Float[Array, 'b h w c'],
    blocks: Mapping[str, Block],
    train: bool,
    padding: str | None = None,
  ) -> Features:
    """Runs the blocks, which are given by name, on the stem's output."""
    layers = strides_and_dilations([2, *(block.stride for block in blocks.values())], self.output_stride)[1:]
    defined_stride, last_at = 2, {}
    for (name, block), (stride, dilation) in zip(blocks.items(), layers, strict=True):
      x = rematerialized(InvertedResidual, self.rematerialize)(
        block, stride, dilation, padding, self.implementation, self.momentum, self.dtype, name=name
      )(x, train)
      defined_stride *= block.stride
      last_at[defined_stride] = x
    return Features(last_at[4], last_at[16], x)
