import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import tiny_config

from dense_aspp_jax.benchmark.peers import compare
from dense_aspp_jax.benchmark.peers.peer import Task
from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.models.segmentation import create_model, with_fields
from dense_aspp_jax.training.objective import Objective

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='torch is an extra'),
]
SIZE = (50, 70)
HEADS = {'skip_head': True, 'auxiliary_head': True, 'output_stride': 16}
NETWORKS = {
  'densenet': {'extractor': 'densenet_tiny'},
  'densenet, all options': {
    'extractor': 'densenet_tiny',
    'fourth_transition': True,
    'output_stride': 16,
    'first_norm': False,
    'final_norm': True,
    'use_bias': True,
    'rectify_features': True,
    'bottleneck_width': 0,
  },
  'densenet, cut': {'extractor': 'densenet_tiny', 'last_layer': 'transition3'} | HEADS,
  'mobilenet': {'extractor': 'mobilenet_v3_small'},
  'mobilenet, large': {'extractor': 'mobilenet_v3_large'} | HEADS,
  'efficientnet_lite': {'extractor': 'efficientnet_lite0'} | HEADS,
  'efficientnet_lite, cut': {'extractor': 'efficientnet_lite0', 'last_layer': 'blocks'},
  'convnext': {'extractor': 'convnext_tiny'} | HEADS,
}


def loss_of(config, variables, batch):
  """Ours of a training step; by the reference implementation, which compiles sooner."""
  model = with_fields(create_model(**config.model), implementation='reference', stochastic_depth_rate=0.0)
  objective = Objective()
  weights = objective.weights(jnp.asarray(batch['label']), model.num_classes)
  normalize = compare.Preprocessing(SIZE, config.data.mean, config.data.std).normalize

  @jax.jit
  def loss(variables):
    logits, _ = model.apply(variables, normalize(batch['image']), train=True, mutable=['batch_stats'])
    return objective.loss(model, logits, jnp.asarray(batch['label']), weights, weights.sum(), 1)[0]

  return float(loss(variables))


@pytest.mark.parametrize('fields', NETWORKS.values(), ids=NETWORKS)
def test_logits_and_loss_are_ours(fields):
  from dense_aspp_jax.benchmark.peers.pytorch_peers import Eager

  config = tiny_config(**{f'model.{name}': value for name, value in fields.items()})
  config.data.image_size = SIZE
  config.loss.class_weighting = 'none'
  batch = compare.random_batch(config, 2)
  sections = {'model': config.model, 'optimizer': config.optimizer, 'loss': config.loss}
  task = Task(
    mode='train',
    batch=batch,
    mean=config.data.mean,
    std=config.data.std,
    device='cpu',
    threads=1,
    **{name: section.to_dict() for name, section in sections.items()},
  )
  initial = initial_variables(create_model(**config.model), config.seed)
  drawn = compare.with_drawn_norms(initial, seed=1)
  eager = Eager(task)
  ours = compare.first_image_logits(config, drawn, batch['image'])
  theirs = eager.logits(compare.torch_weights(drawn))
  assert ours.shape == theirs.shape == (*SIZE, config.model.num_classes)
  np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4 * np.abs(ours).max())
  first = eager.prepare(compare.torch_weights(initial))
  assert first['loss'] == pytest.approx(loss_of(config, initial, batch), rel=1e-4)
  eager.run(2)
  assert eager.prepare(None)['loss'] < first['loss']
