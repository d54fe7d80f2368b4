"""The training loop: config and workdir in, checkpoints, logs and scores out."""

from __future__ import annotations

import functools
import math
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dense_aspp_jax.datasets.augmentation import Augmentation
from dense_aspp_jax.datasets.load import load_split
from dense_aspp_jax.datasets.pipeline import train_batches
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.evaluation.inference import Predictor
from dense_aspp_jax.evaluation.metrics import Scores, format_table, protocol
from dense_aspp_jax.labels import load_label_set
from dense_aspp_jax.models.complexity import count_parameters
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.progress import progress_bar, say
from dense_aspp_jax.provenance import provenance, write_json
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.optimizer import create_optimizer, create_schedule
from dense_aspp_jax.training.run_log import RunLog, StepMonitor
from dense_aspp_jax.training.train_step import TrainState, create_state, create_train_step


def steps_in(epochs: float, num_examples: int, batch_size: int) -> int:
  """Updates in so many passes over the training split, at least 1; batches run across epoch ends."""
  return max(1, int(epochs * num_examples / batch_size))


def train_and_evaluate(config: ConfigDict, workdir: pathlib.Path) -> Scores | None:
  """Trains the network of `config`, resuming what `workdir` holds.

  Args:
    config: As configs/default.py.
    workdir: Directory of the run.

  Returns:
    The scores of the last evaluation; None if the run had been finished before.

  Raises:
    InputError: Bad configuration, data or workdir; found before anything is trained.
    RunError: Loss or gradient not finite, or a checkpoint could not be written.
  """
  data, training = config.data, config.training
  label_set = load_label_set(data.label_set)
  if label_set.num_classes != config.model.num_classes:
    raise InputError(
      f'config.model.num_classes = {config.model.num_classes}, but label set {data.label_set!r} has '
      f'{label_set.num_classes} classes; set them alike'
    )
  if config.loss.class_weights and len(config.loss.class_weights) != label_set.num_classes:
    raise InputError(
      f'config.loss.class_weights has {len(config.loss.class_weights)} values; '
      f'expected {label_set.num_classes}, one a class, or none'
    )
  mesh = Mesh(np.array(jax.devices()), ('data',))
  replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
  parts = mesh.size * training.gradient_accumulation
  if training.batch_size < 1 or training.gradient_accumulation < 1 or training.batch_size % parts:
    raise InputError(
      f'config.training.batch_size = {training.batch_size}: expected a multiple of {parts} '
      f'({mesh.size} devices x gradient_accumulation {training.gradient_accumulation})'
    )
  model = create_model(**config.model)
  augmentation = Augmentation(**config.augmentation)
  resumed = workdirs.check(workdir, config.to_dict(), label_set)
  load = functools.partial(
    load_split, data.dataset, data_dir=data.data_dir, label_set=label_set, image_size=data.image_size
  )
  train_split = load(data.train_split, native_labels=False)
  validation_split = load(data.validation_split, native_labels=True)

  def steps(epochs: float) -> int:
    return steps_in(epochs, len(train_split), training.batch_size)

  num_steps = steps(training.num_epochs)
  learning_rate = create_schedule(
    num_steps=num_steps,
    **{k: config.optimizer[k] for k in ('schedule', 'learning_rate', 'warmup_steps', 'poly_power')},
  )
  optimizer = create_optimizer(
    learning_rate, **{k: config.optimizer[k] for k in ('name', 'weight_decay', 'momentum')}
  )
  train_step = jax.jit(
    create_train_step(
      model,
      optimizer,
      learning_rate,
      seed=config.seed,
      mean=data.mean,
      std=data.std,
      augmentation=augmentation,
      gradient_accumulation=training.gradient_accumulation,
      **config.loss,
    ),
    in_shardings=(replicated, sharded),
    out_shardings=(replicated, replicated),
    donate_argnums=0,
  )
  if not resumed:
    workdirs.begin(workdir, config.to_dict(), label_set)

  with Checkpoints(workdir, config.checkpoint.keep) as checkpoints:
    state = jax.device_put(create_state(model, optimizer, config.seed), replicated)
    if resumed and checkpoints.latest_step is not None:
      state = checkpoints.restore_latest(state, replicated)
      say(f'{workdir}: resuming at step {int(state.step)} of {num_steps}')
    if int(state.step) >= num_steps:
      say(
        f'{workdir}: this run is finished, at step {int(state.step)} of {num_steps}; nothing was done. '
        'Evaluate it, choose another --workdir, or raise config.training.num_epochs to go on'
      )
      return None
    counts = count_parameters(model, data.image_size)
    say(
      f'network: {config.model.extractor} {counts["extractor"]:,} + DenseASPP {counts["dense_aspp"]:,} + '
      f'head {counts["head"]:,} = {counts["total"]:,} parameters, {counts["gmac"]:.2f} GMAC an image'
    )
    say(
      f'{len(train_split)} training and {len(validation_split)} validation images, {num_steps} steps of '
      f'{training.batch_size} images at {data.image_size[0]}x{data.image_size[1]} on {mesh.size} x '
      f'{jax.devices()[0].device_kind}; compiling ...'
    )
    predictor = Predictor(model, state.variables, image_size=data.image_size, mean=data.mean, std=data.std)
    log = RunLog(workdir)

    def evaluate_state(state: TrainState) -> Scores:
      predictor.update(state.variables)
      confusion, picture = evaluate(
        predictor,
        validation_split,
        label_set,
        batch_size=config.evaluation.batch_size,
        num_pictures=config.evaluation.num_pictures,
      )
      return _report(int(state.step), confusion.scores(), picture, log)

    batches = train_batches(
      train_split,
      batch_size=training.batch_size,
      seed=config.seed,
      start_step=int(state.step),
      sharding=sharded,
      on_device=data.on_device,
      num_workers=data.num_workers,
    )
    try:
      scores = _run_steps(
        state,
        train_step,
        batches,
        evaluate_state,
        checkpoints,
        log,
        num_steps=num_steps,
        batch_size=training.batch_size,
        log_every=training.log_every_steps,
        evaluate_every=steps(config.evaluation.every_epochs),
        checkpoint_every=steps(config.checkpoint.every_epochs),
      )
    finally:
      batches.close()
      log.close()
  if jax.process_index() == 0:
    write_json(
      workdir / 'scores.json',
      {
        **scores.to_json(),
        'step': num_steps,
        'checkpoint': 'latest',
        'dataset': data.dataset,
        'split': data.validation_split,
        'images': len(validation_split),
        'protocol': protocol(label_set),
        'config': config.to_dict(),
        'seed': config.seed,
        'provenance': provenance(),
      },
    )
    print(format_table(scores))
    print(f'checkpoints {workdir}/checkpoints, pictures {workdir}/pictures, scores {workdir}/scores.json')
  return scores


