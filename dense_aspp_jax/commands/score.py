"""Score a folder of prediction PNGs against label PNGs.

Both folders hold label maps. With ground truth in the Cityscapes layout the scores are those of the official
cityscapesScripts.
"""

from __future__ import annotations

import argparse

import dense_aspp_jax
from dense_aspp_jax.commands.run_arguments import MODEL, check_output_file, model_argument, write_result
from dense_aspp_jax.datasets.stored_files import describe_left
from dense_aspp_jax.evaluation import metrics, score
from dense_aspp_jax.evaluation.label_pairs import IDS, LABEL
from dense_aspp_jax.label_sets import LABEL_SETS, load_label_set
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.progress import say
from dense_aspp_jax.training.run import model_label_set


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    '--labels',
    type=path_argument,
    required=True,
    metavar='DIR',
    help='ground truth: a folder with *_gtFine_labelIds.png anywhere in it (else *_gtFine_labelTrainIds.png, '
    '*_gtCoarse_labelIds.png), or with any label-id PNGs',
  )
  parser.add_argument(
    '--predictions',
    type=path_argument,
    required=True,
    metavar='DIR',
    help='label-id PNGs: for Cityscapes one <city>_<seq>_<frame>*.png per ground truth, else equal names; '
    'what `dense-aspp predict --output DIR` wrote also works',
  )
  group = parser.add_mutually_exclusive_group()
  group.add_argument(
    '--label-set',
    metavar='NAME|FILE',
    help=f'{", ".join(LABEL_SETS)} or a labels.json; default: that of `dense-aspp predict`, '
    'else cityscapes20',
  )
  text = 'the trained network whose label set it is: a run, a model file, or the name of a packaged network'
  group.add_argument('--model', type=model_argument, metavar=MODEL, help=text)
  parser.add_argument(
    '--ids',
    choices=IDS,
    default=LABEL,
    help="what the predictions hold: 'label' ids (default), or 'train' ids: class indices (0..18), and 255 "
    'for what is ignored',
  )
  parser.add_argument('--output', type=path_argument, metavar='FILE', help='write the JSON report here')


def run(args: argparse.Namespace) -> int:
  """Scores the folders; prints the table, and the report as JSON to --output or as the last line."""
  check_output_file(args.output)
  label_set = load_label_set(args.label_set) if args.label_set else None
  if args.model:
    label_set = model_label_set(args.model)
  score_input = score.find_score_input(args.labels, args.predictions, label_set, args.ids)
  if score_input.left:
    say(describe_left(score_input.left))
  confusion = score.score_files(score_input)
  scores = confusion.scores()
  if hint := score.train_ids_hint(score_input, confusion):
    say(f'warning: {hint}')
  report = {
    **scores.to_json(),
    'command': 'score',
    'labels': str(args.labels),
    'predictions': str(args.predictions),
    'images': len(score_input.pairs),
    'left': len(score_input.left),
    'ids': {'labels': score_input.label_ids, 'predictions': score_input.prediction_ids},
    'label_set': score_input.label_set.name,
    'protocol': metrics.protocol(score_input.label_set),
    'version': dense_aspp_jax.__version__,
  }
  print(metrics.format_table(scores))
  write_result(report, args.output)
  return 0
