"""The training loop: config and workdir in, checkpoints, logs and scores out."""

from __future__ import annotations

import functools
import pathlib

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dense_aspp_jax.datasets.cache import CacheSplit
from dense_aspp_jax.datasets.class_frequencies import class_weights, count_classes
from dense_aspp_jax.datasets.load import load_split
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.train_batches import train_batches
from dense_aspp_jax.evaluation.metrics import Scores, format_table
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.labels import LabelSet, load_label_set
from dense_aspp_jax.models.counts import PARTS, count_parameters
from dense_aspp_jax.models.segmentation import SegmentationModel, create_model
from dense_aspp_jax.progress import say
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.checkpoints import Checkpoints, has_latest
from dense_aspp_jax.training.config_check import check_consistency, check_extractor_weights, check_fields
from dense_aspp_jax.training.configured_step import configured_step
from dense_aspp_jax.training.log import RunLog, StepMonitor
from dense_aspp_jax.training.run_evaluation import RunEvaluation, ranking
from dense_aspp_jax.training.run_steps import run_steps
from dense_aspp_jax.training.stop import StopSignals
from dense_aspp_jax.training.train_step import TrainState, create_state
from dense_aspp_jax.weights.store import ExtractorWeights, load_extractor_weights


def train_and_evaluate(
  config: ConfigDict, workdir: pathlib.Path, strict_resume: bool = False
) -> Scores | None:
  """Trains the network of `config`, resuming what `workdir` holds.

  Args:
    config: As configs/default.py.
    workdir: Directory of the run.
    strict_resume: Refuses to resume from an older checkpoint where the newest one is damaged.

  Returns:
    The scores of the last evaluation, of the moving averages if there are any; None if the run had been
    finished before.

  Raises:
    InputError: Bad configuration, data or workdir; found before anything is written into the workdir.
    RunError: Loss or gradient not finite, or something could not be written.
    Stopped: SIGTERM or SIGINT came; the run is saved and can be resumed.
  """
  check_fields(config)
  data = config.data
  mesh = Mesh(np.array(jax.devices()), ('data',))
  replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
  label_set = load_label_set(data.label_set)
  check_consistency(config, label_set, mesh.size)
  model = create_model(**config.model)
  augmentation = Augmentation(**config.augmentation)
  weights = None if has_latest(workdir) else _load_weights(config)
  workdirs.check(workdir, config.to_dict(), label_set)
  load = functools.partial(
    load_split,
    data.dataset,
    data_dir=data.data_dir,
    label_set=label_set,
    image_size=data.image_size,
    held_out=data.held_out,
  )
  train_split = load(data.train_split, native_labels=False, skip_bad=data.skip_bad)
  validation_split = load(data.validation_split, native_labels=True, keep_aspect=data.keep_aspect)

  def steps(epochs: float) -> int:
    """Updates in so many passes over the training split, at least 1; batches run across epoch ends."""
    return max(1, int(epochs * len(train_split) / config.training.batch_size))

  num_steps = steps(config.training.num_epochs)
  weighting = _class_weights(config, train_split, label_set)
  optimizer, train_step = configured_step(config, model, augmentation, num_steps, mesh, weighting)
  splits = {data.train_split: train_split, data.validation_split: validation_split}
  with (
    StopSignals() as stop,  # outermost: also while the last checkpoint is written
    workdirs.begin(workdir, config.to_dict(), label_set, splits),
    Checkpoints(workdir, config.checkpoint.keep, config.model.to_dict()) as checkpoints,
  ):
    state = create_state(model, optimizer, config.seed, weights, ema=config.training.ema_decay > 0)
    state = _placed(checkpoints.restore_latest(state, strict_resume) or state, replicated)
    checkpoints.verify_best(state)
    first_step = int(state.step)
    evaluated = workdirs.scored_step(workdir) == first_step
    if first_step > num_steps or (first_step == num_steps and evaluated):
      say(
        f'{workdir}: this run is finished, at step {first_step} of {num_steps}; nothing was trained. '
        'Evaluate it, or choose another --workdir'
      )
      return None
    if weights:
      say(f'extractor weights: {weights.description["source"]}, {weights.description["file"]}')
    workdirs.record_start(
      workdir,
      config.to_dict(),
      first_step,
      extractor_weights=weights.description if weights else None,
      class_weights=weighting,
    )
    if first_step:
      say(f'{workdir}: resuming at step {first_step} of {num_steps}')
    _say_sizes(config, model, len(train_split), len(validation_split), num_steps, mesh)
    preprocessing = Preprocessing(data.image_size, data.mean, data.std, data.keep_aspect)
    predictor = Predictor(model, state.variables, preprocessing)
    batches = train_batches(
      train_split,
      batch_size=config.training.batch_size,
      seed=config.seed,
      start_step=first_step,
      sharding=sharded,
      on_device=data.on_device,
      num_workers=data.num_workers,
    )
    log = RunLog(workdir, first_step, evaluated)

    evaluation = RunEvaluation(
      config,
      workdir,
      label_set,
      predictor,
      validation_split,
      train_images=len(train_split),
      num_steps=num_steps,
      checkpoints=checkpoints,
      log=log,
      stop=stop,
    )

    try:
      scores = run_steps(
        state,
        train_step,
        batches,
        evaluation,
        checkpoints,
        StepMonitor(
          log,
          config.training.log_every_steps,
          config.training.batch_size,
          config.training.max_skipped_steps,
        ),
        stop,
        num_steps=num_steps,
        evaluate_every=steps(config.evaluation.every_epochs),
        checkpoint_every=steps(config.checkpoint.every_epochs),
        evaluated=evaluated,
      )
    finally:
      batches.close()
      log.close()
  if jax.process_index() == 0:
    best = f'{100 * checkpoints.best_score:.2f} % at step {checkpoints.best_step}'
    for weights, table in scores.items():
      print(*([f'{weights} weights:'] if len(scores) > 1 else []), format_table(table), sep='\n')
    print(f'these are the scores of step {num_steps}; best mean IoU: {best}')
    print(f'checkpoints {workdir}/checkpoints, pictures {workdir}/pictures, scores {workdir}/scores.json')
  return ranking(scores)


