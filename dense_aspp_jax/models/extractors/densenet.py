"""DenseNet as a feature extractor.

Parameter paths are torchvision's (torchvision/models/densenet.py, `features.*`): conv0, norm0,
denseblock1.denselayer1.norm1, ..., transition1.norm, norm5.
"""

from __future__ import annotations

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.fields import check_choice
from dense_aspp_jax.models.dense_layers import DenseLayer, dense_layers
from dense_aspp_jax.models.extractors.extractor import Extractor
from dense_aspp_jax.models.fused import ops, stem
from dense_aspp_jax.models.fused.statistics import Moments, moments
from dense_aspp_jax.models.layers import (
  MOMENTUM,
  BatchNorm,
  Features,
  avg_pool_2x2,
  convolution,
  kernel_and_bias,
  max_pool_3x3,
  rematerialized,
  strides_and_dilations,
)

LAST_LAYERS = ('denseblock2', 'transition2', 'denseblock3', 'transition3', 'norm5')


class DenseBlock(nn.Module):
  """`num_layers` of `DenseLayer`, all of one dilation; fused, they run in space-to-batch layout."""

  num_layers: int
  growth_rate: int
  bottleneck_width: int
  dilation: int
  momentum: float
  dtype: DTypeLike
  implementation: str
  rematerialize: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'], x_moments: Moments | None, train: bool
  ) -> tuple[Float[Array, 'b h w c2'], Moments | None]:
    """Appends num_layers x growth_rate channels to `x`; see `dense_layers`."""
    reference = self.implementation == 'reference'
    layer_class = rematerialized(DenseLayer, self.rematerialize and reference)
    layers = [
      layer_class(
        self.growth_rate,
        self.bottleneck_width,
        self.dilation,
        momentum=self.momentum,
        dtype=self.dtype,
        name=f'denselayer{index}',
      )
      for index in range(1, self.num_layers + 1)
    ]
    return dense_layers(
      self, layers, x, x_moments, train, implementation=self.implementation, phases=self.dilation
    )


