"""Measure training, inference and input on this machine."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

import jax

from dense_aspp_jax.benchmark.device import available_cores, limit_threads
from dense_aspp_jax.benchmark.modes import benchmark_memory, benchmark_step
from dense_aspp_jax.benchmark.output import append_result, lines, read_results
from dense_aspp_jax.benchmark.peers.compare import Comparison, comparable
from dense_aspp_jax.benchmark.peers.installed import PEERS, installed_peers, named_peers
from dense_aspp_jax.benchmark.steps import resized
from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import check_writable
from dense_aspp_jax.models.segmentation import COMPUTE_DTYPES
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
  parser.add_argument(
    '--device', choices=('cpu', 'cuda'), help="default: JAX's choice; 'cpu' also compares with all peers"
  )
  parser.add_argument(
    '--peers',
    nargs='+',
    choices=(*PEERS, 'all', 'none'),
    metavar='PEER',
    help='measure train and inference beside the same in other libraries: '
    f"{', '.join(PEERS)}; 'all' that are installed; or 'none'",
  )
  parser.add_argument(
    '--threads', type=int, metavar='N', help='of a CPU, ours and the peers; default: as many as cores'
  )
  parser.add_argument(
    '--dtype',
    choices=tuple(COMPUTE_DTYPES),
    help='config.model.compute_dtype; default: float32 with --device cpu, otherwise as configured',
  )
  parser.add_argument('--trace', type=path_argument, help='folder for a profile; prints the longest kernels')
  parser.add_argument('--output', type=path_argument, help='JSON file, a list that this run is appended to')


def run(args: argparse.Namespace) -> int:
  """Measures; prints figures, and as the last line all of them as JSON."""
  config = read_config_file(args)
  if args.repeats < 1:
    raise InputError(f'--repeats {args.repeats}: expected at least 1')
  config = resized(config, args.batch, args.image_size and tuple(args.image_size))
  dtype = args.dtype or ('float32' if args.device == 'cpu' else None)
  config.model.compute_dtype = dtype or config.model.compute_dtype
  modes = ALL if args.mode == 'all' else (args.mode,)
  cores = available_cores()
  _choose_device(args)
  peers = _peers(args, modes, config.model.compute_dtype)
  config = comparable(config) if peers else config
  parse_config(config, jax.device_count())
  if args.trace:
    check_writable(args.trace, '--trace')
  if args.output:
    check_writable(args.output.parent, '--output')
    read_results(args.output)  # says now, not after minutes, that the file cannot be appended to
  results = []
  for mode in modes:
    try:
      result = _measure(mode, config, args, peers, cores)
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


def _choose_device(args: argparse.Namespace) -> None:
  """Before JAX looks for its devices."""
  if args.device:
    jax.config.update('jax_platforms', args.device)
  if args.device == 'cuda':
    os.environ.setdefault('CUDA_VISIBLE_DEVICES', '0')  # a peer has one device
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # both fit
  if args.threads is not None:
    limit_threads(args.threads)


def _peers(args: argparse.Namespace, modes: Sequence[str], compute_dtype: str) -> list[str]:
  """Names of the peers to compare."""
  compared = [mode for mode in modes if mode in ('inference', 'train')]
  names = args.peers or (['all'] if args.device == 'cpu' and compared else ['none'])
  if names == ['none']:
    return []
  if not compared:
    raise InputError(f'--peers with --mode {args.mode}: only train and inference are compared')
  device = args.device or ('cpu' if jax.default_backend() == 'cpu' else 'cuda')
  where = {'modes': compared, 'device': device, 'compute_dtype': compute_dtype}
  if names == ['all']:
    return installed_peers(**where)
  if {'all', 'none'} & set(names):
    raise InputError(f"--peers {' '.join(names)}: 'all' and 'none' stand alone")
  return named_peers(names, **where)


def _measure(
  mode: str, config: Any, args: argparse.Namespace, peers: Sequence[str], cores: tuple[int, ...]
) -> dict[str, Any]:
  if mode == 'memory':
    return benchmark_memory(config)
  if mode == 'input':
    from dense_aspp_jax.benchmark.input_speed import benchmark_input  # needs tfds and Grain

    return benchmark_input(config, repeats=args.repeats, generate=args.mode == 'input')
  how = {'repeats': args.repeats, 'trace_directory': args.trace}
  able = [name for name in peers if mode in PEERS[name].modes]
  if not able:
    return benchmark_step(mode, config, **how)
  on_cpu, required = jax.default_backend() == 'cpu', args.peers not in (None, ['all'])
  with Comparison(mode, config, able, on_cpu=on_cpu, all_required=required, cores=cores) as comparison:
    return benchmark_step(mode, config, **how, comparison=comparison)
