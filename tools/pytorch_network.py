"""DenseNet with DenseASPP in PyTorch, for tools/compare_pytorch.py.

Names of parameters are the paths of our variables, so that both have the same weights by name.
"""

from __future__ import annotations

import types

import torch
import torch.nn.functional as F
from torch import nn


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


class Extractor(nn.Sequential):
  """DenseNet: stem, blocks and transitions, last norm."""

  def __init__(self, *, growth_rate, block_config, num_init_features, dilations, pools):
    super().__init__()
    self.conv0 = nn.Conv2d(3, num_init_features, 7, 2, 3, bias=False)
    self.norm0 = nn.BatchNorm2d(num_init_features)
    self.relu0 = nn.ReLU()
    self.pool0 = nn.MaxPool2d(3, 2, 1)
    channels = num_init_features
    for i, (num_layers, dilation) in enumerate(zip(block_config, dilations, strict=True)):
      inputs = [channels + j * growth_rate for j in range(num_layers)]
      layers = [ConvLayer(n, 4 * growth_rate, growth_rate, dilation) for n in inputs]
      self.add_module(f'denseblock{i + 1}', Cascade('denselayer', layers))
      channels += num_layers * growth_rate
      if i < len(pools):
        self.add_module(f'transition{i + 1}', Transition(channels, pools[i]))
        channels //= 2
    self.norm5 = nn.BatchNorm2d(channels)
    self.channels = channels


class Network(nn.Module):
  """DenseNet, DenseASPP, head and bilinear upsampling."""

  def __init__(self, *, densenet, model):
    """Takes the arguments of `Extractor`, and the fields of `config.model`."""
    super().__init__()
    self.model = model = types.SimpleNamespace(**model)
    self.extractor = Extractor(**densenet)
    channels, layers = self.extractor.channels, []
    for rate in model.dilation_rates:
      norm = bool(layers) or model.first_norm
      options = dict(norm=norm, bias=model.use_bias, dropout=model.dropout_rate)
      layers.append(ConvLayer(channels, model.bottleneck_width, model.growth_rate, rate, **options))
      channels += model.growth_rate
    self.dense_aspp = Cascade('layer', layers)
    self.dense_aspp.norm = nn.BatchNorm2d(channels) if model.final_norm else nn.Identity()
    self.dropout = dropout_layer(model.dropout_rate)
    self.head = nn.Conv2d(channels, model.num_classes, 1)

  def forward(self, image):
    """Maps `[b, 3, h, w]` to float32 logits `[b, classes, h, w]`."""
    (height, width), stride = image.shape[2:], self.model.output_stride
    x = self.extractor(F.pad(image, (0, -width % stride, 0, -height % stride)))
    x = self.dense_aspp.norm(self.dense_aspp(F.relu(x) if self.model.rectify_features else x))
    logits = self.head(self.dropout(x)).float()
    logits = F.interpolate(logits, scale_factor=stride, mode='bilinear', align_corners=False)
    return logits[:, :, :height, :width]
