from typing import ClassVar

import flax.linen as nn
import jax
import numpy as np
import pytest
from patch_network import MEAN, STD, make_split
from reference_network import random_variables

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.evaluation.batch_norm import (
  BatchStatisticsPredictor,
  largest_changes,
  precise_bn_statistics,
  without_dropout,
)
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.layers import MOMENTUM, BatchNorm, Features
from dense_aspp_jax.models.segmentation import SegmentationModel, create_model, reference_model

SIZE = (32, 64)
PREPROCESSING = Preprocessing((32, 48), MEAN, STD)


class NormalizedPatches(nn.Module):
  """Patches of 8x8 pixels through one convolution and one BN."""

  momentum: float = MOMENTUM
  stride: ClassVar[int] = 8

  @nn.compact
  def __call__(self, image, train=False):
    x = nn.Conv(3, (8, 8), strides=(8, 8), padding='VALID', use_bias=False, name='conv')(image)
    x = BatchNorm(momentum=self.momentum, name='norm')(x, train)
    return Features(x, None, x)


# Of a head that logits do not depend on.
UNREACHED = {'mean': np.float32([0.1, -7]), 'var': np.float32([0.3, 2])}


@pytest.fixture(scope='module')
def network():
  """Dropout where it would show, and no value at its initial one."""
  dense_aspp = DenseASPP((1, 2), 4, 6, final_norm=True, dropout_rate=0.5)
  model = SegmentationModel(NormalizedPatches(), dense_aspp, num_classes=11, dropout_rate=0.5)
  variables = random_variables(model, np.zeros((1, *SIZE, 3), np.float32))
  return model, {**variables, 'batch_stats': {**variables['batch_stats'], 'auxiliary': {'norm': UNREACHED}}}


@pytest.fixture(scope='module')
def split():
  """Images that differ in brightness, so that wrong shares would show."""
  split = make_split([SIZE] * 5, 11)
  for index, example in enumerate(split):
    example.image[...] //= index + 1
  return split


@pytest.fixture(scope='module')
def recalibrated(network, split):
  """By batch size; of five images."""
  return {n: precise_bn_statistics(*network, split, PREPROCESSING, batch_size=n) for n in (5, 2)}


def normalized(examples):
  images = np.stack([example.image for example in examples])
  return ((images / 255 - MEAN) / STD).astype(np.float32)


@pytest.mark.parametrize('batch_size', [5, 2])
def test_one_norm_has_the_mean_and_variance_of_the_whole_split(network, split, recalibrated, batch_size):
  kernel = np.asarray(network[1]['params']['extractor']['conv']['kernel'], np.float64)
  patches = normalized(split).astype(np.float64).reshape(5, 4, 8, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5)
  features = np.tensordot(patches, kernel, 3).reshape(-1, 3)
  norm = recalibrated[batch_size]['extractor']['norm']
  assert norm['mean'].dtype == norm['var'].dtype == np.float32
  np.testing.assert_allclose(norm['mean'], features.mean(0), atol=1e-5)
  np.testing.assert_allclose(norm['var'], features.var(0), rtol=1e-5)


def statistics_of_batches(model, variables, batches):
  """Each batch's statistics by flax alone: ten times what momentum 0.9 adds to zeros."""
  plain = reference_model(without_dropout(model))
  zeros = jax.tree.map(np.zeros_like, variables['batch_stats'])

  @jax.jit
  def apply(images):
    variables_ = {'params': variables['params'], 'batch_stats': zeros}
    updated = plain.apply(variables_, images, train=True, mutable=['batch_stats'])[1]['batch_stats']
    return jax.tree.map(lambda x: 10 * x, updated)

  return [jax.tree.map(lambda x: np.asarray(x, np.float64), apply(images)) for images in batches]


def test_every_layer_of_a_network_merges_its_batches(network, split, recalibrated):
  model, variables = network
  found, images = recalibrated[2], normalized(split)
  batches = statistics_of_batches(model, variables, (images[:2], images[2:4], images[4:]))

  def merged(statistics):
    return (2 * statistics[0] + 2 * statistics[1] + statistics[2]) / 5

  def check(node, *batches):
    if 'var' not in node:
      return sum(check(node[name], *(batch[name] for batch in batches)) for name in node)
    mean = merged([batch['mean'] for batch in batches])
    square = merged([batch['var'] + batch['mean'] ** 2 for batch in batches])
    np.testing.assert_allclose(node['mean'], mean, atol=1e-4)
    np.testing.assert_allclose(node['var'], square - mean**2, rtol=1e-3)
    return 1

  reached = {name: statistics for name, statistics in found.items() if name != 'auxiliary'}
  assert check(reached, *batches) == 6  # of the extractor, two of each layer, the final one
  plain = precise_bn_statistics(reference_model(model), variables, split, PREPROCESSING, batch_size=2)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, plain)


