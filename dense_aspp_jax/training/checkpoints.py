"""Checkpoints of a run: the newest ones to resume from, and the best one to use."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dense_aspp_jax.checkpoint_io import load_checkpoint, named_arrays, read_record, save_checkpoint
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.progress import say
from dense_aspp_jax.training.checkpoint_series import CheckpointSeries, steps_in
from dense_aspp_jax.training.config import model_record
from dense_aspp_jax.training.train_state import TrainState

LATEST, BEST = 'latest', 'best'
RAW, EMA = 'raw', 'ema'
_SCORE, _MODEL = 'mean_iou', 'model'  # in the record of a checkpoint


def _variables_items(state: TrainState) -> dict[str, Any]:
  items = {**state.variables, EMA: state.ema and {name: tree for name, tree in state.ema.items() if tree}}
  return {name: tree for name, tree in items.items() if tree}  # Orbax takes no empty one


def _state_items(state: TrainState) -> dict[str, Any]:
  return {**_variables_items(state), 'optimizer': {'step': state.step, 'opt_state': state.opt_state}}


class Checkpoints:
  """Writes `WORKDIR/checkpoints/latest/STEP` and `WORKDIR/checkpoints/best/STEP`.

  Saving the newest is asynchronous: it returns when the arrays are copied to the host. Closing (leaving
  the `with` block) waits until all is on disk. Every process must call every method.

  Attributes:
    best_score: Validation mIoU of the best checkpoint, None if there is none.
    best_step: Its step.
  """

  def __init__(self, workdir: pathlib.Path, keep: int, model_fields: Mapping[str, Any] | None = None):
    """Opens those of a run.

    Args:
      workdir: The run's directory.
      keep: How many of the newest stay.
      model_fields: The configuration's section `model`, stored with each checkpoint.
    """
    root = checkpoints_directory(workdir)
    self._latest = CheckpointSeries(root / LATEST, keep)
    self._best = CheckpointSeries(root / BEST, 1)
    self._record = {_MODEL: model_record(model_fields or {})}
    self.best_score: float | None = None
    self.best_step: int | None = None
    for step in self._best.steps:
      try:
        self.best_score, self.best_step = read_record(root / BEST / str(step)).get(_SCORE), step
      except InputError as error:
        say(f'warning: {error}')

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()

  def close(self) -> None:
    """Waits for saves under way. Raises RunError if one failed."""
    try:
      self._latest.wait()
    finally:
      self._best.wait()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, None if there is none."""
    return max(self._latest.steps, default=None)

  def save_latest(self, state: TrainState) -> None:
    """Saves everything that a resume needs; a step already saved is left as it is.

    Raises:
      RunError: This save, or the one before, failed; or the state holds what is not finite.
    """
    if self.latest_step != int(state.step):
      self._save(self._latest, state, _state_items(state), self._record)

  def save_best(self, state: TrainState, mean_iou: float) -> None:
    """Saves variables and averages if `mean_iou` is above that of the best so far; waits for the disk.

    Raises:
      RunError: As `save_latest`.
    """
    if self.best_score is None or mean_iou > self.best_score:
      self._save(self._best, state, _variables_items(state), {**self._record, _SCORE: float(mean_iou)})
      self._best.wait()
      self.best_score, self.best_step = float(mean_iou), int(state.step)

  def restore_latest(self, state: TrainState, strict: bool = False) -> TrainState | None:
    """Restores the newest checkpoint that is whole, and sets what is newer than it aside.

    Args:
      state: Of the same shapes.
      strict: Fails instead of falling back to an older one than the newest.

    Returns:
      The state, of NumPy arrays; None if there is no checkpoint.

    Raises:
      InputError: None of them can be used, or, if `strict`, the newest one cannot.
      RunError: The system refuses to read it, see `load_checkpoint`.
    """
    items = _state_items(state)
    restored, step = {}, -1
    steps = self._latest.steps
    for candidate in reversed(steps):
      try:
        restored, step = self._latest.load(candidate, items), candidate
        break
      except InputError as error:
        if strict:
          raise
        say(f'warning: {error}')
    agreed = _smallest_over_processes(step)
    if steps and agreed < 0:
      raise InputError(
        f'{self._latest.directory}: none of the checkpoints of steps {steps} can be used; remove them to '
        'train from the start, or choose another --workdir'
      )
    if agreed != step:
      restored = self._latest.load(agreed, items)
    if steps and agreed != steps[-1]:
      say(f'warning: the run falls back to its checkpoint of step {agreed}')
    self._latest.set_aside_after(agreed)
    if not steps:
      return None
    if EMA in restored:
      restored[EMA] = {**state.variables, **restored[EMA]}  # with the trees that are empty
    return state.replace(**restored.pop('optimizer'), **restored)

  def verify_best(self, state: TrainState) -> None:
    """Sets the best checkpoint aside if it is damaged: the next one scored is then the best.

    Raises:
      RunError: The system refuses to read it.
    """
    damaged = self.best_step is None and bool(self._best.steps)  # not even its record can be read
    if self.best_step is not None:
      try:
        self._best.load(self.best_step, _variables_items(state))
      except InputError as error:
        say(f'warning: {error}')
        damaged = True
    if _smallest_over_processes(0 if damaged else 1) == 0:
      self.best_score = self.best_step = None
      self._best.set_aside_after(-1)

  def _save(
    self, series: CheckpointSeries, state: TrainState, items: dict[str, Any], record: dict[str, Any]
  ) -> None:
    step = int(state.step)
    for name, array in named_arrays(items).items():
      if not np.isfinite(np.asarray(array)).all():
        raise RunError(
          f'step {step}: {name} holds values that are not finite. The run is stopped and no checkpoint of '
          'this step is written. Try a lower optimizer.learning_rate, or optimizer.warmup_steps'
        )
    series.save(step, items, record)


