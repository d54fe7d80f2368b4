"""Write the network of a run as one file, to use anywhere."""

from __future__ import annotations

import argparse

from dense_aspp_jax.commands.run_arguments import add_run_arguments, check_output_file
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.results.packed_model import pack_run
from dense_aspp_jax.results.runs import MEANS, Row
from dense_aspp_jax.training.model_file import KERNEL_DTYPES, SUFFIX
from dense_aspp_jax.training.run import RUNNING, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser, ('--workdir', '--checkpoint', '--weights', '--bn'))
  parser.add_argument('--output', required=True, type=path_argument, help=f'the file, named *{SUFFIX}')
  text = 'of kernels; all other arrays are float32 (default float16)'
  parser.add_argument('--dtype', choices=KERNEL_DTYPES, default=KERNEL_DTYPES[0], help=text)


def run(args: argparse.Namespace) -> int:
  """Writes the file, and prints its size and the scores that it holds."""
  check_output_file(args.output, 'a model file')
  if args.output.suffix != SUFFIX:
    raise InputError(f'--output {shown(args.output)}: expected a name that ends in {SUFFIX}')
  run = load_run(args.workdir, args.checkpoint or 'best', args.weights, args.bn or RUNNING)
  record = pack_run(run, args.output, args.dtype)
  for row in map(Row.from_json, record.scores):
    scores = [
      f'{MEANS[name]} {100 * value:.1f} %' for name, value in row.scores.means.items() if value is not None
    ]
    protocol = row.protocol
    print(
      f'{", ".join(scores)}: {protocol.dataset}, {protocol.split_words}, {protocol.images} images, '
      f'{protocol.averaging_words}; in float32'
    )
  size = args.output.stat().st_size / 1e6
  print(f'{record.label_set.num_classes} classes, {size:.1f} MB: {shown(args.output)}')
  return 0
