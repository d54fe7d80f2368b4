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

from dense_aspp_jax.models.dense_primitives import CHOSEN, Mask, Primitives, convolution_3x3
from dense_aspp_jax.models.dtypes import accumulation_dtype
from dense_aspp_jax.models.moments import Affine, Moments, merged_moments, moments
from dense_aspp_jax.models.space_to_batch import batch_to_space, padding_mask, space_to_batch


class DenseLayerArrays(NamedTuple):
  """The arrays of one layer: [BN]-ReLU-1x1-BN-ReLU-3x3, or [BN]-ReLU-3x3.

  Attributes:
    norm1: Scale and bias of the first BN; None: there is none.
    kernel1: 1x1 kernel; None: there is no 1x1. A bias in front of a BN changes nothing and is left out.
    norm2: Scale and bias of the second BN; None without a 1x1.
    kernel2: 3x3 kernel.
    bias2: Bias of the 3x3; None: there is none.
    kept: Dropout: factor of each new channel of each image; None: no dropout. Gets no gradient.
  """

  norm1: tuple[Float[Array, ' cin'], Float[Array, ' cin']] | None
  kernel1: Float[Array, 'cin ci'] | None
  norm2: tuple[Float[Array, ' ci'], Float[Array, ' ci']] | None
  kernel2: Float[Array, '3 3 ci k']
  bias2: Float[Array, ' k'] | None = None
  kept: Float[Array, 'b 1 1 k'] | None = None


class DenseBlockPlan(NamedTuple):
  """What is known about a block before anything is computed.

  Attributes:
    dilations: Of each layer's 3x3 convolution, in the layout that it runs in.
    phases: The block runs on phases x phases images, see `space_to_batch`; 1: on the images as they are.
    epsilon: Of every BN.
    primitives: The operations that it is made of.
  """

  dilations: tuple[int, ...]
  phases: int = 1
  epsilon: float = 1e-5
  primitives: Primitives = CHOSEN


class _Saved(NamedTuple):
  """What the backward pass needs: the buffer, its moments, the bottlenecks and theirs."""

  features: Float[Array, 'n h2 w2 c2']
  of_features: Moments
  bottlenecks: list[Float[Array, 'n h2 w2 ci'] | None]
  of_bottlenecks: list[Moments | None]


def dense_block(
  plan: DenseBlockPlan,
  x: Float[Array, 'b h w c'],
  of_x: Moments,
  layers: Sequence[DenseLayerArrays],
) -> tuple[Float[Array, 'b h w c2'], Moments, list[Moments | None]]:
  """Densely connected layers with batch statistics.

  Under a mesh (`jax.sharding.use_abstract_mesh`, `jax.set_mesh`) whose devices the batch divides, each device
  computes its images, and the statistics are those of the whole batch.

  Args:
    plan: See there.
    x: Features, in the compute type.
    of_x: Their moments; gradients flow through them.
    layers: In float32, the first to the last.

  Returns:
    The features with len(layers) x k channels appended; the moments of all of them; and the moments of each
    layer's bottleneck (None without one), through which no gradient flows.
  """
  return _dense_block(plan, _device_axes(x.shape[0]), x, of_x, list(layers))


class InferenceLayerArrays(NamedTuple):
  """The arrays of one layer whose statistics are fixed.

  Attributes:
    affine: The first BN.
    kernel1: 1x1 kernel; None: there is no 1x1.
    second: The second BN, with the bias of the 1x1 if it has one; None without a 1x1.
    kernel2: 3x3 kernel.
    bias2: Bias of the 3x3; None: there is none.
  """

  affine: Affine
  kernel1: Float[Array, 'cin ci'] | None
  second: Affine | None
  kernel2: Float[Array, '3 3 ci k']
  bias2: Float[Array, ' k'] | None


def dense_block_inference(
  plan: DenseBlockPlan, x: Float[Array, 'b h w c'], layers: Sequence[InferenceLayerArrays]
) -> Float[Array, 'b h w c2']:
  """Densely connected layers with fixed statistics; see `dense_block`."""
  axes, layers = _device_axes(x.shape[0]), list(layers)
  run = functools.partial(_inference_local, plan)
  return _on_each_device(run, axes, (P(axes), P()), P(axes))(x, layers)


def _inference_local(plan, x, layers):
  batch, size, channels = x.shape[0], x.shape[1:3], x.shape[3]
  dtype, run = x.dtype, plan.primitives
  mask = padding_mask(batch, size, plan.phases)
  growth = layers[0].kernel2.shape[3]
  features = space_to_batch(x, plan.phases)
  features = jnp.pad(features, ((0, 0), (0, 0), (0, 0), (0, growth * len(layers))))
  for layer, dilation in zip(layers, plan.dilations, strict=True):
    kernel2 = layer.kernel2.astype(dtype)
    if layer.kernel1 is None:
      y = run.bn_relu_conv(features[..., :channels], layer.affine, kernel2, dilation, mask)
    else:
      z = run.bn_relu_dot_relu(features, layer.affine, layer.kernel1.astype(dtype), layer.second)
      y = convolution_3x3(_masked(z, mask), kernel2, dilation)
    if layer.bias2 is not None:
      y = y + layer.bias2.astype(dtype)
    features = lax.dynamic_update_slice(features, y, (0, 0, 0, channels))
    channels += growth
  return batch_to_space(features, plan.phases, size)


