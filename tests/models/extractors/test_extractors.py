import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network as reference
from exactness import assert_exact
from jaxprs import products
from small_extractors import SMALL_EXTRACTORS

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.extractors import EXTRACTORS, convnext, create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.models.extractors.convnext import ConvNeXt, ConvNeXtBlock
from dense_aspp_jax.models.layers import IMPLEMENTATIONS

# Parameters of torchvision's and timm's modules: of `features` (EfficientNet-Lite: all but the
# classifier), and of the whole classifier.
PARAMETERS = {
  'densenet121': (6_953_856, 7_978_856),
  'densenet161': (26_472_000, 28_681_000),
  'densenet169': (12_484_480, 14_149_480),
  'densenet201': (18_092_928, 20_013_928),
  'mobilenet_v3_large': (2_971_952, 5_483_032),
  'mobilenet_v3_small': (927_008, 2_542_856),
  'convnext_tiny': (27_818_592, 28_589_128),
  'convnext_small': (49_453_152, 50_223_688),
  'convnext_base': (87_564_416, 88_591_464),
  'efficientnet_lite0': (3_371_008, 4_652_008),
  'efficientnet_lite1': (4_135_680, 5_416_680),
  'efficientnet_lite2': (4_811_072, 6_092_072),
}


def count(variables):
  return sum(x.size for x in jax.tree.leaves(variables['params']))


