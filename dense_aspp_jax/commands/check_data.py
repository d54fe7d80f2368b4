"""Check every pair of a data set and list all that is wrong.

Problems and a summary of each split go to standard output. The exit code is 2 if there are more bad pairs
than --skip-bad permits, or other problems, such as an image without label.
"""

from __future__ import annotations

import argparse
import textwrap

from dense_aspp_jax.commands.prepare import add_skip_bad_argument
from dense_aspp_jax.datasets.check_data import SplitReport, check_split, find_label_set, list_splits
from dense_aspp_jax.datasets.listing import Listing
from dense_aspp_jax.datasets.prepare import DATASETS
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import LABEL_SETS, LabelSet

_WIDTH = 100
_IGNORED_SHOWN = 10
_NO_BREAK = '\xa0'  # keeps a class and its figure on one line


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    'dataset', metavar='DATASET', help=f'folder:PATH (docs/own_data.md), {", ".join(DATASETS)}'
  )
  parser.add_argument(
    '--source',
    metavar='PATH',
    help='cityscapes and camvid: their files, as for `dense-aspp prepare` (default: what was prepared)',
  )
  parser.add_argument(
    '--data-dir',
    metavar='DIR',
    help='where prepared datasets are kept (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)',
  )
  parser.add_argument(
    '--label-set',
    metavar='NAME|FILE',
    help=f'{", ".join(LABEL_SETS)} or a labels.json (default: PATH/labels.json, or all ids of the dataset)',
  )
  parser.add_argument('--split', help='train, validation or test (default: all there are)')
  add_skip_bad_argument(parser, 'bad pairs that are permitted, in all splits together')


def run(args: argparse.Namespace) -> int:
  """Prints the problems and the summary of each split; raises InputError if there are too many problems."""
  num_bad = num_others = 0
  splits = list_splits(args.dataset, args.source, args.data_dir, args.split)
  label_set = find_label_set(args.dataset, args.label_set)
  for split in splits:
    report = check_split(split, label_set, published=args.source is not None)
    for message in (*split.problems, *report.bad):
      print(message)
    print(_summary(split, report, label_set))
    num_bad += len(report.bad)
    num_others += len(split.problems)
  found = f'{num_bad} bad pairs, {num_others} other problems'
  if num_others or num_bad > args.skip_bad:
    raise InputError(f'{args.dataset}: {found}; at most {args.skip_bad} bad pairs (--skip-bad) are permitted')
  print(f'{args.dataset}: {found}')
  return 0


def _summary(split: Listing, report: SplitReport, label_set: LabelSet) -> str:
  sizes = ', '.join(f'{n} of {h}x{w}' for (h, w), n in report.sizes.most_common())
  lines = [f'{split.where}: {len(split.pairs)} pairs, {len(report.bad)} bad; height x width: {sizes or "-"}']
  total = int(report.class_pixels.sum()) + report.ignored_pixels
  if total:
    counts = dict(zip(label_set.class_names, report.class_pixels, strict=True))
    shares = [_share(name, n, total) for name, n in counts.items() if n]
    shares.append(_share('ignored', report.ignored_pixels, total))
    lines.append(_wrapped('share of pixels: ' + ', '.join(shares)))
    absent = [name for name, n in counts.items() if not n]
    if len(absent) == label_set.num_classes:
      lines.append('  every pixel is ignored: nothing can be learned from this split or scored on it')
    elif absent:
      lines.append(_wrapped('absent classes: ' + ', '.join(absent)))
  for path in split.ignored[:_IGNORED_SHOWN]:
    lines.append(f'  not read, no part of the dataset: {path}')
  if len(split.ignored) > _IGNORED_SHOWN:
    lines.append(f'  and {len(split.ignored) - _IGNORED_SHOWN} more files')
  return '\n'.join(lines)


def _share(name: str, part: int, total: int) -> str:
  return f'{name} {100 * part / total:.2f} %'.replace(' ', _NO_BREAK)


def _wrapped(text: str) -> str:
  lines = textwrap.fill(text, _WIDTH, initial_indent='  ', subsequent_indent='    ', break_on_hyphens=False)
  return lines.replace(_NO_BREAK, ' ')
