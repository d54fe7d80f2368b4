"""Check every pair of a data set and list all that is wrong.

Problems and a summary of each split go to standard output. The exit code is 2 where `train` would refuse the
data: more bad pairs in the training split than --skip-bad permits, any in another split, other problems such
as an image without label, a split that is missing or entirely void. The test split is checked like the
others, but may be void, as published ones are. With --source it is 2 also where `prepare` would refuse the
files.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from dense_aspp_jax.commands.prepare import add_shared_arguments
from dense_aspp_jax.datasets.check_data import (
  TRAINED_ON,
  SplitReport,
  check_split,
  find_label_set,
  list_splits,
  other_than_published,
)
from dense_aspp_jax.datasets.class_frequencies import class_warnings
from dense_aspp_jax.datasets.listing import Listing
from dense_aspp_jax.datasets.prepare import DATASETS
from dense_aspp_jax.datasets.stored_files import describe_left
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import scored_classes
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_sets import LABEL_SETS
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet

_WIDTH = 100
_LEFT_SHOWN = 10
_NO_BREAK = '\xa0'  # keeps a class and its figure on one line


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    'dataset', metavar='DATASET', help=f'folder:PATH (docs/own_data.md), {", ".join(DATASETS)}'
  )
  parser.add_argument(
    '--source',
    metavar='PATH',
    help='published datasets: their files, as for `dense-aspp prepare` (default: what was prepared)',
  )
  parser.add_argument(
    '--label-set',
    metavar='NAME|FILE',
    help=f'{", ".join(LABEL_SETS)} or a labels.json (default: PATH/labels.json, or all ids of the dataset)',
  )
  parser.add_argument('--split', help='train, validation or test (default: all there are)')
  add_shared_arguments(parser)


def run(args: argparse.Namespace) -> int:
  """Prints the problems and the summary of each split; raises InputError where training would refuse."""
  refused, taken, sizes = [], [], Counter()
  listings = list_splits(args.dataset, args.source, args.data_dir, args.split)
  label_set = find_label_set(args.dataset, args.label_set)
  for line in (*listings.notes, *_left(listings.left)):
    print(line)
  for name, split in listings.splits.items():
    report = check_split(split, label_set, published=args.source is not None)
    permitted = args.skip_bad if name == 'train' else 0
    findings = _findings(name, split, report, label_set, permitted)
    for message in (*split.problems, *report.bad):
      print(message)
    print(_summary(name, split, report, label_set))
    sizes += report.sizes
    refused += [f'{name}: {finding}' for finding in findings]
    taken.append(f'{len(split.pairs) - len(report.bad)} of {len(split.pairs)} pairs of {name}')
  if args.split is None:
    refused += [f'no split {name}' for name in TRAINED_ON if name not in listings.splits]
  if args.source is not None:
    counts = {name: len(split.pairs) for name, split in listings.splits.items()}
    for finding in other_than_published(args.dataset, counts, sizes, args.split):
      if not args.allow_partial:
        refused.append(f'{finding} (--allow-partial accepts it)')
      print(f'warning: {finding}')
  if refused:
    raise InputError(f'{shown(args.dataset)}: cannot be used as it is: {"; ".join(refused)}')
  print(f'{shown(args.dataset)}: can be used: {", ".join(taken)}')
  return 0


def _findings(
  name: str, split: Listing, report: SplitReport, label_set: LabelSet, permitted: int
) -> Iterator[str]:
  """Why `train`, or `evaluate` with another split, would refuse the split; in short."""
  if split.problems:
    yield _counted(len(split.problems), 'problem')
  if len(report.bad) > permitted:
    option = ' (--skip-bad)' if name == 'train' else ''
    yield f'{_counted(len(report.bad), "bad pair")}, at most {permitted} permitted{option}'
  elif split.pairs and len(report.bad) == len(split.pairs):
    yield 'no good pair'
  elif name in TRAINED_ON and split.pairs:
    counted = range(label_set.num_classes) if name == 'train' else scored_classes(label_set)
    if not report.class_pixels[list(counted)].any():
      yield 'every pixel is void'


def _summary(name: str, split: Listing, report: SplitReport, label_set: LabelSet) -> str:
  sizes = ', '.join(f'{n} of {h}x{w}' for (h, w), n in report.sizes.most_common())
  lines = [f'{split.where}: {len(split.pairs)} pairs, {len(report.bad)} bad; height x width: {sizes or "-"}']
  if total := int(report.class_pixels.sum()):
    counts = dict(zip(label_set.class_names, report.class_pixels, strict=False))
    shares = [_share(class_name, n, total) for class_name, n in counts.items() if n]
    shares.append(_share('ignored', report.class_pixels[IGNORE_LABEL], total))
    lines.append(_wrapped('share of pixels: ' + ', '.join(shares)))
    absent = [class_name for class_name, n in counts.items() if not n]
    if len(absent) == label_set.num_classes:
      lines.append('  every pixel is ignored: nothing can be learned from this split or scored on it')
    elif name == 'train':
      warnings = class_warnings(report.class_pixels, label_set, range(label_set.num_classes))
      lines += [_wrapped(f'warning: {warning}') for warning in warnings]
    elif absent:
      lines.append(_wrapped('absent classes: ' + ', '.join(absent)))
  return '\n'.join((*lines, *(f'  {line}' for line in _left(split.left))))


def _left(left: Sequence[str]) -> Iterator[str]:
  if left:
    yield describe_left(left)
    yield from (f'  {entry}' for entry in left[1:_LEFT_SHOWN])
  if len(left) > _LEFT_SHOWN:
    yield f'  and {len(left) - _LEFT_SHOWN} more'


def _counted(number: int, noun: str) -> str:
  return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def _share(name: str, part: int, total: int) -> str:
  return f'{name} {100 * part / total:.2f} %'.replace(' ', _NO_BREAK)


def _wrapped(text: str) -> str:
  lines = textwrap.fill(text, _WIDTH, initial_indent='  ', subsequent_indent='    ', break_on_hyphens=False)
  return lines.replace(_NO_BREAK, ' ')
