"""Orbax checkpoints of a run: the newest ones to resume from, and the best one to use."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.orbax_errors import abstract_tree, orbax_write, read_orbax
from dense_aspp_jax.training.train_step import TrainState

LATEST = 'latest'
BEST = 'best'


def _checkpointer(directory: pathlib.Path, keep: int) -> ocp.training.Checkpointer:
  return ocp.training.Checkpointer(
    epath.Path(directory.absolute()),
    # The default policy silently skips a save while another one is being written.
    save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
    preservation_policy=ocp.training.preservation_policies.LatestN(keep),
    cleanup_tmp_directories=True,
  )


def _variables_items(state: TrainState) -> dict[str, Any]:
  items = {'params': state.params, 'batch_stats': state.batch_stats}
  return {name: tree for name, tree in items.items() if tree}  # Orbax takes no empty item


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

  def __init__(self, workdir: pathlib.Path, keep: int):
    root = checkpoints_directory(workdir)
    self._latest = _checkpointer(root / LATEST, keep)
    self._best = _checkpointer(root / BEST, 1)
    best = self._best.latest
    self.best_score: float | None = best.metrics['mean_iou'] if best else None
    self.best_step: int | None = best.step if best else None

  def __enter__(self) -> Checkpoints:
    return self

  def __exit__(self, *exc_info) -> None:
    self.close()

  def close(self) -> None:
    """Waits for saves under way.

    Raises:
      RunError: A save failed.
    """
    errors = []
    for checkpointer in (self._latest, self._best):
      try:
        checkpointer.close()
      except Exception as error:  # whatever the background thread met
        errors.append(error)
    if errors:
      with orbax_write('a checkpoint', 'the older ones are intact'):
        raise errors[0]

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, None if there is none."""
    return self._latest.latest.step if self._latest.latest else None

  def save_latest(self, state: TrainState) -> None:
    """Saves everything that a resume needs; a step already saved is left as it is.

    Raises:
      RunError: This save, or the one before, failed.
    """
    if self.latest_step != int(state.step):
      with orbax_write('a checkpoint', 'the older ones are intact'):
        self._latest.save_checkpointables_async(int(state.step), _state_items(state))

  def save_best(self, state: TrainState, mean_iou: float) -> None:
    """Saves params and batch_stats as the best, if `mean_iou` is above that of the best so far.

    Returns when they are on disk. Raises RunError if that fails.
    """
    if self.best_score is None or mean_iou > self.best_score:
      self.best_score, self.best_step = mean_iou, int(state.step)
      with orbax_write('a checkpoint', 'the older ones are intact'):
        self._best.save_checkpointables(
          int(state.step), _variables_items(state), metrics={'mean_iou': float(mean_iou)}
        )

  def restore_latest(self, state: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
    """Restores the newest checkpoint into the shape of `state`, under `sharding`.

    Raises:
      InputError: It cannot be read.
    """
    items = {name: abstract_tree(tree, sharding) for name, tree in _state_items(state).items()}
    step = self._latest.latest
    path = pathlib.Path(self._latest.directory) / str(step.step)
    restored = read_orbax(lambda: self._latest.load_checkpointables(step, items), path)
    return TrainState(
      params=restored['params'], batch_stats=restored.get('batch_stats', {}), **restored['optimizer']
    )


def checkpoints_directory(workdir: pathlib.Path) -> pathlib.Path:
  """Where a workdir keeps its checkpoints."""
  return workdir / 'checkpoints'


def has_latest(workdir: pathlib.Path) -> bool:
  """Whether there is a checkpoint to resume from."""
  return bool(_steps(checkpoints_directory(workdir) / LATEST))


def save_variables(workdir: pathlib.Path, variables: Mapping[str, Any]) -> None:
  """Writes params and batch_stats as the best checkpoint, of step 0, of a workdir that has none."""
  path = epath.Path((checkpoints_directory(workdir) / BEST / '0').absolute())
  path.parent.mkdir(parents=True)
  with orbax_write(str(workdir), 'nothing is left of it'):
    ocp.save_checkpointables(path, dict(variables))


def restore_variables(
  workdir: pathlib.Path, checkpoint: str, abstract_variables: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
  """Restores params and batch_stats for use, onto the first local device.

  Args:
    workdir: The run's directory.
    checkpoint: 'best', 'latest', or a step, looked for under latest and best.
    abstract_variables: Shapes and types, from jax.eval_shape of the model's init.

  Returns:
    The checkpoint's step and the variables.

  Raises:
    InputError: There is no such checkpoint, and the message lists those that exist; or it cannot be read.
  """
  root = checkpoints_directory(workdir)
  steps = {kind: _steps(root / kind) for kind in (LATEST, BEST)}
  if steps.get(checkpoint):
    kind, step = checkpoint, max(steps[checkpoint])
  elif checkpoint.isdecimal() and (kinds := [k for k, s in steps.items() if int(checkpoint) in s]):
    kind, step = kinds[0], int(checkpoint)
  else:
    existing = '; '.join(f'{kind}: {sorted(found) or "none"}' for kind, found in steps.items())
    raise InputError(
      f'{root}: no checkpoint {checkpoint!r}; existing: {existing}. Choose best, latest or a step'
    )
  sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  items = {name: abstract_tree(tree, sharding) for name, tree in abstract_variables.items()}
  path = (root / kind / str(step)).absolute()
  return step, read_orbax(lambda: ocp.load_checkpointables(epath.Path(path), items), path)


def _steps(directory: pathlib.Path) -> set[int]:
  return {int(p.name) for p in directory.iterdir() if p.name.isdecimal()} if directory.is_dir() else set()
