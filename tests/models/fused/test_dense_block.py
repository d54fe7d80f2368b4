"""Densely connected layers against the same layers written out, in float64."""

import functools
import itertools

import exactness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.models.fused import gpu_1x1, gpu_3x3, gpu_tiles
from dense_aspp_jax.models.fused.arrays import DenseBlockPlan, DenseLayerArrays
from dense_aspp_jax.models.fused.dense_block import dense_block, dense_block_inference, inference_arrays
from dense_aspp_jax.models.fused.statistics import EPSILON, Affine, moments

GROWTH, CHANNELS = 3, 5

# Name: image size, space-to-batch factor, dilations, and how the layers differ from the usual ones.
CASES = {
  'undilated': ((6, 8), 1, (1, 1, 1), {}),
  'phases_that_divide_the_size': ((6, 8), 2, (1, 1), {}),
  'phases_that_do_not': ((5, 7), 4, (1, 1, 1), dict(biases=True, dropout=True)),
  'atrous': ((7, 5), 1, (3, 1, 12), dict(first_norm=False, biases=True, dropout=True)),
  'no_bottleneck': ((5, 6), 1, (1, 2), dict(bottleneck=0, first_norm=False)),
  'one_row': ((1, 9), 2, (1, 1), {}),
}


def draw_layers(rng, batch, count, *, bottleneck=4, first_norm=True, biases=False, dropout=False):
  layers = []
  for index in range(count):
    channels = CHANNELS + index * GROWTH

    def norm(size):
      return 1 + 0.3 * rng.normal(size=size), 0.3 * rng.normal(size=size)

    layers.append(
      DenseLayerArrays(
        norm1=norm(channels) if first_norm or index else None,
        kernel1=rng.normal(size=(channels, bottleneck)) if bottleneck else None,
        norm2=norm(bottleneck) if bottleneck else None,
        kernel2=rng.normal(size=(3, 3, bottleneck or channels, GROWTH)),
        bias2=rng.normal(size=GROWTH) if biases else None,
        dropout_mask=1.5 * (rng.random((batch, 1, 1, GROWTH)) > 0.3) if dropout else None,
      )
    )
  return layers


