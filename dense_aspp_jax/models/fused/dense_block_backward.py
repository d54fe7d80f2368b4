"""The backward pass of a dense block, over one device's images; see `dense_block`.

Layers are taken from the last to the first. Their 1x1 convolutions read a wide prefix of the features, and
add to as wide a prefix of the gradient. Some layers together, a group, visit the channels in front of the
group once; within the group each layer visits those of the layers before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dense_aspp_jax.models.fused import ops
from dense_aspp_jax.models.fused.arrays import (
  DenseBlockPlan,
  DenseLayerArrays,
  Kernel,
  Maps,
  Mask,
  Saved,
  Sums,
  mask_by_phase,
  masked,
)
from dense_aspp_jax.models.fused.separate import separately
from dense_aspp_jax.models.fused.space_to_batch import batch_to_space, padding_mask, space_to_batch
from dense_aspp_jax.models.fused.statistics import (
  EPSILON,
  Affine,
  Moments,
  accumulation_dtype,
  identity,
)


class _Gradients:
  """The gradients of the features and of their moments, while layers add to them.

  Attributes:
    buffer: Of the features, in the block's layout and in their type.
    moments: Of the features' moments.
    mask: Of the layout.
  """

  def __init__(
    self,
    plan: DenseBlockPlan,
    axes: tuple[str, ...],
    saved: Saved,
    gradient: Array,
    of_moments: Moments,
    num_read: int,
  ):
    """Takes the gradients of what the block returned; `num_read` channels are read by a layer."""
    self._plan, self._axes = plan, axes
    self._feature_moments, self.moments = saved.feature_moments, of_moments
    self._count = math.prod(gradient.shape[:3]) * (jax.lax.axis_size(axes) if axes else 1)
    self.mask: Mask = padding_mask(gradient.shape[0], gradient.shape[1:3], plan.phases)
    in_layout = space_to_batch(gradient, plan.phases)
    self._features, self.buffer = lax.optimization_barrier((saved.features, in_layout))
    self._inverse, *self._inverses = _inverse_deviations(saved, num_read)

  def of_output(self, layer: DenseLayerArrays, start: int, stop: int) -> Maps:
    """That of a layer's 3x3 convolution, whose output are channels `start` to `stop`.

    All readers of the output are done: what comes through its moments is due now.
    """
    of_moments = _channels(self.moments, start, stop)
    mean = self._feature_moments.mean[start:stop]
    through = self._through_moments(self._features[..., start:stop], mean, of_moments)
    g = masked(self.buffer[..., start:stop].astype(through.dtype) + through, self.mask).astype(
      self.buffer.dtype
    )
    return g if layer.dropout_mask is None else g * mask_by_phase(layer, self._plan.phases).astype(g.dtype)

  def through_3x3(
    self, saved: Saved, index: int, layer: DenseLayerArrays, dilation: int, gy: Maps
  ) -> tuple[Maps, Kernel, tuple[Array, Array]]:
    """Those of the bottleneck, of the 3x3 kernel behind it, and of the BN's scale and bias between them."""
    z, affine, inverse = saved.bottlenecks[index], saved.bottleneck_affines[index], self._inverses[0][index]
    g, kernel, sums = ops.bn_relu_conv_backward(
      *(z, affine, layer.kernel2.astype(gy.dtype), self.mask, gy), dilation=dilation, gpu=self._plan.gpu
    )
    norm, of_moments = self._of_norm(sums, affine, inverse)
    gz = g.astype(affine.scale.dtype) * affine.scale + self._through_moments(z, affine.mean, of_moments)
    return masked(gz, self.mask).astype(gy.dtype), kernel, norm

  def add_through_1x1(
    self, layers: Sequence[DenseLayerArrays], output_gradients: Sequence[Maps], start: int, stop: int
  ) -> tuple[list[Kernel], list[tuple[Array, Array] | None]]:
    """Adds what flows from the layers' bottlenecks into channels `start` to `stop`.

    Returns:
      Of each layer, these channels' gradients of the 1x1 kernel and of the BN in front of it.
    """
    affines = [self._normalization(_at(layer.norm1, start, stop), start, stop) for layer in layers]
    kernels = [layer.kernel1[start:stop].astype(self.buffer.dtype) for layer in layers]
    self.buffer, kernel_gradients, sums = ops.bn_relu_dot_backward(
      *(self._features, affines, kernels, list(output_gradients), self.buffer),
      start=start,
      gpu=self._plan.gpu,
    )
    return kernel_gradients, self._add_through_norms(layers, sums, affines, start)

  def add_through_input(
    self, layer: DenseLayerArrays, dilation: int, gy: Maps, stop: int
  ) -> tuple[Kernel, tuple[Array, Array] | None]:
    """Adds what flows from a layer without a bottleneck into the channels up to `stop`."""
    affine = self._normalization(layer.norm1, 0, stop)
    g, kernel, sums = ops.bn_relu_conv_backward(
      *(self._features[..., :stop], affine, layer.kernel2.astype(gy.dtype), self.mask, gy),
      dilation=dilation,
      gpu=self._plan.gpu,
    )
    wide = affine.scale.dtype
    added = self.buffer[..., :stop].astype(wide) + g.astype(wide) * affine.scale
    self.buffer = lax.dynamic_update_slice(self.buffer, added.astype(gy.dtype), (0, 0, 0, 0))
    return kernel, *self._add_through_norms([layer], [sums], [affine], 0)

  def _add_through_norms(
    self,
    layers: Sequence[DenseLayerArrays],
    sums: Sequence[Sums],
    affines: Sequence[Affine],
    start: int,
  ) -> list[tuple[Array, Array] | None]:
    """Adds what flows through the moments that the layers' first BNs used; those of scale and bias."""
    norms, total = [], None
    for layer, layer_sums, affine in zip(layers, sums, affines, strict=True):
      if layer.norm1 is None:
        norms.append(None)
        continue
      inverse = self._inverse[start : start + len(affine.mean)]
      norm, of_moments = self._of_norm(layer_sums, affine, inverse)
      norms.append(norm)
      total = of_moments if total is None else _sum(total, of_moments)
    if total is not None:
      stop = start + len(total.mean)
      # Stored: fused with what reads it, XLA's CPU compiler would repeat all these sums for every position.
      added = separately(_sum, _channels(self.moments, start, stop), total)
      parts = (_channels(self.moments, 0, start), added) if start else (added,)
      self.moments = jax.tree.map(lambda *values: jnp.concatenate(values), *parts) if start else added
    return norms

  def _normalization(self, norm: tuple[Array, Array] | None, start: int, stop: int) -> Affine:
    """The affine map of a BN of channels `start` to `stop`."""
    mean, inverse_deviation = self._feature_moments.mean[start:stop], self._inverse[start:stop]
    if norm is None:
      return identity(stop - start, mean.dtype)
    scale, bias = (values.astype(mean.dtype) for values in norm)
    return Affine(mean, scale * inverse_deviation, bias)

  def _of_norm(
    self, sums: Sums, affine: Affine, inverse_deviation: Array
  ) -> tuple[tuple[Array, Array], Moments]:
    """Of a BN's scale and bias and of the moments it used, from sums over its output's gradient."""
    gradient, centred = lax.psum(sums, self._axes) if self._axes else sums
    of_moments = Moments(-affine.scale * gradient, -0.5 * affine.scale * inverse_deviation**2 * centred)
    return (centred * inverse_deviation, gradient), of_moments

  def _through_moments(self, x: Maps, mean: Array, gradient: Moments) -> Maps:
    """Of x, what flows through its mean and variance."""
    centred = x.astype(mean.dtype) - mean
    return gradient.mean / self._count + centred * (gradient.variance * (2 / self._count))