def _device_axes(batch_size: int) -> tuple[str, ...]:
  """Mesh axes that the batch is spread over; none on one device and where each device is on its own."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or batch_size % mesh.size:
    return ()
  return mesh.axis_names if all(kind == AxisType.Auto for kind in mesh.axis_types) else ()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _dense_block(plan, axes, x, of_x, layers):
  return _forward(plan, axes, x, of_x, layers)[0]


def _forward(plan, axes, x, of_x, layers):
  run = functools.partial(_forward_local, plan, axes)
  outputs, saved = P(axes), _Saved(P(axes), P(), P(axes), P())
  run = _on_each_device(run, axes, (P(axes), P(), _layer_specs(layers, axes)), ((outputs, P(), P()), saved))
  result, saved = run(x, of_x, layers)
  return result, (saved, layers)


def _backward(plan, axes, residuals, cotangents):
  saved, layers = residuals
  gradient, of_features, _ = cotangents
  run = functools.partial(_backward_local, plan, axes)
  specs = _layer_specs(layers, axes)
  inputs = (_Saved(P(axes), P(), P(axes), P()), specs, P(axes), P())
  run = _on_each_device(run, axes, inputs, (P(axes), P(), specs))
  return run(saved, layers, gradient, of_features)


_dense_block.defvjp(_forward, _backward)


def _on_each_device(f: Callable, axes: tuple[str, ...], in_specs: Any, out_specs: Any) -> Callable:
  if not axes:
    return f
  # Values that are equal on all devices come from collectives that this function itself makes.
  return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _layer_specs(layers: list[DenseLayerArrays], axes: tuple[str, ...]) -> list[DenseLayerArrays]:
  """Parameters are the same on all devices; dropout follows the images."""
  specs = []
  for layer in layers:
    spec = jax.tree.map(lambda _: P(), layer._replace(kept=None))
    specs.append(spec if layer.kept is None else spec._replace(kept=P(axes)))
  return specs


def normalization(norm: tuple[Array, Array] | None, channels: int, of_x: Moments, epsilon: float) -> Affine:
  """The affine map of a BN; the identity where there is none."""
  if norm is None:
    mean = of_x.mean[:channels]
    return Affine(jnp.zeros_like(mean), jnp.ones_like(mean), jnp.zeros_like(mean))
  scale, bias = norm
  inverse_deviation = lax.rsqrt(of_x.variance[:channels] + epsilon)
  dtype = inverse_deviation.dtype
  return Affine(of_x.mean[:channels], scale.astype(dtype) * inverse_deviation, bias.astype(dtype))


def _forward_local(plan, axes, x, of_x, layers):
  """The forward pass over one device's images."""
  batch, size, channels = x.shape[0], x.shape[1:3], x.shape[3]
  dtype, run = x.dtype, plan.primitives
  mask = padding_mask(batch, size, plan.phases)
  growth = layers[0].kernel2.shape[3]
  features = space_to_batch(x, plan.phases)
  features = jnp.pad(features, ((0, 0), (0, 0), (0, 0), (0, growth * len(layers))))
  saved = _Saved(features, of_x, [], [])
  for layer, dilation in zip(layers, plan.dilations, strict=True):
    affine = normalization(layer.norm1, channels, of_x, plan.epsilon)
    z, of_z = features[..., :channels], None
    if layer.kernel1 is not None:
      z, of_z = run.bn_relu_dot(features, affine, layer.kernel1.astype(dtype), mask)
      of_z = merged_moments(of_z, axes)
      affine = normalization(layer.norm2, z.shape[-1], of_z, plan.epsilon)
    saved.bottlenecks.append(None if layer.kernel1 is None else z)
    saved.of_bottlenecks.append(of_z)
    y = run.bn_relu_conv(z, affine, layer.kernel2.astype(dtype), dilation, mask)
    y = _add_bias_and_drop(y, layer, plan.phases)
    features = lax.dynamic_update_slice(features, y, (0, 0, 0, channels))
    of_y = merged_moments(moments(y, mask), axes)
    of_x = Moments(*(jnp.concatenate(pair) for pair in zip(of_x, of_y, strict=True)))
    channels += growth
  saved = saved._replace(features=features, of_features=of_x)
  return (batch_to_space(features, plan.phases, size), of_x, saved.of_bottlenecks), saved


