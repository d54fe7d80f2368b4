"""DenseASPP: atrous convolutions of growing dilation, densely connected.

Yang et al., "DenseASPP for Semantic Segmentation in Street Scenes", CVPR 2018, section 3, with the widths
of the slides.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.dtypes import DType
from dense_aspp_jax.models.fused.dense_block import DenseBlockPlan
from dense_aspp_jax.models.fused.statistics import Moments, moments
from dense_aspp_jax.models.layer_variables import DenseLayerVariables, NormVariables, apply_dense_layers
from dense_aspp_jax.models.layers import (
  batch_norm,
  channel_dropout,
  check_formulation,
  convolution,
  rematerialized,
)


class AtrousLayer(nn.Module):
  """[BN]-ReLU-1x1-BN-ReLU-3x3 atrous, or [BN]-ReLU-3x3 atrous; returns only its new channels.

  Attributes:
    growth_rate: New channels.
    bottleneck_width: Channels between 1x1 and 3x3; 0 leaves the 1x1 out (slides, models #1 to #3).
    dilation: Dilation rate of the 3x3 convolution.
    leading_norm: Whether a BN stands in front.
    use_bias: Whether the convolutions have biases.
    dropout_rate: Probability that a new channel is dropped in training.
    dtype: Compute type.
  """

  growth_rate: int
  bottleneck_width: int
  dilation: int
  leading_norm: bool
  use_bias: bool
  dropout_rate: float
  dtype: DType

  @nn.compact
  def __call__(self, inputs: Sequence[Float[Array, 'b h w _']], train: bool) -> Float[Array, 'b h w growth']:
    """Maps all channels so far, the features' and the layers', to `growth_rate` new ones."""
    x = jnp.concatenate(inputs, axis=-1)
    if self.leading_norm:
      x = batch_norm(train, name='norm1', dtype=self.dtype)(x)
    x = nn.relu(x)
    if self.bottleneck_width:
      conv1 = convolution(self.bottleneck_width, 1, use_bias=self.use_bias, name='conv1', dtype=self.dtype)
      x = nn.relu(batch_norm(train, name='norm2', dtype=self.dtype)(conv1(x)))
    conv2 = convolution(
      self.growth_rate,
      3,
      dilation=self.dilation,
      use_bias=self.use_bias,
      name='conv2',
      dtype=self.dtype,
    )
    return channel_dropout(self.dropout_rate, 'dropout')(conv2(x), deterministic=not train)


class DenseASPP(nn.Module):
  """The cascade: layer i reads the features and the output of every earlier layer.

  Channels are concatenated old before new. The defaults are the slides'. The paper's network, as
  published (DeepMotionAIResearch/DenseASPP, models/DenseASPP.py), has `use_bias`, `rectify_features`, no
  `first_norm`, dropout 0.1 and other widths.

  Differs from the paper: BN has momentum 0.9 here; the published code has 0.9997 in these layers, which
  all but freezes the running statistics. Kernels are drawn from a normal distribution, there from a uniform
  one. Its order of channels, new before old, is undone on conversion.

  Attributes:
    dilation_rates: One atrous layer each, in this order.
    growth_rate: New channels per layer.
    bottleneck_width: See `AtrousLayer`.
    first_norm: Whether the first layer has a leading BN.
    final_norm: Whether the final concatenation gets a BN (no ReLU behind it; derived from the
      parameter count of the slides' model #5).
    use_bias: Whether the convolutions have biases.
    rectify_features: Whether the concatenation carries the features' positive part, as the published
      code does, whose first ReLU works in place. Off: the features as they are.
    dropout_rate: Probability that a layer's new channel is dropped in training.
    dtype: Compute type.
    formulation: One of `FORMULATIONS`.
    rematerialize: Whether the plain formulation's backward pass computes each layer again instead of reading
      what it saved; the fast one does so in any case.
  """

  dilation_rates: tuple[int, ...]
  growth_rate: int
  bottleneck_width: int
  first_norm: bool = True
  final_norm: bool = False
  use_bias: bool = False
  rectify_features: bool = False
  dropout_rate: float = 0.0
  dtype: DType = jnp.float32
  formulation: str = 'fast'
  rematerialize: bool = False

  def __post_init__(self):
    check_formulation(self.formulation)
    if not self.dilation_rates or min(self.dilation_rates) < 1:
      raise InputError(
        f'model.dilation_rates = {self.dilation_rates}: expected one or more rates of at least 1'
      )
    if self.growth_rate < 1 or self.bottleneck_width < 0:
      raise InputError(
        f'model.growth_rate = {self.growth_rate}, model.bottleneck_width = {self.bottleneck_width}: '
        'expected at least 1 and at least 0'
      )
    if not 0 <= self.dropout_rate < 1:
      raise InputError(f'model.dropout_rate = {self.dropout_rate}: expected at least 0, below 1')
    super().__post_init__()

  @nn.compact
  def __call__(self, features: Float[Array, 'b h w c'], train: bool = False) -> Float[Array, 'b h w c2']:
    """Appends len(dilation_rates) x growth_rate channels to `features`."""
    x = nn.relu(features) if self.rectify_features else features
    x, x_moments = self._fast(x, train) if self.formulation == 'fast' else (self._plain(x, train), None)
    if self.final_norm:
      x = self._final_norm(x, x_moments, train)
    return x

  def _plain(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h w c2']:
    layer_class = rematerialized(AtrousLayer, self.rematerialize)
    outputs = [x]
    for index, dilation in enumerate(self.dilation_rates, start=1):
      layer = layer_class(
        self.growth_rate,
        self.bottleneck_width,
        dilation,
        leading_norm=self.first_norm or index > 1,
        use_bias=self.use_bias,
        dropout_rate=self.dropout_rate,
        dtype=self.dtype,
        name=f'layer{index}',
      )
      outputs.append(layer(outputs, train))
    return jnp.concatenate(outputs, axis=-1)

  def _fast(self, x: Float[Array, 'b h w c'], train: bool) -> tuple[Float[Array, 'b h w c2'], Moments | None]:
    layers = [
      DenseLayerVariables(
        x.shape[-1] + index * self.growth_rate,
        self.growth_rate,
        self.bottleneck_width,
        leading_norm=self.first_norm or index > 0,
        use_bias=self.use_bias,
        dropout_rate=self.dropout_rate,
        name=f'layer{index + 1}',
      )
      for index in range(len(self.dilation_rates))
    ]
    return apply_dense_layers(layers, x, moments(x) if train else None, DenseBlockPlan(self.dilation_rates))

  def _final_norm(
    self, x: Float[Array, 'b h w c'], x_moments: Moments | None, train: bool
  ) -> Float[Array, 'b h w c']:
    if self.formulation == 'plain':
      return batch_norm(train, name='norm', dtype=self.dtype)(x)
    return NormVariables(x.shape[-1], name='norm')(x, x_moments)
