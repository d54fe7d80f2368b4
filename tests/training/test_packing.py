"""Training with a packed state, against the same training with the state as it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exactness import assert_exact
from step_config import step_config
from tiny_network import SHALLOW, draw_variables

from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import Network, with_fields
from dense_aspp_jax.training.optimizer import Optimizer
from dense_aspp_jax.training.packing import StatePacking, TreePacking
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import create_train_step

OPTIMIZERS = {
  'adam': Optimizer(weight_decay=0.1, extractor_learning_rate_factor=0.1, clip_norm=1.0),
  'adamw': Optimizer(name='adamw', weight_decay=0.1, decay_norms_and_biases=False),
  'sgd': Optimizer(name='sgd', weight_decay=0.1),
  'frozen': Optimizer(extractor_learning_rate_factor=0),
}


def make(name, **training):
  """A configuration, an optimizer, its rate and a state that differs from the initial one everywhere."""
  rule = OPTIMIZERS[name]
  network = Network(num_classes=3, **SHALLOW).create(frozen_extractor=rule.freezes_extractor)
  model = with_fields(network, dtype=jnp.float64) if jax.config.jax_enable_x64 else network
  config = dataclasses.replace(step_config(model, **training), optimizer=rule)
  rate = rule.rate(10)
  optimizer = rule.create(rate)
  state = create_state(model, optimizer, 0, ema=config.training.ema_decay > 0)
  variables = draw_variables(abstract_variables(model))
  moments = jax.tree.map(lambda x: x + 0.01 if jnp.ndim(x) else x, state.opt_state)
  state = state.replace(**variables, opt_state=moments)
  return config, optimizer, rate, jax.tree.map(in_the_compute_type, state)


def in_the_compute_type(x):
  return jnp.asarray(x, float) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) else x


def draw_batch():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
  return {'image': image, 'label': rng.integers(0, 3, image.shape[:3]).astype(np.uint8)}


def assert_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_packed_state_is_unpacked_bit_for_bit(name):
  config, *_, state = make(name, ema_decay=0.9)
  packing = StatePacking(config.model, on=True)
  packed = packing.pack(state)
  assert len(jax.tree.leaves(packed)) < len(jax.tree.leaves(state)) / 3
  assert_equal(packing.unpack(packed), state)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_packed_step_makes_the_same_update(name):
  """Gradients are scaled and decayed by part and kind; averages and what may be skipped included."""
  with jax.enable_x64(True):
    config, optimizer, rate, state = make(name, ema_decay=0.9, max_skipped_steps=3)
    packing = StatePacking(config.model, on=True)
    step = jax.jit(create_train_step(config, optimizer, rate))
    packed_step = jax.jit(create_train_step(config, optimizer, rate, packing=packing))
    expected, metrics = step(state, draw_batch())
    found, packed_metrics = packed_step(packing.pack(state), draw_batch())
    found = packing.unpack(found)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert_exact(found, expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), packed_metrics, metrics)


def test_where_it_is_off_the_state_stays_as_it_is():
  config, *_, state = make('adam')
  packing = StatePacking(config.model)  # a CPU
  assert packing.pack(state) is state
  assert packing.unpack(state) is state


def test_like_named_leaves_of_numbered_layers_lie_side_by_side():
  layers = {f'layer{n}': {'kernel': np.full(2, n), 'next': {'kernel': np.full(1, -n)}} for n in (1, 2, 10)}
  packing = TreePacking({'part': layers})
  packed = packing.pack({'part': layers}, np)['part']['kernel']
  np.testing.assert_array_equal(packed, [1, 1, 2, 2, 10, 10, -1, -2, -10])


def test_gradients_of_packed_leaves_are_laid_end_to_end():
  tree = {'a': {'kernel': jnp.arange(3.0), 'bias': jnp.arange(2.0)}, 'b': {'scale': jnp.arange(4.0)}}
  packing = TreePacking(tree)

  def loss(packed):
    leaves = packing.unpack_for_gradients(packed)
    return leaves['a']['kernel'] @ jnp.arange(3.0) + 2 * leaves['b']['scale'].sum()

  gradient = jax.grad(loss)(packing.pack(tree))
  expected = {'a': {'kernel': jnp.arange(3.0), 'bias': jnp.zeros(2)}, 'b': {'scale': jnp.full(4, 2.0)}}
  assert_equal(gradient, packing.pack(expected))
  assert 'pad' not in str(jax.make_jaxpr(jax.grad(loss))(packing.pack(tree)))
