"""MobileNetV3 as a feature extractor, at output stride 8, 16 or 32 (torchvision/models/mobilenetv3.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.extractors.inverted_residual import MOMENTUM, ConvNorm, InvertedResidual
from dense_aspp_jax.models.layers import (
  Features,
  level_ends,
  rematerialized,
  strides_and_dilations,
)


class Block(NamedTuple):
  """One row of Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2."""

  kernel_size: int
  expanded_channels: int
  features: int
  squeeze_excite: bool
  hard_swish: bool  # else ReLU
  stride: int


MOBILENETS: dict[str, dict[str, Any]] = {
  'mobilenet_v3_large': dict(
    blocks=(
      Block(3, 16, 16, False, False, 1),
      Block(3, 64, 24, False, False, 2),
      Block(3, 72, 24, False, False, 1),
      Block(5, 72, 40, True, False, 2),
      Block(5, 120, 40, True, False, 1),
      Block(5, 120, 40, True, False, 1),
      Block(3, 240, 80, False, True, 2),
      Block(3, 200, 80, False, True, 1),
      Block(3, 184, 80, False, True, 1),
      Block(3, 184, 80, False, True, 1),
      Block(3, 480, 112, True, True, 1),
      Block(3, 672, 112, True, True, 1),
      Block(5, 672, 160, True, True, 2),
      Block(5, 960, 160, True, True, 1),
      Block(5, 960, 160, True, True, 1),
    ),
    classifier_channels=1280,
  ),
  'mobilenet_v3_small': dict(
    blocks=(
      Block(3, 16, 16, True, False, 2),
      Block(3, 72, 24, False, False, 2),
      Block(3, 88, 24, False, False, 1),
      Block(5, 96, 40, True, True, 2),
      Block(5, 240, 40, True, True, 1),
      Block(5, 240, 40, True, True, 1),
      Block(5, 120, 48, True, True, 1),
      Block(5, 144, 48, True, True, 1),
      Block(5, 288, 96, True, True, 2),
      Block(5, 576, 96, True, True, 1),
      Block(5, 576, 96, True, True, 1),
    ),
    classifier_channels=1024,
  ),
}


class MobileNetV3(nn.Module):
  """torchvision's `features`: stem, inverted residual blocks, a last 1x1 to six times the channels.

  Differs from torchvision at output strides below 32: there a block that loses its stride is dilated
  itself (its `dilated` option); here it keeps the dilation before it and the blocks behind it double it.
  Kernels are drawn with fan in, there with fan out.

  Attributes:
    blocks: The rows of the definition.
    classifier_channels: Width of the hidden layer in its ImageNet classifier; not used by the features.
    output_stride: Input pixels per feature-map pixel: 8, 16 or 32.
    momentum: Of the running statistics.
    dtype: Compute type; parameters and statistics are float32.
    implementation: One of `IMPLEMENTATIONS`.
    rematerialize: Whether the backward pass recomputes each block.
  """

  blocks: tuple[Block, ...]
  classifier_channels: int
  output_stride: int = 8
  momentum: float = MOMENTUM
  dtype: DTypeLike = jnp.float32
  implementation: str = 'fused'
  rematerialize: bool = False

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the features."""
    return self.output_stride

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps normalised images to features.

    Args:
      image: RGB, ImageNet mean and standard deviation taken out.
      train: Whether BN uses and updates batch statistics (collection 'batch_stats').
    """
    x = image.astype(self.dtype)
    x = ConvNorm(16, 3, self.dtype, nn.hard_swish, stride=2, momentum=self.momentum, name='stem')(x, train)
    layers = strides_and_dilations([2, *(b.stride for b in self.blocks)], self.output_stride)[1:]
    ends = level_ends([block.stride for block in self.blocks], stem_stride=2)
    maps = []
    for index, (block, (stride, dilation)) in enumerate(zip(self.blocks, layers, strict=True), start=1):
      x = rematerialized(InvertedResidual, self.rematerialize)(
        block.features,
        block.expanded_channels,
        block.kernel_size,
        nn.hard_swish if block.hard_swish else nn.relu,
        self.dtype,
        residual=block.stride == 1,
        stride=stride,
        dilation=dilation,
        implementation=self.implementation,
        momentum=self.momentum,
        squeezed_channels=_squeezed(block.expanded_channels) if block.squeeze_excite else 0,
        name=f'block{index}',
      )(x, train)
      maps.append(x)
    x = ConvNorm(6 * x.shape[-1], 1, self.dtype, nn.hard_swish, momentum=self.momentum, name='last')(x, train)
    return Features(maps[ends[4]], maps[ends[16]], x)


def _squeezed(channels: int) -> int:
  """A quarter of the channels, rounded to a multiple of 8 but not below 90 % of it."""
  target = channels // 4
  rounded = max(8, (target + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * target else rounded
