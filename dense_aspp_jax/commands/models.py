"""List the trained networks that come with the package."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.pretrained import pretrained_models
from dense_aspp_jax.results.runs import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's argument."""
  text = 'print its model card: scores, training, limits, licences'
  parser.add_argument('name', nargs='?', metavar='NAME', help=text)


def run(args: argparse.Namespace) -> int:
  """Prints a table of the networks, or the card of one."""
  models = pretrained_models()
  if args.name is not None:
    if args.name not in models:
      raise InputError(f'{shown(args.name)}: expected one of {", ".join(models)}')
    print(models[args.name].card.read_text(encoding='utf-8'), end='')
    return 0
  table = [
    {
      'name': model.name,
      'classes': len(model.classes),
      'parameters': f'{model.parameters:,}',
      'MB': f'{model.bytes / 1e6:.1f}',
      'mean IoU': '\n'.join(_score(Row.from_json(score)) for score in model.scores),
      'for': model.about,
    }
    for model in models.values()
  ]
  print(tabulate(table, 'keys', 'plain', disable_numparse=True))
  print('\n--model takes these names. `dense-aspp models NAME` prints the model card of one.')
  return 0


def _score(row: Row) -> str:
  """Such as '77.3 % of 9 classes, camvid, validation split'."""
  known = [name for name, iou in row.scores.iou.items() if iou is not None]
  count = len(known) - ('mean_iou_19' in row.scores.means and 'void' in known)  # the mean is without void
  of = f'{row.protocol.dataset}, {row.protocol.split_words}'
  return f'{100 * row.scores.mean_iou:.1f} % of {count} classes, {of}'
