"""Results as tables: Markdown for documents, plain text for the terminal."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tabulate import tabulate

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.results.protocol import LAST, Protocol
from dense_aspp_jax.results.published import MARKS, Published
from dense_aspp_jax.results.runs import MEANS, Row
from dense_aspp_jax.results.summary import Group, Results, Spread
from dense_aspp_jax.training.checkpoints import EMA

BEGIN, END = '<!-- results: begin -->', '<!-- results: end -->'  # the lines around the table in README.md
_NOT_IN_TERMINAL = ('network', 'pretraining', 'per seed')
_IN_CARD = (*MEANS.values(), 'scored', 'pixel accuracy', 'not comparable because')
_COMMIT_DIGITS = 12

Cells = Mapping[str, str]  # a row of a table: cells by title of the column


def markdown(results: Results) -> str:
  """All results as a document, with a heading for each data set."""
  parts = [
    '# Results',
    'Made by `dense-aspp results`; do not edit. In %, mean ± sample standard deviation over the seeds.',
  ]
  for dataset, groups in _by_dataset(results):
    parts += [
      f'## {dataset}',
      *_ours(groups),
      *_designs(groups),
      '### IoU of each class',
      _markdown_table(_class_cells(group) for group in groups),
      '### Protocol',
      _markdown_table(_protocol_cells(group) for group in groups),
    ]
  parts += [_standard_words(name, standard) for name, standard in results.standards.items()]
  if results.published:
    parts += ['## As published, not reproduced here', *_published(results.published)]
  return '\n\n'.join(parts) + '\n'


def readme_block(results: Results) -> str:
  """Our scores, in short, to stand between `BEGIN` and `END`.

  Without those of raw weights where their moving averages, which `load_run` takes, were scored alike.
  """
  averaged = {_as_averaged(group) for group in results.groups if group.rows[0].weights == EMA}
  rows = [
    {'data': dataset, **cells}
    for dataset, groups in _by_dataset(results)
    for group, cells in zip(groups, _main_cells(groups), strict=True)
    if group.rows[0].weights == EMA or _as_averaged(group) not in averaged
  ]
  parts = ['In %, mean ± sample standard deviation over the seeds:', _markdown_table(rows)]
  parts += [_standard_words(name, standard) for name, standard in results.standards.items()]
  return '\n\n'.join(parts) + '\n'


def _as_averaged(group: Group) -> tuple[tuple[int, str], ...]:
  """Seeds and experiments, were the weights averaged."""
  return tuple((row.seed, dataclasses.replace(row, weights=EMA).experiment) for row in group.rows)


def replace_block(text: str, block: str, where: str) -> str:
  """Replaces what stands between the lines `BEGIN` and `END` of a document.

  Args:
    text: The document.
    block: What to put there.
    where: The document's path, for the message.

  Raises:
    InputError: The document does not have each of the two lines once, in this order.
  """
  lines = text.splitlines()
  if [line for line in lines if line in (BEGIN, END)] != [BEGIN, END]:
    raise InputError(f'{where}: expected one line {BEGIN} and, below, one line {END}; nothing was written')
  before, after = lines[: lines.index(BEGIN) + 1], lines[lines.index(END) :]
  return '\n'.join([*before, '', *block.strip().splitlines(), '', *after]) + '\n'


def text(results: Results) -> str:
  """Our scores as plain text."""
  tables = []
  for dataset, groups in _by_dataset(results):
    rows = [{t: c for t, c in cells.items() if t not in _NOT_IN_TERMINAL} for cells in _main_cells(groups)]
    tables.append(f'{dataset}, in %\n{tabulate(rows, "keys", "plain", disable_numparse=True)}')
  return '\n\n'.join(tables)


def card_tables(groups: Sequence[Group]) -> str:
  """The scores of a single run as Markdown: a line for each, then a line for each class."""
  several = len({group.protocol.dataset for group in groups}) > 1
  scores, classes = [], {}
  for group, cells in zip(groups, _main_cells(groups), strict=True):
    scored = f'{group.protocol.dataset}, {cells["scored"]}' if several else cells['scored']
    scores.append({t: c for t, c in {**cells, 'scored': scored}.items() if t in _IN_CARD})
    for name, iou in group.summary['iou'].items():
      classes.setdefault(name, {'class': name})[scored] = str(iou)
  return f'{_markdown_table(scores)}\n\n{_markdown_table(classes.values())}'


def scored_words(row: Row) -> str:
  """What was scored and what is unusual about it: 'test split, EMA weights, flip'."""
  protocol = row.protocol
  parts = [protocol.split_words]
  if row.weights == 'ema':
    parts.append('EMA weights')
  if protocol.test_time is not None:
    parts.append(protocol.averaging_words)
  if protocol.bn != 'running':
    parts.append(protocol.bn_words)
  if protocol.checkpoint != LAST:
    parts.append(f'{protocol.checkpoint} checkpoint')
  return ', '.join(parts)


def _by_dataset(results: Results) -> Iterator[tuple[str, list[Group]]]:
  for dataset, groups in itertools.groupby(results.groups, lambda group: group.protocol.dataset):
    yield dataset, list(groups)


def _ours(groups: Sequence[Group]) -> list[str]:
  return [_markdown_table(_main_cells(groups)), '\n'.join(_runs(groups))]


def _main_cells(groups: Sequence[Group]) -> Iterator[Cells]:
  means = [name for name in MEANS if any(name in group.summary for group in groups)]
  for group in groups:
    row = group.rows[0]
    yield {
      'run': group.name,
      'network': row.network,
      'parameters': f'{row.parameters:,}',
      'pretraining': row.protocol.pretraining_words,
      'scored': scored_words(row),
      'seeds': ', '.join(str(row.seed) for row in group.rows),
      **{MEANS[name]: str(group.summary.get(name, Spread())) for name in means},
      'per seed': ', '.join(f'{100 * row.scores.mean_iou:.2f}' for row in group.rows),
      'pixel accuracy': str(group.summary['pixel_accuracy']),
      'not comparable because': _reasons(row.protocol),
    }


def _designs(groups: Sequence[Group]) -> Iterator[str]:
  """The slides' table of models, for runs whose last checkpoint was scored on the training split too."""
  by_run: dict[tuple[str, str], dict[str, Group]] = {}
  for group in groups:
    row, protocol = group.rows[0], group.protocol
    plain = protocol.test_time is None and protocol.bn == 'running' and protocol.checkpoint == LAST
    if row.design and plain and not protocol.trained_on:
      by_run.setdefault((group.name, row.weights), {})[protocol.split] = group
  cells = [
    _design_cells(of['train'], of['validation'])
    for of in by_run.values()
    if {'train', 'validation'} <= of.keys()
  ]
  if cells:
    yield "### Models, with the columns of the slides' table"
    yield _markdown_table(cells)