def written_out(x, layers, dilations, of_x=None):
  """The same layers, one operation after the other; `of_x` gives each BN's moments (None: the batch's)."""
  fixed = iter(of_x or ())

  def normalize(x, norm):
    if norm is None:
      return x
    mean, variance = next(fixed) if of_x else (x.mean((0, 1, 2)), x.var((0, 1, 2)))
    return (x - mean) / jnp.sqrt(variance + EPSILON) * norm[0] + norm[1]

  for layer, rate in zip(layers, dilations, strict=True):
    a = jnp.maximum(normalize(x, layer.norm1), 0)
    if layer.kernel1 is not None:
      a = jnp.maximum(normalize(a @ layer.kernel1, layer.norm2), 0)
    y = lax.conv_general_dilated(
      *(a, layer.kernel2, (1, 1), [(rate, rate)] * 2),
      rhs_dilation=(rate, rate),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    y = y if layer.bias2 is None else y + layer.bias2
    x = jnp.concatenate([x, y if layer.dropout_mask is None else y * layer.dropout_mask], -1)
  return x


def make(case, batch, seed=0):
  size, phases, dilations, fields = CASES[case]
  rng = np.random.default_rng(seed)
  layers = draw_layers(rng, batch, len(dilations), **fields)
  x = rng.normal(size=(batch, *size, CHANNELS))
  return jnp.asarray(x), jax.tree.map(jnp.asarray, layers), DenseBlockPlan(dilations, phases)


def loss_of(features, feature_moments, weights):
  """Depends on the features and on their moments, as a later BN does."""
  w, v = weights
  return (
    jnp.sum(jnp.sin(features) * w)
    + feature_moments.mean @ v
    + jnp.log(feature_moments.variance + 0.1) @ jnp.cos(v)
  )


def fast_loss(plan, x, layers, weights):
  features, feature_moments, _ = dense_block(plan, x, moments(x), layers)
  return loss_of(features, feature_moments, weights)


def written_out_loss(plan, x, layers, weights):
  features = written_out(x, layers, [rate * plan.phases for rate in plan.dilations])
  return loss_of(features, moments(features), weights)


def draw_weights(x, layers):
  rng = np.random.default_rng(1)
  channels = CHANNELS + GROWTH * len(layers)
  return rng.normal(size=(*x.shape[:3], channels)), rng.normal(size=channels)


def without_dropout(gradients):
  of_x, of_layers = gradients
  return of_x, [layer._replace(dropout_mask=None) for layer in of_layers]


assert_exact = functools.partial(exactness.assert_exact, tolerance=1e-10, smallest=0)


@pytest.mark.parametrize(
  ('case', 'batch', 'group'),
  [(case, 2, 1) for case in CASES] + [('phases_that_do_not', 1, 1)] + [(case, 2, 2) for case in CASES],
)
def test_float64_loss_and_gradients_are_exact(case, batch, group):
  with jax.enable_x64(True):
    x, layers, plan = make(case, batch)
    plan = plan._replace(group=group)
    weights = draw_weights(x, layers)

    def of(loss):
      return jax.jit(jax.value_and_grad(functools.partial(loss, plan), (0, 1)))(x, layers, weights)

    (found, found_gradients), (expected, gradients) = of(fast_loss), of(written_out_loss)
    assert_exact(found, expected)
    assert_exact(without_dropout(found_gradients), without_dropout(gradients))


def test_float64_statistics_are_exact():
  with jax.enable_x64(True):
    x, layers, plan = make('phases_that_do_not', 2)
    features, feature_moments, bottleneck_moments = jax.jit(functools.partial(dense_block, plan))(
      x, moments(x), layers
    )
    assert_exact(feature_moments.mean, features.mean((0, 1, 2)))
    assert_exact(feature_moments.variance, features.var((0, 1, 2)))
    # The first layer's bottleneck, by hand.
    normalized = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON)
    z = np.maximum(normalized * layers[0].norm1[0] + layers[0].norm1[1], 0) @ layers[0].kernel1
    assert_exact(bottleneck_moments[0].mean, z.mean((0, 1, 2)))
    assert_exact(bottleneck_moments[0].variance, z.var((0, 1, 2)))


@pytest.mark.parametrize('case', ['phases_that_do_not', 'no_bottleneck'])
def test_float64_is_exact_over_eight_devices(case):
  with jax.enable_x64(True):
    x, layers, plan = make(case, 8)
    weights = draw_weights(x, layers)
    expected = jax.jit(jax.value_and_grad(functools.partial(written_out_loss, plan), (0, 1)))(
      x, layers, weights
    )
    mesh = Mesh(np.array(jax.devices()), ('data',))
    assert mesh.size == 8
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      step = jax.jit(jax.value_and_grad(functools.partial(fast_loss, plan), (0, 1)))
      compiled = step.lower(jax.device_put(x, NamedSharding(mesh, P('data'))), layers, weights).compile()
    found = compiled(jax.device_put(x, NamedSharding(mesh, P('data'))), layers, weights)
    assert_exact(found[0], expected[0])
    assert_exact(without_dropout(found[1]), without_dropout(expected[1]))


def test_devices_exchange_sums_but_no_features():
  x, layers, plan = make('undilated', 8)
  mesh = Mesh(np.array(jax.devices()), ('data',))
  spread = NamedSharding(mesh, P('data'))

  def features(x, layers):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return dense_block(plan, x, moments(x), layers)[0]

  compiled = jax.jit(features, in_shardings=(spread, None), out_shardings=spread)
  text = compiled.lower(x.astype(np.float32), layers).compile().as_text()
  gathered = [line.split(' = ')[1].split('{')[0] for line in text.splitlines() if ' all-gather(' in line]
  assert gathered
  for shape in itertools.chain.from_iterable(g.strip('()').split(', ') for g in gathered):
    assert np.prod([int(n) for n in shape[shape.index('[') + 1 : -1].split(',')]) <= 8 * CHANNELS * 4, shape