def backward(
  plan: DenseBlockPlan,
  axes: tuple[str, ...],
  saved: Saved,
  layers: Sequence[DenseLayerArrays],
  gradient: Maps,
  moments_gradient: Moments,
) -> tuple[Maps, Moments, list[DenseLayerArrays]]:
  """The gradients of the block's input, of its moments and of the layers.

  Args:
    plan: The structure.
    axes: Of the mesh that the batch is spread over.
    saved: By the forward pass.
    layers: The first to the last.
    gradient: Of the features.
    moments_gradient: Of their moments.
  """
  growth = layers[0].kernel2.shape[3]
  first_width = gradient.shape[3] - growth * len(layers)
  widths = [first_width + index * growth for index in range(len(layers))]
  gradients = _Gradients(plan, axes, saved, gradient, moments_gradient, widths[-1])
  local, whole = [None] * len(layers), [None] * len(layers)  # of this device's images, of all
  for first in reversed(range(0, len(layers), plan.group)):
    front, group = widths[first], []
    for index in reversed(range(first, min(first + plan.group, len(layers)))):
      layer, width = layers[index], widths[index]
      gy = gradients.of_output(layer, width, width + growth)
      bias2 = None if layer.bias2 is None else jnp.sum(gy, (0, 1, 2), dtype=accumulation_dtype(gy.dtype))
      dropout_mask = None if layer.dropout_mask is None else jnp.zeros_like(layer.dropout_mask)
      if layer.kernel1 is None:
        kernel2, norm1 = gradients.add_through_input(layer, plan.dilations[index], gy, width)
        local[index], whole[index] = (None, kernel2, bias2), (norm1, None, dropout_mask)
        continue
      gz, kernel2, norm2 = gradients.through_3x3(saved, index, layer, plan.dilations[index], gy)
      local[index], whole[index] = (None, kernel2, bias2), (None, norm2, dropout_mask)
      inside = gradients.add_through_1x1([layer], [gz], front, width) if width > front else ()
      group.append((index, layer, gz, inside))
    if not group:
      continue
    indices, members, output_gradients, insides = zip(*group, strict=True)
    fronts = gradients.add_through_1x1(members, output_gradients, 0, front)
    for index, inside, *parts in zip(indices, insides, *fronts, strict=True):
      kernel1, norm1 = _joined(parts, [part[0] for part in inside])
      local[index], whole[index] = (kernel1, *local[index][1:]), (norm1, *whole[index][1:])
  if axes:
    local = lax.psum(local, axes)
  found = [
    DenseLayerArrays(norm1, kernel1, norm2, kernel2, bias2, dropout_mask)
    for (kernel1, kernel2, bias2), (norm1, norm2, dropout_mask) in zip(local, whole, strict=True)
  ]
  found = jax.tree.map(lambda g, value: g.astype(value.dtype), found, list(layers))
  of_input = batch_to_space(gradients.buffer[..., :first_width], plan.phases, gradient.shape[1:3])
  return of_input, _channels(gradients.moments, 0, first_width), found


def _inverse_deviations(saved: Saved, num_read: int) -> list[Array]:
  """Of the features that a layer reads, and of the bottlenecks where there are any, `[layers, ci]`.

  All at once and stored: a GPU would launch a kernel for each, in front of whatever reads it.
  """
  variances = [saved.feature_moments.variance[:num_read]]
  if saved.bottleneck_moments[0] is not None:
    variances.append(jnp.stack([z_moments.variance for z_moments in saved.bottleneck_moments]))
  return lax.optimization_barrier([lax.rsqrt(variance + EPSILON) for variance in variances])


def _joined(front: list, inside: list) -> list:
  """Gradients of the channels in front of a group and in it, along their first axis."""
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), front, inside) if inside else front


def _at(norm: tuple[Array, Array] | None, start: int, stop: int) -> tuple[Array, Array] | None:
  return None if norm is None else tuple(x[start:stop] for x in norm)


def _sum(a: Moments, b: Moments) -> Moments:
  return jax.tree.map(jnp.add, a, b)


def _channels(values: Moments, start: int, stop: int) -> Moments:
  return jax.tree.map(lambda value: value[start:stop], values)
