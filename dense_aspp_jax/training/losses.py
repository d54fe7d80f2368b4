"""Losses over logits and class indices."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32, UInt8

from dense_aspp_jax.label_mapping import group_value
from dense_aspp_jax.models.upsampling import (
  column_phases,
  column_phases_transpose,
  first_maximum,
  upsample_columns,
  upsample_rows,
)

_BITS = 31  # of a non-negative int32
# Classes in one kernel. Of more than 170, XLA needs tens of GiB to compile it on a CPU.
_MOST_UNROLLED, _UNROLLED = 128, 64


def upsampled_cross_entropy(
  logits: Float[Array, 'b h w classes'],
  labels: UInt8[Array, 'b oh ow'],
  weights: Float[Array, 'b oh ow'],
  factor: int,
) -> tuple[Float[Array, ''], Int32[Array, '']]:
  """Weighted sum of the pixels' cross entropy, of logits upsampled by an integer factor.

  Divided by the sum of `weights` it is torch.nn.functional.cross_entropy(weight=..., ignore_index=...). No
  full-size array has a class axis: the backward pass computes the upsampled logits again, from their
  log-normaliser. Only the logits have a gradient.

  Args:
    logits: float32, one vector per feature-map pixel; at most 256 classes.
    labels: Class indices; any value where the weight is 0. At most `factor` x the size of `logits`; what
      is beyond them is cropped.
    weights: From `Objective.weights`.
    factor: Label pixels per pixel of `logits`.

  Returns:
    The weighted sum of the pixels' cross entropy in nats, and the number of pixels of weight above 0
    whose arg max (the first of equal classes) is the label.
  """
  columns = logits.shape[2]
  labels, weights = (_split_columns(x, columns, factor) for x in (labels, weights))
  return _cross_entropy_of_columns(logits, labels, weights, factor)


def upsampled_pixel_losses(
  logits: Float[Array, 'b h w classes'], labels: UInt8[Array, 'b oh ow'], factor: int
) -> Float[Array, 'b oh ow']:
  """Each pixel's cross entropy in nats in `upsampled_cross_entropy`, without gradient.

  Args:
    logits: See `upsampled_cross_entropy`.
    labels: Class indices; the loss of any other value is some finite number.
    factor: See `upsampled_cross_entropy`.
  """
  batch, height, width = labels.shape
  columns = logits.shape[2]
  labels = _split_columns(labels, columns, factor)
  log_normalizer, picked, _ = _at_columns(lax.stop_gradient(logits), labels, factor)
  return (log_normalizer - picked).reshape(batch, height, columns * factor)[:, :, :width]


def ohem_weights(
  losses: Float[Array, 'b h w'], weights: Float[Array, 'b h w'], *, threshold: float, min_kept: float
) -> Float[Array, 'b h w']:
  """Online hard example mining (OHEM): the weights with those of the easy pixels set to 0.

  Kept are the pixels whose true class has a probability below `threshold`, and in any case the
  ceil(`min_kept` x counted pixels) pixels of the largest losses, over the whole batch; all pixels whose loss
  equals the smallest of those are kept too. Shrivastava et al., CVPR 2016, section 4.

  Differs from the paper: pixels in place of regions, and a threshold beside the number, as in the pixel
  samplers of segmentation toolkits.

  Args:
    losses: float32. Cross entropy in nats, without class weight; see `upsampled_pixel_losses`. It gets no
      gradient. NaN counts as 0.
    weights: From `Objective.weights`; pixels of weight 0 are not counted.
    threshold: Probability, 0..1.
    min_kept: Share of the counted pixels, 0..1.
  """
  losses = lax.stop_gradient(losses)
  losses = jnp.where(losses > 0, losses, 0.0)  # rounding may leave -1e-7, and -0 has the sign's bit
  counted = weights > 0
  number = jnp.ceil(min_kept * jnp.sum(counted, dtype=jnp.int32).astype(jnp.float32))
  # The bits of non-negative float32 are in their order.
  order = lax.bitcast_convert_type(losses, jnp.int32)
  hard = (jnp.exp(-losses) < threshold) | (order >= _kth_largest(order, counted, number))
  return jnp.where(hard, weights, 0.0)


def group_cross_entropy(
  logits: Float[Array, 'b h w classes'],
  labels: UInt8[Array, 'b h w'],
  weights: Float[Array, 'b h w'],
  groups: Sequence[tuple[int, ...]],
) -> Float[Array, '']:
  """Weighted sum of -log of the probability of a group, over pixels of which the group alone is known.

  Its gradient raises the probability of the whole group and does not prefer one of its classes: which of them
  it is, is learned from pixels whose class is known. Cour et al., Learning from Partial Labels, JMLR 2011,
  is on such labels; the loss is the marginal likelihood.

  Args:
    logits: float32, at the labels' size.
    labels: Class indices; `group_value(i)` stands for `groups[i]`.
    weights: Of the pixels.
    groups: Class indices, see `label_groups`.
  """
  log_normalizer = jax.nn.logsumexp(logits, axis=-1)
  loss = jnp.zeros(())
  for number, members in enumerate(groups):
    of_group = jax.nn.logsumexp(logits[..., members], axis=-1)
    inside = labels == group_value(number)
    loss += jnp.sum(jnp.where(inside, (log_normalizer - of_group) * weights, 0.0))
  return loss


def _kth_largest(values: jax.Array, counted: jax.Array, k: jax.Array) -> jax.Array:
  """The k-th largest of the counted values, int32 >= 0, exactly; the largest int32 for k = 0.

  Found bit by bit, from the highest. Each bit is one count over the batch, which stays where it is; a sort
  would gather a batch that is spread over devices.
  """

  def set_bit(index: jax.Array, found: jax.Array) -> jax.Array:
    candidate = found | (1 << (_BITS - 1 - index))
    enough = jnp.sum(counted & (values >= candidate), dtype=jnp.int32) >= k
    return jnp.where(enough, candidate, found)

  return lax.fori_loop(0, _BITS, set_bit, jnp.int32(0))


def _split_columns(x: jax.Array, columns: int, factor: int) -> jax.Array:
  batch, height, width = x.shape
  padded = jnp.pad(x, ((0, 0), (0, 0), (0, columns * factor - width)))
  return padded.reshape(batch, height, columns, factor)


# Labels and weights of the columns j x factor + r are [b, oh, j, r], as `upsample_columns` has them.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _cross_entropy_of_columns(
  logits: jax.Array, labels: jax.Array, weights: jax.Array, factor: int
) -> tuple[jax.Array, jax.Array]:
  return _forward(logits, labels, weights, factor)[0]


def _forward(
  logits: jax.Array, labels: jax.Array, weights: jax.Array, factor: int
) -> tuple[tuple[jax.Array, jax.Array], Any]:
  log_normalizer, picked, prediction = _at_columns(logits, labels, factor)
  loss = jnp.sum((log_normalizer - picked) * weights)
  correct = jnp.sum((prediction == labels) & (weights > 0), dtype=jnp.int32)
  return (loss, correct), (logits, labels, weights, log_normalizer)


def _at_columns(logits: jax.Array, labels: jax.Array, factor: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The upsampled logits' log-normaliser, logit of the label and arg max."""
  rows = upsample_rows(logits, labels.shape[1], factor)
  if rows.shape[1] > _MOST_UNROLLED:
    return _at_columns_in_parts(jnp.moveaxis(rows, 1, 0), labels, factor)
  # Apart from the columns, which are then one pass over all classes.
  rows = lax.optimization_barrier([rows[:, index] for index in range(rows.shape[1])])
  classes = [upsample_columns(row, factor) for row in rows]
  maximum, prediction = first_maximum(classes)
  log_normalizer = maximum + jnp.log(sum(jnp.exp(values - maximum) for values in classes))
  picked = sum(jnp.where(labels == index, values, 0) for index, values in enumerate(classes))
  return log_normalizer, picked, prediction


