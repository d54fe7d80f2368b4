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
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import ops
from dense_aspp_jax.models.fused.arrays import (
  DenseBlockPlan,
  DenseLayerArrays,
  Mask,
  Saved,
  mask_by_phase,
  masked,
)
from dense_aspp_jax.models.fused.dense_block_backward import backward
from dense_aspp_jax.models.fused.space_to_batch import batch_to_space, padding_mask, space_to_batch
from dense_aspp_jax.models.fused.statistics import (
  EPSILON,
  Affine,
  Moments,
  activation,
  identity,
  merged_moments,
  moments,
  normalization,
)


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
  """Densely connected layers with fixed statistics; see `dense_block`.

  Args:
    plan: The structure.
    x: Features, in the compute type.
    layers: From `inference_arrays`.
  """
  axes, layers = _device_axes(x.shape[0]), list(layers)
  run = functools.partial(_inference_local, plan)
  return _on_each_device(run, axes, (P(axes), P()), P(axes))(x, layers)


def inference_arrays(
  plan: DenseBlockPlan, channels: int, layers: Sequence[DenseLayerArrays], dtype: DTypeLike
) -> list[DenseLayerArrays]:
  """The layers as `dense_block_inference` takes them: in the compute type, and laid out for the device.

  Args:
    plan: The structure.
    channels: Of the block's input.
    layers: In float32, their norms as `Affine`.
    dtype: The compute type.
  """
  growth = layers[0].kernel2.shape[3]
  block = channels + growth * len(layers)

  def laid_out(index: int, layer: DenseLayerArrays) -> DenseLayerArrays:
    width = channels + index * growth
    norm1 = identity(width, layer.kernel2.dtype) if layer.norm1 is None else layer.norm1
    kernel1, norm2, kernel2 = layer.kernel1, layer.norm2, layer.kernel2.astype(dtype)
    if kernel1 is not None:
      kernel1 = kernel1.astype(dtype)
      if plan.on_gpu and plan.gpu == 'mosaic':
        # The kernels take operands of the block's width, so that all layers call the same one.
        missing = 0, block - width
        norm1, norm2 = jnp.pad(jnp.stack(norm1), ((0, 0), missing)), jnp.stack(norm2)
        kernel1 = jnp.pad(kernel1, (missing, (0, 0)))
    return layer._replace(
      norm1=norm1,
      kernel1=kernel1,
      norm2=norm2,
      kernel2=kernel2.transpose(3, 0, 1, 2) if plan.on_gpu else kernel2,
      bias2=None if layer.bias2 is None else layer.bias2.astype(dtype),
    )

  return [laid_out(index, layer) for index, layer in enumerate(layers)]


def _inference_local(plan, x, layers):
  size, channels = x.shape[1:3], x.shape[3]
  growth = layers[0].kernel2.shape[0 if plan.on_gpu else 3]
  features, mask = _buffer(plan, x, growth * len(layers))
  for layer, dilation in zip(layers, plan.dilations, strict=True):
    affine = Affine(*layer.norm1)
    if layer.kernel1 is None:
      a = activation(features[..., :channels], affine)
    else:
      a = ops.bn_relu_dot_relu(
        *(features, affine, layer.kernel1, Affine(*layer.norm2)), channels=channels, gpu=plan.gpu
      )
    static = {'dilation': dilation, 'output_first': plan.on_gpu}
    if layer.bias2 is None:
      features, _ = ops.bn_relu_conv_into(
        *(a, None, layer.kernel2, mask, features),
        **{'channel': channels, 'gpu': plan.gpu, 'with_moments': False, **static},
      )
    else:
      y = ops.convolution_3x3(masked(a, mask), layer.kernel2, **static) + layer.bias2
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
  outputs, saved = P(axes), Saved(P(axes), P(), P(axes), P(), P())
  run = _on_each_device(run, axes, (P(axes), P(), _layer_specs(layers, axes)), ((outputs, P(), P()), saved))
  result, saved = run(x, x_moments, layers)
  return result, (saved, layers)


def _backward(plan, axes, residuals, cotangents):
  saved, layers = residuals
  gradient, moments_gradient, _ = cotangents
  run = functools.partial(backward, plan, axes)
  specs = _layer_specs(layers, axes)
  inputs = (Saved(P(axes), P(), P(axes), P(), P()), specs, P(axes), P())
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


def _buffer(plan: DenseBlockPlan, x: Array, added: int) -> tuple[Array, Mask]:
  """The block's buffer, filled with its input in front of `added` channels; and its mask."""
  features = space_to_batch(x, plan.phases)
  features = jnp.pad(features, ((0, 0), (0, 0), (0, 0), (0, added)))
  return features, padding_mask(x.shape[0], x.shape[1:3], plan.phases)


def _forward_local(plan, axes, x, x_moments, layers):
  """The forward pass over one device's images."""
  size, channels, dtype = x.shape[1:3], x.shape[3], x.dtype
  growth = layers[0].kernel2.shape[3]
  features, mask = _buffer(plan, x, growth * len(layers))
  saved = Saved(features, x_moments, [], [], [])
  for layer, dilation in zip(layers, plan.dilations, strict=True):
    affine = normalization(layer.norm1, channels, x_moments, EPSILON, as_rows=plan.gpu == 'mosaic')
    z, z_moments = features[..., :channels], None
    if layer.kernel1 is not None:
      z, z_moments = ops.bn_relu_dot(features, affine, layer.kernel1.astype(dtype), mask, gpu=plan.gpu)
      z_moments = merged_moments(z_moments, axes)
      affine = normalization(layer.norm2, z.shape[-1], z_moments, EPSILON, as_rows=plan.gpu == 'mosaic')
    saved.bottlenecks.append(None if layer.kernel1 is None else z)
    saved.bottleneck_moments.append(z_moments)
    saved.bottleneck_affines.append(None if layer.kernel1 is None else affine)
    conv = z, affine, layer.kernel2.astype(dtype), mask
    if layer.kernel1 is not None and layer.bias2 is None and layer.dropout_mask is None:
      features, y_moments = ops.bn_relu_conv_into(
        *conv, features, channel=channels, dilation=dilation, gpu=plan.gpu
      )
    else:
      y = ops.bn_relu_conv(*conv, dilation=dilation)
      if layer.bias2 is not None:
        y = y + layer.bias2.astype(dtype)
      if layer.dropout_mask is not None:
        y = y * mask_by_phase(layer, plan.phases).astype(dtype)
      features = lax.dynamic_update_slice(features, y, (0, 0, 0, channels))
      # Or else XLA would compute them again with those of every later layer.
      y_moments = lax.optimization_barrier(moments(y, mask))
    y_moments = merged_moments(y_moments, axes)
    x_moments = jax.tree.map(lambda *pair: jnp.concatenate(pair), x_moments, y_moments)
    channels += growth
  saved = saved._replace(features=features, feature_moments=x_moments)
  return (batch_to_space(features, plan.phases, size), x_moments, saved.bottleneck_moments), saved
