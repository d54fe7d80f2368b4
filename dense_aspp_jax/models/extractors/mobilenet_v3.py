"""MobileNetV3 as a feature extractor (torchvision/models/mobilenetv3.py)."""

from __future__ import annotations

import functools

import flax.linen as nn
from jaxtyping import Array, Float

from dense_aspp_jax.models.extractors.inverted_residual import Block, ConvNorm, InvertedResidualExtractor
from dense_aspp_jax.models.layers import Features


class MobileNetV3(InvertedResidualExtractor):
  """torchvision's `features`: stem, inverted residual blocks, a last 1x1 to six times the channels.

  Differs from torchvision at output strides below 32: there a block that loses its stride is dilated
  itself (its `dilated` option); here it keeps the dilation before it and the blocks behind it double it.
  Kernels are drawn with fan in, there with fan out.

  Attributes:
    blocks: The rows of the definition.
    classifier_channels: Width of the hidden layer in its ImageNet classifier; not used by the features.
  """

  blocks: tuple[Block, ...]
  classifier_channels: int

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps normalized images to features."""
    conv_norm = functools.partial(
      ConvNorm,
      activation=nn.hard_swish,
      implementation=self.implementation,
      momentum=self.momentum,
      dtype=self.dtype,
    )
    x = conv_norm(16, 3, stride=2, name='stem')(image.astype(self.dtype), train)
    blocks = {f'block{index}': block for index, block in enumerate(self.blocks, start=1)}
    features = self.run_blocks(x, blocks, train)
    last = conv_norm(6 * features.last.shape[-1], 1, name='last')(features.last, train)
    return features._replace(last=last)


# Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2, with their names of the activations.
_RE, _HS = nn.relu, nn.hard_swish
MOBILENETS = {
  'mobilenet_v3_large': MobileNetV3(
    blocks=(
      Block(3, 16, 16, False, _RE, 1),
      Block(3, 64, 24, False, _RE, 2),
      Block(3, 72, 24, False, _RE, 1),
      Block(5, 72, 40, True, _RE, 2),
      Block(5, 120, 40, True, _RE, 1),
      Block(5, 120, 40, True, _RE, 1),
      Block(3, 240, 80, False, _HS, 2),
      Block(3, 200, 80, False, _HS, 1),
      Block(3, 184, 80, False, _HS, 1),
      Block(3, 184, 80, False, _HS, 1),
      Block(3, 480, 112, True, _HS, 1),
      Block(3, 672, 112, True, _HS, 1),
      Block(5, 672, 160, True, _HS, 2),
      Block(5, 960, 160, True, _HS, 1),
      Block(5, 960, 160, True, _HS, 1),
    ),
    classifier_channels=1280,
  ),
  'mobilenet_v3_small': MobileNetV3(
    blocks=(
      Block(3, 16, 16, True, _RE, 2),
      Block(3, 72, 24, False, _RE, 2),
      Block(3, 88, 24, False, _RE, 1),
      Block(5, 96, 40, True, _HS, 2),
      Block(5, 240, 40, True, _HS, 1),
      Block(5, 240, 40, True, _HS, 1),
      Block(5, 120, 48, True, _HS, 1),
      Block(5, 144, 48, True, _HS, 1),
      Block(5, 288, 96, True, _HS, 2),
      Block(5, 576, 96, True, _HS, 1),
      Block(5, 576, 96, True, _HS, 1),
    ),
    classifier_channels=1024,
  ),
}
