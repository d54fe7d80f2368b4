"""DenseASPP: atrous convolutions of growing dilation, densely connected.

Yang et al., "DenseASPP for Semantic Segmentation in Street Scenes", CVPR 2018, section 3, with the widths
of the slides.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.dense_layers import DenseLayer, dense_layers
from dense_aspp_jax.models.fused.statistics import moments
from dense_aspp_jax.models.layers import MOMENTUM, BatchNorm, rematerialized


class DenseASPP(nn.Module):
  """The cascade: layer i reads the features and the output of every earlier layer.

  Channels are concatenated old before new. The defaults are the slides'. The paper's network, as
  published (DeepMotionAIResearch/DenseASPP, models/DenseASPP.py), has `use_bias`, `rectify_features`, no
  `first_norm`, dropout 0.1 and other widths.

  Differs from the paper: BN has momentum 0.9 here; the published code has 0.9997 in these layers, which
  all but freezes the running statistics. Kernels are drawn from a normal distribution, there from a uniform
  one. Its order of channels, new before old, is undone on conversion.

  Attributes:
    dilation_rates: One atrous layer each, in this order; none: the features alone, for comparison.
    growth_rate: New channels per layer.
    bottleneck_width: Channels of the 1x1 convolution in front of each 3x3; 0: there is none.
    first_norm: Whether the first layer has a leading BN.
    final_norm: Whether the final concatenation gets a BN (no ReLU behind it; derived from the
      parameter count of the slides' model #5).
    use_bias: Whether the convolutions have biases.
    rectify_features: Whether the concatenation carries the rectified features, as in the published code,
      whose first ReLU works in place.
    dropout_rate: Probability that a layer's new channel is dropped in training.
    implementation: One of `IMPLEMENTATIONS`.
    rematerialize: Whether the backward pass of the reference implementation recomputes each layer; that of
      the fused one always does.
  """

  dilation_rates: tuple[int, ...]
  growth_rate: int
  bottleneck_width: int
  first_norm: bool = True
  final_norm: bool = False
  use_bias: bool = False
  rectify_features: bool = False
  dropout_rate: float = 0.0
  momentum: float = MOMENTUM
  dtype: DTypeLike = jnp.float32
  implementation: str = 'fused'
  rematerialize: bool = False

  @nn.compact
  def __call__(self, features: Float[Array, 'b h w c'], train: bool = False) -> Float[Array, 'b h w c2']:
    """Appends len(dilation_rates) x growth_rate channels to `features`."""
    fused = self.implementation != 'reference'
    x = nn.relu(features) if self.rectify_features else features
    layer_class = rematerialized(DenseLayer, self.rematerialize and not fused)
    layers = [
      layer_class(
        self.growth_rate,
        self.bottleneck_width,
        dilation,
        leading_norm=self.first_norm or index > 1,
        use_bias=self.use_bias,
        dropout_rate=self.dropout_rate,
        momentum=self.momentum,
        dtype=self.dtype,
        name=f'layer{index}',
      )
      for index, dilation in enumerate(self.dilation_rates, start=1)
    ]
    x_moments = moments(x) if fused and train else None
    if layers:
      x, x_moments = dense_layers(self, layers, x, x_moments, train, implementation=self.implementation)
    if not self.final_norm:
      return x
    return BatchNorm(momentum=self.momentum, dtype=self.dtype, name='norm')(x, train, x_moments)
