"""Every extractor computes what its source does: torchvision's, timm's, at strides 32 and 8.

The references were made with torch by tests/golden/make_references.py; here the weights are drawn again.
"""

import itertools
import pathlib

import flax.linen as nn
import numpy as np
import pytest
from drawn_weights import draw_weights, source_shapes
from jax import lax
from small_extractors import SMALL_EXTRACTORS

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models import layers
from dense_aspp_jax.models.extractors import (
  EXTRACTORS,
  convnext,
  create_extractor,
  efficientnet_lite,
  inverted_residual,
  mobilenet_v3,
)
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.models.fused import stem
from dense_aspp_jax.models.fused.statistics import normalization
from dense_aspp_jax.weights import parity
from dense_aspp_jax.weights.convert import convert_tensors, tensors_digest
from dense_aspp_jax.weights.name_maps import SOURCES

FOLDER = pathlib.Path(__file__).parents[1] / 'golden' / 'references'
REFERENCES = {path.stem for path in FOLDER.iterdir()}
RELEASED = parity.REFERENCES
EVEN, ODD = (64, 96), (65, 97)


@pytest.fixture(scope='module', autouse=True)
def drawn_references():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parity, 'REFERENCES', FOLDER)
    yield


def load(extractor, source):
  """A classifier, the tensors drawn for it, and the stored reference for them."""
  classifier = create_classifier(extractor)
  tensors = draw_weights(source_shapes(classifier, source))
  name, reference = parity.find_reference(tensors_digest(tensors))
  return classifier, tensors, name, reference


def differences(classifier, tensors, source, reference, case):
  variables = convert_tensors(tensors, classifier, source, 'drawn')
  return parity.differences(parity.stage_activations(classifier, variables, case), reference, case)


@pytest.fixture(scope='module', params=SMALL_EXTRACTORS)
def small(request):
  extractor = SMALL_EXTRACTORS[request.param]
  source = SOURCES[type(extractor)][0]
  classifier, tensors, name, reference = load(extractor, source)
  assert name == f'{request.param}.drawn'
  return classifier, tensors, source, reference


def test_cases_are_even_and_odd_sizes_at_both_strides():
  assert {c[:2] for c in parity.CASES} == {EVEN, ODD}
  assert {c.output_stride for c in parity.CASES} == {8, 32}


# How the stages of each family follow each other: the first three and the last two.
ORDERS = {
  'DenseNet': ('denseblock1', 'transition1', 'denseblock2', 'norm5', 'logits'),
  'MobileNetV3': ('stem', 'block1', 'block2', 'last', 'logits'),
  'ConvNeXt': ('stem_norm', 'stage1_block1', 'downsample1', 'stage4_block1', 'logits'),
  'EfficientNetLite': ('stem', 'stage1_block1', 'stage2_block1', 'conv_head', 'logits'),
}


@pytest.mark.parametrize('case', parity.CASES, ids=lambda c: c.name)
def test_parity_of_a_small_member_of_each_family(small, case):
  classifier, tensors, source, reference = small
  variables = convert_tensors(tensors, classifier, source, 'drawn')
  stages = parity.stage_activations(classifier, variables, case)
  assert (*list(stages)[:3], *list(stages)[-2:]) == ORDERS[type(classifier.extractor).__name__]
  found = parity.differences(stages, reference, case)
  assert len(found) >= 7
  assert 'logits' in found
  assert max(found.values()) <= parity.TOLERANCE, found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
  ('name', 'source'),
  [
    pytest.param(name, source, id=f'{name}-{source.name}')
    for name, extractor in EXTRACTORS.items()
    for source in SOURCES[type(extractor)]
    if f'{name}.drawn{"" if source is SOURCES[type(extractor)][0] else "_" + source.name}' in REFERENCES
  ],
)
def test_parity_of_every_architecture(name, source):
  classifier, tensors, _, reference = load(create_extractor(name, output_stride=32), source)
  for case in parity.CASES:
    found = differences(classifier, tensors, source, reference, case)
    assert max(found.values()) <= parity.TOLERANCE, (case.name, found)
  parity.run_capturing.clear_cache()


def equal_shaped_pairs(tensors):
  """Each key with the next one of the same shape, of whatever kind."""
  by_shape = {}
  for key, array in tensors.items():
    by_shape.setdefault(array.shape, []).append(key)
  return [pair for keys in by_shape.values() for pair in itertools.pairwise(keys)]


def test_exchanged_keys_break_the_parity(small):
  classifier, tensors, source, reference = small
  pairs = equal_shaped_pairs(tensors)
  assert len(pairs) > 10
  case = parity.CASES[0]
  for first, second in pairs:
    exchanged = {**tensors, first: tensors[second], second: tensors[first]}
    try:
      found = differences(classifier, exchanged, source, reference, case)
    except InputError:
      assert 'running_var' in first + second  # a variance would be negative
    else:
      assert max(found.values()) > parity.TOLERANCE, (first, second)


def _with(function, **arguments):
  return lambda *args, **kwargs: function(*args, **{**kwargs, **arguments})


def _layer_norm_like(name):
  """A ConvNeXt whose layer normalization `name` alone has torch's default epsilon."""

  def layer_norm(given, dtype, _implementation):
    epsilon = 1e-5 if given == name else convnext.EPSILON
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=given)

  return layer_norm


