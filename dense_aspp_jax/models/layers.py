"""What all networks share: convolution, normalisation, pooling, bilinear upsampling, the output stride."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.dtypes import DType
from dense_aspp_jax.models.fused.depthwise import depthwise_convolution
from dense_aspp_jax.models.fused.statistics import momentum_in_force

# 'fast': as this package computes a network by default. 'plain': layer by layer, as it is defined, with the
# same variables; tests compare the two, and analyses that look inside a network take it.
FORMULATIONS = ('fast', 'plain')

# torchvision's DenseNet draws convolutions with kaiming_normal_: fan in, gain sqrt(2), not truncated.
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def convolution(
  features: int,
  kernel_size: int,
  *,
  name: str,
  dtype: DType,
  stride: int = 1,
  dilation: int = 1,
  groups: int = 1,
  use_bias: bool = False,
  padding: str | None = None,
  formulation: str = 'plain',
) -> nn.Conv:
  """A square convolution, by default padded as torch pads it: `dilation * (kernel_size - 1) // 2`.

  flax's 'SAME' pads stride-2 convolutions on even sizes differently from torch, so padding is explicit.

  Args:
    features: Output channels.
    kernel_size: Side of the kernel.
    name: Name in the parameter tree.
    dtype: Compute type; the kernel is kept in float32.
    stride: Stride in both directions.
    dilation: Dilation rate in both directions.
    groups: Groups of channels; as many as channels for a depthwise convolution.
    use_bias: Whether a bias is added.
    padding: 'SAME' for TensorFlow's padding, which follows the input size; 'VALID' for none.
    formulation: One of `FORMULATIONS`; a depthwise convolution has a fast one.
  """
  pad = dilation * (kernel_size - 1) // 2
  return nn.Conv(
    features,
    (kernel_size, kernel_size),
    strides=(stride, stride),
    padding=padding or [(pad, pad), (pad, pad)],
    kernel_dilation=(dilation, dilation),
    feature_group_count=groups,
    use_bias=use_bias,
    dtype=dtype,
    kernel_init=kaiming_normal,
    conv_general_dilated=depthwise_convolution if formulation == 'fast' and groups == features > 1 else None,
    name=name,
  )


def batch_norm(
  train: bool, *, name: str, dtype: DType, momentum: float = 0.9, epsilon: float = 1e-5
) -> nn.BatchNorm:
  """Batch normalisation, by default with torch's constants (momentum 0.1 there is 0.9 here).

  Statistics are computed and kept in float32 whatever `dtype` is; under jit with a batch sharded over
  devices they are those of the whole batch.

  Differs from torch: the running variance takes the batch's biased variance (N), torch's the unbiased
  one (N - 1); they differ by 1 / N, N = batch x height x width.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=momentum_in_force(momentum),
    epsilon=epsilon,
    dtype=dtype,
    # E[x^2] - E[x]^2 cancels: at mean 1e4 it gives variance 0 in float32.
    use_fast_variance=False,
    name=name,
  )


def channel_dropout(rate: float, name: str | None = None) -> nn.Dropout:
  """Drops whole channels of `[b, h, w, c]`, as torch's Dropout2d; draws from 'dropout'."""
  return nn.Dropout(rate, broadcast_dims=(1, 2), name=name)


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


def level_ends(strides: Sequence[int], stem_stride: int) -> dict[int, int]:
  """The last of the blocks at each stride of a network for ImageNet.

  Args:
    strides: Of each block, as defined: before some are turned into dilation.
    stem_stride: Of what stands before them.

  Returns:
    Input pixels per pixel -> index of the last block at that stride.
  """
  totals = itertools.accumulate(strides, operator.mul, initial=stem_stride)
  return {total: index for index, total in enumerate(totals, start=-1)}


def check_output_stride(output_stride: int) -> None:
  """Raises InputError unless `output_stride` is 8, 16 or 32."""
  if output_stride not in (8, 16, 32):
    raise InputError(f'model.output_stride = {output_stride}: expected 8, 16 or 32')


def check_formulation(formulation: str) -> None:
  """Raises InputError unless `formulation` is one of `FORMULATIONS`."""
  if formulation not in FORMULATIONS:
    raise InputError(f'model.formulation = {formulation!r}: expected one of {", ".join(FORMULATIONS)}')


def rematerialized(block: type[nn.Module], rematerialize: bool) -> type[nn.Module]:
  """A module class whose backward pass computes it again; called with the features and `train`."""
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


def bilinear_neighbors(
  size_in: int, size_out: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Which two inputs each output of bilinear interpolation lies between; see `bilinear_matrix`.

  Returns:
    Indices of both, int64 `[size_out]`, and the weight of the second, float64 in 0..1.
  """
  coordinate = np.clip((np.arange(size_out) + 0.5) / scale - 0.5, 0, size_in - 1)
  low = np.floor(coordinate).astype(np.int64)
  return low, np.minimum(low + 1, size_in - 1), coordinate - low


@functools.lru_cache(maxsize=64)
def bilinear_matrix(size_in: int, size_out: int, scale: float) -> np.ndarray:
  """Weights of bilinear interpolation along one axis, align_corners=False.

  Output pixel i samples input coordinate (i + 0.5) / scale - 0.5, clamped to the input, so that
  `bilinear_matrix(n, n * s, s) @ x` equals torch.nn.functional.interpolate(x, scale_factor=s,
  mode='bilinear', align_corners=False) along that axis.

  Returns:
    float32 `[size_out, size_in]`; each row sums to 1.
  """
  low, high, fraction = bilinear_neighbors(size_in, size_out, scale)
  matrix = np.zeros((size_out, size_in), np.float64)
  rows = np.arange(size_out)
  np.add.at(matrix, (rows, low), 1 - fraction)
  np.add.at(matrix, (rows, high), fraction)
  return matrix.astype(np.float32)


def upsample_bilinear(
  x: Float[Array, 'b h w c'], size: tuple[int, int], scale: tuple[float, float]
) -> Float[Array, 'b h2 w2 c']:
  """Bilinear upsampling (align_corners=False) to `size`, the grid anchored at the top left corner.

  As two matrix products, whose gradients are matrix products too: no scatter, so that two runs give
  equal bits on a GPU.

  Args:
    x: What is upsampled.
    size: Output height and width; may be less than scale x input (the rest is cropped).
    scale: Output pixels per input pixel, vertically and horizontally.
  """
  rows = bilinear_matrix(x.shape[1], size[0], scale[0]).astype(x.dtype)
  columns = bilinear_matrix(x.shape[2], size[1], scale[1]).astype(x.dtype)
  highest = jax.lax.Precision.HIGHEST  # a GPU would round to tensor-float-32, a TPU to bfloat16
  x = jnp.einsum('oh,bhwc->bowc', rows, x, precision=highest)
  return jnp.einsum('pw,bowc->bopc', columns, x, precision=highest)
