"""Score the checkpoint of a run on a split."""

from __future__ import annotations

import argparse
import pathlib

from dense_aspp_jax.commands.run_arguments import add_run_arguments, describe_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser)
  parser.add_argument('--batch-size', type=int, help='images per call; no result depends on it')
  parser.add_argument('--output', type=pathlib.Path, help='JSON file for the scores')


def run(args: argparse.Namespace) -> int:
  """Evaluates; prints the table, and the scores as JSON to --output or as the last line."""
  import json

  from dense_aspp_jax.errors import InputError
  from dense_aspp_jax.evaluation.evaluate import evaluate
  from dense_aspp_jax.evaluation.metrics import format_table, protocol
  from dense_aspp_jax.provenance import write_json
  from dense_aspp_jax.training.workdir import load_run

  if args.output and args.output.is_dir():
    raise InputError(f'{args.output}: a folder; --output expects the name of a JSON file')
  if args.batch_size is not None and args.batch_size < 1:
    raise InputError(f'--batch-size {args.batch_size}: expected at least 1')
  run = load_run(args.workdir, args.checkpoint)
  split = run.load_split(args.split, args.data_dir)
  batch_size = args.batch_size or run.config['evaluation']['batch_size']
  confusion, _ = evaluate(run.predictor, split, run.label_set, batch_size=batch_size)
  scores = confusion.scores()
  result = {
    **scores.to_json(),
    'images': len(split),
    'protocol': protocol(run.label_set),
    **describe_run(args, run),
  }
  print(format_table(scores))
  if args.output:
    write_json(args.output, result)
    print(f'{len(split)} images; report in {args.output}')
  else:
    print(json.dumps(result))
  return 0
