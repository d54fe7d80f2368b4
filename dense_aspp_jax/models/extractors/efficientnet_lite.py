"""EfficientNet-Lite as a feature extractor.

EfficientNet (Tan and Le, ICML 2019) with ReLU6 and without squeeze and excitation, from
tensorflow/tpu (models/official/efficientnet/lite); the reference here is timm's tf_efficientnet_lite.
"""

from __future__ import annotations

import functools

import flax.linen as nn
from jaxtyping import Array, Float

from dense_aspp_jax.fields import check_choice
from dense_aspp_jax.models.extractors.inverted_residual import Block, ConvNorm, InvertedResidualExtractor
from dense_aspp_jax.models.layers import Features

LAST_LAYERS = ('conv_head', 'blocks')

# Per stage: kernel size, stride of the first block, expansion.
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
_STEM_CHANNELS = 32


class EfficientNetLite(InvertedResidualExtractor):
  """Stem, seven stages of inverted residual blocks, 1x1 head; all padded as TensorFlow pads ('SAME').

  Differs from timm: kernels are drawn with fan in, there with fan out. As by default there, no stochastic
  depth.

  Attributes:
    channels: Output channels of each stage.
    num_blocks: Blocks of each stage.
    last_layer: Where the features are taken: 'conv_head' (1280 channels; None means it too) or
      'blocks' (in front of it).
  """

  channels: tuple[int, ...]
  num_blocks: tuple[int, ...]
  last_layer: str | None = None

  def __post_init__(self):
    if self.last_layer is not None:
      check_choice('model.last_layer', self.last_layer, LAST_LAYERS)
    super().__post_init__()

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps normalized images to features."""
    conv_norm = functools.partial(
      ConvNorm,
      activation=nn.relu6,
      implementation=self.implementation,
      momentum=self.momentum,
      dtype=self.dtype,
    )
    x = conv_norm(_STEM_CHANNELS, 3, stride=2, padding='SAME', name='stem')(image.astype(self.dtype), train)
    features = self.run_blocks(x, self.blocks(), train, padding='SAME')
    if self.last_layer == 'blocks':
      return features
    return features._replace(last=conv_norm(1280, 1, name='conv_head')(features.last, train))

  def blocks(self) -> dict[str, Block]:
    """Its inverted residual blocks by name, as they are defined for ImageNet."""
    blocks, channels_in = {}, _STEM_CHANNELS
    stages = zip(_STAGES, self.channels, self.num_blocks, strict=True)
    for stage, ((kernel_size, stride, expansion), channels, num_blocks) in enumerate(stages, start=1):
      for block in range(1, num_blocks + 1):
        blocks[f'stage{stage}_block{block}'] = Block(
          kernel_size, expansion * channels_in, channels, False, nn.relu6, stride if block == 1 else 1
        )
        channels_in = channels
    return blocks


# Channels and blocks of each stage: EfficientNet-B0's, times 1.0, 1.0, 1.1 and 1.0, 1.1, 1.2 (rounded;
# stem, head and the number of blocks of the first and last stage are not scaled).
EFFICIENTNET_LITES = {
  'efficientnet_lite0': EfficientNetLite((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
  'efficientnet_lite1': EfficientNetLite((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
  'efficientnet_lite2': EfficientNetLite((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}
