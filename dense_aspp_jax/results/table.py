"""What results.json holds as tables: Markdown for documents, plain text for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.results.protocol import (
  LAST,
  Protocol,
  averaging_words,
  bn_words,
  pretraining_words,
  size_words,
  split_words,
  training_words,
)
from dense_aspp_jax.results.published import MARKS

BEGIN, END = '<!-- results: begin -->', '<!-- results: end -->'  # lines of README around its block
_MEANS = {
  'mean_iou': 'mean IoU',
  'mean_iou_19': 'mean IoU, 19 classes',
  'mean_iou_20': 'mean IoU, 20 classes',
}
_COMMIT_DIGITS = 12
_NONE = {'mean': None}

Results = Mapping[str, Any]
Group = Mapping[str, Any]
Columns = Mapping[str, Callable[[Any], str]]  # by title


def markdown(results: Results) -> str:
  """The whole of results.json as a document, with a heading for each data set."""
  parts = [
    '# Results',
    'Made by `dense-aspp results`; do not edit. In %, mean ± sample standard deviation over the seeds.',
  ]
  for dataset, groups in _by_dataset(results).items():
    parts += [
      f'## {dataset}',
      *_ours(groups),
      '### IoU of each class',
      _markdown_table(_class_columns(groups), groups),
      '### Protocol',
      _markdown_table(_PROTOCOL_COLUMNS, groups),
    ]
  parts += [_standard_words(name, Protocol(**s)) for name, s in results['standard'].items()]
  if results['published']:
    parts += ['## As published, not reproduced here', *_published(results['published'])]
  return '\n\n'.join(parts) + '\n'


def readme_block(results: Results) -> str:
  """Our scores and where they come from, in short, to stand between `BEGIN` and `END`."""
  parts = []
  for dataset, groups in _by_dataset(results).items():
    parts += [f'In %, {dataset}, mean ± sample standard deviation over the seeds:', *_ours(groups)]
  return (
    '\n\n'.join(parts + [_standard_words(n, Protocol(**s)) for n, s in results['standard'].items()]) + '\n'
  )


def replace_block(text: str, block: str, where: str) -> str:
  """Puts a block between the lines `BEGIN` and `END` of a document, in place of what is there.

  Args:
    text: The document.
    block: Lines.
    where: The document's path, for the message.

  Raises:
    InputError: It has not each of the two lines once, in this order.
  """
  lines = text.splitlines()
  if lines.count(BEGIN) != 1 or lines.count(END) != 1 or lines.index(BEGIN) > lines.index(END):
    raise InputError(f'{where}: expected one line {BEGIN} and, below, one line {END}; nothing was written')
  first, last = lines.index(BEGIN), lines.index(END)
  return '\n'.join([*lines[: first + 1], '', *block.strip().splitlines(), '', *lines[last:]]) + '\n'


def text(results: Results) -> str:
  """Our scores as plain text."""
  tables = []
  for dataset, groups in _by_dataset(results).items():
    left_out = ('network', 'pretraining', 'per seed')
    columns = {title: cell for title, cell in _main_columns(groups).items() if title not in left_out}
    rows = _cells(columns, groups)
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    tables.append('\n'.join(line.rstrip() for line in [f'{dataset}, in %', *lines]))
  return '\n\n'.join(tables)


def card_tables(groups: Sequence[Group]) -> str:
  """The scores of a single run as Markdown: a line for each, then a line for each class."""
  columns = _main_columns(groups)
  shown = [
    t for t in columns if t in (*_MEANS.values(), 'scored', 'pixel accuracy', 'not comparable because')
  ]
  names = dict.fromkeys(name for group in groups for name in group['summary']['iou'])
  by_class = {
    'class': lambda name: name,
    **{scored_words(group['rows'][0]): _iou_cell(group) for group in groups},
  }
  tables = (
    _markdown_table({title: columns[title] for title in shown}, groups),
    _markdown_table(by_class, names),
  )
  return '\n\n'.join(tables)


def percent(value: Mapping[str, float | None]) -> str:
  """A mean over seeds and its deviation, fractions, in %."""
  if value['mean'] is None:
    return '-'
  deviation = '' if value['std'] is None else f' ± {100 * value["std"]:.2f}'
  return f'{100 * value["mean"]:.2f}{deviation}'


def scored_words(row: Mapping[str, Any]) -> str:
  """What was scored, and what of it is out of the ordinary: 'test split, EMA weights, flip'."""
  protocol = Protocol(**row['protocol'])
  parts = [split_words(protocol)]
  if row['weights'] == 'ema':
    parts.append('EMA weights')
  if protocol.test_time is not None:
    parts.append(averaging_words(protocol.test_time))
  if protocol.bn != 'running':
    parts.append(bn_words(protocol))
  if protocol.checkpoint != LAST:
    parts.append(f'{protocol.checkpoint} checkpoint')
  return ', '.join(parts)


def _by_dataset(results: Results) -> dict[str, list[Group]]:
  by_dataset: dict[str, list[Group]] = {}
  for group in results['ours']:
    by_dataset.setdefault(group['rows'][0]['protocol']['dataset'], []).append(group)
  return by_dataset


def _ours(groups: Sequence[Group]) -> list[str]:
  return [_markdown_table(_main_columns(groups), groups), '\n'.join(_runs(groups))]


def _main_columns(groups: Sequence[Group]) -> Columns:
  means = [name for name in _MEANS if any(name in group['summary'] for group in groups)]
  return {
    'run': lambda group: group['name'],
    'network': lambda group: group['rows'][0]['network'],
    'parameters': lambda group: f'{group["rows"][0]["parameters"]:,}',
    'pretraining': lambda group: pretraining_words(_protocol(group)),
    'scored': lambda group: scored_words(group['rows'][0]),
    'seeds': lambda group: ', '.join(str(seed) for seed in group['seeds']),
    **{_MEANS[name]: _mean_column(name) for name in means},
    'per seed': lambda group: ', '.join(
      f'{100 * next(iter(row["scores"].values())):.2f}' for row in group['rows']
    ),
    'pixel accuracy': lambda group: percent(group['summary']['pixel_accuracy']),
    'not comparable because': lambda group: _reasons(group['not_comparable_because']),
  }


def _mean_column(name: str) -> Callable[[Group], str]:
  return lambda group: percent(group['summary'].get(name, _NONE))


def _iou_cell(group: Group) -> Callable[[str], str]:
  return lambda name: percent(group['summary']['iou'].get(name, _NONE))


def _class_columns(groups: Sequence[Group]) -> Columns:
  names = dict.fromkeys(name for group in groups for name in group['summary']['iou'])
  return {
    'run': lambda group: group['name'],
    'scored': lambda group: scored_words(group['rows'][0]),
    **{name: _class_column(name) for name in names},
  }


def _class_column(name: str) -> Callable[[Group], str]:
  return lambda group: percent(group['summary']['iou'].get(name, _NONE))


def _protocol(group: Group) -> Protocol:
  return Protocol(**group['rows'][0]['protocol'])


_PROTOCOL_COLUMNS: Columns = {
  'run': lambda group: group['name'],
  'scored': lambda group: f'{split_words(_protocol(group))}, {_protocol(group).images} images',
  'weights': lambda group: {'ema': 'EMA'}.get(group['rows'][0]['weights'], group['rows'][0]['weights']),
  'trained on': lambda group: training_words(_protocol(group)),
  'input': lambda group: size_words(_protocol(group).image_size),
  'classes': lambda group: f'{_protocol(group).classes} ({_protocol(group).label_set})',
  'void': lambda group: 'ignored' if _protocol(group).void_ignored else 'none',
  'pixels counted in': lambda group: _protocol(group).metric,
  'averaging': lambda group: averaging_words(_protocol(group).test_time),
  'batch normalisation': lambda group: bn_words(_protocol(group)),
  'checkpoint': lambda group: _checkpoint_words(_protocol(group)),
  'config hash': lambda group: f'`{group["rows"][0]["config_hash"]}`',
}


def _checkpoint_words(protocol: Protocol) -> str:
  if protocol.selected_on:
    return f'{protocol.checkpoint} on the {protocol.selected_on} split'
  return protocol.checkpoint or '?'


def _runs(groups: Iterable[Group]) -> Iterator[str]:
  """A line for each run, and one below it for each command that scored it apart."""
  rows = [row for group in groups for row in group['rows']]
  by_run: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
  for row in rows:
    by_run.setdefault((row['run'], row['seed'], row['config_hash']), []).append(row)
  for (run, seed, config_hash), scored in sorted(by_run.items(), key=lambda item: str(item[0])):
    row = scored[0]
    commits = ', '.join(_commit(commit) for commit in row['git_commits'])
    hours = 'hours unknown' if row['hours'] is None else f'{row["hours"]:.2f} h of training'
    yield (
      f'- `{run}`: seed {seed}, config hash `{config_hash}`, commit {commits}, '
      f'{"; ".join(row["devices"])}, {hours}'
    )
    yield from (f'  - `{command}`' for command in row['commands'])
    commands = dict.fromkeys(row['evaluation_command'] for row in scored if row['evaluation_command'])
    yield from (f'  - `{command}`' for command in commands)


def _commit(commit: str | None) -> str:
  if commit is None:
    return 'unknown'
  digits, _, changes = commit.partition('+')
  return f'`{digits[:_COMMIT_DIGITS]}`' + (' with changes' if changes else '')


def _reasons(reasons: Sequence[str] | None) -> str:
  return '-' if reasons is None else '; '.join(reasons)


def _standard_words(name: str, standard: Protocol) -> str:
  return (
    f'Standard protocol of {name}: {split_words(standard)} ({standard.images} images), trained on '
    f'{training_words(standard)}, {size_words(standard.image_size)}, {standard.classes} classes, void '
    f'ignored, {standard.metric}, single scale, {bn_words(standard)}, {standard.checkpoint} checkpoint, no '
    'segmentation data besides.'
  )


def _published(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
  yield (
    'What a source does not say of batch normalisation, checkpoint and averaging is taken for standard. How '
    'a number is known: ' + '; '.join(f'*{mark}*: {meaning}' for mark, meaning in MARKS.items()) + '.'
  )
  yield _markdown_table(_PUBLISHED_COLUMNS, rows)
  with_classes = [row for row in rows if row['iou']]
  names = dict.fromkeys(name for row in with_classes for name in row['iou'])
  columns = {'model': lambda row: row['model'], **{name: _published_class(name) for name in names}}
  yield '### IoU of each class, as published'
  yield _markdown_table(columns, with_classes)


def _published_class(name: str) -> Callable[[Mapping[str, Any]], str]:
  return lambda row: _as_published(row['iou'][name])


def _as_published(value: float | None) -> str:
  return '-' if value is None else str(value)


_PUBLISHED_COLUMNS: Columns = {
  'model': lambda row: row['model'],
  'mean IoU': lambda row: _as_published(row['mean_iou']),
  'pixel accuracy': lambda row: _as_published(row['pixel_accuracy']),
  'parameters': lambda row: '-' if row['parameters'] is None else f'{row["parameters"]} M',
  'pretraining': lambda row: pretraining_words(Protocol(**row['protocol'])),
  'trained on': lambda row: training_words(Protocol(**row['protocol'])),
  'input': lambda row: size_words(row['protocol']['image_size']),
  'scored': lambda row: split_words(Protocol(**row['protocol'])),
  'not comparable because': lambda row: _reasons(row['not_comparable_because']),
  'known': lambda row: row['mark'],
  'source': lambda row: row['source'] + (f' ({row["note"]})' if row['note'] else ''),
}


def _markdown_table(columns: Columns, items: Iterable[Any]) -> str:
  header, *rows = _cells(columns, items)
  lines = [header, ['---'] * len(header), *rows]
  return '\n'.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |' for line in lines)


def _cells(columns: Columns, items: Iterable[Any]) -> list[list[str]]:
  return [list(columns), *([cell(item) for cell in columns.values()] for item in items)]
