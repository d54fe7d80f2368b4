"""Losses over logits and class indices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from dense_aspp_jax.labels import IGNORE_LABEL


def pixel_weights(
  labels: UInt8[Array, 'b h w'],
  num_classes: int,
  class_weights: tuple[float, ...] = (),
  ignore_label: int = IGNORE_LABEL,
) -> Float[Array, 'b h w']:
  """Weight of every pixel in the loss: its class's weight, 0 where it is ignored.

  Args:
    labels: Class indices and `IGNORE_LABEL`.
    num_classes: Number of classes.
    class_weights: One weight a class; () for all 1.
    ignore_label: A further index to leave out.
  """
  counted = (labels < num_classes) & (labels != ignore_label)
  if not class_weights:
    return counted.astype(jnp.float32)
  table = jnp.asarray(class_weights, jnp.float32)
  return jnp.where(counted, table[jnp.minimum(labels, num_classes - 1)], 0.0)


def cross_entropy(
  logits: Float[Array, 'b h w classes'], labels: UInt8[Array, 'b h w'], weights: Float[Array, 'b h w']
) -> Float[Array, '']:
  """Weighted sum of the pixels' cross entropy, in nats.

  Divided by the sum of `weights` it is torch.nn.functional.cross_entropy(weight=..., ignore_index=...).

  Args:
    logits: float32.
    labels: Class indices; any value where the weight is 0.
    weights: From `pixel_weights`.
  """
  # Ignored labels are replaced before they are used: an index out of range yields NaN, and NaN x 0 is NaN.
  classes = jnp.where(weights > 0, labels, 0).astype(jnp.int32)
  log_normalizer = jax.nn.logsumexp(logits, axis=-1)
  # A one-hot product, not a gather: the gradient of a gather is a scatter.
  picked = jnp.sum(jnp.where(classes[..., None] == jnp.arange(logits.shape[-1]), logits, 0.0), axis=-1)
  return jnp.sum((log_normalizer - picked) * weights)
