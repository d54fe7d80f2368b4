"""Batch normalization in evaluation other than by the running statistics of training.

Statistics of the batch that is predicted, and statistics estimated again over a whole split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Num

from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples, padded_batches
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.evaluation.inputs import check_batch
from dense_aspp_jax.evaluation.outputs import CLASSES, Upsampling
from dense_aspp_jax.evaluation.predictor import NETWORKS_KEPT, BatchPredictor
from dense_aspp_jax.evaluation.programs import Programs
from dense_aspp_jax.models.fused.statistics import EPSILON
from dense_aspp_jax.models.segmentation import Logits, SegmentationModel, with_fields
from dense_aspp_jax.progress import progress_bar

_MEAN, _VARIANCE = 'mean', 'var'  # as flax names them
_Statistics = dict[tuple[str, ...], np.ndarray]  # by path


def without_dropout(model: SegmentationModel) -> SegmentationModel:
  """The same network with the same variables, without dropout and stochastic depth in training."""
  return with_fields(model, dropout_rate=0.0, stochastic_depth_rate=0.0)


def _in_training(
  model: SegmentationModel, variables: Mapping[str, Any], images: jax.Array, preprocessing: Preprocessing
) -> tuple[Logits, dict[str, Any]]:
  """Logits by the statistics of these images, and the running statistics after them."""
  normalized = preprocessing.normalize(images)
  logits, updated = model.apply(variables, normalized, train=True, mutable=['batch_stats'])
  return logits, updated['batch_stats']


class BatchStatisticsPredictor(BatchPredictor):
  """Predicts each batch with the statistics of that very batch, as in training but without dropout.

  A prediction depends on the other images of its batch, so such a score belongs to a batch size and an order
  of the images. It is not comparable with one by running statistics. One device computes a whole batch; a
  batch of another size, such as the last one, costs a compilation.
  """

  def __init__(self, model: SegmentationModel, variables: Mapping[str, Any], preprocessing: Preprocessing):
    """Takes a network, its variables on one device, and its preprocessing."""
    self._variables, self.preprocessing = dict(variables), preprocessing
    model = without_dropout(model)

    def logits(variables, images):
      return _in_training(model, variables, images, preprocessing)[0].main

    self._logits, self._networks, self._upsample = logits, Programs(NETWORKS_KEPT), Upsampling(model)

  def predict_resized(
    self, images: np.ndarray, output_size: tuple[int, int], outputs: str = CLASSES
  ) -> Num[np.ndarray, 'b oh ow *classes']:
    """Predicts the images as one batch; see `BatchPredictor`."""
    check_batch(images)
    logits = self._networks.run(images.shape, self._logits, self._variables, images)
    return self._upsample(logits, images.shape[1:3], tuple(output_size), outputs)


def precise_bn_statistics(
  model: SegmentationModel,
  variables: Mapping[str, Any],
  split: Sequence[CachedExample],
  preprocessing: Preprocessing,
  *,
  batch_size: int,
) -> dict[str, Any]:
  """Estimates all BN statistics again over a split, parameters fixed (precise BN).

  Each image goes through the network once, not augmented, without dropout, in batches that every BN
  normalizes with their own statistics, as in training. A layer's mean is that of the batches' means, its
  variance E[variance + mean^2] - E[mean]^2 over the batches, a batch counting by its images; both in float64,
  in the form that does not cancel (Chan et al. 1979). With one batch of all images they are the mean and the
  biased variance over the split.

  Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3.
  Differs from it: it takes some thousand images at random, augmented; here all of the split, as they are.

  Args:
    model: The network.
    variables: Its 'params' and 'batch_stats', on one device, which computes.
    split: Images of one size.
    preprocessing: How images are normalized.
    batch_size: Images a batch; the last one has fewer where they do not come out even. That of training is
      what the parameters are used to.

  Returns:
    The new 'batch_stats', float32. Those of the auxiliary head are as they were.

  Raises:
    RunError: They are not finite.
  """
  # With momentum 0 the running statistics become exactly the batch's own.
  model = with_fields(without_dropout(model).clone(auxiliary_head=None), momentum=0.0)

  @jax.jit
  def statistics_of(variables, images):
    return _in_training(model, variables, images, preprocessing)[1]

  merged: _Statistics = {}
  done = 0
  with progress_bar(len(split), 'recalibrating', 'image') as bar:
    for batch in padded_batches(evaluation_examples(split), batch_size):
      count = len(batch.image_ids)  # what follows is padding
      statistics = flatten_dict(statistics_of(dict(variables), batch.image[:count]))
      statistics = {path: np.asarray(x, np.float64) for path, x in statistics.items()}
      merged = _merge(merged, done, statistics, count) if done else statistics
      done += count
      bar.update(count)
  for path, x in merged.items():
    if not np.isfinite(x).all():
      raise RunError(
        f'batch_stats/{"/".join(path)}: not finite over these images; the checkpoint cannot be recalibrated'
      )
  return unflatten_dict({path: x.astype(np.float32) for path, x in merged.items()})


def largest_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The largest differences of BN statistics, as JSON data.

  Returns:
    'mean': the largest change of a mean in old standard deviations, and the layer it is in;
    'variance': the largest factor, at least 1, between old and new variance (with 1e-5 added), likewise.
  """
  old, new = (
    {path: np.asarray(x, np.float64) for path, x in flatten_dict(t).items()} for t in (before, after)
  )
  deviations, factors = {}, {}
  for *layer, kind in old:
    if kind == _MEAN:
      mean, variance = (*layer, _MEAN), (*layer, _VARIANCE)
      old_variance, new_variance = old[variance] + EPSILON, new[variance] + EPSILON
      name = '/'.join(layer)
      deviations[name] = float(np.max(np.abs(new[mean] - old[mean]) / np.sqrt(old_variance)))
      factors[name] = float(np.exp(np.max(np.abs(np.log(new_variance / old_variance)))))
  mean, variance = (max(values, key=values.get) for values in (deviations, factors))
  return {
    'mean': {'deviations': deviations[mean], 'layer': mean},
    'variance': {'factor': factors[variance], 'layer': variance},
  }


def _merge(one: _Statistics, one_count: int, other: _Statistics, other_count: int) -> _Statistics:
  """Means and variances over the images of both."""
  share = other_count / (one_count + other_count)
  merged = {}
  for *layer, kind in one:
    if kind == _MEAN:
      mean, variance = (*layer, _MEAN), (*layer, _VARIANCE)
      difference = other[mean] - one[mean]
      merged[mean] = one[mean] + share * difference
      within = one[variance] + share * (other[variance] - one[variance])
      merged[variance] = within + share * (1 - share) * difference**2
  return merged
