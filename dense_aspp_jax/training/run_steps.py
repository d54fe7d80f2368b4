"""The steps of a run: one update after the other, evaluations and checkpoints in between, an orderly stop."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator

import jax

from dense_aspp_jax.errors import RunError, Stopped
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.progress import progress_bar, say
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.log import StepMonitor
from dense_aspp_jax.training.stop import StopSignals
from dense_aspp_jax.training.train_step import Batch, TrainState


def run_steps(
  state: TrainState,
  train_step: jax.stages.Wrapped,
  batches: Iterator[Batch],
  evaluate_state: Callable[[TrainState], dict[str, Scores]],
  checkpoints: Checkpoints,
  monitor: StepMonitor,
  stop: StopSignals,
  *,
  num_steps: int,
  evaluate_every: int,
  checkpoint_every: int,
  evaluated: bool,
) -> dict[str, Scores]:
  """Makes the steps that remain; evaluates and saves in between and at the end.

  A state is saved before it is scored, so that a run that ends in an evaluation loses only that, and makes
  it again when it is resumed.

  Args:
    state: Where to begin.
    train_step: Under jit; it takes the state's memory.
    batches: From the next step on.
    evaluate_state: Scores a state, keeps the best, writes the scores.
    checkpoints: Of the run.
    monitor: Gets what each step measures.
    stop: Asked after each step.
    num_steps: Of the whole run.
    evaluate_every: Steps.
    checkpoint_every: Steps.
    evaluated: Whether the evaluation that is due at the first state, if one is, has been made.

  Returns:
    The scores of the last evaluation, as `evaluate_state` gave them.

  Raises:
    Stopped: A signal came; the state is saved.
    RunError: Loss or gradient not finite, the device has too little memory, a file cannot be written.
  """
  first_step = int(state.step)

  def due(step: int, every: int) -> bool:
    return step % every == 0 or step == num_steps

  scores = None
  try:
    with _device_memory_explained():
      if first_step and due(first_step, evaluate_every) and not evaluated:
        say(f'the evaluation of step {first_step} was cut off and is made again')
        scores = evaluate_state(state)
      if first_step == num_steps:
        return scores
      batch = next(batches)
      start = time.perf_counter()
      train_step = train_step.lower(state, batch).compile()
      say(f'compiled in {time.perf_counter() - start:.0f} s')
      batches = itertools.chain([batch], batches)
      with progress_bar(num_steps, 'training', 'step', initial=first_step) as bar:
        monitor.start()
        for step in range(first_step + 1, num_steps + 1):
          with monitor.waiting_for_data():
            batch = next(batches)
          state, metrics = train_step(state, batch)
          monitor.add(step, metrics)
          bar.set_postfix(monitor.latest, refresh=False)
          bar.update()
          if due(step, checkpoint_every) or due(step, evaluate_every):
            with monitor.paused():  # a state is saved or scored once its loss is known to be finite
              if due(step, checkpoint_every):
                checkpoints.save_latest(state)
              if due(step, evaluate_every):
                scores = evaluate_state(state)
          if step < num_steps and stop.due(step):
            raise stop.stopped()
  except Stopped as stopped:
    with monitor.paused():
      checkpoints.save_latest(state)
    checkpoints.close()
    say(monitor.finish())
    raise Stopped(
      stopped.signal,
      f'stopped by {stopped.signal.name} at step {int(state.step)} of {num_steps}, which is saved; the same '
      'command resumes the run',
    ) from None
  say(monitor.finish())
  return scores


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
