"""Densely connected layers as one function with a backward pass of its own.

Every layer reads the first channels of one buffer and writes its own behind them. What makes it cheap, and
still exact:

- A channel's batch statistics do not depend on the layer that reads it: they are computed once, when the
  channel is made. Their gradient is collected from all readers and applied once, when the backward pass
  reaches the layer that made the channel.
- Saved for the backward pass are the buffer and the bottlenecks; relu(bn(x)) is computed again.
- Gradients add up in one buffer, in place.
- Dilated blocks run in space-to-batch layout, where their convolutions are undilated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import ops
from dense_aspp_jax.models.fused.gpu_tiles import Mask
from dense_aspp_jax.models.fused.separate import separately
from dense_aspp_jax.models.fused.space_to_batch import batch_to_space, padding_mask, space_to_batch
from dense_aspp_jax.models.fused.statistics import (
  EPSILON,
  Affine,
  Moments,
  accumulation_dtype,
  identity,
  merged_moments,
  moments,
  normalization,
)


class DenseLayerArrays(NamedTuple):
  """The arrays of one layer: [BN]-ReLU-1x1-BN-ReLU-3x3, or [BN]-ReLU-3x3.

  A BN is its scale and bias in training, which has the batch's statistics, and an `Affine` in inference.

  Attributes:
    norm1: The first BN; None: there is none.
    kernel1: 1x1 kernel; None: there is no 1x1. A bias in front of a BN changes nothing in training and is
      part of the affine map in inference.
    norm2: The second BN; None without a 1x1.
    kernel2: 3x3 kernel.
    bias2: Bias of the 3x3; None: there is none.
    dropout_mask: Factor of each new channel of each image; None: no dropout. Gets no gradient.
  """

  norm1: tuple[Float[Array, ' cin'], Float[Array, ' cin']] | Affine | None
  kernel1: Float[Array, 'cin ci'] | None
  norm2: tuple[Float[Array, ' ci'], Float[Array, ' ci']] | Affine | None
  kernel2: Float[Array, '3 3 ci k']
  bias2: Float[Array, ' k'] | None = None
  dropout_mask: Float[Array, 'b 1 1 k'] | None = None


class DenseBlockPlan(NamedTuple):
  """The static structure of a block.

  Attributes:
    dilations: Of each layer's 3x3 convolution, in the layout that it runs in.
    phases: The block runs on phases x phases images, see `space_to_batch`; 1: on the images as they are.
  """

  dilations: tuple[int, ...]
  phases: int = 1


class _Saved(NamedTuple):
  """What the backward pass needs: the buffer, its moments, the bottlenecks and theirs."""

  features: Float[Array, 'n h2 w2 c2']
  feature_moments: Moments
  bottlenecks: list[Float[Array, 'n h2 w2 ci'] | None]
  bottleneck_moments: list[Moments | None]


def dense_block(
  plan: DenseBlockPlan,
  x: Float[Array, 'b h w c'],
  x_moments: Moments,
  layers: Sequence[DenseLayerArrays],
) -> tuple[Float[Array, 'b h w c2'], Moments, list[Moments | None]]:
  """Densely connected layers with batch statistics.

  Under a mesh (`jax.sharding.use_abstract_mesh`, `jax.set_mesh`) whose devices the batch divides, each device
  computes its images, and the statistics are those of the whole batch.

  Args:
    plan: The structure.
    x: Features, in the compute type.
    x_moments: Their moments; gradients flow through them.
    layers: In float32, the first to the last.

  Returns:
    The features with len(layers) x k channels appended; the moments of all of them; and the moments of each
    layer's bottleneck (None without one), through which no gradient flows.
  """
  return _dense_block(plan, _device_axes(x.shape[0]), x, x_moments, list(layers))


def dense_block_inference(
  plan: DenseBlockPlan, x: Float[Array, 'b h w c'], layers: Sequence[DenseLayerArrays]
) -> Float[Array, 'b h w c2']:
  """Densely connected layers with fixed statistics; see `dense_block`."""
  axes, layers = _device_axes(x.shape[0]), list(layers)
  run = functools.partial(_inference_local, plan)
  return _on_each_device(run, axes, (P(axes), P()), P(axes))(x, layers)


def _inference_local(plan, x, layers):
  size, channels, dtype = x.shape[1:3], x.shape[3], x.dtype
  features, mask, growth = _buffer(plan, x, layers)
  for layer, dilation in zip(layers, plan.dilations, strict=True):
    affine = identity(channels, layer.kernel2.dtype) if layer.norm1 is None else layer.norm1
    kernel2 = layer.kernel2.astype(dtype)
    if layer.kernel1 is None:
      y = ops.bn_relu_conv(features[..., :channels], affine, kernel2, mask, dilation=dilation)
    else:
      z = ops.bn_relu_dot_relu(features, affine, layer.kernel1.astype(dtype), layer.norm2)
      y = ops.convolution_3x3(_masked(z, mask), kernel2, dilation=dilation)
    if layer.bias2 is not None:
      y = y + layer.bias2.astype(dtype)
    features = lax.dynamic_update_slice(features, y, (0, 0, 0, channels))
    channels += growth
  # Or else a GPU copies the whole buffer once, in front of what reads it.
  return batch_to_space(lax.optimization_barrier(features), plan.phases, size)


def _device_axes(batch_size: int) -> tuple[str, ...]:
  """Mesh axes that the batch is spread over; none on one device and where each device is on its own."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or batch_size % mesh.size:
    return ()
  return mesh.axis_names if all(kind == AxisType.Auto for kind in mesh.axis_types) else ()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dense_block(plan, axes, x, x_moments, layers):
  return _forward(plan, axes, x, x_moments, layers)[0]


