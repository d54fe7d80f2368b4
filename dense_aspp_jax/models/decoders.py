"""Optional parts of a network: a decoder with a skip connection, and an auxiliary head for training."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.layers import MOMENTUM, BatchNorm, Head, channel_dropout, convolution
from dense_aspp_jax.models.upsampling import upsample_bilinear

LOW_STRIDE = 4


class SkipDecoder(nn.Module):
  """Joins the features with those of stride 4, which locate thin and small objects.

  The decoder of DeepLabv3+ (Chen et al., ECCV 2018, section 3.1: features upsampled, low level reduced to
  48 channels, 3x3), but narrower and with a single 3x3 convolution. Neither in the slides nor in the paper.

  Attributes:
    width: Channels of the reduced features and of the result.
    low_width: Channels that the features of stride 4 are reduced to.
    implementation: One of `IMPLEMENTATIONS`.
  """

  width: int = 128
  low_width: int = 48
  implementation: str = 'fused'
  momentum: float = MOMENTUM
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, features: Float[Array, 'b fh fw c'], low: Float[Array, 'b lh lw c1'], train: bool
  ) -> Float[Array, 'b lh lw width']:
    """Maps features of DenseASPP and of stride 4 to `width` channels at stride 4."""

    def reduce(x: jax.Array, width: int, kernel_size: int, name: str) -> jax.Array:
      shared = {'implementation': self.implementation, 'dtype': self.dtype}
      x = convolution(width, kernel_size, **shared, name=f'{name}_conv')(x)
      norm = BatchNorm(momentum=self.momentum, dtype=self.dtype, name=f'{name}_norm')
      return norm.activated(x, train, nn.relu, self.implementation)

    x = reduce(features, self.width, 1, 'project')
    height, width = low.shape[1:3]
    x = upsample_bilinear(x, (height, width), (height / x.shape[1], width / x.shape[2]))
    x = jnp.concatenate([x, reduce(low, self.low_width, 1, 'low')], axis=-1)
    return reduce(x, self.width, 3, 'fuse')


class AuxiliaryHead(nn.Module):
  """Auxiliary logits from the middle of the extractor, read only by the training loss.

  3x3 convolution to a quarter of the channels, BN, ReLU, dropout, 1x1 convolution: as PSPNet's (Zhao et al.,
  CVPR 2017, section 3.3) in torchvision/models/segmentation/fcn.py. Neither in the slides nor in the paper.

  Attributes:
    num_classes: Channels of the logits.
    dropout_rate: Probability that a channel is dropped in front of the last convolution.
    implementation: One of `IMPLEMENTATIONS`.
    dtype: Compute type; the logits are float32.
  """

  num_classes: int
  dropout_rate: float = 0.0
  implementation: str = 'fused'
  momentum: float = MOMENTUM
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h w classes']:
    """Maps features to logits at their resolution."""
    shared = {'implementation': self.implementation, 'dtype': self.dtype}
    x = convolution(x.shape[-1] // 4, 3, **shared, name='conv')(x)
    norm = BatchNorm(momentum=self.momentum, dtype=self.dtype, name='norm')
    x = norm.activated(x, train, nn.relu, self.implementation)
    x = channel_dropout(self.dropout_rate)(x, deterministic=not train)
    return Head(self.num_classes, implementation=self.implementation, name='logits')(x)