def _padded_in_front(*args, padding=None, **fields):
  """A convolution that pads top and left where ConvNeXt's downsampling pads bottom and right."""
  if isinstance(padding, list):
    padding = [(after, before) for before, after in padding]
  return layers.convolution(*args, padding=padding, **fields)


# What is done wrong -> the network, the module and its attribute, the wrong value.
MISTAKES = {
  'densenet: epsilon': (
    'small_densenet',
    layers,
    'normalization',
    lambda norm, channels, x_moments, epsilon: normalization(norm, channels, x_moments, 1e-3),
  ),
  'densenet: padding of the stem': (
    'small_densenet',
    stem,
    'space_to_depth_convolution',
    lambda x, kernel: lax.conv_general_dilated(
      *(x, kernel, (2, 2), 'SAME'), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    ),
  ),
  'densenet: zeros around the pooling, not -inf': (
    'small_densenet',
    stem,
    'max_pool_saving_argmax',
    lambda x: nn.max_pool(x, (3, 3), (2, 2), 'SAME'),
  ),
  'mobilenet_v3: epsilon': ('small_mobilenet_v3', inverted_residual, 'EPSILON', 1e-5),
  'mobilenet_v3: padding': (
    'small_mobilenet_v3',
    inverted_residual,
    'convolution',
    _with(layers.convolution, padding='SAME'),
  ),
  'mobilenet_v3: sigmoid, not hard': ('small_mobilenet_v3', mobilenet_v3.nn, 'hard_sigmoid', nn.sigmoid),
  'convnext: epsilon of the stem': ('small_convnext', convnext, '_layer_norm', _layer_norm_like('stem_norm')),
  'convnext: epsilon of blocks': ('small_convnext', convnext, '_layer_norm', _layer_norm_like('norm')),
  'convnext: epsilon of the classifier': ('small_convnext', convnext, 'EPSILON', 1e-5),
  'convnext: tanh GELU': ('small_convnext', convnext.nn, 'gelu', _with(nn.gelu, approximate=True)),
  'convnext: padding of the downsampling': ('small_convnext', convnext, 'convolution', _padded_in_front),
  'efficientnet_lite: epsilon': ('small_efficientnet_lite', inverted_residual, 'EPSILON', 1e-5),
  'efficientnet_lite: padding': (
    'small_efficientnet_lite',
    inverted_residual,
    'convolution',
    _with(layers.convolution, padding=None),
  ),
  'efficientnet_lite: ReLU': ('small_efficientnet_lite', efficientnet_lite.nn, 'relu6', nn.relu),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_break_the_parity(mistake, monkeypatch):
  name, module, attribute, wrong = MISTAKES[mistake]
  source = SOURCES[type(SMALL_EXTRACTORS[name])][0]
  classifier, tensors, _, reference = load(SMALL_EXTRACTORS[name], source)
  monkeypatch.setattr(module, attribute, wrong)
  parity.run_capturing.clear_cache()
  case = parity.CASES[1] if 'downsampling' in mistake else parity.CASES[0]  # stride 8, or 32
  found = differences(classifier, tensors, source, reference, case)
  parity.run_capturing.clear_cache()
  assert max(found.values()) > parity.TOLERANCE, found


def test_differences_are_relative_to_the_largest_value_and_infinite_for_another_shape():
  case = parity.CASES[0]
  array = np.linspace(-4, 2, 200).reshape(1, 10, 10, 2)
  reference = parity.reference_entries(case, {'a': array, 'b': array})
  found = parity.differences({'a': array + 0.01, 'b': array[:, :5]}, reference, case)
  assert found['a'] == pytest.approx(0.01 / 4)
  assert found['b'] == float('inf')


def test_every_architecture_has_a_reference():
  assert {f'{name}.drawn' for name in EXTRACTORS} - REFERENCES == {'densenet_small.drawn'}
  assert 'convnext_tiny.drawn_timm' in REFERENCES
  released = {path.stem for path in RELEASED.iterdir()}
  assert released == {f'efficientnet_lite{i}.released' for i in range(3)}


@pytest.mark.parametrize(
  'wrong', [np.full((1, 10, 10, 2), np.nan), np.full((1, 10, 10, 2), np.inf), np.zeros((1, 5, 10, 2))]
)
def test_what_is_not_finite_or_of_another_shape_differs_infinitely(wrong):
  case = parity.CASES[0]
  reference = parity.reference_entries(case, {'a': np.ones((1, 10, 10, 2))})
  assert parity.differences({'a': wrong}, reference, case) == {'a': float('inf')}
  dead = parity.reference_entries(case, {'a': np.zeros((1, 10, 10, 2))})
  assert parity.differences({'a': np.zeros((1, 10, 10, 2))}, dead, case) == {'a': float('inf')}


def test_references_hold_no_dead_stage():
  for path in (*FOLDER.iterdir(), *RELEASED.iterdir()):
    with np.load(path) as reference:
      scales = {k: v for k, v in reference.items() if k.endswith('/scale')}
      assert len(scales) >= 4 * 7, path
      for key, scale in scales.items():
        assert 1e-4 < scale < 1e4, (path, key)
        assert np.unique(reference[key.replace('scale', 'samples')]).size > 5, (path, key)
