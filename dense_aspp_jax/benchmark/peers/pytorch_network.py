"""The whole network as a PyTorch module, and what inference computes with it.

Only peers' processes import this file: it needs torch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dense_aspp_jax.benchmark.peers.pytorch_extractors import (
  EXTRACTORS,
  Cascade,
  ConvLayer,
  dropout_layer,
)


class SkipDecoder(nn.Module):
  """Joins the upsampled features with those of stride 4."""

  def __init__(self, channels, low_channels, width, low_width):
    super().__init__()
    self.project_conv, self.project_norm = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
    self.low_conv = nn.Conv2d(low_channels, low_width, 1, bias=False)
    self.low_norm = nn.BatchNorm2d(low_width)
    self.fuse_conv = nn.Conv2d(width + low_width, width, 3, padding=1, bias=False)
    self.fuse_norm = nn.BatchNorm2d(width)

  def forward(self, x, low):
    """Maps features to `width` channels at stride 4."""
    x = F.relu(self.project_norm(self.project_conv(x)))
    x = F.interpolate(x, size=low.shape[2:], mode='bilinear', align_corners=False)
    x = torch.cat([x, F.relu(self.low_norm(self.low_conv(low)))], 1)
    return F.relu(self.fuse_norm(self.fuse_conv(x)))


class AuxiliaryHead(nn.Module):
  """3x3 to a quarter of the channels, BN, ReLU, dropout, 1x1."""

  def __init__(self, channels, num_classes, dropout_rate):
    super().__init__()
    self.conv = nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False)
    self.norm = nn.BatchNorm2d(channels // 4)
    self.dropout, self.logits = dropout_layer(dropout_rate), nn.Conv2d(channels // 4, num_classes, 1)

  def forward(self, x):
    """Maps features to logits at their resolution."""
    return self.logits(self.dropout(F.relu(self.norm(self.conv(x))))).float()


class Network(nn.Module):
  """Extractor, DenseASPP, decoder, head and bilinear upsampling; in training also the auxiliary head."""

  def __init__(self, model):
    """Takes our own network, a `SegmentationModel`."""
    super().__init__()
    aspp, classes, dropout = model.dense_aspp, model.num_classes, model.dropout_rate
    self.multiple, self.stride = model.extractor.stride, model.stride
    self.auxiliary_stride, self.rectify = model.auxiliary_stride, aspp.rectify_features
    self.extractor = EXTRACTORS[type(model.extractor)](model.extractor)
    channels, layers = self.extractor.last_channels, []
    for rate in aspp.dilation_rates:
      norm = bool(layers) or aspp.first_norm
      how = dict(norm=norm, bias=aspp.use_bias, dropout=aspp.dropout_rate)
      layers.append(ConvLayer(channels, aspp.bottleneck_width, aspp.growth_rate, rate, **how))
      channels += aspp.growth_rate
    self.dense_aspp = Cascade('layer', layers)
    self.dense_aspp.norm = nn.BatchNorm2d(channels) if aspp.final_norm else nn.Identity()
    self.skip_decoder = self.auxiliary_head = None
    if decoder := model.skip_decoder:
      widths = decoder.width, decoder.low_width
      self.skip_decoder = SkipDecoder(channels, self.extractor.channels[0], *widths)
      channels = decoder.width
    if model.auxiliary_head:
      self.auxiliary_head = AuxiliaryHead(self.extractor.channels[1], classes, dropout)
    self.dropout, self.head = dropout_layer(dropout), nn.Conv2d(channels, classes, 1)

  def forward(self, image):
    """Maps `[b, 3, h, w]` to float32 logits `[b, classes, h, w]`, and those of the auxiliary head or None."""
    size = image.shape[2:]
    pads = [-n % self.multiple for n in size]
    stride4, stride16, x = self.extractor(F.pad(image, (0, pads[1], 0, pads[0])) if any(pads) else image)
    x = self.dense_aspp.norm(self.dense_aspp(F.relu(x) if self.rectify else x))
    if self.skip_decoder is not None:
      x = self.skip_decoder(x, stride4)
    logits = _upsampled(self.head(self.dropout(x)).float(), self.stride, size)
    if self.auxiliary_head is None or not self.training:
      return logits, None
    return logits, _upsampled(self.auxiliary_head(stride16), self.auxiliary_stride, size)


class Prediction(nn.Module):
  """What inference computes: uint8 images `[b, h, w, 3]` to classes `[b, h, w]`, and logits if asked."""

  def __init__(self, network, mean, std, with_logits=False):
    super().__init__()
    self.network, self.with_logits = network, with_logits
    for name, value in (('mean', mean), ('std', std)):
      self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

  def normalize(self, image):
    """The network's input; `[b, h, w, 3]` seen as `[b, 3, h, w]` is channels last as it is."""
    return (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

  def forward(self, image):
    """Computes it."""
    logits, _ = self.network(self.normalize(image))
    classes = logits.argmax(1).to(torch.uint8)
    return (classes, logits) if self.with_logits else classes


def load(network, weights):
  """Takes weights, arrays by name; all of them, and no others."""
  state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
  missing, unexpected = network.load_state_dict(state, strict=False)
  missing = [name for name in missing if not name.endswith('num_batches_tracked')]
  if missing or unexpected:
    raise ValueError(f'the weights lack {missing[:5]} and have {unexpected[:5]} too much')


def _upsampled(logits, stride, size):
  logits = F.interpolate(logits, scale_factor=stride, mode='bilinear', align_corners=False)
  return logits[:, :, : size[0], : size[1]]
