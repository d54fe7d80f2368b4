"""Train a network."""

from __future__ import annotations

import argparse
import pathlib

from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_config_argument(parser)
  parser.add_argument(
    '--workdir',
    required=True,
    type=pathlib.Path,
    help='directory of the run; one that holds this run already is resumed',
  )


def run(args: argparse.Namespace) -> int:
  """Trains, evaluates and saves until the configured number of epochs; then prints the scores."""
  config = read_config_file(args)
  from dense_aspp_jax.training.loop import train_and_evaluate

  train_and_evaluate(config, args.workdir)
  return 0
