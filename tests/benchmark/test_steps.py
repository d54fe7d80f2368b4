import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_config import step_config
from tiny_network import SHALLOW, tiny_config

from dense_aspp_jax.benchmark.device import device_mesh
from dense_aspp_jax.benchmark.steps import (
  Lowered,
  compile_cold,
  compiled_memory,
  inference_step,
  random_batch,
  resized,
  training_step,
)
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.models.counts import multiply_adds
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.objective import Objective
from dense_aspp_jax.training.optimizer import Optimizer
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import create_train_step

make_config = functools.partial(tiny_config, model=SHALLOW)
RECIPE = {
  'seed': 7,
  'data.mean': (0.1, 0.2, 0.3),
  'data.std': (0.4, 0.5, 0.6),
  'augmentation.brightness': 0.25,
  'augmentation.crop_size': (16, 32),
  'loss.ignore_label': 19,
  'loss.region': 'dice',
  'loss.region_weight': 0.5,
  'optimizer.name': 'adamw',
  'optimizer.learning_rate': 0.01,
  'optimizer.weight_decay': 0.1,
  'optimizer.schedule': 'poly',
  'optimizer.warmup_steps': 3,
  'training.max_skipped_steps': 3,
}


@pytest.fixture(scope='module')
def compiled_training():
  step = training_step(make_config(**RECIPE), device_mesh())
  return step, step.lowered.compile()


def test_the_training_step_is_the_one_of_training(compiled_training):
  config = make_config(**RECIPE)
  step, compiled = compiled_training
  run = step.start(compiled)
  losses = [float(run()['loss']) for _ in range(2)]
  update = Optimizer(name='adamw', learning_rate=0.01, weight_decay=0.1, schedule='poly', warmup_steps=3)
  schedule = update.rate(10_003)
  optimizer = update.create(schedule)
  expected_config = step_config(
    create_model(**config.model),
    seed=7,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    augmentation=Augmentation(brightness=0.25, crop_size=(16, 32)),
    loss=Objective(ignore_label=19, region='dice', region_weight=0.5),
    max_skipped_steps=1,
  )
  train_step = create_train_step(expected_config, optimizer, schedule)
  state = create_state(expected_config.model, optimizer, 7)
  batch = jax.tree.map(jnp.asarray, random_batch(config, 8))
  expected = []
  for _ in range(2):
    state, metrics = jax.jit(train_step)(state, batch)
    expected.append(float(metrics['loss']))
  assert losses == pytest.approx(expected, rel=1e-4)
  assert losses[0] != losses[1]


def test_a_cold_compilation_neither_reads_nor_writes_the_cache(tmp_path):
  lowered = jax.jit(lambda x: jnp.sin(x) + 1).lower(jnp.ones(3))
  step = Lowered(lowered, lower_seconds=0.0, start=lambda compiled: compiled, flops=1)
  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = [getattr(jax.config, name) for name in names]
  try:
    jax.config.update(names[0], str(tmp_path))
    jax.config.update(names[1], 0)
    compiled, seconds = compile_cold(step)
  finally:
    for name, value in zip(names, before, strict=True):
      jax.config.update(name, value)
  np.testing.assert_allclose(compiled(jnp.zeros(3)), 1)
  assert seconds > 0
  assert not list(tmp_path.iterdir())


def test_the_state_is_donated_and_the_memory_adds_up(compiled_training):
  _, compiled = compiled_training
  memory = compiled_memory(compiled)
  state_bytes = 3 * 4 * 3400  # parameters and Adam's two moments of this network are more
  assert memory['aliased'] > state_bytes
  assert memory['total'] == (
    memory['arguments'] + memory['temporaries'] + memory['outputs'] - memory['aliased']
  )


@pytest.fixture(scope='module')
def inference():
  return inference_step(make_config())


def test_inference_is_that_of_the_predictor(inference):
  config = make_config()
  predictions = inference.start(inference.lowered.compile())()
  model = create_model(**config.model)
  predictor = Predictor(
    model,
    jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3))),
    Preprocessing((32, 64), config.data.mean, config.data.std),
  )
  expected = predictor.predict_resized(random_batch(config, 8)['image'], (32, 64))
  np.testing.assert_array_equal(np.asarray(predictions)[:8], expected)
  assert len(np.unique(expected)) > 1


def test_flops_are_two_a_multiply_add_and_in_training_three_passes_over_the_crop(
  compiled_training, inference
):
  model = create_model(**make_config().model)
  assert compiled_training[0].flops == 8 * 2 * 3 * multiply_adds(model, (16, 32))
  assert inference.flops == 8 * 2 * multiply_adds(model, (32, 64))


def test_other_sizes_leave_the_configuration_as_it_was():
  config = make_config(**{'augmentation.crop_size': (16, 16)})
  changed = resized(config, 16, (64, 64))
  assert (changed.training.batch_size, changed.evaluation.batch_size) == (16, 16)
  assert (changed.data.image_size, changed.augmentation.crop_size) == ((64, 64), (64, 64))
  assert resized(make_config(), None, (64, 64)).augmentation.crop_size is None
  same = resized(config, None, None).to_dict()
  assert same == config.to_dict() == make_config(**{'augmentation.crop_size': (16, 16)}).to_dict()


def test_the_noise_covers_all_values_and_classes_and_depends_on_the_seed():
  batch = random_batch(make_config(), 8)
  assert set(np.unique(batch['image'])) == set(range(256))
  assert set(np.unique(batch['label'])) == set(range(20))
  again, other = random_batch(make_config(), 8), random_batch(make_config(seed=1), 8)
  assert (again['image'] == batch['image']).all()
  assert (other['image'] != batch['image']).any()
