"""Estimate the BN statistics of a run again, over its training split."""

from __future__ import annotations

import argparse

from dense_aspp_jax.commands.run_arguments import add_cache_argument, add_run_arguments, check_at_least
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.batch_norm import largest_changes, precise_bn_statistics
from dense_aspp_jax.files import check_writable
from dense_aspp_jax.training.run import RECALIBRATED_FOLDER, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser, ('--workdir', '--checkpoint', '--weights', '--data-dir'))
  add_cache_argument(parser)
  parser.add_argument(
    '--batch-size', type=int, help='images that are normalized together (default: the batch size of training)'
  )


def run(args: argparse.Namespace) -> int:
  """Writes WORKDIR/recalibrated/STEP_WEIGHTS; says how much the statistics changed."""
  check_at_least('--batch-size', args.batch_size)
  check_writable(args.workdir / RECALIBRATED_FOLDER, '--workdir')
  run = load_run(args.workdir, args.checkpoint or 'best', args.weights)
  before = run.variables.get('batch_stats')
  if not before:
    raise InputError(f'{args.workdir}: this network has no batch normalization, nothing to recalibrate')
  batch_size = args.batch_size or run.config.get('training', {}).get('batch_size')
  if batch_size is None:
    raise InputError(f'{args.workdir}: trained elsewhere, with an unknown batch size; give --batch-size')
  split = run.load_train_split(args.data_dir, args.cache_dir)
  after = precise_bn_statistics(
    run.model, run.variables, split, run.predictor.preprocessing, batch_size=batch_size
  )
  changes = largest_changes(before, after)
  record = {
    'data_dir': args.data_dir,
    'split': run.config['data']['train_split'],
    'images': len(split),
    'batch_size': batch_size,
    'largest_changes': changes,
  }
  directory = run.save_statistics(after, record)
  print(
    f'largest changes: a mean by {changes["mean"]["deviations"]:.3g} of its standard deviations '
    f'({changes["mean"]["layer"]}), a variance by a factor of {changes["variance"]["factor"]:.3g} '
    f'({changes["variance"]["layer"]})'
  )
  print(
    f'{len(split)} images in batches of {batch_size}; statistics in {directory}; --bn recalibrated takes them'
  )
  return 0