def _design_cells(train: Group, validation: Group) -> Cells:
  row, protocol = validation.rows[0], validation.protocol
  return {
    'model': validation.name,
    'extractor': row.network,
    'dilations': ', '.join(map(str, row.design.dilation_rates)) or 'none',
    'growth': str(row.design.growth_rate) if row.design.dilation_rates else '-',
    '1x1': str(row.design.bottleneck_width or '-') if row.design.dilation_rates else '-',
    'parameters': f'{row.design.parameters:,}',
    'classes': str(protocol.classes),
    'image size': protocol.size_words,
    'epochs': f'{row.design.epochs:g}',
    **{
      f'{MEANS[name].replace("mean IoU", "mIoU")}, {split}': str(group.summary[name])
      for name in MEANS
      if name in validation.summary
      for split, group in (('train', train), ('val', validation))
    },
  }


def _class_cells(group: Group) -> Cells:
  iou = {name: str(spread) for name, spread in group.summary['iou'].items()}
  return {'run': group.name, 'scored': scored_words(group.rows[0]), **iou}


def _protocol_cells(group: Group) -> Cells:
  protocol, row = group.protocol, group.rows[0]
  mapped = f', mapped from {protocol.mapped_from}' if protocol.mapped_from else ''
  selected = f' on the {protocol.selected_on} split' if protocol.selected_on else ''
  return {
    'run': group.name,
    'scored': f'{protocol.split_words}, {protocol.images} images',
    'weights': 'EMA' if row.weights == 'ema' else row.weights,
    'trained on': ' and '.join(filter(None, (protocol.training_words, protocol.also_words))),
    'input': protocol.size_words,
    'classes': f'{protocol.classes} ({protocol.label_set}{mapped})',
    'void': 'ignored' if protocol.void_ignored else 'none',
    'pixels counted in': protocol.metric,
    'averaging': protocol.averaging_words,
    'batch normalization': protocol.bn_words,
    'checkpoint': f'{protocol.checkpoint or "?"}{selected}',
    'config hash': f'`{row.config_hash}`',
  }


