"""Count the parameters of a network, exactly."""

from __future__ import annotations

import argparse
import json
from typing import Any

import jax
from tabulate import tabulate

from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.models.counts import PARTS, abstract_variables, count_parameters
from dense_aspp_jax.training.config import parse_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_config_argument(parser)
  parser.add_argument('--json', action='store_true', help='print one line of JSON instead of the table')


def run(args: argparse.Namespace) -> int:
  """Prints the table of parameters, or the counts as JSON."""
  checked = parse_config(read_config_file(args))
  model, (height, width) = checked.model, checked.data.image_size
  counts = count_parameters(model, (height, width))
  if args.json:
    print(json.dumps(counts))
    return 0
  parameters = [
    ('/'.join(key.key for key in path), 'x'.join(map(str, x.shape)), x.dtype, f'{x.size:,}')
    for path, x in jax.tree_util.tree_leaves_with_path(abstract_variables(model)['params'])
  ]
  sums = [(part, f'{counts[part]:,}') for part in (*PARTS, 'dense_aspp_and_head', 'total') if counts[part]]
  print(_table(parameters, ('parameter', 'shape', 'type', 'size'), ('left', 'left', 'left', 'right')))
  print(_table(sums, ('part', 'parameters'), ('left', 'right')))
  print(f'{counts["gmac"]:,.2f} gmac (1e9 multiply-adds, one {height}x{width} image)')
  return 0


def _table(rows: list[tuple[Any, ...]], headers: tuple[str, ...], align: tuple[str, ...]) -> str:
  return tabulate(rows, headers, colalign=align, disable_numparse=True) + '\n'
