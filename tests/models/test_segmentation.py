import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxprs import products
from jaxtyping import TypeCheckError
from small_extractors import SMALL_EXTRACTORS

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.counts import abstract_variables, count_parameters
from dense_aspp_jax.models.layers import IMPLEMENTATIONS
from dense_aspp_jax.models.segmentation import create_model, reference_model

TINY = dict(
  dilation_rates=(1, 2), extractor='densenet_tiny', num_classes=5, growth_rate=4, bottleneck_width=8
)


def multiply_adds_by_hand(model, sizes, last_size):
  """Of a kernel for each position of its output."""
  expected = 0
  for path, x in jax.tree_util.tree_leaves_with_path(abstract_variables(model)['params']):
    keys = [k.key for k in path]
    if keys[-1] == 'kernel':
      expected += x.size * sizes.get(keys[1].split('_block')[0], last_size)
  return expected


def test_multiply_adds_of_a_small_network_by_hand():
  model = create_model(**{**TINY, 'dilation_rates': (3,)})
  sizes = {'conv0': 32 * 32, 'denseblock1': 16 * 16, 'transition1': 16 * 16}  # of a 64x64 image
  assert count_parameters(model, (64, 64))['gmac'] == multiply_adds_by_hand(model, sizes, 8 * 8) / 1e9


def test_linear_layers_count_as_multiply_adds():
  model = create_model(**TINY).clone(extractor=SMALL_EXTRACTORS['small_convnext'])
  sizes = {'stem_conv': 16 * 16, 'stage1': 16 * 16, 'downsample1': 8 * 8, 'stage2': 8 * 8}  # of a 64x64 image
  sizes |= {'downsample2': 4 * 4, 'stage3': 4 * 4}
  assert count_parameters(model, (64, 64))['gmac'] == multiply_adds_by_hand(model, sizes, 2 * 2) / 1e9


def apply(model, variables, image, output_size=None):
  """Full-size logits."""
  logits = jax.jit(model.apply)(variables, image).main
  return model.upsample_logits(logits, image.shape[1:3], output_size)


@pytest.fixture(scope='module')
def tiny():
  model = create_model(**TINY)
  variables = jax.jit(reference_model(model).init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  return model, variables


@pytest.mark.parametrize('size', [(64, 64), (61, 43), (33, 70)])
def test_logits_have_the_images_size_and_are_float32(tiny, size):
  model, variables = tiny
  logits = jax.eval_shape(functools.partial(apply, model), variables, jnp.zeros((2, *size, 3)))
  assert logits.shape == (2, *size, 5)
  assert logits.dtype == jnp.float32


def test_an_odd_size_equals_the_padded_image_cropped(tiny):
  model, variables = tiny
  image = np.random.default_rng(0).normal(size=(1, 29, 43, 3)).astype(np.float32)
  padded = np.pad(image, ((0, 0), (0, 3), (0, 5), (0, 0)))
  np.testing.assert_allclose(
    apply(model, variables, image), apply(model, variables, padded)[:, :29, :43], atol=1e-5
  )


def test_output_size_upsamples_the_same_logits_once(tiny):
  """At twice the size, with even scale 16, output pixel pairs average to the pixel at scale 8."""
  model, variables = tiny
  image = np.random.default_rng(0).normal(size=(1, 32, 64, 3)).astype(np.float32)
  single = np.asarray(apply(model, variables, image))[0]
  double = np.asarray(apply(model, variables, image, output_size=(64, 128)))[0]
  means = double.reshape(32, 2, 64, 2, 5).mean((1, 3))
  inner = slice(4, -4)  # linear between feature centres; clamped outside them
  np.testing.assert_allclose(means[inner, inner], single[inner, inner], atol=1e-5)


def test_training_moves_every_running_statistic(tiny):
  model, variables = tiny
  image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
  train = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])[1])
  before = jax.tree_util.tree_leaves_with_path(variables['batch_stats'])
  after = jax.tree.leaves(train(variables, image)['batch_stats'])
  for (path, old), new in zip(before, after, strict=True):
    assert not np.array_equal(old, new), jax.tree_util.keystr(path)


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_bfloat16_computes_all_but_the_logits_in_bfloat16(tiny, implementation):
  model = create_model(**TINY, compute_dtype='bfloat16', implementation=implementation)
  jaxpr = jax.make_jaxpr(model.apply)(tiny[1], jnp.zeros((1, 32, 32, 3)))
  found = [[str(x.aval.dtype) for x in (*e.invars, *e.outvars)] for e in products(jaxpr)]
  heads = 2 if implementation == 'fused' else 1  # for a CPU, and for other devices in two terms
  others, head = found[:-heads], found[-heads:]
  assert len(others) >= 1 + 4 * 2 + 3 + 2 * 2  # stem, dense blocks, transitions, DenseASPP
  assert all(set(types) == {'bfloat16'} for types in others)
  assert all(output == 'float32' for *_, output in head)