def _forward(plan, axes, x, x_moments, layers):
  run = functools.partial(_forward_local, plan, axes)
  outputs, saved = P(axes), _Saved(P(axes), P(), P(axes), P())
  run = _on_each_device(run, axes, (P(axes), P(), _layer_specs(layers, axes)), ((outputs, P(), P()), saved))
  result, saved = run(x, x_moments, layers)
  return result, (saved, layers)


def _backward(plan, axes, residuals, cotangents):
  saved, layers = residuals
  gradient, moments_gradient, _ = cotangents
  run = functools.partial(_backward_local, plan, axes)
  specs = _layer_specs(layers, axes)
  inputs = (_Saved(P(axes), P(), P(axes), P()), specs, P(axes), P())
  run = _on_each_device(run, axes, inputs, (P(axes), P(), specs))
  return run(saved, layers, gradient, moments_gradient)


_dense_block.defvjp(_forward, _backward)


def _on_each_device(f: Callable, axes: tuple[str, ...], in_specs: Any, out_specs: Any) -> Callable:
  if not axes:
    return f
  # Values that are equal on all devices come from collectives that this function itself makes.
  return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _layer_specs(layers: list[DenseLayerArrays], axes: tuple[str, ...]) -> list[DenseLayerArrays]:
  """Parameters are the same on all devices; dropout follows the images."""
  return [
    jax.tree.map(lambda _: P(), layer)._replace(dropout_mask=None if layer.dropout_mask is None else P(axes))
    for layer in layers
  ]


def _buffer(plan: DenseBlockPlan, x: Array, layers: Sequence[DenseLayerArrays]) -> tuple[Array, Mask, int]:
  """The block's buffer, filled with its input; its mask; and how many channels each layer adds."""
  growth = layers[0].kernel2.shape[3]
  features = space_to_batch(x, plan.phases)
  features = jnp.pad(features, ((0, 0), (0, 0), (0, 0), (0, growth * len(layers))))
  return features, padding_mask(x.shape[0], x.shape[1:3], plan.phases), growth


def _forward_local(plan, axes, x, x_moments, layers):
  """The forward pass over one device's images."""
  size, channels, dtype = x.shape[1:3], x.shape[3], x.dtype
  features, mask, growth = _buffer(plan, x, layers)
  saved = _Saved(features, x_moments, [], [])
  for layer, dilation in zip(layers, plan.dilations, strict=True):
    affine = normalization(layer.norm1, channels, x_moments, EPSILON)
    z, z_moments = features[..., :channels], None
    if layer.kernel1 is not None:
      z, z_moments = ops.bn_relu_dot(features, affine, layer.kernel1.astype(dtype), mask)
      z_moments = merged_moments(z_moments, axes)
      affine = normalization(layer.norm2, z.shape[-1], z_moments, EPSILON)
    saved.bottlenecks.append(None if layer.kernel1 is None else z)
    saved.bottleneck_moments.append(z_moments)
    y = ops.bn_relu_conv(z, affine, layer.kernel2.astype(dtype), mask, dilation=dilation)
    if layer.bias2 is not None:
      y = y + layer.bias2.astype(dtype)
    if layer.dropout_mask is not None:
      y = y * _mask_by_phase(layer, plan.phases).astype(dtype)
    features = lax.dynamic_update_slice(features, y, (0, 0, 0, channels))
    y_moments = merged_moments(moments(y, mask), axes)
    x_moments = jax.tree.map(lambda *pair: jnp.concatenate(pair), x_moments, y_moments)
    channels += growth
  saved = saved._replace(features=features, feature_moments=x_moments)
  return (batch_to_space(features, plan.phases, size), x_moments, saved.bottleneck_moments), saved


