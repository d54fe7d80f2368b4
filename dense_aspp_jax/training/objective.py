"""What a training minimizes: cross entropy in its variants, region losses, and an auxiliary head's share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from dense_aspp_jax import fields
from dense_aspp_jax.datasets.class_frequencies import CLASS_WEIGHTINGS, class_weights, count_classes
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.joined import JoinedSplit
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_mapping import group_value
from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.models.segmentation import Logits, SegmentationModel
from dense_aspp_jax.models.upsampling import upsample_bilinear, upsampled_argmax
from dense_aspp_jax.training.losses import (
  group_cross_entropy,
  ohem_weights,
  upsampled_cross_entropy,
  upsampled_pixel_losses,
)
from dense_aspp_jax.training.region_losses import REGION_LOSSES


@dataclasses.dataclass(frozen=True)
class Objective:
  """The section `config.loss`: cross entropy + region_weight x region + auxiliary_weight x auxiliary loss.

  Cross entropy is the mean over the counted pixels, weighted by class; with `ohem_threshold`, over the hard
  pixels alone, see `ohem_weights`. The auxiliary head's is always over all counted pixels.

  If a batch is computed in parts, cross entropy is still that of the whole batch; OHEM and the region losses
  are those of each part, averaged.

  Attributes:
    class_weights: One weight per class; () for all 1.
    ignore_label: A class index left out, besides `IGNORE_LABEL`.
    ohem_threshold: Probability of the true class below which a pixel is hard; 0: all pixels count.
    ohem_min_kept: Share of the counted pixels, the hardest, that count in any case.
    region: 'none', or a key of `REGION_LOSSES`.
    region_weight: Of the region loss.
    auxiliary_weight: Of the auxiliary head's cross entropy, where the network has that head.
    class_weighting: 'none', or the rule in `CLASS_WEIGHTINGS` that gives `class_weights`; see `counted`.
  """

  class_weights: tuple[float, ...] = ()
  ignore_label: int = IGNORE_LABEL
  ohem_threshold: float = 0.0
  ohem_min_kept: float = 0.0625
  region: str = 'none'
  region_weight: float = 1.0
  auxiliary_weight: float = 0.4
  class_weighting: str = 'none'

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    weights = self.class_weights
    holds = isinstance(weights, tuple | list) and all(fields.is_number(w) and w >= 0 for w in weights)
    expected = 'none, or one number of at least 0 per class, not all 0'
    fields.check('loss.class_weights', weights, holds and (not weights or any(weights)), expected)
    object.__setattr__(self, 'class_weights', tuple(weights))  # JSON has lists; jit needs what can be hashed
    fields.check_integer('loss.ignore_label', self.ignore_label, 0, 255)
    fields.check_number('loss.ohem_threshold', self.ohem_threshold, at_least=0, at_most=1)
    fields.check_number('loss.ohem_min_kept', self.ohem_min_kept, at_least=0, at_most=1)
    fields.check_choice('loss.region', self.region, ('none', *REGION_LOSSES))
    fields.check_number('loss.region_weight', self.region_weight, at_least=0)
    fields.check_number('loss.auxiliary_weight', self.auxiliary_weight, at_least=0)
    fields.check_choice('loss.class_weighting', self.class_weighting, ('none', *CLASS_WEIGHTINGS))
    if weights and self.class_weighting != 'none':
      raise InputError(
        f'config.loss.class_weighting = {self.class_weighting!r}, and config.loss.class_weights are given: '
        'set only one of them'
      )

  def counted(self, examples: Sequence[CachedExample], num_classes: int) -> Objective:
    """With the class weights that `class_weighting` gives for these training examples.

    Those of several data sets count as often as batches have them.
    """
    if self.class_weighting == 'none':
      return self
    pixels = count_classes(examples, num_classes, self.ignore_label)
    if isinstance(examples, JoinedSplit):
      pixels = examples.image_weights[:, None] * pixels
    weights = class_weights(pixels, self.class_weighting)
    return dataclasses.replace(self, class_weights=weights, class_weighting='none')

  def counted_classes(self, num_classes: int) -> list[int]:
    """The class indices whose pixels change the loss: not ignored, and of a weight above 0."""
    weights = self.class_weights or (1.0,) * num_classes
    return [i for i, weight in enumerate(weights) if weight and i != self.ignore_label]

  def weights(
    self, labels: UInt8[Array, 'b h w'], num_classes: int, groups: Sequence[tuple[int, ...]] = ()
  ) -> Float[Array, 'b h w']:
    """Weight of every pixel in the loss: its class's weight, 0 where it is ignored.

    Args:
      labels: Class indices, and values of groups.
      num_classes: Of the network.
      groups: See `label_groups`; a pixel of one has the mean weight of its classes.
    """
    counted = (labels < num_classes) & (labels != self.ignore_label)
    if self.class_weights:
      table = jnp.asarray(self.class_weights, jnp.float32)
      weights = jnp.where(counted, table[jnp.minimum(labels, num_classes - 1)], 0.0)
    else:
      weights = counted.astype(jnp.float32)
    for number, members in enumerate(groups):
      mean = sum(self.class_weights[i] for i in members) / len(members) if self.class_weights else 1.0
      weights = jnp.where(labels == group_value(number), mean, weights)
    return weights

  def loss(
    self,
    model: SegmentationModel,
    outputs: Logits,
    labels: UInt8[Array, 'b h w'],
    weights: Float[Array, 'b h w'],
    total_weight: jax.Array,
    num_parts: int,
    groups: Sequence[tuple[int, ...]] = (),
  ) -> tuple[jax.Array, jax.Array]:
    """A part's share of the loss, which add up over the parts of a batch; and its correct counted pixels.

    Args:
      model: The network.
      outputs: Its logits of the part, in training.
      labels: Class indices.
      weights: From `weights`.
      total_weight: Their sum over the whole batch, above 0.
      num_parts: Parts of the batch.
      groups: See `label_groups`. OHEM, region losses and the auxiliary head's leave their pixels out.
    """
    logits, auxiliary = outputs
    all_weights = weights
    if groups:
      weights = jnp.where(labels < model.num_classes, weights, 0.0)
    if self.ohem_threshold:
      losses = upsampled_pixel_losses(logits, labels, model.stride)
      hard = ohem_weights(losses, weights, threshold=self.ohem_threshold, min_kept=self.ohem_min_kept)
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
    if self.region != 'none' or groups:

      @jax.checkpoint  # all classes at full size: not kept for the backward pass
      def at_full_size(logits: jax.Array) -> jax.Array:
        full = upsample_bilinear(logits, labels.shape[1:], (float(model.stride),) * 2)
        total = jnp.zeros(())
        if self.region != 'none':
          total += self.region_weight / num_parts * REGION_LOSSES[self.region](full, labels, weights > 0)
        if groups:
          total += group_cross_entropy(full, labels, all_weights, groups) / total_weight
        return total

      loss += at_full_size(logits)
    return loss, correct


def above_zero(total: jax.Array) -> jax.Array:
  """The total, or the smallest float32: loss and gradient are 0 without counted pixels, not 0 / 0."""
  return jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
