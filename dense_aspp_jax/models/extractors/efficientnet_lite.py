"""EfficientNet-Lite as a feature extractor, at output stride 8, 16 or 32.

EfficientNet (Tan and Le, ICML 2019) with ReLU6 and without squeeze and excitation, from
tensorflow/tpu (models/official/efficientnet/lite); the reference here is timm's tf_efficientnet_lite.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.fields import check_choice
from dense_aspp_jax.models.extractors.inverted_residual import MOMENTUM, ConvNorm, InvertedResidual
from dense_aspp_jax.models.layers import (
  Features,
  level_ends,
  rematerialized,
  strides_and_dilations,
)

LAST_LAYERS = ('conv_head', 'blocks')

# Per stage: kernel size, stride of the first block, expansion.
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
# Channels and blocks of each stage: EfficientNet-B0's, times 1.0, 1.0, 1.1 and 1.0, 1.1, 1.2 (rounded;
# stem, head and the number of blocks of the first and last stage are not scaled).
EFFICIENTNET_LITES: dict[str, dict[str, Any]] = {
  'efficientnet_lite0': dict(channels=(16, 24, 40, 80, 112, 192, 320), num_blocks=(1, 2, 2, 3, 3, 4, 1)),
  'efficientnet_lite1': dict(channels=(16, 24, 40, 80, 112, 192, 320), num_blocks=(1, 3, 3, 4, 4, 5, 1)),
  'efficientnet_lite2': dict(channels=(16, 24, 48, 88, 120, 208, 352), num_blocks=(1, 3, 3, 4, 4, 5, 1)),
}


class EfficientNetLite(nn.Module):
  """Stem, seven stages of inverted residual blocks, 1x1 head; all padded as TensorFlow pads ('SAME').

  Differs from timm: kernels are drawn with fan in, there with fan out. As by default there, no stochastic
  depth.

  Attributes:
    channels: Output channels of each stage.
    num_blocks: Blocks of each stage.
    output_stride: Input pixels per feature-map pixel: 8, 16 or 32.
    last_layer: Where the features are taken: 'conv_head' (1280 channels; None means it too) or
      'blocks' (in front of it).
    momentum: Of the running statistics.
    dtype: Compute type; parameters and statistics are float32.
    implementation: One of `IMPLEMENTATIONS`.
    rematerialize: Whether the backward pass recomputes each block.
  """

  channels: tuple[int, ...]
  num_blocks: tuple[int, ...]
  output_stride: int = 8
  last_layer: str | None = None
  momentum: float = MOMENTUM
  dtype: DTypeLike = jnp.float32
  implementation: str = 'fused'
  rematerialize: bool = False

  def __post_init__(self):
    if self.last_layer is not None:
      check_choice('model.last_layer', self.last_layer, LAST_LAYERS)
    super().__post_init__()

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the features."""
    return self.output_stride

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps normalised images to features.

    Args:
      image: RGB, mean 0.5 and standard deviation 0.5 taken out.
      train: Whether BN uses and updates batch statistics (collection 'batch_stats').
    """
    x = image.astype(self.dtype)
    conv_norm = functools.partial(ConvNorm, dtype=self.dtype, activation=nn.relu6, momentum=self.momentum)
    x = conv_norm(32, 3, stride=2, padding='SAME', name='stem')(x, train)
    blocks = [
      (f'stage{stage}_block{block}', kernel_size, stride if block == 1 else 1, expansion, channels)
      for stage, ((kernel_size, stride, expansion), channels, num_blocks) in enumerate(
        zip(_STAGES, self.channels, self.num_blocks, strict=True), start=1
      )
      for block in range(1, num_blocks + 1)
    ]
    layers = strides_and_dilations([2, *(block[2] for block in blocks)], self.output_stride)[1:]
    ends = level_ends([block[2] for block in blocks], stem_stride=2)
    maps = []
    for block, (stride, dilation) in zip(blocks, layers, strict=True):
      name, kernel_size, defined_stride, expansion, channels = block
      x = rematerialized(InvertedResidual, self.rematerialize)(
        channels,
        expansion * x.shape[-1],
        kernel_size,
        nn.relu6,
        self.dtype,
        residual=defined_stride == 1,
        stride=stride,
        dilation=dilation,
        implementation=self.implementation,
        momentum=self.momentum,
        padding='SAME',
        name=name,
      )(x, train)
      maps.append(x)
    if self.last_layer != 'blocks':
      x = conv_norm(1280, 1, name='conv_head')(x, train)
    return Features(maps[ends[4]], maps[ends[16]], x)
