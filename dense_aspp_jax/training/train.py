"""The training script: configuration and workdir in; checkpoints, logs and scores out."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dense_aspp_jax import fields
from dense_aspp_jax.datasets.class_frequencies import class_warnings, require_pixels
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.joined import parts_of
from dense_aspp_jax.datasets.train_batches import train_batches
from dense_aspp_jax.errors import RunError, Stopped
from dense_aspp_jax.evaluation.evaluate import evaluate, predict_split
from dense_aspp_jax.evaluation.metrics import Scores, format_table, protocol, scored_classes
from dense_aspp_jax.evaluation.pictures import predictions_gallery
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.files import write_json
from dense_aspp_jax.label_mapping import mapped_from
from dense_aspp_jax.progress import progress_bar, say
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import EMA, LATEST, RAW, Checkpoints, has_latest
from dense_aspp_jax.training.config import check_names, parse_config, with_added_fields
from dense_aspp_jax.training.log import RunLog
from dense_aspp_jax.training.messages import say_continuation, say_sizes
from dense_aspp_jax.training.monitor import StepMonitor
from dense_aspp_jax.training.packing import StatePacking
from dense_aspp_jax.training.start import load_start
from dense_aspp_jax.training.stop import StopSignals
from dense_aspp_jax.training.train_state import TrainState, create_state
from dense_aspp_jax.training.train_step import make_train_step, require_compilation

_MOST_STEPS = 2**31 - 1  # they are counted in int32


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
    RunError: Loss or gradient not finite, the device has too little memory, a file cannot be written.
    Stopped: SIGINT or one of `termination_signals` came; the run is saved and can be resumed.
  """
  # ---------------------------------------- Check: nothing is written before all this has passed.
  require_compilation()
  mesh = Mesh(np.array(jax.devices()), ('data',))
  replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
  given = with_added_fields(config)
  check_names(given)  # `stored` has one more
  stored = workdirs.to_store(workdir, given)
  resolved = workdirs.resolve(stored)
  begun = (workdir / workdirs.CONFIG).exists()
  if begun:
    Data(**resolved['data']).check_place(
      'resume with their new place: --config.data.dataset=folder:PATH, or --config.data.data_dir=PATH for a '
      'prepared data set'
    )
  checked = parse_config(resolved, mesh.size)
  label_set, training = checked.label_set, checked.training
  changed = workdirs.check(workdir, stored, label_set)
  resumes = has_latest(workdir)
  start = None if resumes else load_start(checked, given['model'])
  origin = dict(start.origin) if start else {}

  # ---------------------------------------- Data
  data = checked.data
  validation = data.open(data.validation_split, label_set=label_set, cached=False)  # before a cache is built
  train_split = data.open_train(label_set=label_set)
  validation_split = data.cached(validation)
  scored_labels = validation_split.label_set  # the same classes, with the label ids of the first data set
  learned = checked.loss.counted_classes(label_set.num_classes)
  pixels, scored_pixels = train_split.class_pixels, validation_split.class_pixels
  require_pixels(train_split.name, pixels, label_set, learned)
  require_pixels(validation_split.name, scored_pixels, label_set, scored_classes(label_set))
  if warnings := class_warnings(pixels, label_set, learned, scored_pixels):
    say('\n'.join(f'warning: {train_split.name}: {text}' for text in warnings))
    origin['warnings'] = warnings

  def steps(epochs: float) -> int:
    """Updates in so many passes over all training images, at least 1; batches run across epoch ends."""
    return max(1, int(min(epochs * len(train_split) / training.batch_size, _MOST_STEPS)))

  num_steps = steps(training.num_epochs)
  few = num_steps < _MOST_STEPS
  fields.check('training.num_epochs', training.num_epochs, few, f'fewer than {_MOST_STEPS} steps')
  evaluate_every, save_every = steps(checked.evaluation.every_epochs), steps(checked.checkpoint.every_epochs)

  def due(step: int, every: int) -> bool:
    return step % every == 0 or step == num_steps

  # ---------------------------------------- Model and step
  model = checked.model
  objective = checked.loss.counted(train_split, label_set.num_classes)
  if objective is not checked.loss:
    names_and_weights = zip(label_set.class_names, objective.class_weights, strict=True)
    listed = ', '.join(f'{name} {weight:.2f}' for name, weight in names_and_weights)
    say(f'class weights ({checked.loss.class_weighting}): {listed}')
    origin['class_weights'] = list(objective.class_weights)
  packing = StatePacking(model)

  def on_all_devices(state: TrainState) -> TrainState:
    return jax.tree.map(  # the same on every process
      lambda x: jax.make_array_from_callback(x.shape, replicated, np.asarray(x).__getitem__), state
    )

  def unpacked(state: TrainState) -> TrainState:
    return on_all_devices(packing.unpack(state)) if packing.on else state

  optimizer, train_step = make_train_step(
    dataclasses.replace(checked, loss=objective), num_steps, mesh, packing
  )

  first_part, *other_parts = parts_of(train_split)
  splits = {data.train_split: first_part, data.validation_split: validation_split}
  splits |= {f'{data.train_split} of data set {n}': part for n, part in enumerate(other_parts, 2)}
  with (
    StopSignals() as stop,  # outermost: also while the last checkpoint is written
    workdirs.begin(workdir, stored, label_set, splits) as verify_workdir,
    Checkpoints(workdir, checked.checkpoint.keep, given['model']) as checkpoints,
    contextlib.ExitStack() as files,
  ):
    # ---------------------------------------- Restore
    state = create_state(
      model, optimizer, checked.seed, start.merge if start else None, ema=training.ema_decay > 0
    )
    state = checkpoints.restore_latest(state, strict_resume) or state
    state = on_all_devices(state)
    checkpoints.verify_best(state)
    first_step = int(state.step)
    evaluated = workdirs.scored_step(workdir) == first_step
    former_steps = steps(changed.get('training.num_epochs', [training.num_epochs])[0])
    if first_step > num_steps or (first_step == num_steps and evaluated):
      say(
        f'{workdir}: this run is finished, at step {first_step} of {num_steps}; nothing was trained. '
        'Evaluate it, continue it with more training.num_epochs, or choose another --workdir'
      )
      if former_steps > first_step == num_steps:  # it was to be continued, but no update was made
        workdirs.record_start(workdir, stored, first_step, {'num_steps': num_steps, 'changed': changed})
      return None
    if begun and not resumes:
      say(f'{workdir}: no checkpoint to resume from; training starts at step 0')
    if start:
      say(start.text)
    if first_step and changed:
      origin['changed'] = changed
    workdirs.record_start(workdir, stored, first_step, {'num_steps': num_steps, **origin})
    if first_step:
      say(f'{workdir}: resuming at step {first_step} of {num_steps}')
      if changed:
        say_continuation(changed, checked.optimizer, first_step, former_steps, num_steps)
    say_sizes(checked, given['model']['extractor'], train_split, len(validation_split), num_steps, mesh)

    # ---------------------------------------- Evaluate
    predictor = Predictor(model, state.variables, data.preprocessing)
    log = RunLog(workdir, first_step, evaluated)
    files.callback(log.close)

    def evaluate_state(state: TrainState) -> dict[str, Scores]:
      """Scores raw weights and, if there are any, moving averages; keeps the best, writes the scores."""
      step, scores, num_pictures = int(state.step), {}, checked.evaluation.num_pictures
      verify_workdir()
      for name, variables in ((RAW, state.variables), (EMA, state.ema)):
        if variables is None:
          continue
        predictor.update(variables)
        options = dict(batch_size=checked.evaluation.batch_size, before_batch=stop.check)
        scores[name], picture = evaluate(predictor, validation_split, scored_labels, **options).scores(), None
        verify_workdir()
        if num_pictures and name == RAW and jax.process_index() == 0:
          predictions = predict_split(predictor, validation_split, **options)
          picture = predictions_gallery(itertools.islice(predictions, num_pictures), scored_labels)
        log.scores(step, 'validation' if name == RAW else f'validation_{name}', scores[name], picture)
        say(
          f'step {step}: {"EMA: " if name == EMA else ""}mean IoU {100 * scores[name].mean_iou:.1f} %, '
          f'pixel accuracy {100 * scores[name].pixel_accuracy:.1f} %'
        )
      checkpoints.save_best(state, _ranking(scores).mean_iou)
      if jax.process_index() == 0:
        result = {
          **scores[RAW].to_json(),
          'weights': RAW,
          EMA: scores[EMA].to_json() if EMA in scores else None,
          'bn': 'running',
          'bn_batch_size': None,
          'test_time': None,
          'checkpoint': LATEST,
          'step': step,
          'num_steps': num_steps,
          'dataset': given['data']['dataset'],
          'split': data.validation_split,
          'images': len(validation_split),
          'train_images': len(first_part),
          'also_trained_on': [
            {'dataset': name, 'images': len(part)}
            for name, part in zip(data.datasets[1:], other_parts, strict=True)
          ],
          'protocol': protocol(scored_labels),
          'mapped_from': mapped_from(scored_labels),
          'seed': checked.seed,
          'config': given,
          'provenance': provenance(),
        }
        write_json(workdir / workdirs.SCORES, result)  # last: it says that this evaluation is complete
      return scores

    # ---------------------------------------- Loop
    batches = train_batches(
      train_split,
      batch_size=training.batch_size,
      seed=checked.seed,
      start_step=first_step,
      sharding=sharded,
      on_device=data.on_device,
      num_workers=data.num_workers,
    )
    files.callback(batches.close)
    monitor = StepMonitor(log, training.log_every_steps, training.batch_size, training.max_skipped_steps)
    scores: dict[str, Scores] = {}
    try:
      with _device_memory_explained():
        if first_step and due(first_step, evaluate_every) and not evaluated:
          say(f'the evaluation of step {first_step} was cut off and is made again')
          scores = evaluate_state(state)
        if first_step < num_steps:
          state = on_all_devices(packing.pack(state)) if packing.on else state
          batch = next(batches)
          start = time.perf_counter()
          train_step = train_step.lower(state, batch).compile()
          say(f'compiled in {time.perf_counter() - start:.0f} s')
          prefetched = itertools.chain([batch], batches)
          del batch
          with progress_bar(num_steps, 'training', 'step', initial=first_step) as bar:
            monitor.start()
            for step in range(first_step + 1, num_steps + 1):
              with monitor.waiting_for_data():
                batch = next(prefetched)
              state, metrics = train_step(state, batch)
              monitor.add(step, metrics)
              bar.set_postfix(monitor.latest, refresh=False)
              bar.update()
              if due(step, save_every) or due(step, evaluate_every):
                with monitor.paused():  # the loss is known to be finite before a state is saved or scored
                  # Saved first: a run that ends in an evaluation repeats only the evaluation.
                  whole = unpacked(state)
                  if due(step, save_every):
                    verify_workdir()
                    checkpoints.save_latest(whole)
                  if due(step, evaluate_every):
                    scores = evaluate_state(whole)
                  del whole
              if step < num_steps and stop.due(step):
                raise stop.stopped()
          say(monitor.finish())
    except Stopped as stopped:
      with monitor.paused():
        verify_workdir()
        checkpoints.save_latest(unpacked(state))
      checkpoints.close()
      say(monitor.finish())
      raise Stopped(
        stopped.signal,
        f'stopped by {stopped.signal.name} at step {int(state.step)} of {num_steps}, which is saved; the '
        'same command resumes the run',
      ) from None

  if jax.process_index() == 0:
    for name, table in scores.items():
      print(*([f'{name} weights:'] if len(scores) > 1 else []), format_table(table), sep='\n')
    best = f'{100 * checkpoints.best_score:.2f} % at step {checkpoints.best_step}'
    print(f'these are the scores of step {num_steps}; best mean IoU: {best}')
    print(f'checkpoints {workdir}/checkpoints, pictures {workdir}/pictures, scores {workdir}/scores.json')
  return _ranking(scores)


def _ranking(scores: dict[str, Scores]) -> Scores:
  """The scores that rank checkpoints: those of the moving averages, where there are any."""
  return scores.get(EMA, scores[RAW])


@contextlib.contextmanager
def _device_memory_explained() -> Iterator[None]:
  """Says what to do where a device has too little memory."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    reason = str(error).splitlines()[0][:200]
    raise RunError(
      f'the device has too little memory ({reason}). Choose a smaller training.batch_size, data.image_size '
      'or augmentation.crop_size, or more training.gradient_accumulation; or set model.rematerialize'
    ) from error
