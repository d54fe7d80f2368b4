"""What all networks share: convolution, normalization, pooling, output stride, and the extractors' output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dense_aspp_jax.models.constants import constant
from dense_aspp_jax.models.fused import products
from dense_aspp_jax.models.fused.batch_norm import Activation, normalized
from dense_aspp_jax.models.fused.depthwise import depthwise_convolution
from dense_aspp_jax.models.fused.head import logits_product
from dense_aspp_jax.models.fused.statistics import (
  EPSILON,
  Affine,
  Moments,
  accumulation_dtype,
  normalization,
)

# 'fused' is the default. 'reference' computes layer by layer, as the network is defined, with the same
# variables: tests compare the two, and analyses that look inside a network use it. `gpu_form.FORCED` has
# further names, of 'fused' with a certain form of its operations on an NVIDIA GPU.
IMPLEMENTATIONS = ('fused', 'reference')

MOMENTUM = 0.9  # of BN's running statistics; torch calls it 0.1

# torchvision's DenseNet draws convolutions with kaiming_normal_: fan in, gain sqrt(2), not truncated.
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class Features(NamedTuple):
  """The output of an extractor. Under jit, a feature map that is not read costs nothing.

  Attributes:
    stride4: The last feature map of stride 4: behind dense block 1.
    stride16: The last of those that have stride 16 in the network for ImageNet: behind dense block 3. None if
      the network is cut in front of it.
    last: The last feature map.
  """

  stride4: Float[Array, 'b lh lw c1']
  stride16: Float[Array, 'b mh mw c2'] | None
  last: Float[Array, 'b fh fw c3']


def convolution(
  features: int,
  kernel_size: int,
  *,
  stride: int = 1,
  dilation: int = 1,
  padding: str | Sequence[tuple[int, int]] | None = None,
  implementation: str = 'reference',
  depthwise: bool = False,
  **fields: Any,
) -> nn.Conv:
  """A square convolution, by default padded as torch pads it: `dilation * (kernel_size - 1) // 2`.

  flax's 'SAME' pads stride-2 convolutions on even sizes differently from torch, so padding is explicit.

  Args:
    features: Output channels.
    kernel_size: Side of the kernel.
    stride: Stride in both directions.
    dilation: Dilation rate in both directions.
    padding: As in `nn.Conv`; 'SAME' is TensorFlow's padding, which follows the input size.
    implementation: One of `IMPLEMENTATIONS`.
    depthwise: Whether each channel has a filter of its own; `features` is then that of the input.
    fields: Other fields of `nn.Conv`; without a bias by default.
  """
  pad = dilation * (kernel_size - 1) // 2
  if depthwise:
    fields['feature_group_count'] = features
  if implementation != 'reference':
    fields['conv_general_dilated'] = depthwise_convolution if depthwise else products.convolution
  return nn.Conv(
    features,
    (kernel_size, kernel_size),
    strides=(stride, stride),
    padding=padding or [(pad, pad), (pad, pad)],
    kernel_dilation=(dilation, dilation),
    **{'use_bias': False, 'kernel_init': kaiming_normal, **fields},
  )


def kernel_and_bias(
  conv: nn.Conv, channels: int
) -> tuple[Float[Array, 'kh kw c f'], Float[Array, ' f'] | None]:
  """A convolution's parameters for an input of `channels` channels; the bias is None without one."""
  if conv.is_initializing():
    conv(jnp.zeros((1, 1, 1, channels)))
  params = conv.variables['params']
  return jnp.asarray(params['kernel']), jnp.asarray(params['bias']) if conv.use_bias else None


class Head(nn.Module):
  """A 1x1 convolution whose logits are float32 whatever the type of the features: they decide the arg max.

  Attributes:
    num_classes: Channels of the logits.
    implementation: One of `IMPLEMENTATIONS`.
  """

  num_classes: int
  implementation: str = 'fused'

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w classes']:
    """Maps features to logits."""
    kernel_init = nn.initializers.lecun_normal()  # that of nn.Conv
    kernel = self.param('kernel', kernel_init, (1, 1, x.shape[-1], self.num_classes))
    kernel = jnp.asarray(kernel)[0, 0]
    bias = jnp.asarray(self.param('bias', nn.initializers.zeros, (self.num_classes,)))
    if self.implementation == 'reference':
      return x.astype(accumulation_dtype(x.dtype)) @ kernel + bias
    return logits_product(x, kernel) + bias


