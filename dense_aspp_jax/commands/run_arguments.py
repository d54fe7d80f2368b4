"""What the commands that look at a trained run share: their options, and what their results say of it."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds --workdir, --checkpoint, --split and --data-dir."""
  parser.add_argument('--workdir', required=True, type=pathlib.Path, help='directory of the run')
  parser.add_argument('--checkpoint', default='best', help="'best' (default), 'latest', or a step")
  parser.add_argument(
    '--split', default='validation', help="'validation' (default), 'train' (not augmented), or 'test'"
  )
  parser.add_argument(
    '--data-dir', help="where the prepared data are, if not where the run's configuration says"
  )


def describe_run(args: argparse.Namespace, run: Any) -> dict[str, Any]:
  """What a result file says of the run, the data and the code it comes from, as plain JSON data.

  Args:
    args: From a parser with `add_run_arguments`.
    run: The `training.workdir.Run` that was loaded.
  """
  from dense_aspp_jax.provenance import provenance

  return {
    'dataset': run.config['data']['dataset'],
    'data_dir': args.data_dir,
    'split': args.split,
    'workdir': str(args.workdir),
    'checkpoint': args.checkpoint,
    'step': run.step,
    'seed': run.config['seed'],
    'label_set': run.label_set.name,
    'config': run.config,
    'provenance': provenance(),
  }
