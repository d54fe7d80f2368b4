"""DenseASPP: atrous convolutions of growing dilation, densely connected.

Yang et al., "DenseASPP for Semantic Segmentation in Street Scenes", CVPR 2018, section 3, with the widths
of the slides.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.layers import DType, batch_norm, convolution


class AtrousLayer(nn.Module):
  """[BN]-ReLU-1x1-BN-ReLU-3x3 atrous, or [BN]-ReLU-3x3 atrous; returns only its new channels.

  Attributes:
    growth_rate: New channels.
    bottleneck_width: Channels between 1x1 and 3x3; 0 leaves the 1x1 out (slides, models #1 to #3).
    dilation: Dilation rate of the 3x3 convolution.
    leading_norm: Whether a BN stands in front.
    dtype: Compute type.
  """

  growth_rate: int
  bottleneck_width: int
  dilation: int
  leading_norm: bool
  dtype: DType

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h w growth']:
    """Maps all channels so far to `growth_rate` new ones."""
    if self.leading_norm:
      x = batch_norm(train, name='norm1', dtype=self.dtype)(x)
    x = nn.relu(x)
    if self.bottleneck_width:
      x = convolution(self.bottleneck_width, 1, name='conv1', dtype=self.dtype)(x)
      x = nn.relu(batch_norm(train, name='norm2', dtype=self.dtype)(x))
    return convolution(self.growth_rate, 3, dilation=self.dilation, name='conv2', dtype=self.dtype)(x)


class DenseASPP(nn.Module):
  """The cascade: layer i reads the features and the output of every earlier layer.

  Channels are concatenated old before new, and the features enter the concatenation as they are.
  Differs from the paper: no dropout, no biases, no fourth transition; widths 256/64, not 128/64.

  Attributes:
    dilation_rates: One atrous layer each, in this order.
    growth_rate: New channels per layer.
    bottleneck_width: See `AtrousLayer`.
    first_norm: Whether the first layer has a leading BN.
    final_norm: Whether the final concatenation gets a BN (no ReLU behind it; derived from the
      parameter count of the slides' model #5).
    dtype: Compute type.
  """

  dilation_rates: tuple[int, ...]
  growth_rate: int
  bottleneck_width: int
  first_norm: bool = True
  final_norm: bool = False
  dtype: DType = jnp.float32

  def __post_init__(self):
    if not self.dilation_rates or min(self.dilation_rates) < 1:
      raise InputError(
        f'model.dilation_rates = {self.dilation_rates}: expected one or more rates of at least 1'
      )
    if self.growth_rate < 1 or self.bottleneck_width < 0:
      raise InputError(
        f'model.growth_rate = {self.growth_rate}, model.bottleneck_width = {self.bottleneck_width}: '
        'expected at least 1 and at least 0'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, features: Float[Array, 'b h w c'], train: bool = False) -> Float[Array, 'b h w c2']:
    """Appends len(dilation_rates) x growth_rate channels to `features`."""
    x = features
    for index, dilation in enumerate(self.dilation_rates, start=1):
      layer = AtrousLayer(
        self.growth_rate,
        self.bottleneck_width,
        dilation,
        leading_norm=self.first_norm or index > 1,
        dtype=self.dtype,
        name=f'layer{index}',
      )
      x = jnp.concatenate([x, layer(x, train)], axis=-1)
    if self.final_norm:
      x = batch_norm(train, name='norm', dtype=self.dtype)(x)
    return x