@pytest.mark.parametrize('on_gpu', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_float64_inference_is_exact(case, on_gpu):
  """Also with its arrays laid out for a GPU: XLA's operations read them too."""
  with jax.enable_x64(True):
    x, layers, plan = make(case, 2)
    layers = [layer._replace(dropout_mask=None) for layer in layers]
    rng = np.random.default_rng(2)
    of_x, arrays = [], []

    def fixed(norm, size):
      if norm is None:
        return None
      mean, variance = rng.normal(size=size), rng.random(size) + 0.5
      of_x.append((mean, variance))
      return Affine(mean, norm[0] / np.sqrt(variance + EPSILON), norm[1])

    for index, layer in enumerate(layers):
      first, second = fixed(layer.norm1, CHANNELS + index * GROWTH), None
      if layer.kernel1 is not None:
        second = fixed(layer.norm2, layer.kernel1.shape[1])
      arrays.append(layer._replace(norm1=first, norm2=second))
    plan = plan._replace(gpu='mosaic', on_gpu=on_gpu)
    arrays = inference_arrays(plan, CHANNELS, jax.tree.map(jnp.asarray, arrays), x.dtype)
    found = jax.jit(functools.partial(dense_block_inference, plan))(x, arrays)
    expected = written_out(x, layers, [rate * plan.phases for rate in plan.dilations], of_x)
    assert_exact(found, expected)


@pytest.mark.parametrize(('case', 'devices'), [('phases_that_do_not', 8), ('atrous', 1)])
def test_the_kernels_make_the_same_block(case, devices, monkeypatch):
  """Interpreted, as there is no GPU: values and gradients as with XLA's operations, in float32."""
  size, phases, dilations, fields = CASES[case]
  dilations = dilations[:2]
  rng = np.random.default_rng(0)
  layers = draw_layers(rng, 8, len(dilations), **{**fields, 'bottleneck': 16})
  x, *layers = jax.tree.map(
    lambda a: jnp.asarray(a, jnp.float32), [rng.normal(size=(8, *size, CHANNELS)), *layers]
  )
  weights = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), draw_weights(x, layers))
  mesh = Mesh(np.array(jax.devices()[:devices]), ('data',))

  def step(gpu='xla'):
    plan = DenseBlockPlan(dilations, phases, gpu)

    def loss(x, layers):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return fast_loss(plan, x, layers, weights)

    spread = NamedSharding(mesh, P('data'))
    in_shardings = (spread, NamedSharding(mesh, P()))
    return jax.jit(jax.value_and_grad(loss, (0, 1)), in_shardings=in_shardings)(x, layers)

  expected, gradients = step()
  monkeypatch.setattr(gpu_tiles, 'INTERPRET', True)
  for module in (gpu_1x1, gpu_3x3):
    monkeypatch.setattr(module, 'supports', lambda *_: True)  # float32 too
  found, found_gradients = step(gpu='triton')
  assert_exact(found, expected, tolerance=1e-5)
  assert_exact(without_dropout(found_gradients), without_dropout(gradients), tolerance=1e-4)


def test_no_operation_of_the_backward_pass_sums_over_all_later_layers():
  """XLA's CPU compiler would fuse these sums of the moments' gradients into elementwise operations."""

  def operands(count):
    rng = np.random.default_rng(0)
    x, layers = rng.normal(size=(1, 6, 8, CHANNELS)), draw_layers(rng, 1, count)

    def total(x, layers):
      return jnp.sum(dense_block(DenseBlockPlan((1,) * count), x, moments(x, None), layers)[0] ** 2)

    text = jax.jit(jax.grad(total, (0, 1))).lower(x, layers).compile().as_text()
    # Names in a line: the operation, its operands and what it calls.
    return max(line.count('%') for line in text.splitlines() if 'kind=kLoop' in line)

  assert operands(9) < operands(5) + 4  # less than one more for each layer; 17 more if they are fused
