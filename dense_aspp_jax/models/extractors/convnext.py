"""ConvNeXt as a feature extractor, at output stride 8, 16 or 32 (torchvision/models/convnext.py)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.depthwise import depthwise_convolution
from dense_aspp_jax.models.layers import (
  Features,
  rematerialized,
  strides_and_dilations,
)

EPSILON = 1e-6  # of every layer normalisation
# torchvision's trunc_normal_ cuts off at 100 deviations: not at all.
_kernel_init = nn.initializers.normal(0.02)

# Blocks and channels of each stage (Liu et al., "A ConvNet for the 2020s", CVPR 2022, section 3), and
# torchvision's rate of stochastic depth.
CONVNEXTS: dict[str, dict[str, Any]] = {
  'convnext_tiny': dict(num_blocks=(3, 3, 9, 3), channels=(96, 192, 384, 768), stochastic_depth_rate=0.1),
  'convnext_small': dict(num_blocks=(3, 3, 27, 3), channels=(96, 192, 384, 768), stochastic_depth_rate=0.4),
  'convnext_base': dict(num_blocks=(3, 3, 27, 3), channels=(128, 256, 512, 1024), stochastic_depth_rate=0.5),
}


def _layer_norm(name: str, dtype: DTypeLike) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, use_fast_variance=False, name=name)


class ConvNeXtBlock(nn.Module):
  """Depthwise 7x7, layer normalisation, two linear layers with GELU, layer scale; added to the input.

  Attributes:
    dilation: Of the depthwise convolution.
    drop_rate: Probability that the block is left out for an image, in training (stochastic depth).
    dtype: Compute type.
    implementation: One of `IMPLEMENTATIONS`.
  """

  dilation: int
  drop_rate: float
  dtype: DTypeLike
  implementation: str = 'fused'

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h w c']:
    """Adds the block's function of `x` to `x`."""
    channels = x.shape[-1]
    y = nn.Conv(
      channels,
      (7, 7),
      padding=[(3 * self.dilation,) * 2] * 2,
      kernel_dilation=(self.dilation,) * 2,
      feature_group_count=channels,
      kernel_init=_kernel_init,
      conv_general_dilated=depthwise_convolution if self.implementation == 'fused' else None,
      dtype=self.dtype,
      name='depthwise',
    )(x)
    y = _layer_norm('norm', self.dtype)(y)
    y = nn.Dense(4 * channels, kernel_init=_kernel_init, dtype=self.dtype, name='linear1')(y)
    y = nn.gelu(y, approximate=False)
    y = nn.Dense(channels, kernel_init=_kernel_init, dtype=self.dtype, name='linear2')(y)
    y = y * self.param('layer_scale', nn.initializers.constant(1e-6), (channels,)).astype(self.dtype)
    y = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
    return x + y


class Downsample(nn.Module):
  """Layer normalisation and a 2x2 convolution.

  Without its stride the convolution is padded bottom and right, so that the size stays.

  Attributes:
    features: Output channels.
    stride: 2, or 1 where the stride is lost.
    dilation: Dilation of the convolution.
    dtype: Compute type.
  """

  features: int
  stride: int
  dilation: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c2']:
    """Maps `[b, h, w, c]` to `features` channels; a last odd row or column is dropped at stride 2."""
    x = _layer_norm('norm', self.dtype)(x)
    return nn.Conv(
      self.features,
      (2, 2),
      strides=(self.stride,) * 2,
      padding='VALID' if self.stride == 2 else [(0, self.dilation)] * 2,
      kernel_dilation=(self.dilation,) * 2,
      kernel_init=_kernel_init,
      dtype=self.dtype,
      name='conv',
    )(x)


class ConvNeXt(nn.Module):
  """torchvision's `features`: a 4x4 stem, four stages of blocks, 2x2 downsampling between them.

  Attributes:
    num_blocks: Blocks of each stage.
    channels: Channels of each stage.
    stochastic_depth_rate: Drop rate of the last block; that of the first is 0, linear in between.
    output_stride: Input pixels per feature-map pixel: 8, 16 or 32.
    dtype: Compute type; parameters are float32.
    implementation: One of `IMPLEMENTATIONS`.
    rematerialize: Whether the backward pass recomputes each block.
  """

  num_blocks: tuple[int, ...]
  channels: tuple[int, ...]
  stochastic_depth_rate: float = 0.0
  output_stride: int = 8
  dtype: DTypeLike = jnp.float32
  implementation: str = 'fused'
  rematerialize: bool = False

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the features."""
    return self.output_stride

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps normalised images to features, not normalised behind the last block.

    Args:
      image: RGB, ImageNet mean and standard deviation taken out.
      train: Whether blocks are left out at random (random numbers 'dropout').
    """
    x = nn.Conv(
      self.channels[0],
      (4, 4),
      strides=(4, 4),
      padding='VALID',
      kernel_init=_kernel_init,
      dtype=self.dtype,
      name='stem_conv',
    )(image.astype(self.dtype))
    x = _layer_norm('stem_norm', self.dtype)(x)
    # The strides of stem and downsampling; the blocks of a stage follow with stride 1.
    strides = [4] + [s for n in self.num_blocks[:-1] for s in (*(1,) * n, 2)] + [1] * self.num_blocks[-1]
    layers = iter(strides_and_dilations(strides, self.output_stride)[1:])
    num_blocks, done = sum(self.num_blocks), 0
    stages = []
    for stage, (blocks, channels) in enumerate(zip(self.num_blocks, self.channels, strict=True), start=1):
      if stage > 1:
        x = Downsample(channels, *next(layers), dtype=self.dtype, name=f'downsample{stage - 1}')(x)
      for block in range(1, blocks + 1):
        _, dilation = next(layers)
        drop_rate = self.stochastic_depth_rate * done / (num_blocks - 1)
        block_class = rematerialized(ConvNeXtBlock, self.rematerialize)
        name = f'stage{stage}_block{block}'
        x = block_class(dilation, drop_rate, self.dtype, self.implementation, name=name)(x, train)
        done += 1
      stages.append(x)
    return Features(stages[0], stages[2], x)