def _at_columns_in_parts(
  rows: jax.Array, labels: jax.Array, factor: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """As `_at_columns`, of rows `[classes, b, oh, w + 2]`, in kernels of `_UNROLLED` classes."""
  scan = functools.partial(lax.scan, xs=(rows, jnp.arange(rows.shape[0], dtype=jnp.uint8)), unroll=_UNROLLED)

  def largest(carry, row_and_index):
    (maximum, prediction), (row, index) = carry, row_and_index
    values = upsample_columns(row, factor)
    return (jnp.maximum(maximum, values), jnp.where(values > maximum, index, prediction)), None

  def sums(carry, row_and_index):
    (total, picked), (row, index) = carry, row_and_index
    values = upsample_columns(row, factor)
    return (total + jnp.exp(values - maximum), picked + jnp.where(labels == index, values, 0)), None

  zeros = jnp.zeros(labels.shape, rows.dtype)
  (maximum, prediction), _ = scan(largest, (zeros - jnp.inf, jnp.zeros(labels.shape, jnp.uint8)))
  (total, picked), _ = scan(sums, (zeros, zeros))
  return maximum + jnp.log(total), picked, prediction


def _backward(factor: int, saved: Any, cotangents: Any) -> tuple[jax.Array, None, None]:
  logits, labels, weights, log_normalizer = saved
  rows, rows_transpose = jax.vjp(lambda x: upsample_rows(x, labels.shape[1], factor), logits)
  # [factor, b, 1, oh, columns] each: contiguous for every phase.
  by_phase = [jnp.moveaxis(x, 3, 0)[:, :, None] for x in (labels, weights * cotangents[0], log_normalizer)]
  class_index = jnp.arange(logits.shape[3], dtype=labels.dtype)[:, None, None]
  gradients = [
    (jnp.exp(values - normalizer) - (label == class_index)) * weight
    for values, label, weight, normalizer in zip(
      column_phases(lax.optimization_barrier(rows), factor), *by_phase, strict=True
    )
  ]
  return *rows_transpose(column_phases_transpose(gradients)), None, None


_cross_entropy_of_columns.defvjp(_forward, _backward)
