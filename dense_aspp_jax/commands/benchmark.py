"""Measure training, inference and input on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

import jax

from dense_aspp_jax.benchmark.modes import benchmark_memory, benchmark_step
from dense_aspp_jax.benchmark.output import append_result, lines, read_results
from dense_aspp_jax.benchmark.steps import resized
from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import check_writable
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.progress import say
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training.config import parse_config

# Inference comes first: the peak memory in use counts from the start of the process.
ALL = ('inference', 'train', 'input')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_config_argument(parser)
  parser.add_argument('--batch', type=int, help='images a step; default: those of the configuration')
  parser.add_argument(
    '--image-size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='default: that of the configuration'
  )
  parser.add_argument(
    '--mode',
    default='all',
    choices=('all', *ALL, 'memory'),
    help="'memory' compiles the training step in each form; 'all' (default): inference, train, and input "
    'where the data set is prepared',
  )
  parser.add_argument('--repeats', type=int, default=10, help='of each measurement, about a second each')
  parser.add_argument('--trace', type=path_argument, help='folder for a profile; prints the longest kernels')
  parser.add_argument('--output', type=path_argument, help='JSON file, a list that this run is appended to')


def run(args: argparse.Namespace) -> int:
  """Measures; prints figures, and as the last line all of them as JSON."""
  config = read_config_file(args)
  if args.repeats < 1:
    raise InputError(f'--repeats {args.repeats}: expected at least 1')
  config = resized(config, args.batch, args.image_size and tuple(args.image_size))
  parse_config(config, jax.device_count())
  if args.trace:
    check_writable(args.trace, '--trace')
  if args.output:
    check_writable(args.output.parent, '--output')
    read_results(args.output)  # says now, not after minutes, that the file cannot be appended to
  results = []
  for mode in ALL if args.mode == 'all' else (args.mode,):
    try:
      result = _measure(mode, config, args)
    except (InputError, ImportError) as error:
      if (mode, args.mode) != ('input', 'all'):
        raise
      say(f'input is not measured: {error}')
      continue
    print('\n'.join(lines(result)), flush=True)
    results.append(result)
  record = {
    'config_file': args.config,
    'config': config.to_dict(),
    'seed': config.seed,
    'provenance': provenance(),
    'results': results,
  }
  if args.output:
    append_result(args.output, record)
  print(json.dumps(record))
  return 0


def _measure(mode: str, config: Any, args: argparse.Namespace) -> dict[str, Any]:
  if mode == 'memory':
    return benchmark_memory(config)
  if mode == 'input':
    from dense_aspp_jax.benchmark.input_speed import benchmark_input  # needs tfds and Grain

    return benchmark_input(config, repeats=args.repeats, generate=args.mode == 'input')
  return benchmark_step(mode, config, repeats=args.repeats, trace_directory=args.trace)