def _placed(state: TrainState, sharding: NamedSharding) -> TrainState:
  """The state, the same on every process, on all devices."""
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, sharding, np.asarray(x).__getitem__), state
  )


def _load_weights(config: ConfigDict) -> ExtractorWeights | None:
  """The weights the extractor starts from, None if it starts from random ones."""
  if config.init.extractor_weights is None:
    return None
  weights = load_extractor_weights(pathlib.Path(config.init.extractor_weights).expanduser())
  check_extractor_weights(config, weights)
  return weights


def _class_weights(
  config: ConfigDict, train_split: CacheSplit, label_set: LabelSet
) -> tuple[float, ...] | None:
  """What `config.loss.class_weighting` makes of the training split; None where there is no rule."""
  rule = config.loss.class_weighting
  if rule == 'none':
    return None
  counts = count_classes(train_split, label_set.num_classes, config.loss.ignore_label)
  weights = class_weights(counts, rule)
  listed = ', '.join(f'{name} {w:.2f}' for name, w in zip(label_set.class_names, weights, strict=True))
  say(f'class weights ({rule}): {listed}')
  return weights


def _say_sizes(
  config: ConfigDict,
  model: SegmentationModel,
  num_train: int,
  num_validation: int,
  num_steps: int,
  mesh: Mesh,
) -> None:
  counts = count_parameters(model, config.data.image_size)
  height, width = config.data.image_size
  names = {'dense_aspp': 'DenseASPP', 'skip_decoder': 'skip decoder', 'auxiliary_head': 'auxiliary head'}
  names['extractor'] = config.model.extractor
  parts = ' + '.join(f'{names.get(part, part)} {counts[part]:,}' for part in PARTS if counts[part])
  say(f'network: {parts} = {counts["total"]:,} parameters, {counts["gmac"]:.2f} GMAC an image')
  say(
    f'{num_train} training and {num_validation} validation images, {num_steps} steps of '
    f'{config.training.batch_size} images at {height}x{width} on {mesh.size} x '
    f'{jax.devices()[0].device_kind}; compiling ...'
  )