def _backward_local(plan, axes, saved, layers, gradient, moments_gradient):
  """The backward pass over one device's images, from the gradients of the features and of their moments."""
  batch, size, channels = gradient.shape[0], gradient.shape[1:3], gradient.shape[3]
  dtype = gradient.dtype
  mask = padding_mask(batch, size, plan.phases)
  growth = layers[0].kernel2.shape[3]
  count = math.prod(gradient.shape[:3]) * (jax.lax.axis_size(axes) if axes else 1)
  features, buffer = lax.optimization_barrier((saved.features, space_to_batch(gradient, plan.phases)))
  local, whole = [None] * len(layers), [None] * len(layers)  # gradients: of this device's images, of all
  for index in reversed(range(len(layers))):
    layer, dilation, z = layers[index], plan.dilations[index], saved.bottlenecks[index]
    end, channels = channels, channels - growth
    # All readers of this layer's output are done: what came through the moments is due now.
    through_moments = _through_moments(
      features[..., channels:end],
      _channels(saved.feature_moments, channels, end),
      _channels(moments_gradient, channels, end),
      count,
    )
    gy = buffer[..., channels:end].astype(through_moments.dtype) + through_moments
    gy = _masked(gy, mask).astype(dtype)
    bias2, kernel1, norm1, norm2 = None, None, None, None
    if layer.dropout_mask is not None:
      gy = gy * _mask_by_phase(layer, plan.phases).astype(dtype)
    if layer.bias2 is not None:
      bias2 = jnp.sum(gy, (0, 1, 2), dtype=accumulation_dtype(dtype))
    x_moments = _channels(saved.feature_moments, 0, channels)
    affine = normalization(layer.norm1, channels, x_moments, EPSILON)
    kernel2 = layer.kernel2.astype(dtype)
    if layer.kernel1 is None:
      x = features[..., :channels]
      g, kernel2_gradient, sums = ops.bn_relu_conv_backward(x, affine, kernel2, mask, gy, dilation=dilation)
      added = buffer[..., :channels].astype(affine.scale.dtype) + g.astype(affine.scale.dtype) * affine.scale
      buffer = lax.dynamic_update_slice(buffer, added.astype(dtype), (0, 0, 0, 0))
    else:
      z_moments = saved.bottleneck_moments[index]
      affine2 = normalization(layer.norm2, z.shape[-1], z_moments, EPSILON)
      g, kernel2_gradient, sums = ops.bn_relu_conv_backward(z, affine2, kernel2, mask, gy, dilation=dilation)
      norm2, z_moments_gradient = _norm_gradients(sums, affine2, z_moments, axes)
      gz = g.astype(affine2.scale.dtype) * affine2.scale
      gz = gz + _through_moments(z, z_moments, z_moments_gradient, count)
      gz = _masked(gz, mask).astype(dtype)
      kernel1 = layer.kernel1.astype(dtype)
      buffer, kernel1, sums = ops.bn_relu_dot_backward(features, affine, kernel1, gz, buffer)
    moments_gradient = _channels(moments_gradient, 0, channels)
    if layer.norm1 is not None:
      norm1, x_moments_gradient = _norm_gradients(sums, affine, x_moments, axes)
      # Stored: fused with what reads it, XLA's CPU compiler would repeat all these sums for every position.
      moments_gradient = separately(_sum, moments_gradient, x_moments_gradient)
    local[index] = (kernel1, kernel2_gradient, bias2)
    whole[index] = (norm1, norm2, None if layer.dropout_mask is None else jnp.zeros_like(layer.dropout_mask))
  if axes:
    local = lax.psum(local, axes)
  gradients = [
    DenseLayerArrays(norm1, kernel1, norm2, kernel2, bias2, dropout_mask)
    for (kernel1, kernel2, bias2), (norm1, norm2, dropout_mask) in zip(local, whole, strict=True)
  ]
  gradients = jax.tree.map(lambda g, value: g.astype(value.dtype), gradients, layers)
  return batch_to_space(buffer[..., :channels], plan.phases, size), moments_gradient, gradients


def _norm_gradients(
  sums: tuple[Array, Array], affine: Affine, x_moments: Moments, axes: tuple[str, ...]
) -> tuple[tuple[Array, Array], Moments]:
  """Gradients of a BN's scale and bias and of the moments it used, from sums over its output's gradient."""
  gradient, centred = lax.psum(sums, axes) if axes else sums
  inverse_deviation = lax.rsqrt(x_moments.variance + EPSILON)
  moments_gradient = Moments(-affine.scale * gradient, -0.5 * affine.scale * inverse_deviation**2 * centred)
  return (centred * inverse_deviation, gradient), moments_gradient


def _through_moments(x: Array, x_moments: Moments, gradient: Moments, count: int) -> Array:
  """The gradient of x that flows through its mean and variance over `count` positions."""
  centred = x.astype(x_moments.mean.dtype) - x_moments.mean
  return gradient.mean / count + centred * (gradient.variance * (2 / count))


def _sum(a: Moments, b: Moments) -> Moments:
  return jax.tree.map(jnp.add, a, b)


def _channels(values: Moments, start: int, stop: int) -> Moments:
  return jax.tree.map(lambda value: value[start:stop], values)


def _masked(x: Array, mask: Mask) -> Array:
  return x if mask is None else jnp.where(mask[..., None], x, 0)


def _mask_by_phase(layer: DenseLayerArrays, phases: int) -> Array:
  return jnp.tile(layer.dropout_mask, (phases**2, 1, 1, 1))
