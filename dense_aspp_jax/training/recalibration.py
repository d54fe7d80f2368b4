"""Recalibrated BN statistics of a run, beside its checkpoints.

WORKDIR/recalibrated/STEP_WEIGHTS/recalibration.json   how they were estimated
WORKDIR/recalibrated/STEP_WEIGHTS/checkpoint/          Orbax: 'batch_stats'
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from dense_aspp_jax.checkpoint_io import load_checkpoint, save_checkpoint
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import replaced_directory
from dense_aspp_jax.provenance import write_json

FOLDER = 'recalibrated'
RECORD = 'recalibration.json'
_CHECKPOINT = 'checkpoint'
_ITEM = 'batch_stats'


def statistics_directory(workdir: pathlib.Path, step: int, weights: str) -> pathlib.Path:
  """Where the statistics of one step's 'raw' or 'ema' weights are kept."""
  return workdir / FOLDER / f'{step}_{weights}'


def save_statistics(
  workdir: pathlib.Path, step: int, weights: str, batch_stats: Mapping[str, Any], record: Mapping[str, Any]
) -> pathlib.Path:
  """Writes recalibrated statistics, whole or not at all; earlier ones of the same weights are replaced.

  Args:
    workdir: The run's directory.
    step: Updates made before the checkpoint was written.
    weights: 'raw' or 'ema'.
    batch_stats: The statistics.
    record: JSON data: how they were estimated.

  Returns:
    The folder written.

  Raises:
    InputError: The folder holds something else.
    RunError: It cannot be written.
  """
  directory = statistics_directory(workdir, step, weights)
  with replaced_directory(directory, RECORD) as folder:
    save_checkpoint(folder / _CHECKPOINT, {_ITEM: dict(batch_stats)}, shown=directory)
    write_json(folder / RECORD, dict(record))
  return directory


def load_statistics(
  workdir: pathlib.Path, checkpoint: str, step: int, weights: str, abstract_batch_stats: Mapping[str, Any]
) -> dict[str, Any]:
  """Reads recalibrated statistics, as NumPy arrays.

  Args:
    workdir: The run's directory.
    checkpoint: How the checkpoint was asked for, for the message.
    step: See `save_statistics`.
    weights: See `save_statistics`.
    abstract_batch_stats: Shapes and types.

  Raises:
    InputError: There are none yet, and the message says how to make them; or they are damaged.
  """
  directory = statistics_directory(workdir, step, weights)
  if not (directory / RECORD).is_file():
    raise InputError(
      f'{directory}: no recalibrated statistics of the {weights} weights of step {step}. Make them with: '
      f'dense-aspp recalibrate --workdir {workdir} --checkpoint {checkpoint} --weights {weights}'
    )
  return load_checkpoint(directory / _CHECKPOINT, {_ITEM: dict(abstract_batch_stats)})[_ITEM]
