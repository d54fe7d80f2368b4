import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxprs import described_gpu
from step_config import MEAN, STD, step_config
from tiny_network import SHALLOW, draw_variables

from configs import default
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.predictor import predict_images
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.layers import BatchNorm, channel_dropout
from dense_aspp_jax.models.segmentation import Logits, Network, create_model
from dense_aspp_jax.training.augmentation import Augmentation, augment
from dense_aspp_jax.training.objective import Objective
from dense_aspp_jax.training.optimizer import Optimizer
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import create_train_step, make_train_step


class PixelClassifier(nn.Module):
  """Logits from each pixel's colour alone: small enough for NumPy."""

  num_classes: int = 3
  norm: bool = False
  stride = 1

  @nn.compact
  def __call__(self, image, train=False):
    if self.norm:
      image = BatchNorm(name='norm')(image, train)
    return Logits(nn.Conv(self.num_classes, (1, 1), name='head')(image))


def make_batch(size=8, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 3, (size, 4, 6)).astype(np.uint8)
  label[rng.random(label.shape) < 0.3] = IGNORE_LABEL
  return {'image': rng.integers(0, 256, (size, 4, 6, 3)).astype(np.uint8), 'label': label}


def make_step(model, optimizer=None, **fields):
  rate = optax.constant_schedule(0.1)
  optimizer = optimizer or optax.sgd(rate)
  config = step_config(model, **fields)
  state = create_state(model, optimizer, 0, ema=config.training.ema_decay > 0)
  return create_train_step(config, optimizer, rate), state


def test_the_initial_variables_are_those_of_the_model():
  model = create_model(num_classes=3, **SHALLOW)
  expected = jax.jit(model.init)(jax.random.key(7), jnp.zeros((1, 64, 64, 3)))
  state = create_state(model, optax.sgd(0.1), 7)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6)
  jax.tree.map(close, state.variables, expected)