def test_layers_that_logits_do_not_depend_on_keep_their_statistics(network, recalibrated):
  for statistics in recalibrated.values():
    jax.tree.map(np.testing.assert_array_equal, statistics['auxiliary']['norm'], UNREACHED)
    for name in ('mean', 'var'):
      old = network[1]['batch_stats']['extractor']['norm'][name]
      assert not np.allclose(statistics['extractor']['norm'][name], old)


def test_statistics_that_are_not_finite_are_refused(network, split):
  model, variables = network
  params = {**variables['params'], 'extractor': {'conv': {'kernel': np.full((8, 8, 3, 3), np.inf)}}}
  params['extractor']['norm'] = variables['params']['extractor']['norm']
  with pytest.raises(RunError, match='not finite over these images'):
    precise_bn_statistics(model, {**variables, 'params': params}, split[:1], PREPROCESSING, batch_size=1)


def test_largest_changes_by_hand():
  before = {'a': {'mean': np.float32([1, 2]), 'var': np.float32([4, 1])}}
  after = {'a': {'mean': np.float32([3, 2.5]), 'var': np.float32([8, 1])}}
  before['b'] = {'norm': {'mean': np.float32([0]), 'var': np.float32([0.25])}}
  after['b'] = {'norm': {'mean': np.float32([-0.75]), 'var': np.float32([0.05])}}
  changes = largest_changes(before, after)
  assert changes['mean'] == {'deviations': pytest.approx(1.5, rel=1e-3), 'layer': 'b/norm'}
  assert changes['variance'] == {'factor': pytest.approx(5, rel=1e-3), 'layer': 'b/norm'}
  changes = largest_changes({'a': before['a']}, {'a': after['a']})
  assert changes['mean'] == {'deviations': pytest.approx(1, rel=1e-3), 'layer': 'a'}
  assert changes['variance'] == {'factor': pytest.approx(2, rel=1e-3), 'layer': 'a'}


def test_neither_channels_nor_blocks_are_dropped():
  for extractor in ('densenet_tiny', 'convnext_tiny'):
    model = create_model(extractor=extractor, num_classes=11, dropout_rate=0.5)
    expected = create_model(extractor=extractor, num_classes=11)
    if extractor == 'convnext_tiny':
      assert model.extractor.stochastic_depth_rate > 0
      expected = expected.clone(extractor=expected.extractor.clone(stochastic_depth_rate=0.0))
    assert without_dropout(model) == expected


def test_a_batch_is_predicted_with_its_own_statistics(network, split):
  model, variables = network
  predictor = BatchStatisticsPredictor(model, variables, PREPROCESSING)
  split = split[:3]
  images, plain = normalized(split), reference_model(without_dropout(model))
  counts = np.zeros((12, 12), np.int64)
  for part, examples in ((images[:2], split[:2]), (images[2:], split[2:])):
    (logits, _), _ = jax.jit(lambda x: plain.apply(variables, x, True, mutable=['batch_stats']))(part)
    logits = plain.upsample_logits(logits, images.shape[1:3], (64, 128))
    given = np.stack([example.image for example in examples])
    predictions = predictor.predict_resized(given, (64, 128))
    assert predictions.dtype == np.uint8
    chosen = np.take_along_axis(np.asarray(logits), predictions[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(chosen, np.max(logits, -1), atol=1e-3)
    assert len(np.unique(predictions)) > 3
    for example, prediction in zip(examples, predictions, strict=True):
      np.add.at(counts, (example.label, prediction), 1)
  # evaluate gives it the same batches: the last one of one image, not filled up with a black one.
  found = evaluate(predictor, split, CAMVID_11, batch_size=2).counts
  np.testing.assert_array_equal(found, counts)
  alone = predictor.predict_resized(split[0].image[None], (64, 128))
  together = predictor.predict_resized(np.stack([example.image for example in split[:2]]), (64, 128))
  assert not np.array_equal(alone[0], together[0])
  probabilities = predictor.predict_resized(split[0].image[None], (64, 128), 'probabilities')
  of_class = np.take_along_axis(probabilities, alone[..., None].astype(int), -1)[..., 0]
  np.testing.assert_array_equal(of_class, probabilities.max(-1))
  with pytest.raises(InputError, match='expected uint8'):
    predictor.predict_resized(split[0].image[None] / np.float32(255), (64, 128))
