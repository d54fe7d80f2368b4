"""Losses of whole classes instead of single pixels: soft Dice and Lovasz-softmax.

Logits are float32, at the labels' size. A label may have any value where it is not counted. The losses are in
0..1. A class without a counted pixel of that label is not in the mean, which is 0 if there is no class.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, UInt8


def soft_dice_loss(
  logits: Float[Array, 'b h w classes'], labels: UInt8[Array, 'b h w'], counted: Bool[Array, 'b h w']
) -> Float[Array, '']:
  """Soft Dice loss: the mean of 1 - 2 sum(p y) / (sum(p) + sum(y)) over the classes present.

  p is the probability of the class, y is 1 where it is the label; the sums go over the counted pixels of the
  whole batch. Milletari et al., V-Net, 3DV 2016, section 3.

  Differs from the paper: p and y are not squared in the denominator, and there is more than one class.
  """
  probabilities, is_label = _probabilities_and_labels(logits, labels, counted)
  pixels = (0, 1, 2)
  overlap = jnp.sum(jnp.where(is_label, probabilities, 0.0), pixels)
  area = jnp.sum(jnp.where(counted[..., None], probabilities, 0.0), pixels)
  true_area = jnp.sum(is_label, pixels, dtype=jnp.int32)
  # An absent class may have area 0 too.
  return _mean_of_present(1 - 2 * overlap / jnp.maximum(area + true_area, 1.0), true_area)


def lovasz_softmax_loss(
  logits: Float[Array, 'b h w classes'], labels: UInt8[Array, 'b h w'], counted: Bool[Array, 'b h w']
) -> Float[Array, '']:
  """Lovasz-softmax loss of the classes present: Berman et al., CVPR 2018.

  For predictions of probability 0 or 1 it is the mean of 1 - IoU. The errors of a class are sorted over the
  counted pixels of the whole batch, which gathers a batch that is spread over devices.
  """
  probabilities, is_label = _probabilities_and_labels(logits, labels, counted)
  num_classes = logits.shape[-1]
  errors = jnp.where(is_label, 1 - probabilities, probabilities)

  def by_class(x: jax.Array) -> jax.Array:
    return x.reshape(-1, num_classes).T

  # The loss is linear in the errors as long as their order stays.
  slopes = _jaccard_slopes(lax.stop_gradient(by_class(errors)), by_class(is_label), counted.reshape(1, -1))
  losses = jnp.sum(by_class(errors) * slopes, axis=1)
  return _mean_of_present(losses, jnp.sum(is_label, (0, 1, 2), dtype=jnp.int32))


# Value of config.loss.region -> the loss.
REGION_LOSSES: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
  'dice': soft_dice_loss,
  'lovasz': lovasz_softmax_loss,
}


def _probabilities_and_labels(
  logits: jax.Array, labels: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Softmax, and whether a pixel is counted and the class its label: `[b, h, w, classes]` each."""
  # Before the softmax: then logits that are not finite do no harm where no pixel is counted.
  probabilities = jax.nn.softmax(jnp.where(counted[..., None], logits, 0.0))
  is_label = (labels[..., None] == jnp.arange(logits.shape[-1])) & counted[..., None]
  return probabilities, is_label


def _jaccard_slopes(errors: jax.Array, is_label: jax.Array, counted: jax.Array) -> jax.Array:
  """What each pixel's error is multiplied by in the Lovasz extension of the Jaccard loss.

  Berman et al.'s algorithm 1 takes the differences of neighbouring Jaccard losses, which are near rounding
  for millions of pixels; they are written out here. A pixel of the label takes 1 from the intersection I
  and leaves the union U, any other one adds 1 to U: 1 / U and I / (U - 1) - I / U.

  Args:
    errors: `[classes, pixels]`, 0..1.
    is_label: bool `[classes, pixels]`.
    counted: bool `[1, pixels]`.

  Returns:
    As `errors`; 0 where a pixel is not counted.
  """
  position = lax.broadcasted_iota(jnp.int32, errors.shape, 1)
  # Ascending, so largest errors first. What is not counted comes last, where no slope depends on it and,
  # no pixel of the label being left, the intersection and its own slope are 0.
  key = jnp.where(counted, -errors, 1.0)
  # The pixel and its label in one number: an array less to sort.
  _, pixel_and_label = lax.sort((key, 2 * position + is_label), dimension=1, num_keys=1)
  is_label, pixel = pixel_and_label % 2 == 1, pixel_and_label // 2
  seen = jnp.cumsum(is_label, axis=1, dtype=jnp.int32)
  area = seen[:, -1:]
  intersection = (area - seen).astype(errors.dtype)
  union = (area + position + 1 - seen).astype(errors.dtype)
  slopes = jnp.where(is_label, 1 / union, intersection / (union * jnp.maximum(union - 1, 1)))
  # Put back by a second sort, not by a scatter.
  _, slopes = lax.sort((pixel, slopes), dimension=1, num_keys=1)
  return slopes


def _mean_of_present(losses: jax.Array, true_area: jax.Array) -> jax.Array:
  """The mean over the classes that have pixels; 0 if none has."""
  present = true_area > 0
  return jnp.sum(jnp.where(present, losses, 0.0)) / jnp.maximum(jnp.sum(present), 1)