def test_every_extractor_has_a_count_to_keep():
  assert set(PARAMETERS) | {'densenet_small', 'densenet_tiny'} == set(EXTRACTORS)


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameter_counts_are_the_sources(name):
  variables = abstract_variables(create_classifier(create_extractor(name)))
  assert (count({'params': variables['params']['extractor']}), count(variables)) == PARAMETERS[name]


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('name', SMALL_EXTRACTORS)
def test_output_stride_changes_the_size_and_no_parameter(name, output_stride):
  original = SMALL_EXTRACTORS[name]
  extractor = original.clone(output_stride=output_stride)
  features, variables = jax.eval_shape(
    extractor.init_with_output, jax.random.key(0), jnp.zeros((2, 64, 128, 3))
  )
  assert extractor.stride == output_stride
  assert features.last.shape[:3] == (2, 64 // output_stride, 128 // output_stride)
  assert count(variables) == count(abstract_variables(original))


def convolutions(extractor):
  """Kernel size, stride and dilation of each convolution with a kernel, in order."""
  plain = extractor.clone(implementation='reference')
  jaxpr = jax.make_jaxpr(lambda v, x: plain.apply(v, x))(
    abstract_variables(extractor), jnp.zeros((1, 64, 64, 3))
  )
  return [
    (e.invars[1].aval.shape[0], e.params['window_strides'][0], e.params['rhs_dilation'][0])
    for e in jaxpr.jaxpr.eqns
    if e.primitive.name == 'conv_general_dilated' and e.invars[1].aval.shape[0] > 1
  ]


def test_a_mobilenet_layer_that_loses_its_stride_keeps_the_dilation_before_it():
  # Stem, then the blocks of kernels 3, 3, 3, 5, 3, 3, 5, 5 with strides 1, 2, 2, 1, 2, 1, 2, 1 ...
  extractor = SMALL_EXTRACTORS['small_mobilenet_v3'].clone(output_stride=8)
  assert convolutions(extractor) == [
    (3, 2, 1),
    (3, 1, 1),
    (3, 2, 1),
    (5, 2, 1),
    (5, 1, 1),
    (3, 1, 1),  # lost
    (3, 1, 2),
    (5, 1, 2),  # lost
    (5, 1, 4),
  ]


def test_convnext_dilates_the_2x2_kernels_behind_a_lost_stride():
  extractor = SMALL_EXTRACTORS['small_convnext'].clone(output_stride=8)
  assert convolutions(extractor) == [
    (4, 4, 1),
    (7, 1, 1),
    (2, 2, 1),
    (7, 1, 1),
    (2, 1, 1),  # lost
    (7, 1, 2),
    (7, 1, 2),
    (2, 1, 2),  # lost
    (7, 1, 4),
  ]


def test_efficientnet_lite_at_stride_16():
  extractor = SMALL_EXTRACTORS['small_efficientnet_lite'].clone(output_stride=16)
  assert convolutions(extractor) == [
    (3, 2, 1),
    (3, 1, 1),
    (3, 2, 1),
    (5, 2, 1),
    (3, 2, 1),
    (5, 1, 1),
    (5, 1, 1),  # lost
    (3, 1, 2),
  ]


def test_efficientnet_lite_is_cut_in_front_of_its_head():
  full = SMALL_EXTRACTORS['small_efficientnet_lite']
  cut = full.clone(last_layer='blocks')
  assert set(abstract_variables(full)['params']) - set(abstract_variables(cut)['params']) == {'conv_head'}
  shapes = [
    jax.eval_shape(m.apply, abstract_variables(m), jnp.zeros((1, 64, 64, 3))).last.shape[-1]
    for m in (full, cut)
  ]
  assert shapes == [1280, 320]


@pytest.mark.parametrize('name', SMALL_EXTRACTORS)
def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_statistics(name):
  extractor = SMALL_EXTRACTORS[name].clone(dtype=jnp.bfloat16)
  variables = abstract_variables(extractor)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  image = jnp.zeros((1, 64, 64, 3))
  assert jax.eval_shape(extractor.apply, variables, image).last.dtype == jnp.bfloat16
  for implementation in IMPLEMENTATIONS:
    network = extractor.clone(implementation=implementation)
    found = products(jax.make_jaxpr(lambda v, x, network=network: network.apply(v, x))(variables, image))
    assert {str(x.aval.dtype) for e in found for x in (*e.invars, *e.outvars)} == {'bfloat16'}


@pytest.mark.parametrize('name', ['small_mobilenet_v3', 'small_efficientnet_lite'])
def test_training_moves_every_running_statistic_by_a_hundredth(name):
  extractor = SMALL_EXTRACTORS[name]
  image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
  variables = reference.random_variables(extractor, image)
  train = jax.jit(lambda v, x: extractor.apply(v, x, True, mutable=['batch_stats'])[1]['batch_stats'])
  after = flax.traverse_util.flatten_dict(train(variables, image))
  before = flax.traverse_util.flatten_dict(variables['batch_stats'])
  for path, array in after.items():
    assert not np.array_equal(array, before[path]), path
  kernel = variables['params']['stem']['conv']['kernel']
  # On even sizes 'SAME' pads bottom and right only: torch's padding, a pixel further on.
  front = 1 if 'lite' in name else 0
  padded = np.pad(image, ((0, 0), (front, 2 * front), (front, 2 * front), (0, 0)))
  outputs = [reference.convolution(x, kernel, stride=2)[front:][:32, front:][:, :32] for x in padded]
  mean = np.mean(outputs, axis=(0, 1, 2))
  expected = 0.99 * before['stem', 'norm', 'mean'] + 0.01 * mean
  np.testing.assert_allclose(after['stem', 'norm', 'mean'], expected, atol=1e-6)


def test_stochastic_depth_leaves_the_block_out_for_some_images_and_scales_it_for_the_others():
  block = ConvNeXtBlock(dilation=1, drop_rate=0.25, dtype=jnp.float32)
  x = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype(np.float32)
  variables = reference.random_variables(block, x, train=False)
  apply = jax.jit(block.apply, static_argnums=2)
  added = np.asarray(apply(variables, x, False)) - x
  factors = set()
  for seed in range(4):
    drawn = np.asarray(apply(variables, x, True, rngs={'dropout': jax.random.key(seed)})) - x
    for one, full in zip(drawn, added, strict=True):
      factor = round(float((one * full).sum() / (full * full).sum()), 3)
      np.testing.assert_allclose(one, factor * full, atol=1e-2)
      factors.add(factor)
  assert factors == {0, round(1 / 0.75, 3)}


def test_the_rate_of_stochastic_depth_grows_linearly_over_the_blocks(monkeypatch):
  rates = []

  class Recorded(ConvNeXtBlock):
    def __post_init__(self):
      if self.name:
        rates.append(self.drop_rate)
      super().__post_init__()

  monkeypatch.setattr(convnext, 'ConvNeXtBlock', Recorded)
  abstract_variables(ConvNeXt(num_blocks=(1, 1, 2, 1), channels=(4, 4, 4, 4), stochastic_depth_rate=0.4))
  np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
  ('name', 'field', 'value'),
  [
    ('mobilenet_v3_small', 'last_layer', 'norm5'),
    ('convnext_tiny', 'fourth_transition', True),
    ('efficientnet_lite0', 'last_layer', 'norm5'),
    ('convnext_tiny', 'output_stride', 4),
    ('mobilenet_v3_small', 'output_stride', 64),
    ('efficientnet_lite0', 'output_stride', 2),
  ],
)
def test_what_a_family_does_not_take_is_named(name, field, value):
  with pytest.raises(InputError, match=f'model.{field} = {value!r}'):
    create_extractor(name, **{field: value})


@pytest.mark.slow  # test_depthwise.py has what differs, on its own
@pytest.mark.parametrize(
  'name',
  [
    'small_mobilenet_v3',
    'small_efficientnet_lite',
    'small_convnext',
  ],
)
def test_float64_both_implementations_are_exact(name):
  with jax.enable_x64(True):
    fast = SMALL_EXTRACTORS[name].clone(dtype=jnp.float64, output_stride=8)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(1, 33, 48, 3)))
    variables = jax.jit(fast.init)(jax.random.key(0), image)
    variables = jax.tree.map(
      lambda x: jnp.asarray(x * rng.uniform(0.7, 1.3, x.shape) + 0.05 * rng.random(x.shape)), variables
    )

    def step(extractor):
      def loss(params, image):
        features, updates = extractor.apply(
          {**variables, 'params': params},
          image,
          train=True,
          mutable=['batch_stats'],
          rngs={'dropout': jax.random.key(1)},
        )
        return jnp.sum(jnp.sin(features.last)), updates

      return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(variables['params'], image)

    found, expected = (step(fast.clone(implementation=form)) for form in IMPLEMENTATIONS)
    assert_exact(found, expected)
