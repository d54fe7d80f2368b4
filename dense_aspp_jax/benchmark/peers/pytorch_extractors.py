"""The extractors and dense layers as PyTorch modules, channels first, with the names of our variables.

Built from our own definitions, so that a table of channels or strides stands in one place. Only peers'
processes import this file: it needs torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dense_aspp_jax.models.extractors import convnext, inverted_residual
from dense_aspp_jax.models.extractors.convnext import ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DenseNet
from dense_aspp_jax.models.extractors.efficientnet_lite import EfficientNetLite
from dense_aspp_jax.models.extractors.mobilenet_v3 import MobileNetV3
from dense_aspp_jax.models.layers import strides_and_dilations

_ACTIVATIONS = {'relu': F.relu, 'relu6': F.relu6, 'hard_silu': F.hardswish}  # by JAX's names


class ConvLayer(nn.Module):
  """[BN]-ReLU-1x1-BN-ReLU-3x3, or without the 1x1: a dense layer, and a layer of DenseASPP."""

  def __init__(self, channels, bottleneck, growth, dilation, *, norm=True, bias=False, dropout=0.0):
    super().__init__()
    self.norm1 = nn.BatchNorm2d(channels) if norm else nn.Identity()
    self.bottleneck = bool(bottleneck)
    if bottleneck:
      self.conv1 = nn.Conv2d(channels, bottleneck, 1, bias=bias)
      self.norm2 = nn.BatchNorm2d(bottleneck)
    self.conv2 = nn.Conv2d(bottleneck or channels, growth, 3, padding=dilation, dilation=dilation, bias=bias)
    self.dropout = dropout_layer(dropout)

  def forward(self, x):
    """Computes the new channels."""
    x = F.relu(self.norm1(x))
    if self.bottleneck:
      x = F.relu(self.norm2(self.conv1(x)))
    return self.dropout(self.conv2(x))


def dropout_layer(rate):
  """Drops whole channels; at rate 0 nn.Dropout2d would still draw."""
  return nn.Dropout2d(rate) if rate else nn.Identity()


class Cascade(nn.Module):
  """Layers that each read the input and all earlier layers' channels: a dense block, and DenseASPP."""

  def __init__(self, name, layers):
    super().__init__()
    self.names = [f'{name}{i}' for i in range(1, len(layers) + 1)]
    for name, layer in zip(self.names, layers, strict=True):
      self.add_module(name, layer)

  def forward(self, x):
    """Appends the layers' channels."""
    features = [x]
    for name in self.names:
      features.append(self.get_submodule(name)(torch.cat(features, 1)))
    return torch.cat(features, 1)


class Transition(nn.Module):
  """BN-ReLU-1x1, then 2x2 average pooling unless `pool` is off."""

  def __init__(self, channels, pool):
    super().__init__()
    self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels // 2, 1, bias=False)
    self.pool = pool

  def forward(self, x):
    """Halves channels and, with `pool`, height and width."""
    x = self.conv(F.relu(self.norm(x)))
    return F.avg_pool2d(x, 2) if self.pool else x


class Extractor(nn.Module):
  """Runs its parts in order; returns the features of stride 4, stride 16 and the last.

  Attributes:
    at: The names of the parts that give the first two.
    channels: Of the three; the second None where the network is cut in front of it.
  """

  def __init__(self):
    super().__init__()
    self.at, self.channels = [], []

  def add(self, name, module, channels, feature=False):
    """Appends a part; `feature`: its output is the next of the features returned."""
    self.add_module(name, module)
    self.last_channels = channels
    if feature:
      self.at.append(name)
      self.channels.append(channels)

  def forward(self, x):
    """Maps normalized images to features."""
    features = []
    for name, module in self.named_children():
      x = module(x)
      if name in self.at:
        features.append(x)
    return *features, *[None] * (2 - len(features)), x