def _backward_local(plan, axes, saved, layers, gradient, of_features):
  """The backward pass over one device's images.

  Args:
    plan: See there.
    axes: Mesh axes.
    saved: By the forward pass.
    layers: As given to it.
    gradient: Of the features it returned.
    of_features: Gradients of their moments.
  """
  batch, size, channels = gradient.shape[0], gradient.shape[1:3], gradient.shape[3]
  dtype, run = gradient.dtype, plan.primitives
  mask = padding_mask(batch, size, plan.phases)
  growth = layers[0].kernel2.shape[3]
  count = math.prod(gradient.shape[:3]) * (jax.lax.axis_size(axes) if axes else 1)
  features, buffer = lax.optimization_barrier((saved.features, space_to_batch(gradient, plan.phases)))
  local, whole = [None] * len(layers), [None] * len(layers)  # gradients: of this device's images, of all
  for index in reversed(range(len(layers))):
    layer, dilation, z = layers[index], plan.dilations[index], saved.bottlenecks[index]
    end, channels = channels, channels - growth
    # All readers of this layer's output are done: what came through the moments is due now.
    y = features[..., channels:end]
    through_moments = _through_moments(
      y,
      Moments(*(m[channels:] for m in _prefix(saved.of_features, end))),
      Moments(*(m[channels:] for m in of_features)),
      count,
    )
    gy = buffer[..., channels:end].astype(through_moments.dtype) + through_moments
    gy = _masked(gy, mask).astype(dtype)
    bias2 = None
    if layer.kept is not None:
      gy = gy * _kept_by_phase(layer, plan.phases).astype(dtype)
    if layer.bias2 is not None:
      bias2 = jnp.sum(gy, (0, 1, 2), dtype=accumulation_dtype(dtype))
    of_x = _prefix(saved.of_features, channels)
    affine = normalization(layer.norm1, channels, of_x, plan.epsilon)
    kernel2, kernel1, norm1, norm2 = layer.kernel2.astype(dtype), None, None, None
    if layer.kernel1 is None:
      x = features[..., :channels]
      g, kernel2_gradient, sums = run.bn_relu_conv_backward(x, affine, kernel2, dilation, mask, gy)
      added = buffer[..., :channels].astype(affine.scale.dtype) + g.astype(affine.scale.dtype) * affine.scale
      buffer = lax.dynamic_update_slice(buffer, added.astype(dtype), (0, 0, 0, 0))
    else:
      of_z = saved.of_bottlenecks[index]
      affine2 = normalization(layer.norm2, z.shape[-1], of_z, plan.epsilon)
      g, kernel2_gradient, sums = run.bn_relu_conv_backward(z, affine2, kernel2, dilation, mask, gy)
      norm2, of_z_gradient = _norm_gradients(sums, affine2, of_z, axes, plan.epsilon)
      gz = g.astype(affine2.scale.dtype) * affine2.scale + _through_moments(z, of_z, of_z_gradient, count)
      gz = _masked(gz, mask).astype(dtype)
      buffer, kernel1, sums = run.bn_relu_dot_backward(
        features, buffer, affine, layer.kernel1.astype(dtype), gz
      )
    of_features = _prefix(of_features, channels)
    if layer.norm1 is not None:
      norm1, of_x_gradient = _norm_gradients(sums, affine, of_x, axes, plan.epsilon)
      of_features = Moments(*(a + b for a, b in zip(of_features, of_x_gradient, strict=True)))
    kept = None if layer.kept is None else jnp.zeros_like(layer.kept)
    local[index] = (kernel1, kernel2_gradient, bias2)
    whole[index] = (norm1, norm2, kept)
  if axes:
    local = lax.psum(local, axes)
  gradients = [
    DenseLayerArrays(norm1, kernel1, norm2, kernel2, bias2, kept)
    for (kernel1, kernel2, bias2), (norm1, norm2, kept) in zip(local, whole, strict=True)
  ]
  gradients = jax.tree.map(lambda g, value: g.astype(value.dtype), gradients, layers)
  return batch_to_space(buffer[..., :channels], plan.phases, size), of_features, gradients


def _norm_gradients(
  sums: tuple[Array, Array], affine: Affine, of_x: Moments, axes: tuple[str, ...], epsilon: float
) -> tuple[tuple[Array, Array], Moments]:
  """Gradients of a BN's scale and bias and of the moments it used, from sums over its output's gradient."""
  gradient, centred = lax.psum(sums, axes) if axes else sums
  inverse_deviation = lax.rsqrt(of_x.variance + epsilon)
  of_moments = Moments(-affine.scale * gradient, -0.5 * affine.scale * inverse_deviation**2 * centred)
  return (centred * inverse_deviation, gradient), of_moments


def _through_moments(x: Array, of_x: Moments, gradient: Moments, count: int) -> Array:
  """The gradient of x that flows through its mean and variance over `count` positions."""
  centred = x.astype(of_x.mean.dtype) - of_x.mean
  return gradient.mean / count + centred * (gradient.variance * (2 / count))


def _prefix(values: Moments, channels: int) -> Moments:
  return Moments(*(value[:channels] for value in values))


def _masked(x: Array, mask: Mask) -> Array:
  return x if mask is None else jnp.where(mask[..., None], x, 0)


def _kept_by_phase(layer: DenseLayerArrays, phases: int) -> Array:
  return jnp.tile(layer.kept, (phases**2, 1, 1, 1))


def _add_bias_and_drop(y: Array, layer: DenseLayerArrays, phases: int) -> Array:
  if layer.bias2 is not None:
    y = y + layer.bias2.astype(y.dtype)
  if layer.kept is not None:
    y = y * _kept_by_phase(layer, phases).astype(y.dtype)
  return y
