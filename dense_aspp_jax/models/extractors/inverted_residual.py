"""The inverted residual block of MobileNetV3 and EfficientNet-Lite, and what it is built from."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.layers import BatchNorm, convolution

Activation = Callable[[jax.Array], jax.Array]

# Of both families: torchvision/models/mobilenetv3.py and TensorFlow's EfficientNet.
EPSILON = 1e-3
MOMENTUM = 0.99


class ConvNorm(nn.Module):
  """Convolution, BN and, if given, an activation.

  Attributes:
    features: Output channels.
    kernel_size: Side of the kernel.
    dtype: Compute type.
    activation: Applied last.
    stride: Stride of the convolution.
    dilation: Dilation of the convolution.
    depthwise: Whether each channel is convolved by itself.
    padding: See `layers.convolution`.
    implementation: See `layers.convolution`.
    momentum: Of the running statistics.
  """

  features: int
  kernel_size: int
  dtype: DTypeLike
  activation: Activation | None = None
  stride: int = 1
  dilation: int = 1
  depthwise: bool = False
  padding: str | None = None
  implementation: str = 'fused'
  momentum: float = MOMENTUM

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 c2']:
    """Maps `[b, h, w, c]` to `features` channels."""
    x = convolution(
      self.features,
      self.kernel_size,
      stride=self.stride,
      dilation=self.dilation,
      groups=self.features if self.depthwise else 1,
      padding=self.padding,
      implementation=self.implementation,
      dtype=self.dtype,
      name='conv',
    )(x)
    x = BatchNorm(momentum=self.momentum, epsilon=EPSILON, dtype=self.dtype, name='norm')(x, train)
    return self.activation(x) if self.activation else x


class SqueezeExcite(nn.Module):
  """Scales each channel by a function of all channels' means (ReLU, then hard sigmoid).

  Attributes:
    squeezed_channels: Channels in between.
    dtype: Compute type; the means are taken in float32.
  """

  squeezed_channels: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Scales `x`."""
    y = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype)
    y = nn.relu(convolution(self.squeezed_channels, 1, use_bias=True, name='fc1', dtype=self.dtype)(y))
    y = convolution(x.shape[-1], 1, use_bias=True, name='fc2', dtype=self.dtype)(y)
    return x * nn.hard_sigmoid(y)


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise convolution, squeeze and excitation, 1x1 projection.

  Attributes:
    features: Output channels.
    expanded_channels: Channels in between; as many as the input's: no expansion.
    kernel_size: Of the depthwise convolution.
    activation: Behind expansion and depthwise convolution.
    dtype: Compute type.
    residual: Whether the input is added, where it has as many channels as the output. False where the
      definition has stride 2, even if this network leaves the stride out.
    stride: Of the depthwise convolution.
    dilation: Of the depthwise convolution.
    squeezed_channels: Of squeeze and excitation; 0: there is none.
    padding: See `layers.convolution`.
    implementation: See `layers.convolution`.
    momentum: Of the running statistics.
  """

  features: int
  expanded_channels: int
  kernel_size: int
  activation: Activation
  dtype: DTypeLike
  residual: bool
  stride: int = 1
  dilation: int = 1
  squeezed_channels: int = 0
  padding: str | None = None
  implementation: str = 'fused'
  momentum: float = MOMENTUM

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 c2']:
    """Maps `[b, h, w, c]` to `features` channels."""
    conv_norm, y = functools.partial(ConvNorm, momentum=self.momentum), x
    if self.expanded_channels != x.shape[-1]:
      y = conv_norm(self.expanded_channels, 1, self.dtype, self.activation, name='expand')(y, train)
    y = conv_norm(
      self.expanded_channels,
      self.kernel_size,
      self.dtype,
      self.activation,
      stride=self.stride,
      dilation=self.dilation,
      depthwise=True,
      padding=self.padding,
      implementation=self.implementation,
      name='depthwise',
    )(y, train)
    if self.squeezed_channels:
      y = SqueezeExcite(self.squeezed_channels, self.dtype, name='squeeze_excite')(y)
    y = conv_norm(self.features, 1, self.dtype, name='project')(y, train)
    return x + y if self.residual and x.shape[-1] == self.features else y