def test_loss_accuracy_and_update_against_numpy():
  batch = make_batch()
  step, state = make_step(PixelClassifier(), loss=Objective(class_weights=(1.0, 2.0, 0.5)))
  kernel = np.asarray(state.params['head']['kernel'])[0, 0].astype(np.float64)
  new_state, metrics = jax.jit(step)(state, batch)

  pixels = ((batch['image'] / 255 - MEAN) / STD).reshape(-1, 3)
  labels = batch['label'].ravel()
  pixels, labels = pixels[labels < 3], labels[labels < 3]
  weights = np.array([1.0, 2.0, 0.5])[labels]
  logits = pixels @ kernel
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  loss = -(weights * np.log(probabilities[np.arange(len(labels)), labels])).sum() / weights.sum()
  logit_gradient = (probabilities - np.eye(3)[labels]) * weights[:, None] / weights.sum()
  gradient, bias_gradient = pixels.T @ logit_gradient, logit_gradient.sum(0)

  values = metrics
  np.testing.assert_allclose(values['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(values['pixel_accuracy'], np.mean(logits.argmax(1) == labels), rtol=1e-5)
  np.testing.assert_allclose(
    values['gradient_norm'], np.sqrt((gradient**2).sum() + (bias_gradient**2).sum()), rtol=1e-4
  )
  np.testing.assert_allclose(values['learning_rate'], 0.1, rtol=1e-6)
  np.testing.assert_allclose(
    new_state.params['head']['kernel'][0, 0], kernel - 0.1 * gradient, rtol=1e-4, atol=1e-6
  )
  assert new_state.step == 1


def test_augmentation_is_drawn_from_seed_and_step_and_padded_with_the_mean_color():
  """Step 5 with seed 3 has the batch statistics of the batch that `augment` makes of these."""
  batch = make_batch()
  augmentation = Augmentation(crop_size=(6, 8), brightness=0.5)
  optimizer, rate = optax.sgd(0.1), optax.linear_schedule(0.0, 1.0, 10)
  model = PixelClassifier(norm=True)
  step = create_train_step(step_config(model, seed=3, augmentation=augmentation), optimizer, rate)
  state = create_state(model, optimizer, 0).replace(step=jnp.int32(5))
  new_state, metrics = jax.jit(step)(state, batch)

  key = jax.random.fold_in(jax.random.key(3), 5)
  padding = tuple(255 * m for m in MEAN)
  image = jax.jit(lambda batch: augment(batch, key, augmentation, padding)['image'])(batch)
  expected = 0.1 * ((np.asarray(image) / 255 - MEAN) / STD).mean((0, 1, 2))
  np.testing.assert_allclose(new_state.batch_stats['norm']['mean'], expected, rtol=1e-4)
  np.testing.assert_allclose(metrics['learning_rate'], 0.5, rtol=1e-6)  # of the step made
  assert new_state.step == 6


@pytest.mark.parametrize('parts', [1, 2])
def test_a_batch_of_ignored_pixels_changes_no_parameter_and_gives_no_nan(parts):
  batch = make_batch()
  batch['label'][:] = IGNORE_LABEL
  step, state = make_step(PixelClassifier(), gradient_accumulation=parts)
  new_state, metrics = jax.jit(step)(state, batch)
  jax.tree.map(np.testing.assert_array_equal, new_state.params, state.params)
  values = metrics
  assert (values['loss'], values['pixel_accuracy'], values['gradient_norm']) == (0, 0, 0)


def test_accuracy_is_over_the_pixels_that_the_loss_counts():
  batch = make_batch()
  step, state = make_step(PixelClassifier(), loss=Objective(ignore_label=2))
  _, metrics = jax.jit(step)(state, batch)
  pixels = (batch['image'] / 255 - MEAN) / STD
  predictions = (pixels @ np.asarray(state.params['head']['kernel'])[0, 0]).argmax(-1)
  expected = np.mean((predictions == batch['label'])[batch['label'] < 2])
  np.testing.assert_allclose(metrics['pixel_accuracy'], expected, rtol=1e-6)


def test_initial_parameters_follow_from_the_seed():
  first, again, other = (
    create_state(PixelClassifier(), optax.sgd(0.1), seed).params['head']['kernel'] for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).all()


@pytest.mark.parametrize('parts', [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts):
  batch = make_batch()  # parts have different numbers of counted pixels
  whole, state = make_step(PixelClassifier())
  accumulated, _ = make_step(PixelClassifier(), gradient_accumulation=parts)
  expected, expected_metrics = jax.jit(whole)(state, batch)
  result, metrics = jax.jit(accumulated)(state, batch)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), result.params, expected.params
  )
  for name, value in expected_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_running_statistics_follow_each_part():
  batch = make_batch()
  step, state = make_step(PixelClassifier(norm=True), gradient_accumulation=2)
  new_state, _ = jax.jit(step)(state, batch)
  expected = np.zeros(3)
  for part in range(2):
    pixels = ((batch['image'][part::2] / 255 - MEAN) / STD).reshape(-1, 3)
    expected = 0.9 * expected + 0.1 * pixels.mean(0)
  np.testing.assert_allclose(new_state.batch_stats['norm']['mean'], expected, rtol=1e-4)


def test_eight_devices_compute_what_one_computes():
  assert jax.device_count() == 8
  batch = make_batch(16)
  batch['image'] = (batch['image'] * np.linspace(0.1, 1, 16)[:, None, None, None]).astype(
    np.uint8
  )  # unequal shards
  step, state = make_step(PixelClassifier(norm=True), optax.adam(0.1))
  one, one_metrics = jax.jit(step)(state, batch)
  mesh = Mesh(np.array(jax.devices()), ('data',))
  replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
  parallel = jax.jit(step, in_shardings=(replicated, sharded), out_shardings=(replicated, replicated))
  eight, eight_metrics = parallel(jax.device_put(state, replicated), jax.device_put(batch, sharded))
  np.testing.assert_allclose(eight_metrics['loss'], one_metrics['loss'], rtol=1e-6)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    (eight.params, eight.batch_stats),
    (one.params, one.batch_stats),
  )


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_the_steps_are_lowered_for_gpu_and_tpu(platform):

  model = create_model(
    extractor='densenet_tiny',
    num_classes=20,
    dilation_rates=(3,),
    growth_rate=4,
    bottleneck_width=8,
    compute_dtype='bfloat16',
  )
  rate = optax.constant_schedule(0.1)
  optimizer = optax.adam(rate)
  augmentation = Augmentation(
    scale_range=(0.5, 2.0),
    crop_size=(32, 64),
    flip_probability=0.5,
    rotation=5.0,
    brightness=0.2,
    blur=1.0,
    noise=0.05,
  )
  step = create_train_step(step_config(model, augmentation=augmentation), optimizer, rate)
  state = jax.eval_shape(lambda: create_state(model, optimizer, 0))
  batch = {
    'image': jax.ShapeDtypeStruct((2, 64, 128, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((2, 64, 128), jnp.uint8),
  }

  # TrainState is no type that jax.export knows, so its values are exported.
  def train_step(state, batch):
    return jax.tree.leaves(step(state, batch))

  preprocessing = Preprocessing((64, 128), MEAN, STD)

  def predict(variables, image):
    return predict_images(model, variables, image[None], output_size=(128, 256), preprocessing=preprocessing)

  # Kernels are lowered too: what the check is about, keeping them for later versions, is not done here.
  allowed = [jax.export.DisabledSafetyCheck.custom_call('__gpu$xla.gpu.triton')]

  def export(function):
    def lowered(*arguments):
      with described_gpu():
        exporter = jax.export.export(jax.jit(function), platforms=[platform], disabled_checks=allowed)
        return exporter(*arguments)

    return lowered

  exported = export(train_step)(state, batch)
  assert exported.platforms == (platform,)
  assert ('triton' in exported.mlir_module()) == (platform == 'cuda')
  image = jax.ShapeDtypeStruct((64, 128, 3), jnp.uint8)
  exported = export(predict)(state.variables, image)
  assert exported.out_avals[0].shape == (1, 128, 256)


@pytest.mark.slow
def test_the_slides_best_model_learns_one_batch_in_bfloat16():
  """All of DenseASPP-121 as configs/default.py has it, at a small size."""
  config = default.get_config()
  model = create_model(**config.model)
  rate = optax.constant_schedule(config.optimizer.learning_rate)
  optimizer = Optimizer(**config.optimizer).create(rate)
  step = create_train_step(step_config(model), optimizer, rate)
  state = create_state(model, optimizer, 0)
  image, label = (np.stack(x) for x in zip(*(render_scene(0, i, (64, 128)) for i in range(2)), strict=True))
  batch = {'image': image, 'label': CITYSCAPES_20.encode(label, 'generated')}
  step = jax.jit(step, donate_argnums=0)
  losses = []
  for _ in range(12):
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
  assert 2 < losses[0] < 6  # ln 20 = 3.0 for even chances
  assert losses[-1] < 0.5 * losses[0]
  assert {x.dtype for x in jax.tree.leaves((state.params, state.batch_stats))} == {jnp.dtype('float32')}


class Dropped(nn.Module):
  """Logits that show which of eight channels dropout kept: channel i adds 2^i to class 0."""

  num_classes: int = 2
  stride = 1

  @nn.compact
  def __call__(self, image, train=False):
    bits = jnp.broadcast_to(2.0 ** jnp.arange(8), (*image.shape[:3], 8))
    kept = channel_dropout(0.5)(bits, deterministic=not train)
    scale = self.param('scale', nn.initializers.ones, ())
    return Logits(jnp.stack([scale * kept.sum(-1), jnp.zeros(image.shape[:3])], -1))


def dropped_losses(sharding=None, steps=3, **arguments):
  """Loss of each step of `Dropped`, where class 1 is right, so that each mask has its own loss."""
  step, state = make_step(Dropped(), optax.sgd(0.0), **arguments)
  batch = {'image': np.zeros((8, 4, 4, 3), np.uint8), 'label': np.ones((8, 4, 4), np.uint8)}
  if sharding is not None:
    batch = jax.device_put(batch, sharding)
  step = jax.jit(step)
  losses = []
  for _ in range(steps):
    state, metrics = step(state, batch)
    losses.append(float(metrics['loss']))
  return losses


def test_dropout_is_drawn_anew_in_every_step_the_same_in_every_run():
  losses = dropped_losses()
  assert len(set(losses)) == 3
  assert dropped_losses() == losses


def test_dropout_differs_between_the_parts_of_a_batch():
  """With one key for both parts the second half of the batch would repeat the masks of the first."""
  seen = []

  class Recorded(Dropped):
    @nn.compact
    def __call__(self, image, train=False):
      logits = super().__call__(image, train)
      jax.debug.callback(lambda x: seen.append(np.asarray(x)), logits.main[:, 0, 0, 0], ordered=True)
      return logits

  step, state = make_step(Recorded(), optax.sgd(0.0), gradient_accumulation=2)
  batch = {'image': np.zeros((8, 4, 4, 3), np.uint8), 'label': np.ones((8, 4, 4), np.uint8)}
  jax.block_until_ready(jax.jit(step)(state, batch))
  jax.effects_barrier()
  first, second = seen[-2:]  # before them, the initialization
  assert first.shape == second.shape == (4,)
  assert not np.array_equal(first, second)


def test_dropout_does_not_depend_on_the_number_of_devices():
  mesh = Mesh(np.array(jax.devices()), ('data',))
  np.testing.assert_allclose(dropped_losses(NamedSharding(mesh, P('data'))), dropped_losses(), rtol=1e-6)


@pytest.mark.parametrize('what', ['loss', 'parameters', 'batch_stats'])
def test_an_update_that_is_not_finite_changes_nothing_but_the_step(what):
  batch = make_batch()
  optimizer = optax.sgd(0.1, momentum=0.9)
  if what == 'parameters':
    optimizer = optax.chain(optimizer, optax.scale(1e30), optax.scale(1e30))
  step, state = make_step(PixelClassifier(norm=True), optimizer, max_skipped_steps=1, ema_decay=0.5)
  if what == 'loss':  # too large for float32 in the logits
    state.params['head']['kernel'] = jnp.full_like(state.params['head']['kernel'], 3e38)
  if what == 'batch_stats':  # they stay infinite, and are not used
    state.batch_stats['norm']['mean'] = jnp.full_like(state.batch_stats['norm']['mean'], jnp.inf)
  new_state, metrics = jax.jit(step)(state, batch)
  assert metrics['skipped']
  assert np.isfinite(metrics['loss']) == (what != 'loss')
  assert new_state.step == 1
  jax.tree.map(np.testing.assert_array_equal, new_state, state.replace(step=new_state.step))


def test_a_finite_update_is_not_changed_by_the_guard():
  batch = make_batch()
  guarded, state = make_step(PixelClassifier(norm=True), max_skipped_steps=1)
  plain, _ = make_step(PixelClassifier(norm=True))
  (found, metrics), (expected, _) = (jax.jit(step)(state, batch) for step in (guarded, plain))
  assert not metrics['skipped']
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_moving_averages_follow_parameters_and_statistics_at_the_same_decay():
  step, state = make_step(PixelClassifier(norm=True), ema_decay=0.25)
  states = [state]
  for seed in range(4):
    states.append(jax.jit(step)(states[-1], make_batch(seed=seed))[0])
  jax.tree.map(np.testing.assert_array_equal, state.ema, state.variables)
  for name in ('kernel', 'bias'):
    expected = np.asarray(state.params['head'][name], np.float64)
    for decay, new in zip((1 / 10, 2 / 11, 3 / 12, 0.25), states[1:], strict=True):
      expected = decay * expected + (1 - decay) * np.asarray(new.params['head'][name])
    np.testing.assert_allclose(states[-1].ema['params']['head'][name], expected, rtol=1e-5, atol=1e-7)
  for name in ('mean', 'var'):
    expected = np.asarray(state.batch_stats['norm'][name], np.float64)
    for decay, new in zip((1 / 10, 2 / 11, 3 / 12, 0.25), states[1:], strict=True):
      expected = decay * expected + (1 - decay) * np.asarray(new.batch_stats['norm'][name])
    np.testing.assert_allclose(states[-1].ema['batch_stats']['norm'][name], expected, rtol=1e-5)


def test_moving_averages_change_nothing_else():
  with_ema, state = make_step(PixelClassifier(norm=True), ema_decay=0.9)
  without, other = make_step(PixelClassifier(norm=True))
  batch = make_batch()
  found, expected = jax.jit(with_ema)(state, batch)[0], jax.jit(without)(other, batch)[0]
  jax.tree.map(np.testing.assert_array_equal, found.replace(ema=None), expected)


@pytest.mark.parametrize('implementation', ['fused', 'reference'])
def test_a_frozen_extractor_stays_bit_for_bit_while_the_rest_learns(implementation):
  section = Optimizer(name='adamw', weight_decay=0.1, extractor_learning_rate_factor=0.0)
  network = Network(**SHALLOW, final_norm=True, num_classes=3, implementation=implementation)
  model = network.create(section.freezes_extractor)
  config = step_config(model, ema_decay=0.5, gradient_accumulation=2, max_skipped_steps=1)
  rate = optax.constant_schedule(0.1)
  optimizer = section.create(rate)
  drawn = draw_variables(abstract_variables(model))  # statistics unlike those of any batch
  state = create_state(model, optimizer, 0, lambda _: jax.tree.map(jnp.asarray, drawn), ema=True)
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8),
    'label': rng.integers(0, 3, (4, 32, 32)).astype(np.uint8),
  }
  step = jax.jit(create_train_step(config, optimizer, rate))
  new, metrics = step(state, batch)
  new, _ = step(new, batch)
  assert not metrics['skipped']
  for found, initial in ((new.variables, drawn), (new.ema, drawn)):
    for name, parts in initial.items():
      jax.tree.map(np.testing.assert_array_equal, found[name]['extractor'], parts['extractor'])
  assert 'extractor' not in str(jax.tree_util.tree_structure(new.opt_state))
  assert (new.params['head']['kernel'] != drawn['params']['head']['kernel']).all()
  statistics = (tree['batch_stats']['dense_aspp'] for tree in (new.variables, drawn))
  assert not any(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, statistics), strict=True))


def test_a_frozen_extractor_normalizes_by_its_running_statistics_in_training():
  model = Network(**SHALLOW, num_classes=3).create(frozen_extractor=True)
  variables = draw_variables(abstract_variables(model))
  image = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

  def features(model, train):
    apply = functools.partial(
      model.apply,
      train=train,
      mutable=['batch_stats', 'intermediates'],
      capture_intermediates=lambda module, _: module.name == 'extractor',
    )
    _, found = jax.jit(apply)(variables, image)
    return np.asarray(found['intermediates']['extractor']['__call__'][0].last)

  evaluated = features(model, train=False)
  np.testing.assert_array_equal(features(model, train=True), evaluated)
  assert not np.allclose(features(model.clone(frozen_extractor=False), train=True), evaluated)


def test_a_debugger_that_turns_compilation_off_is_told_what_works():
  with jax.disable_jit(), pytest.raises(InputError, match=r'JAX_DISABLE_JIT.*unset it.*jax\.debug'):
    make_train_step(None, 1, None)
