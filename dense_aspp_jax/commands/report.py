"""Write one HTML file about a run."""

from __future__ import annotations

import argparse
import functools
import itertools
import pathlib
import tempfile

from dense_aspp_jax.analysis.layer_removal import analyse_layer_removal
from dense_aspp_jax.analysis.report import Analysis, read_analysis, read_metrics, render_report
from dense_aspp_jax.analysis.report_pictures import predict_examples
from dense_aspp_jax.analysis.similarity import analyse_similarity
from dense_aspp_jax.commands.run_arguments import (
  add_run_arguments,
  check_at_least,
  check_output_file,
  data_record,
  output_folder,
)
from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.files import write_file
from dense_aspp_jax.models.counts import count_parameters
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.training.run import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser)
  parser.add_argument(
    '--images',
    type=int,
    default=64,
    help='images for the analyses (`similarity`, `remove-layers`) where their results for this checkpoint, '
    'split and data are not in WORKDIR/analysis already (default 64); the scores are of all images',
  )
  parser.add_argument('--pictures', type=int, default=6, help='images shown as results (default 6)')
  parser.add_argument('--output', type=path_argument, help='HTML file (default WORKDIR/report.html)')


def run(args: argparse.Namespace) -> int:
  """Writes the report and prints its path."""
  print(f'report {_write_report(args)}')
  return 0


def report_run(workdir: pathlib.Path, split: str) -> pathlib.Path:
  """Writes the report of a run with the command's default options; returns its path."""
  parser = argparse.ArgumentParser()
  add_arguments(parser)
  args = parser.parse_args([f'--model={workdir}', f'--split={split}'])
  args.model = workdir  # also where a packaged network has that name
  return _write_report(args)


def _write_report(args: argparse.Namespace) -> pathlib.Path:
  """Scores a checkpoint, runs the analyses whose results are missing, writes the report."""
  output = output_folder(args, 'report.html')
  check_output_file(output, 'an HTML file')
  check_at_least('--images', args.images)
  check_at_least('--pictures', args.pictures)
  run = load_model(args.model, args.checkpoint, args.weights, args.bn)
  predictor, batch_size = run.predictor, run.batch_size
  split = run.load_split(args.split, args.data_dir, dataset=args.dataset)
  label_set = split.label_set
  confusion = evaluate(predictor, split, label_set, batch_size=batch_size)
  confusion.scores()  # raises now, not after the analyses, where nothing can be scored
  first_examples = functools.cache(  # in memory, for the analyses read them many times
    lambda: list(itertools.islice(evaluation_examples(split), args.images))
  )
  subject = {key: getattr(run, key) for key in ('checkpoint', 'step', 'weights', 'bn')}
  subject |= data_record(args, run)
  analyses: dict[str, Analysis | None] = {'layer_removal': None}
  for name, analyse, options in (
    ('similarity', analyse_similarity, {'layer': 'dense_aspp', 'num_pictures': 2}),  # a heat map per class
    ('layer_removal', analyse_layer_removal, {'batch_size': batch_size, 'num_pictures': 3}),
  ):
    if name == 'layer_removal' and not run.model.dense_aspp.dilation_rates:
      continue
    of_this = {**subject, 'layer': options.get('layer')}
    analyses[name] = None if run.record else read_analysis(args.model / 'analysis' / name, of_this)
    if analyses[name] is None:
      with tempfile.TemporaryDirectory() as folder:
        found = analyse(predictor, first_examples(), label_set, **options, output=pathlib.Path(folder))
        analyses[name] = Analysis.with_pictures(found, pathlib.Path(folder))
  page = render_report(
    {**run.describe(), **data_record(args, run)},  # with the time at which the report is written
    confusion,
    predict_examples(predictor, split, label_set, args.pictures, batch_size),
    **analyses,
    split=args.split,
    images=len(split),
    parameters=count_parameters(run.model, run.config['data']['image_size']),
    metrics=[] if run.record else read_metrics(args.model / 'metrics.jsonl'),
    starts=run.starts,
  )
  write_file(output, page.encode(errors='backslashreplace'))  # image ids are file names, of any bytes
  return output
