"""What a training minimises: cross entropy in its variants, region losses, and an auxiliary head's share."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.models.segmentation import Logits, SegmentationModel
from dense_aspp_jax.models.upsampling import upsample_bilinear, upsampled_argmax
from dense_aspp_jax.training.hard_pixels import hard_pixel_weights
from dense_aspp_jax.training.losses import pixel_weights, upsampled_cross_entropy, upsampled_pixel_losses
from dense_aspp_jax.training.region_losses import REGION_LOSSES


@dataclasses.dataclass(frozen=True)
class Objective:
  """The loss of a batch: cross entropy + region_weight x region loss + auxiliary_weight x auxiliary one.

  Cross entropy is the mean over the counted pixels, weighted by class. With `ohem_threshold` it is that over
  the hard pixels alone, see `hard_pixel_weights`. The auxiliary head's is always over all counted pixels.

  Where a batch is computed in parts, cross entropy is that of the whole batch all the same; OHEM and the
  region losses are those of each part, averaged.

  Attributes:
    class_weights: One weight a class; () for all 1.
    ignore_label: A class index left out, besides `IGNORE_LABEL`.
    ohem_threshold: Probability of the true class below which a pixel is hard; 0: all pixels count.
    ohem_min_kept: Share of the counted pixels, the hardest, that count in any case.
    region: 'none', or a key of `REGION_LOSSES`.
    region_weight: Of the region loss.
    auxiliary_weight: Of the auxiliary head's cross entropy, where the network has that head.
  """

  class_weights: tuple[float, ...] = ()
  ignore_label: int = IGNORE_LABEL
  ohem_threshold: float = 0.0
  ohem_min_kept: float = 0.0625
  region: str = 'none'
  region_weight: float = 1.0
  auxiliary_weight: float = 0.4

  def __post_init__(self):
    if self.region not in ('none', *REGION_LOSSES):
      raise InputError(f'loss.region = {self.region!r}: expected none, {" or ".join(REGION_LOSSES)}')

  def weights(self, labels: jax.Array, num_classes: int) -> jax.Array:
    """The pixels' weights, see `pixel_weights`; it counts where they are above 0."""
    return pixel_weights(labels, num_classes, self.class_weights, self.ignore_label)

  def loss(
    self,
    model: SegmentationModel,
    outputs: Logits,
    labels: jax.Array,
    weights: jax.Array,
    total_weight: jax.Array,
    num_parts: int,
  ) -> tuple[jax.Array, jax.Array]:
    """A part's share of the loss; the shares of all parts add up.

    Args:
      model: Whose outputs they are.
      outputs: In training.
      labels: uint8 `[b, h, w]`, class indices.
      weights: From `weights`.
      total_weight: Their sum over the whole batch, above 0.
      num_parts: Parts of the batch.

    Returns:
      The share, and how many counted pixels the logits have right.
    """
    logits, auxiliary = outputs
    if self.ohem_threshold:
      losses = upsampled_pixel_losses(logits, labels, model.stride)
      hard = hard_pixel_weights(losses, weights, threshold=self.ohem_threshold, min_kept=self.ohem_min_kept)
      loss, _ = upsampled_cross_entropy(logits, labels, hard, model.stride)
      loss /= num_parts * above_zero(jnp.sum(hard))
      predictions = upsampled_argmax(logits, labels.shape[1:], (float(model.stride),) * 2)
      correct = jnp.sum((predictions == labels) & (weights > 0), dtype=jnp.int32)
    else:
      loss, correct = upsampled_cross_entropy(logits, labels, weights, model.stride)
      loss /= total_weight
    if auxiliary is not None:
      share, _ = upsampled_cross_entropy(auxiliary, labels, weights, model.auxiliary_stride)
      loss += self.auxiliary_weight * share / total_weight
    if self.region != 'none':
      loss += self.region_weight / num_parts * self._region_loss(model.stride, logits, labels, weights)
    return loss, correct

  def _region_loss(self, stride: int, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    @jax.checkpoint  # all classes at full size: not kept for the backward pass
    def region_loss(logits: jax.Array) -> jax.Array:
      full = upsample_bilinear(logits, labels.shape[1:], (float(stride),) * 2)
      return REGION_LOSSES[self.region](full, labels, weights > 0)

    return region_loss(logits)


def above_zero(total: jax.Array) -> jax.Array:
  """For a batch without any counted pixel: loss and gradient are 0 then, not 0 / 0."""
  return jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
