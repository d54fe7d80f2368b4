"""What the commands that use a trained run share: their options, and what their results say of it."""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Sequence
from typing import Any

_BN_MODES = ('running', 'recalibrated')
_BN_HELP = {
  'running': "'running' (default): those of training",
  'recalibrated': "'recalibrated': what `dense-aspp recalibrate` made",
  'batch': "'batch': those of the batch that is predicted (its size: --batch-size)",
}


def add_run_arguments(parser: argparse.ArgumentParser, bn_modes: Sequence[str] = _BN_MODES) -> None:
  """Adds --workdir, --checkpoint, --weights, --bn, --split and --data-dir."""
  add_checkpoint_arguments(parser)
  add_weights_argument(parser)
  add_bn_argument(parser, bn_modes)
  parser.add_argument(
    '--split',
    default='validation',
    help="'validation' (default), 'train' (not augmented), 'test', 'held_out', 'train+validation', or "
    'another that the data set has',
  )
  add_data_dir_argument(parser)


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds --workdir and --checkpoint."""
  parser.add_argument('--workdir', required=True, type=pathlib.Path, help='directory of the run')
  parser.add_argument('--checkpoint', default='best', help="'best' (default), 'latest', or a step")


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
  """Adds --weights."""
  parser.add_argument(
    '--weights',
    choices=('raw', 'ema'),
    help="those of the checkpoint ('raw') or their moving averages ('ema'; default where the run has them)",
  )


def add_bn_argument(parser: argparse.ArgumentParser, bn_modes: Sequence[str] = _BN_MODES) -> None:
  """Adds --bn."""
  parser.add_argument(
    '--bn',
    choices=bn_modes,
    default='running',
    help=f'statistics of batch normalisation. {"; ".join(_BN_HELP[mode] for mode in bn_modes)}',
  )


def add_data_dir_argument(parser: argparse.ArgumentParser) -> None:
  """Adds --data-dir."""
  parser.add_argument(
    '--data-dir', help="where the prepared data are, if not where the run's configuration says"
  )


def add_averaging_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds --flip, --scales and --window, see `evaluation.test_time`."""
  group = parser.add_argument_group('averaging at test time')
  group.add_argument('--flip', action='store_true', help='average with the mirrored image')
  group.add_argument(
    '--scales', nargs='+', type=float, metavar='S', help='average over these factors of the image size'
  )
  group.add_argument(
    '--window',
    nargs='*',
    type=int,
    metavar='N',
    help='predict what is larger than height x width in overlapping windows; without the two numbers: of the '
    "training crop's size",
  )


def check_averaging(args: argparse.Namespace) -> None:
  """Checks the options of `add_averaging_arguments`.

  Raises:
    InputError: A value out of range.
  """
  from dense_aspp_jax.errors import InputError

  for scale in args.scales or ():
    if not (math.isfinite(scale) and scale > 0):
      raise InputError(f'--scales {scale}: expected factors above 0')
  if args.window and (len(args.window) != 2 or min(args.window) < 1):
    found = ' '.join(map(str, args.window))
    raise InputError(f'--window {found}: expected height and width in pixels, or neither')


def averaging_asked_for(args: argparse.Namespace) -> bool:
  """Whether there is any option of `add_averaging_arguments`."""
  return args.flip or args.scales is not None or args.window is not None


def averaging_predictor(args: argparse.Namespace, run: Any) -> Any:
  """The `AveragingPredictor` that the options of `add_averaging_arguments` ask for.

  Args:
    args: Checked by `check_averaging`.
    run: The `training.run.Run` that was loaded.
  """
  from dense_aspp_jax.evaluation.tta import AveragingPredictor

  window = args.window
  if window == []:
    window = run.config.get('augmentation', {}).get('crop_size') or run.config['data']['image_size']
  return AveragingPredictor(
    run.predictor, flip=args.flip, scales=tuple(args.scales or (1.0,)), window=window and tuple(window)
  )


def describe_run(args: argparse.Namespace, run: Any) -> dict[str, Any]:
  """What a result file says of the run, the data and the code it comes from, as plain JSON data.

  Args:
    args: From a parser with `add_run_arguments`.
    run: The `training.run.Run` that was loaded.
  """
  from dense_aspp_jax.provenance import provenance

  return {
    'dataset': run.config['data']['dataset'],
    'data_dir': args.data_dir,
    'split': args.split,
    'workdir': str(args.workdir),
    'checkpoint': args.checkpoint,
    'step': run.step,
    'weights': run.weights,
    'bn': run.bn,
    'seed': run.config['seed'],
    'label_set': run.label_set.name,
    'config': run.config,
    'provenance': provenance(),
  }
