"""Score the checkpoint of a run on a split."""

from __future__ import annotations

import argparse
import re
from typing import Any

from dense_aspp_jax.commands.run_arguments import (
  add_averaging_arguments,
  add_run_arguments,
  averaging_asked_for,
  averaging_predictor,
  check_at_least,
  check_output_file,
  data_record,
  write_result,
)
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.batch_norm import BatchStatisticsPredictor
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.evaluation.metrics import format_table, protocol
from dense_aspp_jax.evaluation.tta import AveragingPredictor
from dense_aspp_jax.files import check_writable, write_json
from dense_aspp_jax.label_mapping import mapped_from
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.pretrained import shown_model
from dense_aspp_jax.progress import say
from dense_aspp_jax.results.runs import EVALUATIONS
from dense_aspp_jax.training.run import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser, bn_modes=('running', 'recalibrated', 'batch'))
  text = 'images per call; only results of --bn batch depend on it'
  parser.add_argument('--batch-size', type=int, help=text)
  add_averaging_arguments(parser)
  parser.add_argument('--output', type=path_argument, help='JSON file for the scores')
  text = 'also keep the scores in WORKDIR/evaluations, for `results`'
  parser.add_argument('--record', action='store_true', help=text)


def run(args: argparse.Namespace) -> int:
  """Evaluates; prints the table, and the scores as JSON to --output or as the last line."""
  check_output_file(args.output)
  check_at_least('--batch-size', args.batch_size)
  averages = averaging_asked_for(args)
  by_batch = args.bn == 'batch'
  if by_batch and averages:
    raise InputError(
      '--bn batch with --flip, --scales or --window: averaging takes one image at a time; leave either out'
    )
  if args.record:
    if args.model.is_file():
      raise InputError(
        f'{shown_model(args.model)}: --record keeps scores in the directory of a run; use --output'
      )
    check_writable(args.model / EVALUATIONS, '--model')
  run = load_model(args.model, args.checkpoint, args.weights, None if by_batch else args.bn)
  split = run.load_split(args.split, args.data_dir, dataset=args.dataset)
  batch_size = args.batch_size or run.batch_size
  predictor = run.predictor
  if by_batch:
    predictor = BatchStatisticsPredictor(run.model, run.variables, predictor.preprocessing)
  scores = evaluate(predictor, split, split.label_set, batch_size=batch_size).scores()
  result = {
    **scores.to_json(),
    'images': len(split),
    'protocol': protocol(split.label_set),
    **run.describe(),
    'mapped_from': mapped_from(split.label_set),
    **data_record(args, run),
    'bn': 'batch' if by_batch else run.bn,
    'bn_batch_size': batch_size if by_batch else None,
    'test_time': None,
  }
  if averages:
    averaging = averaging_predictor(args, run)
    averaged = evaluate(averaging, split, split.label_set, batch_size=batch_size).scores()
    result['test_time'] = {**averaging.to_json(), 'scores': averaged.to_json()}
    print(f'plain, at one scale:\n{format_table(scores)}\n')
    print(f'averaged, {_words(averaging)}:\n{format_table(averaged)}')
  else:
    print(format_table(scores))
  if args.record:
    other = None if args.dataset in run.data.datasets[:1] else args.dataset
    path = args.model / EVALUATIONS / f'{_record_name(result, other)}.json'
    write_json(path, result)
    say(f'recorded in {path}')
  write_result(result, args.output)
  return 0


def _words(averaging: AveragingPredictor) -> str:
  parts = [f'scales {", ".join(f"{scale:g}" for scale in averaging.scales)}']
  if averaging.flip:
    parts.append('mirrored images')
  if averaging.window:
    parts.append('windows of {} x {}'.format(*averaging.window))
  return '; '.join(parts)


def _record_name(result: dict[str, Any], other: str | None) -> str:
  """What tells an evaluation from another one of the run; `other` is the data set, if it is not the run's."""
  checkpoint = result['checkpoint'] if result['checkpoint'] in ('best', 'latest') else 'step'
  bn = f'batch{result["bn_batch_size"]}' if result['bn'] == 'batch' else result['bn']
  parts = [re.sub(r'\W+', '_', other)] if other else []
  parts += [result['split'], checkpoint, str(result['step']), result['weights'], bn]
  if averaging := result['test_time']:
    parts += ['flip'] if averaging['flip'] else []
    parts.append('scales' + '-'.join(f'{scale:g}' for scale in averaging['scales']))
    parts += ['window{}x{}'.format(*averaging['window'])] if averaging['window'] else []
  return '_'.join(parts)
