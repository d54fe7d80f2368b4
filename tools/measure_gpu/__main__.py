"""Measures the package on one GPU within ten minutes, and prints the tables of docs/performance.md.

  python -m tools.measure_gpu run FOLDER                    writes FOLDER/results.json
  python -m tools.measure_gpu run FOLDER --config camvid --config.model.rematerialize=true
  python -m tools.measure_gpu tables FOLDER/results.json

`run` checks every kernel on the device, compiles our steps while torch.compile compiles its own, and measures
both in turn; then the kernels of our steps, the forms of the operations, the operations alone, options of
XLA, PyTorch without compilation, other tiles, a larger batch, and the memory. Each result is written at once.
The same command goes on where one has stopped: what failed is not repeated unless its record is deleted. Only
torch may be missing: nothing is compared then.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from typing import Any

from dense_aspp_jax.benchmark.peers.compare import comparable
from dense_aspp_jax.benchmark.steps import resized
from dense_aspp_jax.commands.config_file import CONFIG_HELP, read_config_file
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import read_json
from tools.measure_gpu.results import Results
from tools.measure_gpu.supervise import supervise
from tools.measure_gpu.tables import tables
from tools.measure_gpu.work import MODES, memory, work

RESULTS = 'results.json'
_END_SECONDS = 10.0  # to end processes


def main() -> None:
  """Runs a command; prints an error's message and exits with its code."""
  begin = time.time()
  try:
    args, config_arguments = parser().parse_known_args()
    if args.command == 'tables':
      if config_arguments:
        raise InputError(f'unknown arguments: {" ".join(config_arguments)}')
      print(tables(read_json(args.results, 'run: python -m tools.measure_gpu run FOLDER')))
      return
    args.config_arguments = config_arguments
    config = read_config_file(args)
    settings = {name: getattr(args, name) for name in ('config', 'batch', 'image_size', 'device', 'modes')}
    settings = json.loads(json.dumps(settings | {'config_arguments': config_arguments}))
    if args.command == 'run':
      args.folder.mkdir(parents=True, exist_ok=True)
      deadline = begin + args.seconds - _END_SECONDS
      Results(args.folder / RESULTS, settings, deadline)
      command = [sys.executable, '-m', 'tools.measure_gpu', 'work', *arguments_of(args)]
      supervise(args.folder / RESULTS, settings, deadline, [*command, '--deadline', str(deadline)])
      return
    config = comparable(resized(config, args.batch, tuple(args.image_size)))
    if args.command == 'memory':
      print(json.dumps(memory(config, args.mode)))
    else:
      args.arguments = arguments_of(args)
      work(Results(args.folder / RESULTS, settings, args.deadline), config, args)
  except (InputError, RunError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2 if isinstance(error, InputError) else 1)


def parser() -> argparse.ArgumentParser:
  """Of all commands; `work` and `memory` are started by others."""
  result = argparse.ArgumentParser(
    prog='python -m tools.measure_gpu',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = result.add_subparsers(dest='command', required=True)
  shown = commands.add_parser('tables', help='prints Markdown')
  shown.add_argument('results', type=pathlib.Path)
  for name in ('run', 'work', 'memory'):
    command = commands.add_parser(name)
    command.add_argument('folder', type=pathlib.Path, help=f'gets {RESULTS} and caches of compilers')
    command.add_argument('--config', default='configs/default.py', help=CONFIG_HELP)
    command.add_argument('--batch', type=int, default=8, help='images')
    command.add_argument('--image-size', type=int, nargs=2, default=[512, 1024], metavar=('HEIGHT', 'WIDTH'))
    command.add_argument('--device', choices=('cuda', 'cpu'), default='cuda', help='cpu: to try this out')
    command.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES))
    command.add_argument('--repeats', type=int, default=8, help='of each comparison')
    if name == 'run':
      command.add_argument('--seconds', type=float, default=580, help='that all may take')
    elif name == 'work':
      command.add_argument('--deadline', type=float, required=True, help='seconds since the epoch')
    else:
      command.add_argument('--mode', choices=MODES, required=True)
  return result


def arguments_of(args: argparse.Namespace) -> list[str]:
  """The arguments again, for another process."""
  values: list[Any] = [args.folder, '--config', args.config, '--batch', args.batch]
  values += ['--image-size', *args.image_size, '--device', args.device, '--modes', *args.modes]
  values += ['--repeats', args.repeats, *args.config_arguments]
  return [str(value) for value in values]


if __name__ == '__main__':
  main()