def _run_steps(
  state: TrainState,
  train_step: Callable,
  batches,
  evaluate_state: Callable[[TrainState], Scores],
  checkpoints: Checkpoints,
  log: RunLog,
  *,
  num_steps: int,
  batch_size: int,
  log_every: int,
  evaluate_every: int,
  checkpoint_every: int,
) -> Scores:
  """Runs the steps that remain; evaluates, logs and saves in between and at the end."""
  monitor = StepMonitor()
  first_step = int(state.step)
  interval_start, interval_steps = time.perf_counter(), 0
  with progress_bar(num_steps, 'training', 'step', initial=first_step) as bar:
    for step in range(first_step + 1, num_steps + 1):
      state, metrics = train_step(state, next(batches))
      monitor.add(step, metrics)
      interval_steps += 1
      if not math.isnan(monitor.loss):
        bar.set_postfix(loss=f'{monitor.loss:.3f}', refresh=False)
      bar.update()
      last = step == num_steps
      if step % log_every == 0 or last:
        values = monitor.interval()
        seconds = time.perf_counter() - interval_start
        log.scalars(step, 'train', {**values, 'images_per_second': interval_steps * batch_size / seconds})
        interval_start, interval_steps = time.perf_counter(), 0
      pause = time.perf_counter()
      if step % checkpoint_every == 0 or last:
        monitor.drain()
        checkpoints.save_latest(state)
      if step % evaluate_every == 0 or last:
        monitor.drain()
        scores = evaluate_state(state)
        checkpoints.save_best(state, scores.mean_iou)
      interval_start += time.perf_counter() - pause
  return scores


def _report(step: int, scores: Scores, picture: np.ndarray | None, log: RunLog) -> Scores:
  """Logs an evaluation."""
  values = {
    **{k: v for k, v in scores.to_json().items() if k != 'iou'},
    **{f'iou/{name}': value for name, value in scores.iou.items()},
  }
  log.scalars(step, 'validation', values)
  if picture is not None:
    log.picture(step, 'validation', picture)
  say(
    f'step {step}: mean IoU {100 * scores.mean_iou:.1f} %, pixel accuracy {100 * scores.pixel_accuracy:.1f} %'
  )
  return scores