@pytest.mark.parametrize(
  ('field', 'value'), [('output_stride', 16), ('last_layer', 'transition3'), ('dtype', jnp.bfloat16)]
)
def test_the_extractor_takes_its_fields(field, value):
  name = 'compute_dtype' if field == 'dtype' else field
  model = create_model(**TINY, **{name: 'bfloat16' if field == 'dtype' else value})
  assert getattr(model.extractor, field) == value


def test_bfloat16_model_returns_float32_logits_close_to_float32s(tiny):
  model, variables = tiny
  image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
  half = apply(create_model(**TINY, compute_dtype='bfloat16'), variables, image)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, apply(model, variables, image), atol=0.1)


def test_dropout_in_front_of_the_head(tiny):
  model = create_model(**TINY, dropout_rate=0.5)
  _, variables = tiny
  image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)

  @jax.jit
  def apply(v, x, key):
    return model.apply(
      v,
      x,
      True,
      rngs={'dropout': key},
      mutable=['intermediates', 'batch_stats'],
      capture_intermediates=True,
    )[1]['intermediates']

  found = apply(variables, image, jax.random.key(0))
  before, dropped, logits = (np.asarray(found[m]['__call__'][0]) for m in ('dense_aspp', 'dropout', 'head'))
  kept = np.abs(dropped).max((0, 1, 2)) > 0
  assert 0 < kept.sum() < kept.size
  np.testing.assert_allclose(dropped, 2 * before * kept, rtol=1e-6)
  head = variables['params']['head']
  np.testing.assert_allclose(logits, dropped @ head['kernel'][0, 0] + head['bias'], atol=1e-4)


@pytest.mark.parametrize(
  ('field', 'values', 'types'),
  [
    ('extractor', ['resnet18', ''], [None]),
    ('num_classes', [0], [2.5]),
    ('output_stride', [4], ['8']),
    ('last_layer', ['conv_head'], [3]),
    ('fourth_transition', [], [1]),
    ('dilation_rates', [(0, 3), (2**16 + 1,)], [3, None, (3, 2.5)]),
    ('growth_rate', [0, 2**16 + 1], [None]),
    ('bottleneck_width', [-1], [4.0]),
    ('first_norm', [], ['yes']),
    ('final_norm', [], [0]),
    ('use_bias', [], [None]),
    ('rectify_features', [], [1]),
    ('dropout_rate', [1.0, -0.1, float('nan')], ['none']),
    ('skip_head', [], [1]),
    ('auxiliary_head', [], ['no']),
    ('compute_dtype', ['float16'], [jnp.float32]),
    ('implementation', ['fast'], [None]),
    ('rematerialize', [], [1]),
  ],
)
def test_bad_values_are_named(field, values, types):
  for value in values:
    with pytest.raises(InputError, match=re.escape(f'config.model.{field} = {value!r}')):
      create_model(**{**TINY, field: value})
  for value in types:  # in tests the annotations are checked first
    with pytest.raises((InputError, TypeCheckError), match=field):
      create_model(**{**TINY, field: value})
