"""The skip decoder and the auxiliary head: against NumPy, and where they stand in whole networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network as reference
from small_extractors import SMALL_EXTRACTORS
from tiny_network import TINY

from dense_aspp_jax.analysis.layer_removal import remove_layers
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.counts import count_parameters
from dense_aspp_jax.models.decoders import AuxiliaryHead, SkipDecoder
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.segmentation import SegmentationModel, create_model
from dense_aspp_jax.models.upsampling import bilinear_matrix


def conv_norm_relu(x, variables, conv, norm):
  kernel, scale_and_bias = variables['params'][conv]['kernel'], variables['params'][norm]
  statistics = variables['batch_stats'][norm]
  return np.stack(
    [reference.norm_relu(reference.convolution(one, kernel), scale_and_bias, statistics) for one in x]
  )


def test_the_skip_decoder_against_numpy():
  rng = np.random.default_rng(1)
  features, low = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, 4, 5), (2, 6, 8, 3)))
  decoder = SkipDecoder(width=4, low_width=2)
  variables = reference.random_variables(decoder, features, low, train=False)
  x = conv_norm_relu(features, variables, 'project_conv', 'project_norm')
  x = np.einsum('oh,pw,bhwc->bopc', bilinear_matrix(3, 6, 2.0), bilinear_matrix(4, 8, 2.0), x)
  x = np.concatenate([x, conv_norm_relu(low, variables, 'low_conv', 'low_norm')], -1)
  expected = conv_norm_relu(x, variables, 'fuse_conv', 'fuse_norm')
  np.testing.assert_allclose(decoder.apply(variables, features, low, False), expected, rtol=2e-5, atol=1e-4)


def test_the_auxiliary_head_against_numpy():
  x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 5, 8)), jnp.float32)
  head = AuxiliaryHead(num_classes=3)
  variables = reference.random_variables(head, x, train=False)
  kernel, bias = (np.asarray(variables['params']['logits'][name]) for name in ('kernel', 'bias'))
  expected = conv_norm_relu(x, variables, 'conv', 'norm') @ kernel[0, 0] + bias
  np.testing.assert_allclose(head.apply(variables, x, False), expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize(
  ('extractor', 'output_stride'),
  [*((name, 8) for name in SMALL_EXTRACTORS), ('small_densenet', 16), ('small_densenet', 32)],
)
def test_sizes_and_strides_in_every_family(extractor, output_stride):
  model = SegmentationModel(
    SMALL_EXTRACTORS[extractor].clone(output_stride=output_stride),
    DenseASPP((1,), 4, 0),
    num_classes=5,
    skip_decoder=SkipDecoder(),
    auxiliary_head=AuxiliaryHead(5),
  )
  assert (model.stride, model.auxiliary_stride) == (4, min(output_stride, 16))
  image = jnp.zeros((2, 90, 131, 3))
  height, width = (-(-side // output_stride) * output_stride for side in image.shape[1:3])
  (logits, auxiliary), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
  assert logits.shape == (2, height // 4, width // 4, 5)
  assert auxiliary.shape == (2, height // model.auxiliary_stride, width // model.auxiliary_stride, 5)


@pytest.mark.parametrize(
  ('extractor', 'low', 'middle'),
  [
    ('densenet121', 256, 1024),  # Huang et al. 2017, table 1: 64 + 6 x 32, and 256 + 24 x 32
    ('mobilenet_v3_large', 24, 112),  # Howard et al. 2019, table 1: the last rows of 56x56 and 14x14
    ('convnext_tiny', 96, 384),
    ('efficientnet_lite0', 24, 112),
  ],
)
def test_the_levels_are_those_of_stride_4_and_16(extractor, low, middle):
  network = create_extractor(extractor, output_stride=32, implementation='reference')
  image = jnp.zeros((1, 64, 64, 3))
  features, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), image)
  assert features.stride4.shape == (1, 16, 16, low)
  assert features.stride16.shape == (1, 4, 4, middle)


@pytest.fixture(scope='module')
def tiny():
  model = create_model(**TINY, num_classes=5, skip_head=True, auxiliary_head=True, implementation='reference')
  image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 40, 3)), jnp.float32)
  return model, reference.random_variables(model, image), image


def test_the_heads_read_dense_blocks_1_and_3_and_the_cascade(tiny):
  model, variables, image = tiny

  def both(variables):
    return model.apply(
      variables,
      image,
      train=True,
      mutable=['batch_stats', 'intermediates'],
      capture_intermediates=True,
    )

  (logits, auxiliary), state = jax.jit(both)(variables)
  seen = {name: state['intermediates'][name] for name in ('extractor', 'dense_aspp')}
  block1, block3 = (seen['extractor'][f'denseblock{i}']['__call__'][0][0] for i in (1, 3))
  of = {name: {k: v[name] for k, v in variables.items()} for name in ('skip_decoder', 'auxiliary_head')}
  expected, _ = AuxiliaryHead(5).apply(of['auxiliary_head'], block3, True, mutable=['batch_stats'])
  np.testing.assert_allclose(auxiliary, expected, rtol=1e-4, atol=1e-4)
  decoder = SkipDecoder()
  decoded, _ = decoder.apply(
    of['skip_decoder'], seen['dense_aspp']['__call__'][0], block1, True, mutable=['batch_stats']
  )
  head = variables['params']['head']
  np.testing.assert_allclose(logits, decoded @ head['kernel'][0, 0] + head['bias'], rtol=1e-4, atol=1e-3)


def test_evaluation_does_not_read_the_auxiliary_head(tiny):
  model, variables, image = tiny
  compiled = jax.jit(lambda v, x: model.apply(v, x).main).lower(variables, image).compile()
  without = model.clone(auxiliary_head=None)
  expected = jax.jit(lambda v, x: without.apply(v, x).main).lower(variables, image).compile()
  assert compiled.cost_analysis()['flops'] == expected.cost_analysis()['flops']
  np.testing.assert_array_equal(compiled(variables, image), expected(variables, image))


def test_the_top_layer_is_removed_from_what_the_decoder_reads(tiny):
  model, variables, image = tiny
  silent = jax.tree.map(lambda x: x, variables)
  kernel = silent['params']['dense_aspp']['layer2']['conv2']['kernel']
  silent['params']['dense_aspp']['layer2']['conv2']['kernel'] = jnp.zeros_like(kernel)
  apply = jax.jit(lambda v, x: model.apply(v, x).main)
  removed = apply(remove_layers(variables, (2,)), image)
  np.testing.assert_allclose(removed, apply(silent, image), rtol=1e-5, atol=1e-5)
  assert np.abs(removed - apply(variables, image)).max() > 0.01


def test_parameters_of_the_parts():
  plain = count_parameters(create_model(**TINY, num_classes=11), (64, 64))
  both = count_parameters(create_model(**TINY, num_classes=11, skip_head=True, auxiliary_head=True), (64, 64))
  low, middle, channels = 12, 9, 8 + 2 * 4  # behind dense blocks 1 and 3 and the cascade
  assert both['skip_decoder'] == (channels + 2) * 128 + (low + 2) * 48 + (9 * 176 + 2) * 128
  assert both['auxiliary_head'] == (9 * middle + 2) * 2 + 3 * 11
  assert both['head'] == 129 * 11
  added = both['skip_decoder'] + both['auxiliary_head'] - (channels - 128) * 11
  assert both['total'] - plain['total'] == added
  assert plain['skip_decoder'] == plain['auxiliary_head'] == 0


@pytest.mark.parametrize('head', ['skip_head', 'auxiliary_head'])
def test_a_network_cut_in_front_of_block_3_is_refused(head):
  with pytest.raises(
    InputError, match=rf'last_layer = .transition2.*model\.{head} = True.*need dense block 3'
  ):
    create_model(**TINY, num_classes=5, last_layer='transition2', **{head: True})


def test_a_cut_that_the_extractor_does_not_have_is_named_first():
  fields = {**TINY, 'extractor': 'mobilenet_v3_small'}
  with pytest.raises(InputError, match='only choice for mobilenet_v3_small'):
    create_model(**fields, num_classes=5, last_layer='denseblock2', skip_head=True)
