"""Densely connected layers: those of DenseNet's blocks and of DenseASPP's cascade.

A layer's norms and convolutions are declared once. Called, it is the reference computation; its arrays feed
the fused block (`fused/dense_block.py`), which computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.constants import constant
from dense_aspp_jax.models.fused.arrays import DenseBlockPlan, DenseLayerArrays
from dense_aspp_jax.models.fused.dense_block import dense_block, dense_block_inference, inference_arrays
from dense_aspp_jax.models.fused.gpu_form import gpu_form, traced_gpu
from dense_aspp_jax.models.fused.statistics import Moments
from dense_aspp_jax.models.layers import (
  MOMENTUM,
  BatchNorm,
  channel_dropout,
  convolution,
  kernel_and_bias,
  update_running_statistics,
)

# Layers whose backward pass visits the channels in front of them once, where a kernel does that.
_GROUP = 4


class DenseLayer(nn.Module):
  """[BN]-ReLU-1x1-BN-ReLU-3x3, or [BN]-ReLU-3x3; returns only its new channels.

  Attributes:
    growth_rate: New channels.
    bottleneck_width: Channels between 1x1 and 3x3; 0: there is no 1x1 (slides, models #1 to #3).
    dilation: Dilation of the 3x3 convolution.
    leading_norm: Whether the layer starts with a BN.
    use_bias: Whether the convolutions have biases.
    dropout_rate: Probability that a new channel is dropped in training.
  """

  growth_rate: int
  bottleneck_width: int
  dilation: int = 1
  leading_norm: bool = True
  use_bias: bool = False
  dropout_rate: float = 0.0
  momentum: float = MOMENTUM
  dtype: DTypeLike = jnp.float32

  def setup(self):
    """Declares norms and convolutions."""
    shared = {'use_bias': self.use_bias, 'dtype': self.dtype}
    if self.leading_norm:
      self.norm1 = BatchNorm(momentum=self.momentum, dtype=self.dtype)
    if self.bottleneck_width:
      self.conv1 = convolution(self.bottleneck_width, 1, **shared)
      self.norm2 = BatchNorm(momentum=self.momentum, dtype=self.dtype)
    self.conv2 = convolution(self.growth_rate, 3, dilation=self.dilation, **shared)
    self.dropout = channel_dropout(self.dropout_rate)

  def __call__(self, inputs: Sequence[Float[Array, 'b h w _']], train: bool) -> Float[Array, 'b h w growth']:
    """Maps all channels so far to `growth_rate` new ones.

    Args:
      inputs: The first layer's input and the outputs of all earlier layers. Concatenated here, so that a
        rematerialized layer does not save the concatenation.
      train: Whether BN uses and updates batch statistics, and whether channels are dropped.
    """
    x = jnp.concatenate(inputs, axis=-1)
    if self.leading_norm:
      x = self.norm1(x, train)
    x = nn.relu(x)
    if self.bottleneck_width:
      x = nn.relu(self.norm2(self.conv1(x), train))
    return self.dropout(self.conv2(x), deterministic=not train)

  def arrays(self, channels: int, batch_size: int, train: bool) -> DenseLayerArrays:
    """The layer as the fused block takes it, for `channels` input channels; draws the dropout mask."""
    kernel2, bias2 = kernel_and_bias(self.conv2, self.bottleneck_width or channels)
    norm1 = kernel1 = norm2 = dropout_mask = None
    if self.leading_norm:
      norm1 = self.norm1.arrays(channels) if train else self.norm1.running_affine(channels)
    if self.bottleneck_width:
      kernel1, bias1 = kernel_and_bias(self.conv1, channels)
      kernel1 = kernel1[0, 0]
      norm2 = (
        self.norm2.arrays(self.bottleneck_width)
        if train
        else self.norm2.running_affine(self.bottleneck_width)
      )
      if not train and bias1 is not None:
        norm2 = norm2._replace(mean=norm2.mean - bias1)
    if train and self.dropout_rate:
      dropout_mask = self.dropout(
        jnp.ones((batch_size, 1, 1, self.growth_rate), kernel2.dtype), deterministic=False
      )
    return DenseLayerArrays(norm1, kernel1, norm2, kernel2, bias2, dropout_mask)

  def norms_and_moments(
    self, channels: int, x_moments: Moments, z_moments: Moments | None
  ) -> Iterator[tuple[BatchNorm, Moments]]:
    """The norms, with the moments they saw: of the input, and of the bottleneck, given without its bias."""
    if self.leading_norm:
      yield self.norm1, x_moments
    if z_moments is not None:
      _, bias1 = kernel_and_bias(self.conv1, channels)
      yield self.norm2, z_moments if bias1 is None else z_moments._replace(mean=z_moments.mean + bias1)


def dense_layers(
  block: nn.Module,
  layers: Sequence[DenseLayer],
  x: Float[Array, 'b h w c'],
  x_moments: Moments | None,
  train: bool,
  *,
  implementation: str,
  phases: int = 1,
) -> tuple[Float[Array, 'b h w c2'], Moments | None]:
  """Runs densely connected layers: each reads `x` and the outputs of all earlier layers.

  Args:
    block: The module that they are layers of.
    layers: The first to the last.
    x: Features.
    x_moments: Their moments; needed only by the fused implementation in training.
    train: Whether BN uses and updates batch statistics, and whether channels are dropped.
    implementation: 'reference', or else the layers run as one fused block: see `Network`.
    phases: The fused block runs on phases x phases images, see `space_to_batch`; divides all dilations.

  Returns:
    `x` with the layers' channels appended and, from the fused implementation in training, the moments of
    all channels.
  """
  if implementation == 'reference':
    outputs = [x]
    for layer in layers:
      outputs.append(layer(outputs, train))
    return jnp.concatenate(outputs, axis=-1), None
  gpu = gpu_form(implementation)
  dilations = tuple(layer.dilation // phases for layer in layers)
  group = _GROUP if gpu == 'mosaic' else 1
  plan = DenseBlockPlan(dilations, phases, gpu, group, on_gpu=traced_gpu() is not None)
  widths = [x.shape[-1] + index * layer.growth_rate for index, layer in enumerate(layers)]
  numbered = list(zip(layers, widths, strict=True))

  def arrays() -> list[DenseLayerArrays]:
    return [layer.arrays(width, x.shape[0], train) for layer, width in numbered]

  if not train:
    laid_out = constant(block, lambda: inference_arrays(plan, x.shape[-1], arrays(), x.dtype))
    return dense_block_inference(plan, x, laid_out), None
  features, feature_moments, bottleneck_moments = dense_block(plan, x, x_moments, arrays())
  for place in ('norm1', 'norm2'):
    pairs = [
      (norm, norm_moments)
      for (layer, width), z_moments in zip(numbered, bottleneck_moments, strict=True)
      for norm, norm_moments in layer.norms_and_moments(width, feature_moments, z_moments)
      if norm.name == place
    ]
    update_running_statistics([norm for norm, _ in pairs], [norm_moments for _, norm_moments in pairs])
  return features, feature_moments