def checkpoints_directory(workdir: pathlib.Path) -> pathlib.Path:
  """Where a workdir keeps its checkpoints."""
  return workdir / 'checkpoints'


def has_latest(workdir: pathlib.Path) -> bool:
  """Whether there is a checkpoint to resume from."""
  return bool(steps_in(checkpoints_directory(workdir) / LATEST))


def save_variables(
  workdir: pathlib.Path, variables: Mapping[str, Any], model_fields: Mapping[str, Any] | None = None
) -> None:
  """Writes params and batch_stats as the best checkpoint, of step 0, of a workdir that has none."""
  path = checkpoints_directory(workdir) / BEST / '0'
  path.parent.mkdir(parents=True)
  save_checkpoint(path, variables, {_MODEL: model_record(model_fields or {})}, shown=workdir)


def restore_variables(
  workdir: pathlib.Path,
  checkpoint: str,
  abstract_variables: Mapping[str, Any],
  model_fields: Mapping[str, Any] | None = None,
  weights: str = RAW,
) -> tuple[int, dict[str, Any]]:
  """Restores params and batch_stats for use, onto the first local device.

  Args:
    workdir: The run's directory.
    checkpoint: 'best', 'latest' (the newest one that is whole), or a step, looked for under latest and best.
    abstract_variables: Shapes and types, from jax.eval_shape of the model's init.
    model_fields: What the network was made from.
    weights: 'raw', or 'ema' for the moving averages of a checkpoint that has them.

  Returns:
    The checkpoint's step and the variables.

  Raises:
    InputError: There is no such checkpoint, or it is damaged or of another network.
    RunError: The system refuses to read it, see `load_checkpoint`.
  """
  root = checkpoints_directory(workdir)
  steps = {kind: steps_in(root / kind) for kind in (LATEST, BEST)}
  if steps.get(checkpoint):
    kind, candidates = checkpoint, steps[checkpoint]
  elif checkpoint.isdecimal() and (kinds := [k for k, s in steps.items() if int(checkpoint) in s]):
    kind, candidates = kinds[0], [int(checkpoint)]
  else:
    existing = '; '.join(f'{kind}: {sorted(found) or "none"}' for kind, found in steps.items())
    raise InputError(
      f'{root}: no checkpoint {checkpoint!r}; existing: {existing}. Choose best, latest or a step'
    )
  while True:
    step = candidates.pop()
    path = root / kind / str(step)
    try:
      _check_network(path, model_fields or {})
      wanted = {EMA: dict(abstract_variables)} if weights == EMA else abstract_variables
      variables = load_checkpoint(path, wanted)
      break
    except (InputError, RunError) as error:
      if not path.exists():  # a training that goes on has removed it, and has saved another one before
        return restore_variables(workdir, checkpoint, abstract_variables, model_fields, weights)
      if isinstance(error, RunError) or not candidates:
        raise
      say(f'warning: {error}; step {candidates[-1]} is taken')
  return step, jax.device_put(variables.get(EMA, variables), jax.local_devices()[0])


def _check_network(path: pathlib.Path, model_fields: Mapping[str, Any]) -> None:
  """Compares what a network is made from with what the checkpoint says of itself."""
  stored, given = read_record(path).get(_MODEL) or {}, model_record(model_fields)
  different = [
    f'model.{name}: {given[name]!r} in the configuration, {stored[name]!r} in the checkpoint'
    for name in sorted(stored.keys() & given.keys())
    if stored[name] != given[name]
  ]
  if different:
    raise InputError(
      f'{path}: a checkpoint of another network ({"; ".join(different)}). Use its own config.json'
    )


def _smallest_over_processes(number: int) -> int:
  if jax.process_count() == 1:
    return number
  return int(np.min(multihost_utils.process_allgather(np.int32(number))))
