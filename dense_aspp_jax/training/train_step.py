"""The one step that advances the state of a training run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.augmentation import augment
from dense_aspp_jax.training.config import Config
from dense_aspp_jax.training.objective import above_zero
from dense_aspp_jax.training.packing import StatePacking
from dense_aspp_jax.training.train_state import TrainState, trained

Batch = dict[str, jax.Array]
# Means over the step's batch: 'loss', 'pixel_accuracy', 'gradient_norm'; 'learning_rate'; and 'skipped',
# where updates may be left out: whether this one was.
StepMetrics = dict[str, jax.Array]

_DROPOUT = 2**31 - 1  # folded into the step's key; the augmentation folds in an image's row of the batch


def create_train_step(
  config: Config,
  optimizer: optax.GradientTransformation,
  rate: optax.Schedule,
  mesh: Mesh | None = None,
  packing: StatePacking | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
  """Makes `train_step(state, batch) -> (state, metrics)`, a pure function to be jitted.

  A batch is `{'image': uint8 [b, h, w, 3], 'label': uint8 [b, h, w]}`, labels as class indices or values of
  groups (`label_groups`), which the accuracy leaves out. Its augmentation and dropout are drawn from
  fold_in(seed, step), so a run is a function of config, seed and step. Under jit with the batch sharded over
  devices, loss, gradients and BN statistics are those of the whole batch.

  With gradient accumulation the parts of a batch are computed one after another. Loss and gradient are those
  of the whole batch; BN takes its statistics from each part.

  Where updates may be skipped, one whose loss, gradient, parameters or BN statistics would not be finite is:
  nothing changes then but the step, and with it the next batch.

  Moving averages, where the state has them, are average <- d' average + (1 - d') new for parameters and BN
  statistics alike, d' = min(ema_decay, (1 + t) / (10 + t)) in update t = 0, 1, ..., so that the first ones do
  not weigh long (as tf.train.ExponentialMovingAverage with num_updates).

  Nothing of a frozen extractor changes, and it costs no backward pass.

  Args:
    config: The configuration.
    optimizer: The update rule.
    rate: The learning rate, for the log.
    mesh: Devices that the batch is spread over; None: one device.
    packing: Of the states, where it is on; None: they are as they are.
  """
  packed = packing is not None and packing.on
  model, objective, preprocessing = config.model, config.loss, config.data.preprocessing
  groups = config.data.label_groups(config.label_set)
  num_parts = config.training.gradient_accumulation
  padding = tuple(255.0 * m for m in preprocessing.mean)

  def loss_of_part(params, frozen, batch_stats, part, key, total_weight):
    params = {**params, **frozen}
    if packed:
      params, batch_stats = (
        packing.params.unpack_for_gradients(params),
        packing.batch_stats.unpack(batch_stats),
      )
    logits, updates = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      part['image'],
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': key},
    )
    loss, correct = objective.loss(
      model, logits, part['label'], part['weight'], total_weight, num_parts, groups
    )
    batch_stats = updates.get('batch_stats', {})
    return loss, (packing.batch_stats.pack(batch_stats) if packed else batch_stats, correct)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    spread = mesh is not None and mesh.size > 1
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if spread else contextlib.nullcontext():
      return update(state, batch)

  def update(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    batch = augment(batch, key, config.augmentation, padding)
    dropout_keys = jax.random.split(jax.random.fold_in(key, _DROPOUT), num_parts)
    batch['image'] = preprocessing.normalize(batch['image'])
    batch['weight'] = objective.weights(batch['label'], model.num_classes, groups)
    total_weight = above_zero(jnp.sum(batch['weight']))
    value_and_grad = jax.value_and_grad(loss_of_part, has_aux=True)
    params = trained(model, state.params)
    frozen = {part: tree for part, tree in state.params.items() if part not in params}

    def add_part(carry, part_and_key):
      gradients, batch_stats, loss, correct = carry
      (part_loss, (batch_stats, part_correct)), part_gradients = value_and_grad(
        params, frozen, batch_stats, *part_and_key, total_weight
      )
      gradients = jax.tree.map(jnp.add, gradients, part_gradients)
      return (gradients, batch_stats, loss + part_loss, correct + part_correct), None

    if num_parts == 1:
      (loss, (batch_stats, correct)), gradients = value_and_grad(
        params, frozen, state.batch_stats, batch, dropout_keys[0], total_weight
      )
    else:
      zeros = jax.tree.map(jnp.zeros_like, params)
      start = (zeros, state.batch_stats, jnp.zeros(()), jnp.zeros((), jnp.int32))
      parts = jax.tree.map(functools.partial(_split, parts=num_parts), batch)
      (gradients, batch_stats, loss, correct), _ = jax.lax.scan(add_part, start, (parts, dropout_keys))

    updates, opt_state = optimizer.update(gradients, state.opt_state, params)
    new = state.replace(
      params={**optax.apply_updates(params, updates), **frozen}, batch_stats=batch_stats, opt_state=opt_state
    )
    if state.ema is not None:
      decay = jnp.minimum(config.training.ema_decay, (1 + state.step) / (10 + state.step))
      averages = jax.tree.map(lambda x, y: decay * x + (1 - decay) * y, state.ema, new.variables)
      for name, parts in averages.items():  # an average of equal values differs by rounding
        parts.update({part: state.ema[name][part] for part in frozen if part in parts})
      new = new.replace(ema=averages)
    known = (batch['weight'] > 0) & (batch['label'] < model.num_classes)
    step_metrics = {
      'loss': loss,
      'pixel_accuracy': correct / jnp.maximum(jnp.sum(known), 1),
      'gradient_norm': _norm(gradients) if packed else _norm_of_many(gradients),
      'learning_rate': rate(state.step),
    }
    if config.training.max_skipped_steps:
      checked = jax.tree.leaves((loss, step_metrics['gradient_norm'], new.variables))
      finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in checked]))
      new = jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, state)
      step_metrics['skipped'] = ~finite
    return new.replace(step=state.step + 1), step_metrics

  return train_step


def require_compilation() -> None:
  """Raises InputError if JAX is told not to compile."""
  if jax.config.jax_disable_jit:
    raise InputError(
      'JAX_DISABLE_JIT is set, but the train step is always compiled; unset it (jax.debug.print and '
      'jax.debug.breakpoint work in compiled code)'
    )


def make_train_step(
  config: Config, num_steps: int, mesh: Mesh, packing: StatePacking | None = None
) -> tuple[optax.GradientTransformation, jax.stages.Wrapped]:
  """Makes the optimizer of a run of `num_steps` and its train step, under jit; a step donates the state.

  The batch is spread over the mesh's one axis, 'data'; the state is on every device, packed by `packing`.

  Raises:
    InputError: JAX is told not to compile.
  """
  require_compilation()
  rate = config.optimizer.rate(num_steps)
  optimizer = config.optimizer.create(rate)
  train_step = create_train_step(config, optimizer, rate, mesh, packing)
  replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
  return optimizer, jax.jit(
    train_step,
    in_shardings=(replicated, sharded),
    out_shardings=(replicated, replicated),
    donate_argnums=0,
  )


def _split(x: jax.Array, parts: int) -> jax.Array:
  """Cuts `[b, ...]` into `[parts, b / parts, ...]`, part j taking rows j, j + parts, ...

  Strided, so that every part stays spread over all devices when the batch is.
  """
  return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def _norm(gradients: Any) -> jax.Array:
  """Euclidean norm of all gradients together."""
  return jnp.sqrt(sum(jnp.sum(jnp.square(gradient)) for gradient in jax.tree.leaves(gradients)))


def _norm_of_many(gradients: Any) -> jax.Array:
  """`_norm`, of one long array: a sum for each gradient would tie its update to a kernel of its own."""
  flat = jnp.concatenate([gradient.ravel() for gradient in jax.tree.leaves(gradients)])
  return _norm(jax.lax.optimization_barrier(flat))
