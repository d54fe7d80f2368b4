"""The tables of docs/performance.md, from the results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

_KERNELS = 15  # of a step, the longest


def tables(data: dict[str, Any]) -> str:
  """Markdown: a heading and a table for each stage that was measured, and what failed."""
  stages = data['stages']
  done = {
    stage: {name: r for name, r in records.items() if not {'error', 'started'} & set(r)}
    for stage, records in stages.items()
  }
  settings = data['settings']
  height, width = settings['image_size']
  environment = done.get('environment', {}).get('all', {})
  versions = ', '.join(f'{name} {version}' for name, version in environment.get('versions', {}).items())
  parts = [
    f'Measured on one {environment.get("device", "unknown device")}: {settings["config"]}, {height}x{width}, '
    f'batch size {settings["batch"]}. {versions}.'
  ]
  for title, header, rows in (
    ('Beside PyTorch, in turn', ('step', 'by', 'ms', 'images/s', 'ours is', 'peak memory'), _ratios(done)),
    (
      'Forms of the dense blocks',
      ('form', 'step', 'ms', 'images/s', 'compiled in', 'temporaries'),
      _forms(done),
    ),
    ('Kernels of a step', ('step', 'kernel', 'launches', 'ms'), _trace(done)),
    ('Operations alone', ('layer', 'operation', 'form', 'us', 'GB/s', 'TFLOP/s'), _kernels(done)),
    ('Other tiles, denseblock3', ('operation', 'form', 'tiles', 'us', 'GB/s'), _tiles(done)),
    ('Options of XLA, inference', ('options', 'ms', 'images/s'), _flags(done)),
    ('Larger batch', ('step', 'batch size', 'ms', 'images/s'), _larger(done)),
    ('Checks against the XLA form', ('form', 'operations', 'largest difference', 'passed'), _checks(done)),
    ('Not measured', ('stage', 'unit', 'reason'), _errors(stages)),
  ):
    if table := list(rows):
      text = tabulate(table, header, tablefmt='github', floatfmt='.2f', disable_numparse=True)
      parts.append(f'### {title}\n\n{text}')
  return '\n\n'.join(parts)


def _ratios(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  memory = done.get('memory', {})
  for stage in ('ratio', 'eager'):
    for mode, record in done.get(stage, {}).items():
      if stage == 'ratio' or record['peers']:
        peak = memory.get(mode, {}).get('peak_bytes_in_use')
        yield mode, 'ours', *_speed(record['ours']), '', _gib(peak)
      for name, peer in record['peers'].items():
        low, high = peer['our_speed_over_theirs_range']
        faster = f'{peer["our_speed_over_theirs"]:.2f}x ({low:.2f} to {high:.2f})'
        yield mode, name, *_speed(peer), faster, _gib(peer.get('peak_bytes_allocated'))


def _forms(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for form, record in done.get('forms', {}).items():
    for mode, figures in record.items():
      if mode != 'seconds':
        seconds = figures['lower_seconds'] + figures['compile_seconds']
        yield form, mode, *_speed(figures), f'{seconds:.0f} s', _gib(figures['memory']['temporaries'])


def _trace(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for mode, record in done.get('trace', {}).items():
    for kernel in record['kernels'][:_KERNELS]:
      yield mode, kernel['name'], f'{kernel["launches"]:.0f}', f'{kernel["milliseconds"]:.2f}'
    yield mode, 'all', f'{record["launches"]:.0f}', f'{record["ms"]:.2f}'


def _kernels(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for record in sorted(done.get('kernels', {}).values(), key=lambda r: r['layer']):
    for operation, figures in record['operations'].items():
      yield record['layer'], operation, record['form'], *_rate(figures), f'{figures["TFLOP_per_second"]:.0f}'


def _tiles(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for record in done.get('tiles', {}).values():
    for operation, figures in record['operations'].items():
      yield operation, record['form'], record['tiles'], *_rate(figures)


def _flags(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for name, record in done.get('flags', {}).items():
    yield name, *_speed(record)


def _larger(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for mode, record in done.get('larger batch', {}).items():
    yield mode, str(record['batch']), *_speed(record)


def _checks(done: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for form, record in done.get('check', {}).items():
    differences = record['differences']
    passed = 'yes' if record['passed'] else 'no'
    yield form, str(len(differences)), f'{max(differences.values(), default=0):.1e}', passed


def _errors(stages: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for stage, records in stages.items():
    for name, record in records.items():
      if 'error' in record:
        yield stage, name, record['error'].replace('|', '/')


def _speed(figures: dict[str, Any]) -> tuple[str, str]:
  return f'{figures["ms_per_step"]:.2f}', f'{figures["images_per_second"]:.1f}'


def _rate(figures: dict[str, Any]) -> tuple[str, str]:
  return f'{figures["us"]:.1f}', f'{figures["GB_per_second"]:.0f}'


def _gib(value: int | None) -> str:
  return '' if value is None else f'{value / 2**30:.2f} GiB'
