"""One member of each family with few blocks, for comparisons that must be quick to compile."""

from dense_aspp_jax.models.extractors.convnext import ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DenseNet
from dense_aspp_jax.models.extractors.efficientnet_lite import EFFICIENTNET_LITES, EfficientNetLite
from dense_aspp_jax.models.extractors.mobilenet_v3 import MOBILENETS, MobileNetV3

_BLOCKS = MOBILENETS['mobilenet_v3_large'].blocks

SMALL_EXTRACTORS = {
  'small_densenet': DenseNet(
    growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16, output_stride=32
  ),
  # With and without expansion, squeeze and excitation, hard swish, identity; all five strides.
  'small_mobilenet_v3': MobileNetV3(
    blocks=tuple(_BLOCKS[i] for i in (0, 1, 3, 4, 6, 10, 12, 13)), classifier_channels=64, output_stride=32
  ),
  'small_convnext': ConvNeXt(num_blocks=(1, 1, 2, 1), channels=(16, 24, 32, 48), output_stride=32),
  'small_efficientnet_lite': EfficientNetLite(
    channels=EFFICIENTNET_LITES['efficientnet_lite0'].channels, num_blocks=(1,) * 7, output_stride=32
  ),
}
