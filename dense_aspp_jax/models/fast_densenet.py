"""The parts of DenseNet in their fast formulation; variables and mathematics are those of `densenet`."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.dense_block import DenseBlockPlan
from dense_aspp_jax.models.fused.statistics import Moments
from dense_aspp_jax.models.layer_variables import (
  ConvolutionVariables,
  DenseLayerVariables,
  NormVariables,
  apply_dense_layers,
)


class FastDenseBlock(nn.Module):
  """`DenseBlock` by `dense_block`; takes and returns the features' moments in training, else None."""

  num_layers: int
  growth_rate: int
  bottleneck_width: int
  dilation: int

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'], x_moments: Moments | None
  ) -> tuple[Float[Array, 'b h w c2'], Moments | None]:
    """Appends num_layers x growth_rate channels to `x`."""
    layers = [
      DenseLayerVariables(
        x.shape[-1] + index * self.growth_rate,
        self.growth_rate,
        self.bottleneck_width,
        name=f'denselayer{index + 1}',
      )
      for index in range(self.num_layers)
    ]
    return apply_dense_layers(layers, x, x_moments, DenseBlockPlan((1,) * self.num_layers, self.dilation))


class FastTransition(nn.Module):
  """`Transition` with the moments that the block before knows.

  The mean of 2x2 positions is taken before the 1x1 convolution: the two commute, and it costs a quarter.
  """

  pool: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], x_moments: Moments | None) -> Float[Array, 'b h2 w2 c2']:
    """Halves channels and, with `pool`, height and width."""
    channels = x.shape[-1]
    kernel, _ = ConvolutionVariables(channels // 2, 1, name='conv')(channels)
    a = nn.relu(NormVariables(channels, name='norm').affine(x_moments)(x))
    if self.pool:
      batch, height, width = a.shape[0], a.shape[1] // 2, a.shape[2] // 2
      a = a[:, : 2 * height, : 2 * width].reshape(batch, height, 2, width, 2, channels).mean((2, 4))
    return a.astype(x.dtype) @ kernel[0, 0].astype(x.dtype)
