"""DenseNet as a feature extractor, at output stride 8, 16 or 32.

Parameter paths are torchvision's (torchvision/models/densenet.py, `features.*`): conv0, norm0,
denseblock1.denselayer1.norm1, ..., transition1.norm, norm5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.decoders import Levels
from dense_aspp_jax.models.dtypes import DType
from dense_aspp_jax.models.fast_densenet import FastDenseBlock, FastTransition
from dense_aspp_jax.models.fused import stem
from dense_aspp_jax.models.fused.statistics import moments
from dense_aspp_jax.models.layer_variables import ConvolutionVariables, NormVariables
from dense_aspp_jax.models.layers import (
  avg_pool_2x2,
  batch_norm,
  check_formulation,
  check_output_stride,
  convolution,
  max_pool_3x3,
  rematerialized,
  strides_and_dilations,
)

LAST_LAYERS = ('denseblock2', 'transition2', 'denseblock3', 'transition3', 'norm5')

# Growth rate, layers per block, stem channels. The first four are Huang et al. 2017, table 1, as in
# torchvision; small and tiny are ours, with all four blocks, for CPUs and tests.
DENSENETS: dict[str, dict[str, int | tuple[int, ...]]] = {
  'densenet121': dict(growth_rate=32, block_config=(6, 12, 24, 16), num_init_features=64),
  'densenet161': dict(growth_rate=48, block_config=(6, 12, 36, 24), num_init_features=96),
  'densenet169': dict(growth_rate=32, block_config=(6, 12, 32, 32), num_init_features=64),
  'densenet201': dict(growth_rate=32, block_config=(6, 12, 48, 32), num_init_features=64),
  'densenet_small': dict(growth_rate=16, block_config=(2, 3, 4, 3), num_init_features=32),
  'densenet_tiny': dict(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8),
}


class DenseLayer(nn.Module):
  """BN-ReLU-1x1-BN-ReLU-3x3; returns only its new channels.

  Attributes:
    growth_rate: New channels.
    bottleneck_width: Channels between the two convolutions.
    dilation: Dilation of the 3x3 convolution.
    dtype: Compute type.
  """

  growth_rate: int
  bottleneck_width: int
  dilation: int
  dtype: DType

  @nn.compact
  def __call__(self, inputs: Sequence[Float[Array, 'b h w _']], train: bool) -> Float[Array, 'b h w growth']:
    """Maps all channels so far to `growth_rate` new ones.

    Args:
      inputs: The block's input and the layers' outputs. Concatenated here, so that a layer that is computed
        again in the backward pass keeps none of it.
      train: Whether BN uses and updates batch statistics.
    """
    x = jnp.concatenate(inputs, axis=-1)
    x = nn.relu(batch_norm(train, name='norm1', dtype=self.dtype)(x))
    x = convolution(self.bottleneck_width, 1, name='conv1', dtype=self.dtype)(x)
    x = nn.relu(batch_norm(train, name='norm2', dtype=self.dtype)(x))
    return convolution(self.growth_rate, 3, dilation=self.dilation, name='conv2', dtype=self.dtype)(x)


class DenseBlock(nn.Module):
  """`num_layers` dense layers; each reads the block's input and all earlier layers' channels.

  Attributes:
    num_layers: Number of layers.
    growth_rate: New channels per layer.
    bottleneck_width: See `DenseLayer`.
    dilation: See `DenseLayer`.
    dtype: Compute type.
    rematerialize: Whether the backward pass computes each layer again instead of reading what it saved.
  """

  num_layers: int
  growth_rate: int
  bottleneck_width: int
  dilation: int
  dtype: DType
  rematerialize: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h w c2']:
    """Appends num_layers x growth_rate channels to `x`."""
    layer_class = rematerialized(DenseLayer, self.rematerialize)
    outputs = [x]
    for index in range(1, self.num_layers + 1):
      layer = layer_class(
        self.growth_rate, self.bottleneck_width, self.dilation, self.dtype, name=f'denselayer{index}'
      )
      outputs.append(layer(outputs, train))
    return jnp.concatenate(outputs, axis=-1)


class Transition(nn.Module):
  """BN-ReLU-1x1 that halves the channels, then 2x2 average pooling unless `pool` is off."""

  pool: bool
  dtype: DType

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], train: bool) -> Float[Array, 'b h2 w2 c2']:
    """Halves channels and, with `pool`, height and width."""
    channels = x.shape[-1] // 2
    x = nn.relu(batch_norm(train, name='norm', dtype=self.dtype)(x))
    x = convolution(channels, 1, name='conv', dtype=self.dtype)(x)
    return avg_pool_2x2(x) if self.pool else x


@dataclasses.dataclass(frozen=True)
class _Stage:
  """A dense block (of `num_layers` layers) or a transition (0 layers), by its name."""

  name: str
  num_layers: int = 0
  dilation: int = 1
  pool: bool = False


class DenseNet(nn.Module):
  """DenseNet features (Huang et al., "Densely Connected Convolutional Networks", CVPR 2017).

  At output stride 8 the poolings of transitions 2 and 3 are left out and the blocks behind them are
  dilated by 2 and 4; at 16 that of transition 3, and block 4 is dilated by 2; 32 is the original. The
  last BN has no ReLU behind it, as in torchvision's `features`. Takes any size as torchvision does.

  Attributes:
    growth_rate: New channels per dense layer (k).
    block_config: Dense layers in each of the four blocks.
    num_init_features: Channels of the stem.
    output_stride: Input pixels per feature-map pixel: 8, 16 or 32.
    last_layer: Where the features are taken: one of `LAST_LAYERS`; None means 'norm5', all of DenseNet.
      The slides' model #1 has 'transition3' (no dense block 4), #2 'denseblock3'. 'denseblock2' has as
      many channels as 'transition3'.
    fourth_transition: Whether a transition without pooling halves the channels in front of norm5
      (DeepMotionAIResearch/DenseASPP, models/DenseASPP.py).
    bottleneck_factor: Bottleneck channels in growth rates (torchvision's bn_size).
    dtype: Compute type; parameters and statistics are float32.
    formulation: One of `FORMULATIONS`.
    rematerialize: See `DenseBlock`; the fast formulation does so in any case.
  """

  growth_rate: int
  block_config: tuple[int, ...]
  num_init_features: int
  output_stride: int = 8
  last_layer: str | None = None
  fourth_transition: bool = False
  bottleneck_factor: int = 4
  dtype: DType = jnp.float32
  formulation: str = 'fast'
  rematerialize: bool = False

  def __post_init__(self):
    check_output_stride(self.output_stride)
    check_formulation(self.formulation)
    if self.last_layer not in (None, *LAST_LAYERS):
      raise InputError(
        f'model.last_layer = {self.last_layer!r}: expected None or one of {", ".join(LAST_LAYERS)}'
      )
    if self.fourth_transition and self.last_layer not in (None, 'norm5'):
      raise InputError(
        f'model.fourth_transition = True, model.last_layer = {self.last_layer!r}: a network that is cut has '
        'no fourth transition; set one of them only'
      )
    super().__post_init__()

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the features returned; `output_stride` unless a pooling is cut off."""
    poolings = {'denseblock2': 1, 'transition2': 2, 'denseblock3': 2}.get(self.last_layer, 3)
    return min(self.output_stride, 4 * 2**poolings)

  @nn.compact
  def __call__(
    self, image: Float[Array, 'b h w 3'], train: bool = False, levels: bool = False
  ) -> Float[Array, 'b fh fw c'] | Levels:
    """Maps normalised images to features.

    Args:
      image: RGB, ImageNet mean and standard deviation taken out.
      train: Whether BN uses and updates batch statistics (collection 'batch_stats').
      levels: Whether to return what dense blocks 1 and 3 give too; they must not be cut off.
    """
    features = self._fast if self.formulation == 'fast' else self._plain
    blocks: dict[str, jax.Array] = {}
    x = features(image.astype(self.dtype), train, blocks)
    return Levels(blocks['denseblock1'], blocks['denseblock3'], x) if levels else x

  def _plain(
    self, x: Float[Array, 'b h w 3'], train: bool, blocks: dict[str, jax.Array]
  ) -> Float[Array, 'b fh fw c']:
    x = convolution(self.num_init_features, 7, stride=2, name='conv0', dtype=self.dtype)(x)
    x = max_pool_3x3(nn.relu(batch_norm(train, name='norm0', dtype=self.dtype)(x)))
    for stage in self._stages():
      if stage.num_layers:
        widths = self.growth_rate, self.bottleneck_factor * self.growth_rate
        block = DenseBlock(
          stage.num_layers, *widths, stage.dilation, self.dtype, self.rematerialize, name=stage.name
        )
        x = blocks[stage.name] = block(x, train)
      else:
        x = Transition(stage.pool, self.dtype, name=stage.name)(x, train)
    return batch_norm(train, name='norm5', dtype=self.dtype)(x) if self._has_norm5 else x

  def _fast(
    self, x: Float[Array, 'b h w 3'], train: bool, blocks: dict[str, jax.Array]
  ) -> Float[Array, 'b fh fw c']:
    kernel, _ = ConvolutionVariables(self.num_init_features, 7, name='conv0')(x.shape[-1])
    x = stem.space_to_depth_convolution(x, kernel.astype(self.dtype))
    affine = NormVariables(self.num_init_features, name='norm0').affine(moments(x) if train else None)
    x = stem.max_pool_3x3(nn.relu(affine(x)).astype(self.dtype))
    x_moments = moments(x) if train else None
    for stage in self._stages():
      if stage.num_layers:
        widths = self.growth_rate, self.bottleneck_factor * self.growth_rate
        block = FastDenseBlock(stage.num_layers, *widths, stage.dilation, name=stage.name)
        x, x_moments = block(x, x_moments)
        blocks[stage.name] = x
      else:
        x = FastTransition(stage.pool, name=stage.name)(x, x_moments)
        x_moments = moments(x) if train else None
    if not self._has_norm5:
      return x
    return NormVariables(x.shape[-1], name='norm5')(x, x_moments)

  @property
  def has_middle(self) -> bool:
    """Whether dense block 3 is not cut off."""
    return self.last_layer not in ('denseblock2', 'transition2')

  @property
  def _has_norm5(self) -> bool:
    return self.last_layer in (None, 'norm5')

  def _stages(self) -> Iterator[_Stage]:
    """Blocks and transitions up to the last layer."""
    # Conv and pooling of the stem, then per block 1 and its transition's pooling; the last has none.
    layers = strides_and_dilations([4, 1, 2, 1, 2, 1, 2, 1, 1], self.output_stride)[1:]
    for index, num_layers in enumerate(self.block_config, start=1):
      (_, dilation), (pool_stride, _) = layers[2 * index - 2 : 2 * index]
      stages = [_Stage(f'denseblock{index}', num_layers, dilation)]
      if index < len(self.block_config) or self.fourth_transition:
        stages.append(_Stage(f'transition{index}', pool=pool_stride == 2))
      for stage in stages:
        yield stage
        if stage.name == self.last_layer:
          return
