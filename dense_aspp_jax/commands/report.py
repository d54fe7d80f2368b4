"""Write one HTML file about a run."""

from __future__ import annotations

import argparse
import functools
import itertools
import pathlib

from dense_aspp_jax.analysis.layer_removal import analyse_layer_removal
from dense_aspp_jax.analysis.report import render_report
from dense_aspp_jax.analysis.report_content import (
  REMEDY,
  ReportContent,
  predict_examples,
  read_analysis,
  read_metrics,
  run_analysis,
)
from dense_aspp_jax.analysis.similarity import analyse_similarity
from dense_aspp_jax.commands.run_arguments import add_run_arguments, check_at_least
from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.files import read_json, write_file
from dense_aspp_jax.models.counts import count_parameters
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.workdir import PROVENANCE

NUM_IMAGES = 64
NUM_PICTURES = 6
_SIMILARITY_PICTURES = 2  # each has a heat map per class
_REMOVAL_PICTURES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser)
  parser.add_argument(
    '--images',
    type=int,
    default=NUM_IMAGES,
    help='images for the analyses (`similarity`, `remove-layers`) where their results for this checkpoint, '
    'split and data are not in WORKDIR/analysis already '
    f'(default {NUM_IMAGES}); the scores are of all images',
  )
  parser.add_argument(
    '--pictures', type=int, default=NUM_PICTURES, help=f'images shown as results (default {NUM_PICTURES})'
  )
  parser.add_argument('--output', type=pathlib.Path, help='HTML file (default WORKDIR/report.html)')


def run(args: argparse.Namespace) -> int:
  """Writes the report and prints its path."""
  path = report_run(
    args.workdir,
    checkpoint=args.checkpoint,
    weights=args.weights,
    bn=args.bn,
    split_name=args.split,
    num_images=args.images,
    num_pictures=args.pictures,
    data_dir=args.data_dir,
    output=args.output,
  )
  print(f'report {path}')
  return 0


def report_run(
  workdir: pathlib.Path,
  *,
  checkpoint: str = 'best',
  weights: str | None = None,
  bn: str = 'running',
  split_name: str = 'validation',
  num_images: int = NUM_IMAGES,
  num_pictures: int = NUM_PICTURES,
  data_dir: str | None = None,
  output: pathlib.Path | None = None,
) -> pathlib.Path:
  """Scores a checkpoint, runs the analyses whose results are missing, writes the report.

  Args:
    workdir: The run's directory.
    checkpoint: 'best', 'latest', or a step.
    weights: See `load_run`.
    bn: See `load_run`.
    split_name: The split that is scored, all of it.
    num_images: How many images, from the first, the analyses run here use.
    num_pictures: How many images are shown as results.
    data_dir: Where the prepared data are; None: where the run's configuration says.
    output: The file; None: report.html in the workdir.

  Returns:
    The path of the file.

  Raises:
    InputError: Not a run's directory, no such checkpoint or data, or an option out of range.
    RunError: The file cannot be written.
  """
  output = output or workdir / 'report.html'
  if output.is_dir():
    raise InputError(f'{output}: a folder; --output expects the name of an HTML file')
  check_at_least('--images', num_images)
  check_at_least('--pictures', num_pictures)
  run = load_run(workdir, checkpoint, weights, bn)
  data, batch_size = run.config['data'], run.config['evaluation']['batch_size']
  split = run.load_split(split_name, data_dir)
  confusion = evaluate(run.predictor, split, run.label_set, batch_size=batch_size)
  confusion.scores()  # raises now, not after the analyses, where nothing can be scored
  first_examples = functools.cache(  # in memory, for the analyses read them many times
    lambda: list(itertools.islice(evaluation_examples(split), num_images))
  )
  analyses = {
    'similarity': functools.partial(
      analyse_similarity,
      run.predictor,
      label_set=run.label_set,
      layer='dense_aspp',
      num_pictures=_SIMILARITY_PICTURES,
    ),
    'layer_removal': functools.partial(
      analyse_layer_removal,
      run.predictor,
      label_set=run.label_set,
      batch_size=batch_size,
      num_pictures=_REMOVAL_PICTURES,
    ),
  }
  subject = {
    'checkpoint': checkpoint,
    'step': run.step,
    'weights': run.weights,
    'bn': run.bn,
    'split': split_name,
    'dataset': data['dataset'],
    'data_dir': data_dir,
  }
  subjects = {'similarity': {**subject, 'layer': 'dense_aspp'}, 'layer_removal': subject}
  found = {
    name: read_analysis(workdir / 'analysis' / name, subjects[name])
    or run_analysis(functools.partial(analyse, split=first_examples()))
    for name, analyse in analyses.items()
  }
  content = ReportContent(
    name=workdir.absolute().name,
    config=run.config,
    parameters=count_parameters(run.model, data['image_size']),
    checkpoint=checkpoint,
    step=run.step,
    weights=run.weights,
    bn=run.bn,
    split=split_name,
    images=len(split),
    confusion=confusion,
    examples=predict_examples(run.predictor, split, run.label_set, num_pictures, batch_size),
    metrics=read_metrics(workdir / 'metrics.jsonl'),
    starts=read_json(workdir / PROVENANCE, REMEDY, default=[]),
    provenance=provenance(),
    **found,
  )
  write_file(output, render_report(content).encode())
  return output