class Transition(nn.Module):
  """BN-ReLU-1x1 that halves the channels, then 2x2 average pooling unless `pool` is off.

  The fused implementation pools before the 1x1 convolution: the two commute, and it costs a quarter.
  """

  pool: bool
  momentum: float
  dtype: DTypeLike
  fused: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'], x_moments: Moments | None, train: bool
  ) -> Float[Array, 'b h2 w2 c2']:
    """Halves channels and, with `pool`, height and width; the fused one reads the moments in training."""
    channels = x.shape[-1]
    norm = BatchNorm(momentum=self.momentum, dtype=self.dtype, name='norm')
    conv = convolution(channels // 2, 1, dtype=self.dtype, name='conv')
    if not self.fused:
      x = conv(nn.relu(norm(x, train)))
      return avg_pool_2x2(x) if self.pool else x
    kernel, _ = kernel_and_bias(conv, channels)
    a = nn.relu(norm.affine(channels, x_moments)(x))
    if self.pool:
      batch, height, width = a.shape[0], a.shape[1] // 2, a.shape[2] // 2
      a = a[:, : 2 * height, : 2 * width].reshape(batch, height, 2, width, 2, channels).mean((2, 4))
    return ops.dot(a.astype(x.dtype), kernel[0, 0].astype(x.dtype))


class DenseNet(Extractor):
  """DenseNet features (Huang et al., "Densely Connected Convolutional Networks", CVPR 2017).

  At output stride 8 the poolings of transitions 2 and 3 are left out and the blocks behind them are
  dilated by 2 and 4; at 16 that of transition 3, and block 4 is dilated by 2. The last BN has no ReLU behind
  it, as in torchvision's `features`. Takes any size as torchvision does.

  Attributes:
    growth_rate: New channels per dense layer (k).
    block_config: Dense layers in each of the four blocks.
    num_init_features: Channels of the stem.
    last_layer: Where the features are taken: one of `LAST_LAYERS`; None means 'norm5', all of DenseNet.
      The slides' model #1 has 'transition3' (no dense block 4), #2 'denseblock3'. 'denseblock2' has as
      many channels as 'transition3'.
    fourth_transition: Whether a transition without pooling halves the channels in front of norm5
      (DeepMotionAIResearch/DenseASPP, models/DenseASPP.py).
  """

  growth_rate: int
  block_config: tuple[int, ...]
  num_init_features: int
  last_layer: str | None = None
  fourth_transition: bool = False
  momentum: float = MOMENTUM

  def __post_init__(self):
    if self.last_layer is not None:
      check_choice('model.last_layer', self.last_layer, LAST_LAYERS)
    if self.fourth_transition and self.last_layer not in (None, 'norm5'):
      raise InputError(
        f'config.model.fourth_transition = True, config.model.last_layer = {self.last_layer!r}: '
        'a network that is cut has no fourth transition; set one of them only'
      )
    super().__post_init__()

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the last features: `output_stride` unless a pooling is cut off."""
    poolings = {'denseblock2': 1, 'transition2': 2, 'denseblock3': 2}.get(self.last_layer, 3)
    return min(self.output_stride, 4 * 2**poolings)

  @nn.compact
  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps normalized images to features."""
    fused = self.implementation != 'reference'
    shared = {'momentum': self.momentum, 'dtype': self.dtype}

    def moments_of(x: Float[Array, 'b h w c']) -> Moments | None:
      return moments(x) if fused and train else None

    x = image.astype(self.dtype)
    conv0 = convolution(self.num_init_features, 7, stride=2, dtype=self.dtype, name='conv0')
    norm0 = BatchNorm(**shared, name='norm0')
    if fused:
      x = stem.space_to_depth_convolution(x, kernel_and_bias(conv0, x.shape[-1])[0].astype(self.dtype))
      x = norm0.affine(self.num_init_features, moments_of(x))(x)
      x = stem.max_pool_saving_argmax(nn.relu(x).astype(self.dtype))
    else:
      x = max_pool_3x3(nn.relu(norm0(conv0(x), train)))
    x_moments = moments_of(x)
    # Conv and pooling of the stem, then per block 1 and its transition's pooling; the last has none.
    layers = strides_and_dilations([4, 1, 2, 1, 2, 1, 2, 1, 1], self.output_stride)[1:]
    widths = self.growth_rate, 4 * self.growth_rate  # torchvision's bn_size
    blocks = []
    for number, num_layers in enumerate(self.block_config, start=1):
      (_, dilation), (pool_stride, _) = layers[2 * number - 2 : 2 * number]
      x, x_moments = DenseBlock(
        *(num_layers, *widths, dilation),
        **shared,
        implementation=self.implementation,
        rematerialize=self.rematerialize,
        name=f'denseblock{number}',
      )(x, x_moments, train)
      blocks.append(x)
      if self.last_layer == f'denseblock{number}':
        break
      if number < len(self.block_config) or self.fourth_transition:
        transition = Transition(pool_stride == 2, **shared, fused=fused, name=f'transition{number}')
        x = transition(x, x_moments, train)
        x_moments = moments_of(x)
      if self.last_layer == f'transition{number}':
        break
    else:
      x = BatchNorm(**shared, name='norm5')(x, train, x_moments)
    return Features(blocks[0], blocks[2] if len(blocks) > 2 else None, x)


# The first four are Huang et al. 2017, table 1, as in torchvision; small and tiny are ours, with all four
# blocks, for CPUs and tests.
DENSENETS = {
  'densenet121': DenseNet(growth_rate=32, block_config=(6, 12, 24, 16), num_init_features=64),
  'densenet161': DenseNet(growth_rate=48, block_config=(6, 12, 36, 24), num_init_features=96),
  'densenet169': DenseNet(growth_rate=32, block_config=(6, 12, 32, 32), num_init_features=64),
  'densenet201': DenseNet(growth_rate=32, block_config=(6, 12, 48, 32), num_init_features=64),
  'densenet_small': DenseNet(growth_rate=16, block_config=(2, 3, 4, 3), num_init_features=32),
  'densenet_tiny': DenseNet(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8),
}