def _densenet(definition):
  extractor, channels = Extractor(), definition.num_init_features
  extractor.add('conv0', nn.Conv2d(3, channels, 7, 2, 3, bias=False), channels)
  extractor.add('norm0', nn.BatchNorm2d(channels), channels)
  extractor.add('relu0', nn.ReLU(), channels)
  extractor.add('pool0', nn.MaxPool2d(3, 2, 1), channels)
  # After the stem, each block and its transition's pooling.
  plan = strides_and_dilations([4, 1, 2, 1, 2, 1, 2, 1, 1], definition.output_stride)[1:]
  growth, blocks = definition.growth_rate, definition.block_config
  for number, num_layers in enumerate(blocks, start=1):
    (_, dilation), (pool_stride, _) = plan[2 * number - 2 : 2 * number]
    inputs = [channels + i * growth for i in range(num_layers)]
    layers = [ConvLayer(n, 4 * growth, growth, dilation) for n in inputs]
    channels += num_layers * growth
    name = f'denseblock{number}'
    extractor.add(name, Cascade('denselayer', layers), channels, feature=number in (1, 3))
    if definition.last_layer == name:
      break
    if number < len(blocks) or definition.fourth_transition:
      name = f'transition{number}'
      extractor.add(name, Transition(channels, pool_stride == 2), channels // 2)
      channels //= 2
    if definition.last_layer == name:
      break
  else:
    extractor.add('norm5', nn.BatchNorm2d(channels), channels)
  return extractor


class ConvNorm(nn.Module):
  """Convolution, BN and an activation; `same` pads as TensorFlow does, which follows the input's size."""

  def __init__(
    self, channels, features, size, activation=None, *, same, stride=1, dilation=1, depthwise=False
  ):
    super().__init__()
    self.by_size, self.reach = same and stride > 1, dilation * (size - 1)
    padding, groups = 0 if self.by_size else self.reach // 2, channels if depthwise else 1
    self.conv = nn.Conv2d(channels, features, size, stride, padding, dilation, groups, bias=False)
    eps, momentum = inverted_residual.EPSILON, 1 - inverted_residual.MOMENTUM
    self.norm = nn.BatchNorm2d(features, eps, momentum)
    self.activation = activation

  def forward(self, x):
    """Maps one feature map to the next."""
    if self.by_size:
      stride = self.conv.stride[0]
      pads = [max((-(-n // stride) - 1) * stride + self.reach + 1 - n, 0) for n in x.shape[:1:-1]]
      x = F.pad(x, [part for pad in pads for part in (pad // 2, pad - pad // 2)])
    x = self.norm(self.conv(x))
    return self.activation(x) if self.activation else x


class SqueezeExcite(nn.Module):
  """Scales each channel by a function of all channels' means."""

  def __init__(self, channels):
    super().__init__()
    squeezed = inverted_residual.squeezed_channels(channels)
    self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

  def forward(self, x):
    """Scales `x`."""
    return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise convolution, squeeze and excitation, 1x1 projection."""

  def __init__(self, channels, block, stride, dilation, same):
    super().__init__()
    activation, expanded = _ACTIVATIONS[block.activation.__name__], block.expanded_channels
    if expanded != channels:
      self.expand = ConvNorm(channels, expanded, 1, activation, same=same)
    how = dict(same=same, stride=stride, dilation=dilation, depthwise=True)
    self.depthwise = ConvNorm(expanded, expanded, block.kernel_size, activation, **how)
    if block.squeeze_excite:
      self.squeeze_excite = SqueezeExcite(expanded)
    self.project = ConvNorm(expanded, block.features, 1, same=same)
    self.adds = block.stride == 1 and channels == block.features

  def forward(self, x):
    """Maps one feature map to the next."""
    y = x
    for part in self.children():
      y = part(y)
    return x + y if self.adds else y


def _inverted_residuals(definition, blocks, stem_channels, stem_activation, head, same):
  extractor, channels, defined_stride = Extractor(), stem_channels, 2
  extractor.add('stem', ConvNorm(3, channels, 3, stem_activation, same=same, stride=2), channels)
  strides = [block.stride for block in blocks.values()]
  plan = strides_and_dilations([2, *strides], definition.output_stride)[1:]
  for (name, block), (stride, dilation), following in zip(
    blocks.items(), plan, [*strides[1:], 2], strict=True
  ):
    module = InvertedResidual(channels, block, stride, dilation, same)
    channels, defined_stride = block.features, defined_stride * block.stride
    extractor.add(name, module, channels, feature=following == 2 and defined_stride in (4, 16))
  if head:
    name, width, activation = head
    extractor.add(name, ConvNorm(channels, width, 1, activation, same=same), width)
  return extractor


def _mobilenet(definition):
  blocks = {f'block{i}': block for i, block in enumerate(definition.blocks, start=1)}
  head = 'last', 6 * definition.blocks[-1].features, F.hardswish
  return _inverted_residuals(definition, blocks, 16, F.hardswish, head, same=False)


def _efficientnet_lite(definition):
  head = None if definition.last_layer == 'blocks' else ('conv_head', 1280, F.relu6)
  return _inverted_residuals(definition, definition.blocks(), 32, F.relu6, head, same=True)


class ChannelNorm(nn.LayerNorm):
  """Layer normalization of the channels."""

  def __init__(self, channels):
    super().__init__(channels, convnext.EPSILON)

  def forward(self, x):
    """Normalizes `[b, c, h, w]`; seen as channels last, which is how it lies in memory."""
    return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
  """Depthwise 7x7, layer normalization, two linear layers with GELU, layer scale; added to the input."""

  def __init__(self, channels, dilation, drop_rate):
    super().__init__()
    pad = 3 * dilation
    self.depthwise = nn.Conv2d(channels, channels, 7, 1, pad, dilation, channels)
    self.norm = nn.LayerNorm(channels, convnext.EPSILON)
    self.linear1, self.linear2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
    self.layer_scale = nn.Parameter(torch.ones(channels))
    self.drop_rate = drop_rate

  def forward(self, x):
    """Adds the block's function of `x` to `x`."""
    y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
    y = (self.linear2(F.gelu(self.linear1(y))) * self.layer_scale).permute(0, 3, 1, 2)
    if self.training and self.drop_rate:
      kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.drop_rate
      y = y * kept / (1 - self.drop_rate)
    return x + y


class Downsample(nn.Module):
  """Layer normalization and a 2x2 convolution, padded bottom and right where it has no stride."""

  def __init__(self, channels, features, stride, dilation):
    super().__init__()
    self.norm, self.conv = ChannelNorm(channels), nn.Conv2d(channels, features, 2, stride, 0, dilation)
    self.pad = 0 if stride == 2 else dilation

  def forward(self, x):
    """Maps a stage's features to the next stage's input."""
    x = self.norm(x)
    return self.conv(F.pad(x, (0, self.pad, 0, self.pad)) if self.pad else x)


def _convnext(definition):
  extractor, before, done = Extractor(), definition.channels[0], 0
  extractor.add('stem_conv', nn.Conv2d(3, before, 4, 4), before)
  extractor.add('stem_norm', ChannelNorm(before), before)
  plan = strides_and_dilations([4, *(1, 1), *(2, 1) * 3], definition.output_stride)[1:]
  num_blocks = definition.num_blocks
  for stage, (number, channels) in enumerate(zip(num_blocks, definition.channels, strict=True), start=1):
    downsampling, (_, dilation) = plan[2 * stage - 2 : 2 * stage]
    if stage > 1:
      extractor.add(f'downsample{stage - 1}', Downsample(before, channels, *downsampling), channels)
    for block in range(1, number + 1):
      drop_rate = definition.stochastic_depth_rate * done / (sum(num_blocks) - 1)
      feature = block == number and stage in (1, 3)
      module = ConvNeXtBlock(channels, dilation, drop_rate)
      extractor.add(f'stage{stage}_block{block}', module, channels, feature)
      done += 1
    before = channels
  return extractor


EXTRACTORS = {
  DenseNet: _densenet,
  MobileNetV3: _mobilenet,
  EfficientNetLite: _efficientnet_lite,
  ConvNeXt: _convnext,
}
