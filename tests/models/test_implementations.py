"""The fused implementation of whole networks against the reference, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network
from exactness import assert_exact
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from reference_losses import cross_entropy

from dense_aspp_jax.models.segmentation import create_model, reference_model, with_fields
from dense_aspp_jax.training.losses import upsampled_cross_entropy

NUM_CLASSES = 4
BASE = dict(
  extractor='densenet_tiny',
  num_classes=NUM_CLASSES,
  dilation_rates=(1, 3),
  growth_rate=3,
  bottleneck_width=4,
)
PAPER = dict(fourth_transition=True, first_norm=False, use_bias=True, rectify_features=True, dropout_rate=0.3)
# Name: fields of the model, batch size, image size.
CASES = {
  'stride_8_odd_batch_1': ({}, 1, (61, 83)),
  'paper': (PAPER, 2, (40, 24)),
  'no_cascade': (dict(dilation_rates=(), skip_head=True), 2, (32, 48)),
}
SLOW_CASES = {
  'skip_and_auxiliary_heads': (dict(skip_head=True, auxiliary_head=True, dropout_rate=0.3), 2, (29, 40)),
  'cut_no_bottleneck': (dict(last_layer='denseblock3', bottleneck_width=0), 2, (33, 40)),
  'stride_16': (dict(output_stride=16, first_norm=False, final_norm=True), 2, (32, 96)),
  'stride_8': ({}, 2, (64, 96)),
  'stride_32': (dict(output_stride=32), 2, (64, 97)),
  'cut_at_transition': (dict(last_layer='transition3', bottleneck_width=0), 2, (33, 40)),
  'cut_early': (dict(last_layer='denseblock2'), 1, (33, 40)),
  'small': (dict(extractor='densenet_small'), 2, (45, 60)),
  'densenet121': (
    dict(extractor='densenet121', dilation_rates=(3, 6, 12, 18, 24), growth_rate=64, bottleneck_width=256),
    1,
    (45, 67),
  ),
}


def in_float64(fields):
  return with_fields(create_model(**{**BASE, **fields}), dtype=jnp.float64)


def draw(model, batch, size):
  """Variables with every value away from its initial one, an image, labels and their weights."""
  rng = np.random.default_rng(0)
  variables = reference_network.random_variables(model, jnp.zeros((1, 32, 32, 3)))
  image = jnp.asarray(rng.normal(size=(batch, *size, 3)))
  label = jnp.asarray(rng.integers(0, NUM_CLASSES, (batch, *size)), jnp.uint8)
  weights = jnp.asarray(rng.random(label.shape) * (rng.random(label.shape) > 0.2))
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables), image, label, weights


def loss_of(model, variables, image, label, weights):
  """Loss with running statistics and logits, as a training step computes them."""
  rngs = {'dropout': jax.random.key(1)}
  outputs, updates = model.apply(variables, image, train=True, mutable=['batch_stats'], rngs=rngs)
  if model.dense_aspp.implementation == 'reference':
    logits = model.upsample_logits(outputs.main, image.shape[1:3])
    loss = cross_entropy(logits, label, weights)
  else:
    loss, _ = upsampled_cross_entropy(outputs.main, label, weights, model.stride)
  if outputs.auxiliary is not None:
    loss += upsampled_cross_entropy(outputs.auxiliary, label, weights, model.auxiliary_stride)[0]
  return loss, updates['batch_stats']


def step_of(model, variables, *batch):
  def loss(params):
    return loss_of(model, {**variables, 'params': params}, *batch)

  return jax.value_and_grad(loss, has_aux=True)(variables['params'])


def check(fields, batch, size):
  with jax.enable_x64(True):
    fused = in_float64(fields)
    reference = reference_model(fused)
    variables, *data = draw(fused, batch, size)
    found = jax.jit(functools.partial(step_of, fused))(variables, *data)
    expected = jax.jit(functools.partial(step_of, reference))(variables, *data)
    assert found[0][0].dtype == jnp.float64
    assert_exact(found, expected)
    assert_exact(
      *(jax.jit(functools.partial(m.apply, train=False))(variables, data[0]) for m in (fused, reference))
    )


@pytest.mark.parametrize('case', CASES)
def test_float64_loss_gradients_statistics_and_logits_are_exact(case):
  check(*CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize('case', SLOW_CASES)
def test_float64_of_further_networks_is_exact(case):
  check(*SLOW_CASES[case])


def test_float64_is_exact_over_eight_sharded_devices():
  with jax.enable_x64(True):
    fused = in_float64({})
    variables, *data = draw(fused, 8, (21, 40))
    expected = jax.jit(functools.partial(step_of, reference_model(fused)))(variables, *data)
    mesh = Mesh(np.array(jax.devices()), ('data',))

    def step(variables, *data):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return step_of(fused, variables, *data)

    spread = NamedSharding(mesh, P('data'))
    shardings = (NamedSharding(mesh, P()), spread, spread, spread)
    assert_exact(jax.jit(step, in_shardings=shardings)(variables, *data), expected)


def test_both_implementations_have_the_same_variables_and_draw_them_alike():
  fields = {**BASE, **PAPER, 'final_norm': True}
  fused = create_model(**fields)
  image = jnp.zeros((1, 32, 32, 3))
  found, expected = (
    jax.tree_util.tree_leaves_with_path(jax.jit(m.init)(jax.random.key(7), image))
    for m in (fused, reference_model(fused))
  )
  assert [path for path, _ in found] == [path for path, _ in expected]
  for (path, x), (_, y) in zip(found, expected, strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y, jax.tree_util.keystr(path))


@pytest.mark.parametrize(
  'extractor', ['densenet_small', 'mobilenet_v3_small', 'efficientnet_lite0', 'convnext_tiny']
)
def test_rematerialization_saves_less_for_the_backward_pass(extractor):
  saved = []
  for rematerialize in (False, True):
    fields = {**BASE, 'extractor': extractor, 'implementation': 'reference', 'rematerialize': rematerialize}
    model = create_model(**fields)
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def backward(variables, image, model=model):
      def logits(params):
        rngs = {'dropout': jax.random.key(0)}
        variables_ = {**variables, 'params': params}
        return model.apply(variables_, image, train=True, mutable=['batch_stats'], rngs=rngs)[0].main

      return jax.vjp(logits, variables['params'])[1]

    residuals = jax.tree.leaves(jax.eval_shape(backward, variables, image))
    saved.append(sum(x.size for x in residuals) - sum(x.size for x in jax.tree.leaves(variables['params'])))
  assert saved[1] < 0.6 * saved[0], saved


@pytest.mark.slow
def test_rematerialization_changes_no_gradient_in_float64():
  with jax.enable_x64(True):
    reference = reference_model(in_float64(dict(dropout_rate=0.3)))
    variables, *data = draw(reference, 1, (32, 40))
    found, expected = (
      jax.jit(functools.partial(step_of, model))(variables, *data)
      for model in (reference_model(reference, rematerialize=True), reference)
    )
    assert_exact(found, expected)
