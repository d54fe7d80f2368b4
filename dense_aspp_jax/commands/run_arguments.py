"""The options that commands with a trained run share."""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.tta import AveragingPredictor, checked_scales, checked_window
from dense_aspp_jax.files import check_writable, write_json
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.pretrained import model_path, shown_model
from dense_aspp_jax.training.config import plain
from dense_aspp_jax.training.run import Run

MODEL = 'WORKDIR|FILE|NAME'  # how usage messages show a `model_argument`


def model_argument(text: str) -> pathlib.Path:
  """`model_path` as the type of a command's argument."""
  try:
    return model_path(text)
  except InputError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


_BN_HELP = {
  'running': "'running' (default where the network is a run): those of training",
  'recalibrated': "'recalibrated': those of `dense-aspp recalibrate`",
  'batch': "'batch': those of the batch that is predicted (its size: --batch-size)",
}
_NAMES = {'--model': ('--model', '--workdir')}  # of an option, where it has several
_OPTIONS = {
  '--model': dict(
    type=model_argument,
    metavar=MODEL,
    help='the trained network: the directory of a run, a file that `dense-aspp pack` wrote, or a name that '
    '`dense-aspp models` lists',
  ),
  '--workdir': dict(required=True, type=path_argument, help='directory of the run'),
  '--checkpoint': dict(help="of a run: 'best' (default), 'latest', or a step"),
  '--weights': dict(
    choices=('raw', 'ema'),
    help="those of the checkpoint ('raw') or their moving averages ('ema'; default where the run has them)",
  ),
  '--bn': dict(),
  '--split': dict(
    default='validation',
    help="'validation' (default), 'train' (not augmented), 'test', 'held_out', 'train+validation', or "
    'another split of the data set',
  ),
  '--dataset': dict(
    metavar='NAME|folder:PATH',
    help="another data set than the run's first: its classes are mapped to the network's, by name or by the "
    'tables in docs/training.md',
  ),
  '--data-dir': dict(
    help="where the data are, if not where the run's configuration says: the folder of a labelled folder, "
    'or where prepared data sets are kept'
  ),
}


def add_run_arguments(
  parser: argparse.ArgumentParser,
  options: Sequence[str] = tuple(option for option in _OPTIONS if option != '--workdir'),
  bn_modes: Sequence[str] = ('running', 'recalibrated'),
  default_model: str | None = None,
) -> None:
  """Adds the options named: by default all of `_OPTIONS` but --workdir.

  Args:
    parser: Of the command.
    options: Their names.
    bn_modes: What --bn may be.
    default_model: Name of the network where --model is not given; None: it must be given.
  """
  bn_help = f'statistics of batch normalization. {"; ".join(_BN_HELP[mode] for mode in bn_modes)}'
  for option in options:
    settings = dict(_OPTIONS[option])
    if option == '--bn':
      settings |= dict(choices=bn_modes, help=bn_help)
    if option == '--model':
      settings |= dict(required=default_model is None, default=default_model)
      settings['help'] += f' (default {default_model})' if default_model else ''
    parser.add_argument(*_NAMES.get(option, (option,)), **settings)


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
  """Adds --cache-dir, for commands that keep what they read."""
  parser.add_argument(
    '--cache-dir', help='folder for the cache of images (default: what config.data.cache_dir says)'
  )


def add_averaging_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds --flip, --scales and --window; see `evaluation.tta`."""
  group = parser.add_argument_group('test-time averaging')
  group.add_argument('--flip', action='store_true', help='average with the mirrored image')
  text = 'average over these factors of the image size'
  group.add_argument('--scales', nargs='+', type=float, metavar='S', help=text)
  text = 'predict larger images in overlapping windows of HxW; without the two numbers: of the training crop'
  group.add_argument('--window', nargs='*', type=int, metavar='N', help=text)


def averaging_asked_for(args: argparse.Namespace) -> bool:
  """Checks the options of `add_averaging_arguments` and returns whether there is any.

  Raises:
    InputError: A value is out of range.
  """
  if args.scales:
    checked_scales(args.scales, '--scales')
  if args.window:
    checked_window(args.window, '--window')
  return args.flip or args.scales is not None or args.window is not None


def averaging_predictor(args: argparse.Namespace, run: Run) -> AveragingPredictor:
  """The predictor that the options of `add_averaging_arguments` ask for, of a run that was loaded."""
  window = args.window
  if window == []:
    window = run.config.get('augmentation', {}).get('crop_size') or run.config['data']['image_size']
  return AveragingPredictor(
    run.predictor, flip=args.flip, scales=tuple(args.scales or (1.0,)), window=window and tuple(window)
  )


def data_record(args: argparse.Namespace, run: Run) -> dict[str, Any]:
  """What a result file says of the data that --dataset, --data-dir and --split chose."""
  dataset = args.dataset or plain(run.data.dataset)
  return {'dataset': dataset, 'data_dir': args.data_dir, 'split': args.split}


def output_folder(args: argparse.Namespace, *default: str) -> pathlib.Path:
  """--output, or where it is not given, the place `default` in the directory of the run.

  Raises:
    InputError: It is not given, and the network is a file.
  """
  if args.output is None and args.model.is_file():
    raise InputError(f'{shown_model(args.model)}: a model file, so --output is needed: where the results go')
  return args.output or args.model.joinpath(*default)


def check_output_file(path: pathlib.Path | None, kind: str = 'a JSON file') -> None:
  """Raises InputError if --output is a folder instead of a file, or cannot be written, before the work."""
  if path and path.is_dir():
    raise InputError(f'{path}: a folder; --output expects the name of {kind}')
  if path:
    check_writable(path.parent, '--output')


def write_result(result: dict[str, Any], output: pathlib.Path | None) -> None:
  """Writes the result of 'images' to --output, or prints it as the last line."""
  if output:
    write_json(output, result)
    print(f'{result["images"]} images; report in {output}')
  else:
    print(json.dumps(result))


def check_at_least(option: str, value: int | None, least: int = 1) -> None:
  """Raises InputError if the value of an option, where given, is less."""
  if value is not None and value < least:
    raise InputError(f'{option} {value}: expected at least {least}')
