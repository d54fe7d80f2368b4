"""Score the checkpoint of a run on a split."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from dense_aspp_jax.commands.run_arguments import (
  add_averaging_arguments,
  add_run_arguments,
  averaging_asked_for,
  averaging_predictor,
  check_at_least,
)
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.batch_norm import BatchStatisticsPredictor
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.evaluation.metrics import format_table, protocol
from dense_aspp_jax.files import check_writable, write_json
from dense_aspp_jax.progress import say
from dense_aspp_jax.results.runs import EVALUATIONS
from dense_aspp_jax.training.run import load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser, bn_modes=('running', 'recalibrated', 'batch'))
  parser.add_argument(
    '--batch-size', type=int, help='images per call; no result depends on it, but those of --bn batch'
  )
  add_averaging_arguments(parser)
  parser.add_argument('--output', type=pathlib.Path, help='JSON file for the scores')
  parser.add_argument(
    '--record', action='store_true', help='also keep the scores in WORKDIR/evaluations, for `results`'
  )


def run(args: argparse.Namespace) -> int:
  """Evaluates; prints the table, and the scores as JSON to --output or as the last line."""
  if args.output and args.output.is_dir():
    raise InputError(f'{args.output}: a folder; --output expects the name of a JSON file')
  check_at_least('--batch-size', args.batch_size)
  averages = averaging_asked_for(args)
  by_batch = args.bn == 'batch'
  if by_batch and averages:
    raise InputError(
      '--bn batch with --flip, --scales or --window: averaging takes one image at a time, not a batch; leave '
      'either out'
    )
  if args.record:
    check_writable(args.workdir / EVALUATIONS, '--workdir')
  run = load_run(args.workdir, args.checkpoint, args.weights, 'running' if by_batch else args.bn)
  split = run.load_split(args.split, args.data_dir)
  batch_size = args.batch_size or run.config['evaluation']['batch_size']
  predictor = run.predictor
  if by_batch:
    predictor = BatchStatisticsPredictor(run.model, run.variables, predictor.preprocessing)
  confusion = evaluate(predictor, split, run.label_set, batch_size=batch_size)
  scores = confusion.scores()
  result = {
    **scores.to_json(),
    'images': len(split),
    'protocol': protocol(run.label_set),
    **run.describe(),
    'data_dir': args.data_dir,
    'split': args.split,
    'bn': args.bn,
    'bn_batch_size': batch_size if by_batch else None,
    'test_time': None,
  }
  if averages:
    averaging = averaging_predictor(args, run)
    confusion = evaluate(averaging, split, run.label_set, batch_size=batch_size)
    averaged = confusion.scores()
    result['test_time'] = {**averaging.to_json(), 'scores': averaged.to_json()}
    print(f'plain, at one scale:\n{format_table(scores)}\n')
    print(f'averaged, {_words(averaging)}:\n{format_table(averaged)}')
  else:
    print(format_table(scores))
  if args.record:
    path = args.workdir / EVALUATIONS / f'{_record_name(result)}.json'
    write_json(path, result)
    say(f'recorded in {path}')
  if args.output:
    write_json(args.output, result)
    print(f'{len(split)} images; report in {args.output}')
  else:
    print(json.dumps(result))
  return 0


def _words(averaging: Any) -> str:
  parts = [f'scales {", ".join(f"{scale:g}" for scale in averaging.scales)}']
  if averaging.flip:
    parts.append('mirrored images')
  if averaging.window:
    parts.append('windows of {} x {}'.format(*averaging.window))
  return '; '.join(parts)


def _record_name(result: dict[str, Any]) -> str:
  """What tells an evaluation from another one of the run."""
  checkpoint = result['checkpoint'] if result['checkpoint'] in ('best', 'latest') else 'step'
  bn = f'batch{result["bn_batch_size"]}' if result['bn'] == 'batch' else result['bn']
  parts = [result['split'], checkpoint, str(result['step']), result['weights'], bn]
  if averaging := result['test_time']:
    parts += ['flip'] if averaging['flip'] else []
    parts.append('scales' + '-'.join(f'{scale:g}' for scale in averaging['scales']))
    parts += ['window{}x{}'.format(*averaging['window'])] if averaging['window'] else []
  return '_'.join(parts)
