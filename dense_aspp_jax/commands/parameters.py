"""Count the parameters of a network, exactly."""

from __future__ import annotations

import argparse
import json

from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_config_argument(parser)
  parser.add_argument('--json', action='store_true', help='print one line of JSON instead of the table')


def run(args: argparse.Namespace) -> int:
  """Prints the table of parameters, or the counts as JSON."""
  config = read_config_file(args)
  from dense_aspp_jax.models.counts import PARTS, count_parameters, parameter_table
  from dense_aspp_jax.models.segmentation import create_model
  from dense_aspp_jax.training.config_check import check_fields

  check_fields(config)
  model = create_model(**config.model)
  counts = count_parameters(model, tuple(config.data.image_size))
  if args.json:
    print(json.dumps(counts))
    return 0
  print(parameter_table(model))
  height, width = config.data.image_size
  for part in (*PARTS, 'dense_aspp_and_head', 'total'):
    if counts[part]:
      print(f'{part:20} {counts[part]:>12,}')
  print(
    f'{"gmac":20} {counts["gmac"]:>12,.2f}  (multiply-adds of the convolutions, one {height}x{width} image)'
  )
  return 0
