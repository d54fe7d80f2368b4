"""DenseNet with DenseASPP in PyTorch, for tools/compare_pytorch.py.

Names of parameters are the paths of our variables, so that both have the same weights by name.
"""

from __future__ import annotations

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
    self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()  # at rate 0 it would still draw

  def forward(self, x):
    """Computes the new channels."""
    x = F.relu(self.norm1(x))
    if self.bottleneck:
      x = F.relu(self.norm2(self.conv1(x)))
    return self.dropout(self.conv2(x))


class Cascade(nn.Module):
  """Layers that each read the input and all earlier layers' channels: a dense block, and DenseASPP."""

  def __init__(self, names, layers):
    super().__init__()
    self.names = names
    for name, layer in zip(names, layers, strict=True):
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
    self.add_module('conv0', nn.Conv2d(3, num_init_features, 7, 2, 3, bias=False))
    self.add_module('norm0', nn.BatchNorm2d(num_init_features))
    self.add_module('relu0', nn.ReLU())
    self.add_module('pool0', nn.MaxPool2d(3, 2, 1))
    channels = num_init_features
    for index, (num_layers, dilation) in enumerate(zip(block_config, dilations, strict=True), start=1):
      layers = [
        ConvLayer(channels + i * growth_rate, 4 * growth_rate, growth_rate, dilation)
        for i in range(num_layers)
      ]
      self.add_module(
        f'denseblock{index}', Cascade([f'denselayer{i + 1}' for i in range(num_layers)], layers)
      )
      channels += num_layers * growth_rate
      if index <= len(pools):
        self.add_module(f'transition{index}', Transition(channels, pools[index - 1]))
        channels //= 2
    self.add_module('norm5', nn.BatchNorm2d(channels))
    self.channels = channels


class Network(nn.Module):
  """DenseNet, DenseASPP, head and bilinear upsampling.

  Args of the constructor: `densenet`, those of `Extractor`; the others are fields of `config.model`.
  """

  def __init__(
    self,
    *,
    densenet,
    stride,
    num_classes,
    dilation_rates,
    growth_rate,
    bottleneck_width,
    first_norm,
    final_norm,
    use_bias,
    rectify_features,
    dropout_rate,
  ):
    super().__init__()
    self.extractor = Extractor(**densenet)
    channels = self.extractor.channels
    layers = [
      ConvLayer(
        channels + i * growth_rate,
        bottleneck_width,
        growth_rate,
        rate,
        norm=first_norm or i > 0,
        bias=use_bias,
        dropout=dropout_rate,
      )
      for i, rate in enumerate(dilation_rates)
    ]
    self.dense_aspp = Cascade([f'layer{i + 1}' for i in range(len(layers))], layers)
    channels += len(layers) * growth_rate
    if final_norm:
      self.dense_aspp.norm = nn.BatchNorm2d(channels)
    self.head = nn.Conv2d(channels, num_classes, 1)
    self.stride, self.final_norm = stride, final_norm
    self.rectify_features = rectify_features
    self.dropout = nn.Dropout2d(dropout_rate) if dropout_rate else nn.Identity()

  def forward(self, image):
    """Maps `[b, 3, h, w]` to float32 logits `[b, classes, h, w]`."""
    height, width = image.shape[2:]
    x = self.extractor(F.pad(image, (0, -width % self.stride, 0, -height % self.stride)))
    x = self.dense_aspp(F.relu(x) if self.rectify_features else x)
    x = self.dense_aspp.norm(x) if self.final_norm else x
    logits = self.head(self.dropout(x)).float()
    logits = F.interpolate(logits, scale_factor=self.stride, mode='bilinear', align_corners=False)
    return logits[:, :, :height, :width]
