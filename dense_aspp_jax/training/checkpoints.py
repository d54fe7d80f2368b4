"""Orbax checkpoints of a run: the newest ones to resume from, and the best one to use."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from dense_aspp_jax.errors import InputError, RunError
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


def abstract_tree(tree: Any, sharding: jax.sharding.Sharding) -> Any:
  """Shapes and types of `tree`, to be restored under `sharding`."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _variables_items(state: TrainState) -> dict[str, Any]:
  return {'params': state.params, 'batch_stats': state.batch_stats}


def _state_items(state: TrainState) -> dict[str, Any]:
  return {**_variables_items(state), 'optimizer': {'step': state.step, 'opt_state': state.opt_state}}


class Checkpoints:
  """Writes `WORKDIR/checkpoints/latest/STEP` and `WORKDIR/checkpoints/best/STEP`.

  Saves are asynchronous: they return when the arrays are copied to the host. Closing (leaving the
  `with` block) waits until all are on disk. Every process must call every method.

  Attributes:
    best_score: Validation mIoU of the best checkpoint, None if there is none.
  """

  def __init__(self, workdir: pathlib.Path, keep: int):
    root = checkpoints_directory(workdir)
    self._latest = _checkpointer(root / LATEST, keep)
    self._best = _checkpointer(root / BEST, 1)
    best = self._best.latest
    self.best_score: float | None = best.metrics['mean_iou'] if best else None

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
      raise RunError(
        f'a checkpoint could not be written ({errors[0]}); the older ones are intact'
      ) from errors[0]

  @property
  def latest_step(self) -> int | None:
    """Step of the newest checkpoint, None if there is none."""
    return self._latest.latest.step if self._latest.latest else None

  def save_latest(self, state: TrainState) -> None:
    """Saves everything that a resume needs; a step already saved is left as it is."""
    if self.latest_step != int(state.step):
      self._latest.save_checkpointables_async(int(state.step), _state_items(state))

  def save_best(self, state: TrainState, mean_iou: float) -> None:
    """Saves params and batch_stats as the best, if `mean_iou` is above that of the best so far."""
    if self.best_score is None or mean_iou > self.best_score:
      self.best_score = mean_iou
      self._best.save_checkpointables_async(
        int(state.step), _variables_items(state), metrics={'mean_iou': float(mean_iou)}
      )

  def restore_latest(self, state: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
    """Restores the newest checkpoint into the shape of `state`, under `sharding`."""
    items = {name: abstract_tree(tree, sharding) for name, tree in _state_items(state).items()}
    restored = self._latest.load_checkpointables(self._latest.latest, items)
    return TrainState(params=restored['params'], batch_stats=restored['batch_stats'], **restored['optimizer'])


def checkpoints_directory(workdir: pathlib.Path) -> pathlib.Path:
  """Where a workdir keeps its checkpoints."""
  return workdir / 'checkpoints'


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
    InputError: There is no such checkpoint; the message lists those that exist.
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
  return step, ocp.load_checkpointables(epath.Path((root / kind / str(step)).absolute()), items)


def _steps(directory: pathlib.Path) -> set[int]:
  return {int(p.name) for p in directory.iterdir() if p.name.isdecimal()} if directory.is_dir() else set()