def _runs(groups: Iterable[Group]) -> Iterator[str]:
  """A line for each run, and one below it for each command that trained or scored it."""
  by_run: dict[tuple[str, int | None, str], list[Row]] = {}
  for row in (row for group in groups for row in group.rows):
    by_run.setdefault((row.run, row.seed, row.config_hash), []).append(row)
  for (run, seed, config_hash), rows in sorted(by_run.items(), key=lambda item: str(item[0])):
    row = rows[0]
    commits = ', '.join(_commit(commit) for commit in row.git_commits)
    hours = 'hours unknown' if row.hours is None else f'{row.hours:.2f} h of training'
    yield (
      f'- `{run}`: seed {seed}, config hash `{config_hash}`, commit {commits}, '
      f'{"; ".join(row.devices)}, {hours}'
    )
    scoring = dict.fromkeys(row.evaluation_command for row in rows if row.evaluation_command)
    yield from (f'  - `{command}`' for command in (*row.commands, *scoring))


def _commit(commit: str | None) -> str:
  if commit is None:
    return 'unknown'
  digits, _, changes = commit.partition('+')
  return f'`{digits[:_COMMIT_DIGITS]}`' + (' with changes' if changes else '')


def _reasons(protocol: Protocol) -> str:
  return '-' if protocol.differences is None else '; '.join(protocol.differences)


def _standard_words(name: str, standard: Protocol) -> str:
  return (
    f'Standard protocol of {name}: {standard.split_words} ({standard.images} images), trained on '
    f'{standard.training_words}, {standard.size_words}, {standard.classes} classes, void ignored, '
    f'{standard.metric}, {standard.averaging_words}, {standard.bn_words}, {standard.checkpoint} checkpoint, '
    'no segmentation data besides.'
  )


def _published(rows: Sequence[Published]) -> Iterator[str]:
  yield (
    'What a source does not say of batch normalization, checkpoint and averaging is taken for standard. How '
    'a number is known: ' + '; '.join(f'*{mark}*: {meaning}' for mark, meaning in MARKS.items()) + '.'
  )
  yield _markdown_table(_published_cells(row) for row in rows)
  yield '### IoU of each class, as published'
  yield _markdown_table(
    {'model': row.model, **{name: str(iou) for name, iou in row.iou.items()}} for row in rows if row.iou
  )


def _published_cells(row: Published) -> Cells:
  protocol = row.protocol
  return {
    'model': row.model,
    'mean IoU': '-' if row.mean_iou is None else str(row.mean_iou),
    'pixel accuracy': '-' if row.pixel_accuracy is None else str(row.pixel_accuracy),
    'parameters': '-' if row.parameters is None else f'{row.parameters} M',
    'pretraining': protocol.pretraining_words,
    'trained on': protocol.training_words,
    'input': protocol.size_words,
    'scored': protocol.split_words,
    'not comparable because': _reasons(protocol),
    'known': row.mark,
    'source': row.source + (f' ({row.note})' if row.note else ''),
  }


def _markdown_table(rows: Iterable[Cells]) -> str:
  """A table with the columns of all rows; '-' where a row lacks one."""
  escaped = [{t.replace('|', r'\|'): c.replace('|', r'\|') for t, c in cells.items()} for cells in rows]
  return tabulate(escaped, headers='keys', tablefmt='github', disable_numparse=True, missingval='-')
