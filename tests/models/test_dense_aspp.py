import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network as reference

from dense_aspp_jax.models.dense_aspp import DenseASPP


def test_layers_read_all_before_them_and_append_behind():
  net = DenseASPP(dilation_rates=(2, 3), growth_rate=4, bottleneck_width=6)
  features = np.random.default_rng(0).normal(size=(1, 9, 9, 5)).astype(np.float32)
  variables = reference.random_variables(net, features)
  params = variables['params']
  assert params['layer1']['conv1']['kernel'].shape == (1, 1, 5, 6)
  assert params['layer2']['conv1']['kernel'].shape == (1, 1, 9, 6)
  out = np.asarray(jax.jit(net.apply)(variables, features))
  assert out.shape == (1, 9, 9, 13)
  np.testing.assert_array_equal(out[..., :5], features)  # unrectified, in front


@pytest.mark.parametrize(
  ('first_norm', 'final_norm', 'bottleneck_width'), [(True, False, 4), (False, True, 4), (True, False, 0)]
)
def test_the_cascade_against_numpy(first_norm, final_norm, bottleneck_width):
  """As the slides' models #4, #5 and #1."""
  net = DenseASPP((1, 3), 3, bottleneck_width, first_norm=first_norm, final_norm=final_norm)
  features = np.random.default_rng(1).normal(size=(7, 9, 5)).astype(np.float32)
  variables = reference.random_variables(net, features[None])
  params, stats = variables['params'], variables['batch_stats']
  x = features
  for index, dilation in ((1, 1), (2, 3)):
    p, s = params[f'layer{index}'], stats.get(f'layer{index}', {})
    y = reference.norm_relu(x, p['norm1'], s['norm1']) if first_norm or index > 1 else np.maximum(x, 0)
    if bottleneck_width:
      y = reference.norm_relu(reference.convolution(y, p['conv1']['kernel']), p['norm2'], s['norm2'])
    x = np.concatenate([x, reference.convolution(y, p['conv2']['kernel'], dilation=dilation)], axis=-1)
  if final_norm:
    x = reference.norm(x, params['norm'], stats['norm'])
  np.testing.assert_allclose(jax.jit(net.apply)(variables, features[None])[0], x, atol=1e-4)


def test_without_layers_the_features_stay_as_they_are():
  net = DenseASPP(dilation_rates=(), growth_rate=4, bottleneck_width=6)
  features = jax.random.normal(jax.random.key(0), (1, 9, 9, 5))
  variables = net.init(jax.random.key(1), features)
  assert not variables
  np.testing.assert_array_equal(net.apply(variables, features), features)


def test_norms_that_model_5_moves():
  net = DenseASPP(dilation_rates=(1, 2), growth_rate=4, bottleneck_width=6, first_norm=False, final_norm=True)
  params = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 5))))['params']
  assert set(params['layer1']) == {'conv1', 'norm2', 'conv2'}
  assert set(params['layer2']) == {'norm1', 'conv1', 'norm2', 'conv2'}
  assert params['norm']['scale'].shape == (13,)


def test_without_1x1_the_3x3_reads_everything():
  net = DenseASPP(dilation_rates=(3,), growth_rate=4, bottleneck_width=0)
  params = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 5))))['params']
  assert {k: set(v) for k, v in params.items()} == {'layer1': {'norm1', 'conv2'}}
  assert params['layer1']['conv2']['kernel'].shape == (3, 3, 5, 4)


def test_the_published_cascade_against_numpy():
  """Biases, no first BN, and the features rectified where they are read again."""
  net = DenseASPP((1, 3), 3, 4, first_norm=False, use_bias=True, rectify_features=True)
  features = np.random.default_rng(1).normal(size=(7, 9, 5)).astype(np.float32)
  variables = reference.random_variables(net, features[None])
  params, stats = variables['params'], variables['batch_stats']
  x = np.maximum(features, 0)
  for index, dilation in ((1, 1), (2, 3)):
    p, s = params[f'layer{index}'], stats[f'layer{index}']
    y = reference.norm_relu(x, p['norm1'], s['norm1']) if index > 1 else x
    y = reference.convolution(y, p['conv1']['kernel']) + p['conv1']['bias']
    y = reference.convolution(
      reference.norm_relu(y, p['norm2'], s['norm2']), p['conv2']['kernel'], dilation=dilation
    )
    x = np.concatenate([x, y + p['conv2']['bias']], axis=-1)
  np.testing.assert_allclose(jax.jit(net.apply)(variables, features[None])[0], x, atol=1e-4)


def test_dropout_drops_whole_new_channels_in_training_and_scales_the_others():
  net = DenseASPP((1,), 64, 0, dropout_rate=0.25)
  features = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
  variables = reference.random_variables(net, features)
  train = jax.jit(lambda v, x, key: net.apply(v, x, True, rngs={'dropout': key}, mutable=['batch_stats'])[0])
  of_batch = {'mean': features.mean((0, 1, 2)), 'var': features.var((0, 1, 2))}
  evaluated = {**variables, 'batch_stats': {'layer1': {'norm1': of_batch}}}  # dropout is all that differs
  new = np.asarray(jax.jit(net.apply)(evaluated, features))[..., 3:]
  drawn = np.asarray(train(variables, features, jax.random.key(0)))
  np.testing.assert_array_equal(drawn[..., :3], features)
  kept = np.abs(drawn[..., 3:]).max((1, 2)) > 0
  assert 0.6 < kept.mean() < 0.9
  np.testing.assert_allclose(drawn[..., 3:], new / 0.75 * kept[:, None, None], atol=1e-4)
