import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.optimizer import Optimizer


def run(optimizer, parameter, gradients):
  """Parameter after each update."""
  params, state, values = {'w': jnp.float32(parameter)}, None, []
  state = optimizer.init(params)
  for gradient in gradients:
    updates, state = optimizer.update({'w': jnp.float32(gradient)}, state, params)
    params = optax.apply_updates(params, updates)
    values.append(float(params['w']))
  return values


def torch_adam(parameter, gradients, lr, decay, decoupled):
  """torch.optim.Adam and AdamW, from their documentation, in float64."""
  m = v = 0.0
  values = []
  for t, gradient in enumerate(gradients, start=1):
    if decoupled:
      parameter -= lr * decay * parameter
    else:
      gradient += decay * parameter
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    parameter -= lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    values.append(parameter)
  return values


def torch_sgd(parameter, gradients, lr, decay, momentum):
  """torch.optim.SGD, from its documentation."""
  buffer, values = None, []
  for gradient in gradients:
    gradient += decay * parameter
    buffer = gradient if buffer is None else momentum * buffer + gradient
    parameter -= lr * buffer
    values.append(parameter)
  return values


GRADIENTS = [0.3, -0.1, 0.05, 0.8]


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_adam_and_adamw_are_torchs(name):
  optimizer = Optimizer(name=name, weight_decay=0.5).create(optax.constant_schedule(0.01))
  expected = torch_adam(2.0, GRADIENTS, 0.01, 0.5, name == 'adamw')
  np.testing.assert_allclose(run(optimizer, 2.0, GRADIENTS), expected, rtol=1e-5)


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_epsilon_is_torchs(name):
  optimizer = Optimizer(name=name).create(optax.constant_schedule(0.01))
  np.testing.assert_allclose(run(optimizer, 0.0, [1e-8]), [-0.01 / 2], rtol=1e-3)  # gradient = epsilon


def test_sgd_is_torchs():
  optimizer = Optimizer(name='sgd', weight_decay=0.5, momentum=0.8).create(optax.constant_schedule(0.01))
  np.testing.assert_allclose(
    run(optimizer, 2.0, GRADIENTS), torch_sgd(2.0, GRADIENTS, 0.01, 0.5, 0.8), rtol=1e-5
  )


@pytest.mark.parametrize(
  ('schedule', 'expected'),
  [
    ('constant', [0.1, 0.1, 0.1]),
    ('poly', [0.1, 0.1 * 0.5**0.9, 0.0]),
    ('cosine', [0.1, 0.05, 0.0]),
  ],
)
def test_schedules(schedule, expected):
  rate = Optimizer(schedule=schedule, learning_rate=0.1).rate(100)
  np.testing.assert_allclose([rate(0), rate(50), rate(100)], expected, atol=1e-8)


def test_warmup_grows_linearly_and_then_the_schedule_starts():
  rate = Optimizer(schedule='poly', learning_rate=1.0, warmup_steps=4).rate(14)
  np.testing.assert_allclose([rate(i) for i in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
  np.testing.assert_allclose(rate(9), 0.5**0.9, rtol=1e-6)


def test_a_warmup_as_long_as_the_run_is_named():
  Optimizer(warmup_steps=9).rate(10)
  with pytest.raises(InputError, match=r'optimizer\.warmup_steps = 10'):
    Optimizer(warmup_steps=10).rate(10)


@pytest.mark.parametrize('name', ['adam', 'adamw', 'sgd'])
def test_decay_of_kernels_alone_leaves_norms_and_biases_as_without_decay(name):
  def after_one_update(**arguments):
    optimizer = Optimizer(name=name, **arguments).create(optax.constant_schedule(0.1))
    shapes = {'kernel': (2, 2), 'scale': (2,), 'bias': (2,), 'layer_scale': (2,)}
    params = {'layer': {key: jnp.ones(shape) for key, shape in shapes.items()}}
    gradients = {'layer': {key: jnp.full(shape, 0.25) for key, shape in shapes.items()}}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return {key: np.asarray(x) for key, x in optax.apply_updates(params, updates)['layer'].items()}

  none, everything = after_one_update(), after_one_update(weight_decay=0.5)
  kernels = after_one_update(weight_decay=0.5, decay_norms_and_biases=False)
  np.testing.assert_array_equal(kernels['kernel'], everything['kernel'])
  for key in ('scale', 'bias', 'layer_scale'):
    np.testing.assert_array_equal(kernels[key], none[key])
  if name != 'adam':  # whose first step has the same length whatever the gradient
    assert (everything['bias'] < none['bias']).all()


@pytest.mark.parametrize('name', ['adam', 'adamw', 'sgd'])
def test_the_extractor_learns_at_its_share_of_the_rate(name):
  """As in a parameter group of torch.optim with that learning rate."""

  def updates(factor, rate=0.1):
    section = Optimizer(name=name, weight_decay=0.5, extractor_learning_rate_factor=factor)
    optimizer = section.create(optax.constant_schedule(rate))
    params = {part: {'kernel': jnp.arange(1.0, 4.0)} for part in ('extractor', 'dense_aspp', 'head')}
    gradients = {part: {'kernel': jnp.float32([0.3, -0.2, 0.1])} for part in params}
    result, _ = optimizer.update(gradients, optimizer.init(params), params)
    return {part: np.asarray(tree['kernel']) for part, tree in result.items()}

  found, whole, tenth = updates(0.1), updates(1.0), updates(1.0, rate=0.01)
  np.testing.assert_allclose(found['extractor'], tenth['extractor'], rtol=1e-6)
  for part in ('dense_aspp', 'head'):
    np.testing.assert_array_equal(found[part], whole[part])


def test_gradients_are_clipped_by_their_norm_before_decay():
  arguments = dict(name='sgd', momentum=0.0, weight_decay=0.5)
  optimizer = Optimizer(**arguments, clip_norm=2.0).create(optax.constant_schedule(1.0))
  params = {'a': {'kernel': jnp.float32(1.0)}, 'b': {'kernel': jnp.float32(2.0)}}
  for gradients, scale in (((3.0, 4.0), 2 / 5), ((0.3, 0.4), 1.0)):
    tree = {key: {'kernel': jnp.float32(g)} for key, g in zip('ab', gradients, strict=True)}
    updates, _ = optimizer.update(tree, optimizer.init(params), params)
    for key, g in zip('ab', gradients, strict=True):
      expected = -(scale * g + 0.5 * params[key]['kernel'])
      np.testing.assert_allclose(updates[key]['kernel'], expected, rtol=1e-6)
