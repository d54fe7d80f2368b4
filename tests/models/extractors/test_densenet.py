import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network as reference

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.extractors.densenet import DENSENETS, DenseNet


def init(name, **arguments):
  net = DENSENETS[name].clone(**arguments)
  return net, jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def test_parameter_paths_are_torchvisions():
  paths = set(flax.traverse_util.flatten_dict(init('densenet_small')[1]['params'], sep='.'))
  expected = {'conv0.kernel', 'norm0.scale', 'norm0.bias', 'norm5.scale', 'norm5.bias'}
  for block, layers in enumerate((2, 3, 4, 3), start=1):
    for layer in range(1, layers + 1):
      prefix = f'denseblock{block}.denselayer{layer}'
      expected |= {f'{prefix}.conv{i}.kernel' for i in (1, 2)}
      expected |= {f'{prefix}.norm{i}.{p}' for i in (1, 2) for p in ('scale', 'bias')}
    if block < 4:
      expected |= {f'transition{block}.{p}' for p in ('conv.kernel', 'norm.scale', 'norm.bias')}
  assert paths == expected


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_output_stride_changes_the_size_and_no_parameter(output_stride):
  net, variables = init('densenet_tiny', output_stride=output_stride)
  assert net.stride == output_stride
  features = jax.eval_shape(net.apply, variables, jnp.zeros((2, 64, 128, 3)))
  assert features.last.shape[:3] == (2, 64 // output_stride, 128 // output_stride)
  assert count(variables['params']) == count(init('densenet_tiny')[1]['params'])


def test_sizes_that_are_no_multiple_are_taken_as_torchvision_takes_them():
  net, variables = init('densenet_tiny', output_stride=32)
  # conv0 and pool0 round up, the three average poolings down: 75 -> 38 -> 19 -> 9 -> 4 -> 2.
  assert jax.eval_shape(net.apply, variables, jnp.zeros((1, 75, 64, 3))).last.shape[1:3] == (2, 2)


def dilations(net, variables):
  """Dilation of every 3x3 convolution, in order."""
  plain = net.clone(implementation='reference')
  jaxpr = jax.make_jaxpr(lambda v, x: plain.apply(v, x))(variables, jnp.zeros((1, 64, 64, 3)))
  return [
    e.params['rhs_dilation'][0]
    for e in jaxpr.jaxpr.eqns
    if e.primitive.name == 'conv_general_dilated' and e.invars[1].aval.shape[0] == 3
  ]


@pytest.mark.parametrize(
  ('output_stride', 'expected'), [(8, [1, 1, 2, 4]), (16, [1, 1, 1, 2]), (32, [1, 1, 1, 1])]
)
def test_lost_strides_become_dilation(output_stride, expected):
  net, variables = init('densenet_tiny', output_stride=output_stride)
  assert dilations(net, variables) == expected


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize(
  ('last_layer', 'channels'),  # 8 behind the stem; a block adds 4, a transition halves
  [('denseblock2', 10), ('transition2', 5), ('denseblock3', 9), ('transition3', 4), ('norm5', 8), (None, 8)],
)
def test_cut_extractors(last_layer, channels, output_stride):
  net = DENSENETS['densenet_tiny'].clone(last_layer=last_layer, output_stride=output_stride)
  image = jnp.zeros((1, 64, 64, 3))
  features, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), image)
  assert features.last.shape[::3] == (1, channels)
  assert features.last.shape[1] * net.stride == 64
  assert ('norm5' in variables['params']) == (last_layer in ('norm5', None))
  assert (features.stride16 is None) == (last_layer in ('denseblock2', 'transition2'))


def test_features_against_numpy():
  """All of the network at output stride 8, two layers a block, from torchvision's definition."""
  net = DenseNet(growth_rate=3, block_config=(2, 2, 2, 2), num_init_features=6)
  image = np.random.default_rng(1).normal(size=(48, 40, 3)).astype(np.float32)
  variables = reference.random_variables(net, image[None])
  params, stats = variables['params'], variables['batch_stats']

  x = reference.convolution(image, params['conv0']['kernel'], stride=2)
  x = reference.norm_relu(x, params['norm0'], stats['norm0'])
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))  # rectified: zeros do not win
  windows = [padded[i : i + 24 : 2, j : j + 20 : 2] for i in range(3) for j in range(3)]
  x = np.max(windows, axis=0)
  for block, (dilation, pool) in enumerate(((1, True), (1, False), (2, False), (4, False)), start=1):
    for layer in (1, 2):
      p, s = (tree[f'denseblock{block}'][f'denselayer{layer}'] for tree in (params, stats))
      y = reference.convolution(reference.norm_relu(x, p['norm1'], s['norm1']), p['conv1']['kernel'])
      y = reference.norm_relu(y, p['norm2'], s['norm2'])
      x = np.concatenate([x, reference.convolution(y, p['conv2']['kernel'], dilation=dilation)], axis=-1)
    if block < 4:
      p, s = (tree[f'transition{block}'] for tree in (params, stats))
      x = reference.convolution(reference.norm_relu(x, p['norm'], s['norm']), p['conv']['kernel'])
    if pool:
      x = x.reshape(6, 2, 5, 2, -1).mean((1, 3))
  expected = reference.norm(x, params['norm5'], stats['norm5'])
  assert (expected < 0).any()  # not rectified
  np.testing.assert_allclose(jax.jit(net.apply)(variables, image[None]).last[0], expected, atol=1e-4)


def test_a_fourth_transition_halves_the_channels_and_keeps_the_size():
  net, variables = init('densenet_tiny', fourth_transition=True)
  assert variables['params']['transition4']['conv']['kernel'].shape == (1, 1, 8, 4)
  assert variables['params']['norm5']['scale'].shape == (4,)
  assert jax.eval_shape(net.apply, variables, jnp.zeros((1, 64, 64, 3))).last.shape == (1, 8, 8, 4)
  assert dilations(net, variables)[-1] == 4
  with pytest.raises(InputError, match=r'fourth_transition = True, config\.model\.last_layer = .transition3'):
    init('densenet_tiny', fourth_transition=True, last_layer='transition3')


def test_an_unknown_last_layer_is_named():
  with pytest.raises(InputError, match=r"model\.last_layer = 'conv0'"):
    DENSENETS['densenet_tiny'].clone(last_layer='conv0')


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_statistics():
  net, variables = init('densenet_tiny', dtype=jnp.bfloat16)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  features = jax.eval_shape(net.apply, variables, jnp.zeros((1, 64, 64, 3)))
  assert features.last.dtype == jnp.bfloat16
