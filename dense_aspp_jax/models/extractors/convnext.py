"""ConvNeXt as a feature extractor (torchvision/models/convnext.py)."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.extractors.extractor import Extractor
from dense_aspp_jax.models.fused.separate import separately
from dense_aspp_jax.models.layers import Features, convolution, rematerialized, strides_and_dilations

EPSILON = 1e-6  # of every layer normalization
# torchvision's trunc_normal_ cuts off at 100 deviations: not at all.
_kernel_init = nn.initializers.normal(0.02)


def _convolution(features: int, kernel_size: int, **fields: Any) -> nn.Conv:
  return convolution(features, kernel_size, use_bias=True, kernel_init=_kernel_init, **fields)


class LayerNorm(nn.LayerNorm):
  """The fused form is separate from what follows, where XLA's CPU compiler would repeat it."""

  implementation: str = 'fused'

  def __call__(self, x: Float[Array, '... c']) -> Float[Array, '... c']:
    """Normalizes each position over its channels."""
    if self.implementation == 'reference' or self.is_initializing():
      return super().__call__(x)
    how = {'epsilon': self.epsilon, 'dtype': self.dtype, 'use_fast_variance': self.use_fast_variance}
    return separately(nn.LayerNorm(**how, parent=None).apply, self.variables, x)


def _layer_norm(name: str, dtype: DTypeLike, implementation: str) -> LayerNorm:
  how = {'dtype': dtype, 'implementation': implementation, 'name': name}
  return LayerNorm(epsilon=EPSILON, use_fast_variance=False, **how)


class ConvNeXtBlock(nn.Module):
  """Depthwise 7x7, layer normalization, two linear layers with GELU, layer scale; added to the input.

  Attributes:
    dilation: Of the depthwise convolution.
    drop_rate: Probability that the block is left out for an image, in training (stochastic depth).
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
    dense = functools.partial(nn.Dense, kernel_init=_kernel_init, dtype=self.dtype)
    y = _convolution(
      *(channels, 7),
      dilation=self.dilation,
      implementation=self.implementation,
      depthwise=True,
      dtype=self.dtype,
      name='depthwise',
    )(x)
    y = _layer_norm('norm', self.dtype, self.implementation)(y)
    y = dense(4 * channels, name='linear1')(y)
    y = nn.gelu(y, approximate=False)
    y = dense(channels, name='linear2')(y)
    y = y * self.param('layer_scale', nn.initializers.constant(1e-6), (channels,)).astype(self.dtype)
    y = nn.Dropout(self.drop_rate, broadcast_dims=(1, 2, 3), deterministic=not train)(y)
    return x + y


class Downsample(nn.Module):
  """Layer normalization and a 2x2 convolution to `features` channels.

  Without its stride the convolution is padded bottom and right, so that the size stays; at stride 2 a last
  odd row or column is dropped.
  """

  features: int
  stride: int
  dilation: int
  dtype: DTypeLike
  implementation: str

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 features']:
    """Maps a stage's features to the next stage's input."""
    padding = 'VALID' if self.stride == 2 else [(0, self.dilation)] * 2
    how = {'stride': self.stride, 'dilation': self.dilation, 'padding': padding, 'dtype': self.dtype}
    x = _layer_norm('norm', self.dtype, self.implementation)(x)
    return _convolution(self.features, 2, **how, name='conv')(x)


class ConvNeXt(Extractor):
  """torchvision's `features`: a 4x4 stem, four stages of blocks, 2x2 downsampling between them.

  The last features are not normalized. Liu et al., "A ConvNet for the 2020s", CVPR 2022.

  Attributes:
    num_blocks: Blocks of each stage.
    channels: Channels of each stage.
    stochastic_depth_rate: Drop rate of the last block; that of the first is 0, linear in between.
  """

  num_blocks: tuple[int, ...]
  channels: tuple[int, ...]
  stochastic_depth_rate: float = 0.0

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps normalized images to features."""
    how = {'stride': 4, 'padding': 'VALID', 'dtype': self.dtype}
    stem = _convolution(self.channels[0], 4, **how, name='stem_conv')
    x = _layer_norm('stem_norm', self.dtype, self.implementation)(stem(image.astype(self.dtype)))
    shared = {'dtype': self.dtype, 'implementation': self.implementation}
    # The stem, and for each stage its downsampling and its blocks, of which all have one dilation.
    layers = strides_and_dilations([4, *(1, 1), *(2, 1) * 3], self.output_stride)[1:]
    block_class, done, stages = rematerialized(ConvNeXtBlock, self.rematerialize), 0, []
    for stage, (num_blocks, channels) in enumerate(zip(self.num_blocks, self.channels, strict=True), start=1):
      downsampling, (_, dilation) = layers[2 * stage - 2 : 2 * stage]
      if stage > 1:
        x = Downsample(channels, *downsampling, **shared, name=f'downsample{stage - 1}')(x)
      for block in range(1, num_blocks + 1):
        drop_rate = self.stochastic_depth_rate * done / (sum(self.num_blocks) - 1)
        name = f'stage{stage}_block{block}'
        x = block_class(dilation, drop_rate, **shared, name=name)(x, train)
        done += 1
      stages.append(x)
    return Features(stages[0], stages[2], x)


# Section 3 of the paper, and torchvision's rates of stochastic depth.
CONVNEXTS = {
  'convnext_tiny': ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), stochastic_depth_rate=0.1),
  'convnext_small': ConvNeXt((3, 3, 27, 3), (96, 192, 384, 768), stochastic_depth_rate=0.4),
  'convnext_base': ConvNeXt((3, 3, 27, 3), (128, 256, 512, 1024), stochastic_depth_rate=0.5),
}
