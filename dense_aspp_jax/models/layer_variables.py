"""The variables of densely connected layers, without their operations: what `dense_block` computes with.

Names, shapes and initial values are those of the plain modules (nn.BatchNorm, nn.Conv), so that both
formulations of a network have the same variables.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused.dense_block import (
  DenseBlockPlan,
  DenseLayerArrays,
  InferenceLayerArrays,
  dense_block,
  dense_block_inference,
  normalization,
)
from dense_aspp_jax.models.fused.statistics import Affine, Moments, momentum_in_force
from dense_aspp_jax.models.layers import channel_dropout, kaiming_normal


class NormVariables(nn.Module):
  """Scale, bias and running statistics of a BN over `channels` channels.

  Attributes:
    channels: Number of channels.
    momentum: Of the running statistics.
    epsilon: Added to the variance.
  """

  channels: int
  momentum: float = 0.9
  epsilon: float = 1e-5

  def setup(self):
    """Makes the variables."""
    self.scale = self.param('scale', nn.initializers.ones, (self.channels,), jnp.float32)
    self.bias = self.param('bias', nn.initializers.zeros, (self.channels,), jnp.float32)
    self.mean = self.variable('batch_stats', 'mean', jnp.zeros, (self.channels,), jnp.float32)
    self.var = self.variable('batch_stats', 'var', jnp.ones, (self.channels,), jnp.float32)

  @property
  def arrays(self) -> tuple[Float[Array, ' c'], Float[Array, ' c']]:
    """Scale and bias."""
    return jnp.asarray(self.scale), jnp.asarray(self.bias)

  def update(self, x_moments: Moments) -> None:
    """Lets the running statistics take in a batch's."""
    if self.is_initializing():
      return
    momentum = momentum_in_force(self.momentum)
    for running, batch in ((self.mean, x_moments.mean), (self.var, x_moments.variance)):
      batch = jax.lax.stop_gradient(batch[: self.channels]).astype(running.value.dtype)
      running.value = momentum * running.value + (1 - momentum) * batch

  def __call__(self, x: Float[Array, 'b h w c'], x_moments: Moments | None) -> Float[Array, 'b h w c']:
    """Normalises `x`, in its type; see `affine`."""
    return self.affine(x_moments)(x).astype(x.dtype)

  def affine(self, x_moments: Moments | None) -> Affine:
    """The normalisation with a batch's moments, taken in by the running statistics; None: with those."""
    if x_moments is None:
      x_moments = Moments(jnp.asarray(self.mean.value), jnp.asarray(self.var.value))
    else:
      self.update(x_moments)
    return normalization(self.arrays, self.channels, x_moments, self.epsilon)


class ConvolutionVariables(nn.Module):
  """Kernel and, with `use_bias`, bias of a square convolution."""

  features: int
  kernel_size: int
  use_bias: bool = False

  @nn.compact
  def __call__(self, channels: int) -> tuple[Float[Array, 'kh kw c f'], Float[Array, ' f'] | None]:
    """Kernel and bias (None without one) for an input of `channels` channels."""
    shape = (self.kernel_size, self.kernel_size, channels, self.features)
    kernel = jnp.asarray(self.param('kernel', kaiming_normal, shape, jnp.float32))
    if not self.use_bias:
      return kernel, None
    return kernel, jnp.asarray(self.param('bias', nn.initializers.zeros, shape[-1:], jnp.float32))


class DenseLayerVariables(nn.Module):
  """The variables of one densely connected layer; see `DenseLayerArrays`.

  Attributes:
    channels: Input channels.
    growth_rate: New channels.
    bottleneck_width: Channels between 1x1 and 3x3; 0: there is no 1x1.
    leading_norm: Whether a BN stands in front.
    use_bias: Whether the convolutions have biases.
    dropout_rate: Probability that a new channel is dropped in training.
  """

  channels: int
  growth_rate: int
  bottleneck_width: int
  leading_norm: bool = True
  use_bias: bool = False
  dropout_rate: float = 0.0

  def setup(self):
    """Makes the holders."""
    width = self.bottleneck_width
    if self.leading_norm:
      self.norm1 = NormVariables(self.channels)
    if width:
      self.conv1 = ConvolutionVariables(width, 1, self.use_bias)
      self.norm2 = NormVariables(width)
    self.conv2 = ConvolutionVariables(self.growth_rate, 3, self.use_bias)
    self.dropout = channel_dropout(self.dropout_rate)

  def arrays(self, batch_size: int) -> DenseLayerArrays:
    """What `dense_block` computes with; draws the dropout."""
    width = self.bottleneck_width
    kernel2, bias2 = self.conv2(width or self.channels)
    kept = None
    if self.dropout_rate:
      ones = jnp.ones((batch_size, 1, 1, self.growth_rate), kernel2.dtype)
      kept = self.dropout(ones, deterministic=False)
    return DenseLayerArrays(
      norm1=self.norm1.arrays if self.leading_norm else None,
      kernel1=self.conv1(self.channels)[0][0, 0] if width else None,
      norm2=self.norm2.arrays if width else None,
      kernel2=kernel2,
      bias2=bias2,
      kept=kept,
    )

  def update(self, x_moments: Moments, z_moments: Moments | None) -> None:
    """Lets the running statistics take in a batch's: of what the layer reads, and of its bottleneck."""
    if self.leading_norm:
      self.norm1.update(x_moments)
    if z_moments is not None:
      _, bias1 = self.conv1(self.channels)
      self.norm2.update(z_moments if bias1 is None else z_moments._replace(mean=z_moments.mean + bias1))

  def inference_arrays(self) -> InferenceLayerArrays:
    """What `dense_block_inference` computes with."""
    kernel2, bias2 = self.conv2(self.bottleneck_width or self.channels)
    identity = Affine(*(jnp.full((self.channels,), value, kernel2.dtype) for value in (0, 1, 0)))
    affine = self.norm1.affine(None) if self.leading_norm else identity
    if not self.bottleneck_width:
      return InferenceLayerArrays(affine, None, None, kernel2, bias2)
    kernel1, bias1 = self.conv1(self.channels)
    second = self.norm2.affine(None)
    if bias1 is not None:
      second = second._replace(mean=second.mean - bias1)
    return InferenceLayerArrays(affine, kernel1[0, 0], second, kernel2, bias2)


def apply_dense_layers(
  layers: Sequence[DenseLayerVariables],
  x: Float[Array, 'b h w c'],
  x_moments: Moments | None,
  plan: DenseBlockPlan,
) -> tuple[Float[Array, 'b h w c2'], Moments | None]:
  """Runs densely connected layers: in training if the moments of `x` are given.

  Returns:
    `x` with the layers' channels appended and, in training, the moments of all channels.
  """
  if x_moments is None:
    return dense_block_inference(plan, x, [layer.inference_arrays() for layer in layers]), None
  arrays = [layer.arrays(x.shape[0]) for layer in layers]
  features, feature_moments, bottleneck_moments = dense_block(plan, x, x_moments, arrays)
  for layer, z_moments in zip(layers, bottleneck_moments, strict=True):
    layer.update(feature_moments, z_moments)
  return features, feature_moments