class BatchNorm(nn.BatchNorm):
  """Batch normalization, by default with torch's constants.

  Statistics are computed and kept in float32 whatever `dtype` is; under jit with a batch sharded over
  devices they are those of the whole batch.

  Differs from torch: the running variance is updated with the batch's biased variance (N), torch's with the
  unbiased one (N - 1); they differ by 1 / N, N = batch x height x width.
  """

  momentum: float = MOMENTUM
  epsilon: float = EPSILON
  use_fast_variance: bool = False  # E[x^2] - E[x]^2 cancels: at mean 1e4 it gives variance 0 in float32

  def __call__(
    self, x: Float[Array, '*b c'], train: bool, x_moments: Moments | None = None
  ) -> Float[Array, '*b c']:
    """Normalizes `x`: in training with its own statistics, which update the running ones.

    Args:
      x: Activations.
      train: Whether the statistics are the batch's.
      x_moments: The batch's statistics in training, if they are already known.
    """
    if x_moments is not None:
      return self.affine(x.shape[-1], x_moments)(x).astype(x.dtype)
    return super().__call__(x, use_running_average=not train)

  def activated(
    self, x: Float[Array, 'b h w c'], train: bool, activation: Activation | None, implementation: str
  ) -> Float[Array, 'b h w c']:
    """The norm and an elementwise activation behind it (None: none), in training as `implementation` says."""
    if not train or implementation == 'reference':
      x = self(x, train)
      return activation(x) if activation else x
    y, x_moments = normalized(activation, self.epsilon, x, self.arrays(x.shape[-1]))
    self.update(x_moments)
    return y.astype(self.dtype)

  def arrays(self, channels: int) -> tuple[Float[Array, ' c'], Float[Array, ' c']]:
    """Scale and bias, for an input of `channels` channels."""
    if self.is_initializing():
      self(jnp.zeros((1, channels)), train=False)
    params = self.variables['params']
    return jnp.asarray(params['scale']), jnp.asarray(params['bias'])

  def update(self, x_moments: Moments) -> None:
    """Updates the running statistics with the batch moments of the norm's channels, which come first."""
    update_running_statistics([self], [x_moments])

  def affine(self, channels: int, x_moments: Moments | None) -> Affine:
    """The affine map with batch moments, which update the running statistics; None: with the running ones."""
    if x_moments is None:
      return constant(self, lambda: self.running_affine(channels))
    self.update(x_moments)
    return normalization(self.arrays(channels), channels, x_moments, self.epsilon)

  def running_affine(self, channels: int) -> Affine:
    """The affine map with the running statistics; `affine` computes it once for the weights of inference."""
    arrays, running = self.arrays(channels), self.variables['batch_stats']
    running = Moments(jnp.asarray(running['mean']), jnp.asarray(running['var']))
    return normalization(arrays, channels, running, self.epsilon)


def update_running_statistics(norms: Sequence[BatchNorm], x_moments: Sequence[Moments]) -> None:
  """Updates those of some norms with the batch moments of each one's channels, which come first.

  Of all norms with equal momentum at once: or else a GPU would launch a kernel for each.
  """
  by_momentum: dict[float, list[tuple[BatchNorm, Moments]]] = {}
  for norm, norm_moments in zip(norms, x_moments, strict=True):
    if not norm.is_initializing():
      by_momentum.setdefault(norm.momentum, []).append((norm, norm_moments))
  for momentum, pairs in by_momentum.items():
    for name, field in (('mean', 'mean'), ('var', 'variance')):
      running = [norm.get_variable('batch_stats', name) for norm, _ in pairs]
      widths = [len(values) for values in running]
      batch = [getattr(values, field)[:width] for (_, values), width in zip(pairs, widths, strict=True)]
      running = jnp.concatenate(running)
      batch = jax.lax.stop_gradient(jnp.concatenate(batch)).astype(running.dtype)
      new = jnp.split(momentum * running + (1 - momentum) * batch, np.cumsum(widths)[:-1])
      for (norm, _), values in zip(pairs, new, strict=True):
        norm.put_variable('batch_stats', name, values)


def channel_dropout(rate: float) -> nn.Dropout:
  """Drops whole channels of `[b, h, w, c]`, as torch's Dropout2d; draws from 'dropout'."""
  return nn.Dropout(rate, broadcast_dims=(1, 2))


def strides_and_dilations(strides: Iterable[int], output_stride: int) -> list[tuple[int, int]]:
  """Turns the strides that would exceed `output_stride` into dilation.

  A layer that loses its stride keeps the dilation before it; all later layers multiply theirs by it, so
  that every kernel reads the pixels it would have read.

  Args:
    strides: Stride of each layer, in order.
    output_stride: Input pixels per pixel of the last layer's output.

  Returns:
    Stride and dilation of each layer.
  """
  total, dilation, result = 1, 1, []
  for stride in strides:
    kept = total * stride <= output_stride
    result.append((stride if kept else 1, dilation))
    total, dilation = (total * stride, dilation) if kept else (total, dilation * stride)
  return result


def rematerialized(block: type[nn.Module], rematerialize: bool) -> type[nn.Module]:
  """A module class, called with features and `train`, whose activations the backward pass recomputes."""
  return nn.remat(block, static_argnums=(2,)) if rematerialize else block  # 0 is the module


def max_pool_3x3(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """3x3 max pooling, stride 2, padded by one with -inf, as in torchvision's stems."""
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def avg_pool_2x2(x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
  """2x2 average pooling, stride 2, a last odd row or column dropped, as in DenseNet's transitions."""
  return nn.avg_pool(x, (2, 2), strides=(2, 2))


def pad_to_multiple(x: Float[Array, 'b h w c'], multiple: int) -> Float[Array, 'b h2 w2 c']:
  """Pads bottom and right with zeros to the next multiple of `multiple` (0 is the mean colour)."""
  height, width = x.shape[1:3]
  bottom, right = -height % multiple, -width % multiple
  return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0))) if bottom or right else x
