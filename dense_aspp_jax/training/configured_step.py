"""The optimizer and the train step of a configuration, as training runs and the benchmark measures it."""

from __future__ import annotations

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.objective import Objective
from dense_aspp_jax.training.optimizer import create_optimizer, create_schedule
from dense_aspp_jax.training.train_step import create_train_step


def configured_step(
  config: ConfigDict,
  model: SegmentationModel,
  augmentation: Augmentation,
  num_steps: int,
  mesh: Mesh,
  class_weights: tuple[float, ...] | None = None,
) -> tuple[optax.GradientTransformation, jax.stages.Wrapped]:
  """Makes the optimizer and the train step under jit.

  Args:
    config: As configs/default.py, checked.
    model: Of `config.model`.
    augmentation: Of `config.augmentation`.
    num_steps: Of the whole run, for the schedule.
    mesh: One axis, 'data', over all devices; the batch is spread over it, the state is on every device.
    class_weights: What `config.loss.class_weighting` makes of the training split; None: the configured ones.

  Returns:
    The optimizer, and `train_step(state, batch) -> (state, metrics)`, which takes the state's memory.
  """
  options = config.optimizer
  learning_rate = create_schedule(
    schedule=options.schedule,
    learning_rate=options.learning_rate,
    num_steps=num_steps,
    warmup_steps=options.warmup_steps,
    poly_power=options.poly_power,
  )
  optimizer = create_optimizer(
    learning_rate,
    name=options.name,
    weight_decay=options.weight_decay,
    momentum=options.momentum,
    decay_norms_and_biases=options.decay_norms_and_biases,
    clip_norm=options.clip_norm,
  )
  fields = {name: value for name, value in config.loss.items() if name != 'class_weighting'}
  if class_weights is not None:
    fields['class_weights'] = class_weights
  train_step = create_train_step(
    model,
    optimizer,
    learning_rate,
    seed=config.seed,
    mean=config.data.mean,
    std=config.data.std,
    augmentation=augmentation,
    gradient_accumulation=config.training.gradient_accumulation,
    skip_not_finite=config.training.max_skipped_steps > 0,
    mesh=mesh,
    objective=Objective(**fields),
    ema_decay=config.training.ema_decay,
  )
  replicated = NamedSharding(mesh, P())
  train_step = jax.jit(
    train_step,
    in_shardings=(replicated, NamedSharding(mesh, P('data'))),
    out_shardings=(replicated, replicated),
    donate_argnums=0,
  )
  return optimizer, train_step
