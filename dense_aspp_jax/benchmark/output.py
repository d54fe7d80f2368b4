"""Prints the benchmark's figures, and appends them to a JSON file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from tabulate import tabulate

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json, write_json


def read_results(path: pathlib.Path) -> list[dict[str, Any]]:
  """The results so far; none if there is no such file.

  Raises:
    InputError: The file holds something other than a list of results.
  """
  remedy = 'results are appended to a JSON list, choose another --output'
  results = read_json(path, remedy, default=[])
  if not isinstance(results, list):
    raise InputError(f'{path}: not a JSON list; {remedy}')
  return results


def append_result(path: pathlib.Path, result: dict[str, Any]) -> None:
  """Appends one result; the file is replaced whole. Raises as `read_results` and `write_json` do."""
  write_json(path, [*read_results(path), result])


def lines(result: dict[str, Any]) -> Iterator[str]:
  """The result of a mode in lines to print."""
  height, width = result['image_size']
  dtype, threads = result.get('compute_dtype', 'uint8'), result.get('threads')
  implementation, form = result.get('implementation'), result.get('gpu_form')
  yield (
    f'{result["mode"]}: {result["batch_size"]} images of {height}x{width}, {dtype}, on '
    f'{result["num_devices"]} x {result["device"]}'
    + (f', {threads} thread{"s"[: threads > 1]}' if threads else '')
    + (f'; {implementation}' if implementation else '')
    + (f', dense blocks by {form}' if form and implementation != 'reference' else '')
  )
  yield from _LINES.get(result['mode'], _step_lines)(result)


def _step_lines(result: dict[str, Any]) -> Iterator[str]:
  memory = {name: _size(num_bytes) for name, num_bytes in result['memory_per_device'].items()}
  (low, high), (lowest, highest) = result['ms_quartiles'], result['ms_range']
  rate_low, rate_high = result['images_per_second_quartiles']
  share, in_use, accessed = (
    result[k] for k in ('share_of_peak_flops', 'peak_bytes_in_use', 'bytes_accessed')
  )
  rows = {
    'compilation': f'{result["compile_seconds"]:.1f} s, after {result["lower_seconds"]:.1f} s of tracing',
    'step': f'{result["ms_per_step"]:.2f} ms (half of {result["repeats"]} repeats of '
    f'{result["steps_per_repeat"]} steps within {low:.2f} to {high:.2f}, all {lowest:.2f} to {highest:.2f})',
    'CPU': f'{result["cpu_ms_per_step"]:.2f} ms of this process a step, over all its threads',
    'images/s': f'{result["images_per_second"]:.1f} ({rate_low:.1f} to {rate_high:.1f})',
    'memory': f'{memory["total"]} a device: arguments {memory["arguments"]}, temporaries '
    f'{memory["temporaries"]}, outputs {memory["outputs"]}, in place of arguments {memory["aliased"]}',
    'in use': in_use is not None and f'{_size(in_use)} at most since the start',
    'FLOPs': f'{result["flops_per_step"] / 1e12:.3f} T a step, {result["flops_per_second"] / 1e12:.2f} T/s'
    + (
      ''
      if share is None
      else f', {100 * share:.1f} % of what the device can do ({result["peak_flops"] / 1e12:.3f})'
    ),
    'bytes': accessed is not None and f'{_size(accessed)} read and written a step, as XLA counts',
  }
  kernels = result.get('kernels')
  if kernels:
    rows['kernels'] = f'{result["kernel_ms"]:.2f} ms in {result["launches"]:.0f} launches a step'
  yield from _table([(name, text) for name, text in rows.items() if text])
  if kernels:
    rows = [
      (
        f'{k["milliseconds"]:.3f}',
        f'{100 * k["milliseconds"] / total:.1f} %',
        f'{k["launches"]:.0f}',
        k['name'],
      )
      for total in [result['kernel_ms']]
      for k in kernels
    ]
    yield from _table(rows, ('ms', 'share', 'launches', 'kernel'), ('right', 'right', 'right', 'left'))
  if result.get('peers'):
    yield from _table(_peer_rows(result), _PEER_COLUMNS, ('left', *['right'] * (len(_PEER_COLUMNS) - 1)))


_PEER_COLUMNS = ('', 'ms', 'range', 'CPU ms', 'images/s', 'of the peak', 'first step', 'memory', 'ours is')


def _peer_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
  for name, row in (('ours', result), *result['peers'].items()):
    lowest, highest = row['ms_range']
    share, ratio = row['share_of_peak_flops'], row.get('our_speed_over_theirs')
    memory = row.get('peak_bytes_allocated', row.get('peak_bytes_in_use'))
    first = row.get('first_step_seconds', row.get('compile_seconds', 0) + row.get('lower_seconds', 0))
    yield (
      name,
      f'{row["ms_per_step"]:.2f}',
      f'{lowest:.2f}-{highest:.2f}',
      f'{row["cpu_ms_per_step"]:.2f}',
      f'{row["images_per_second"]:.1f}',
      '' if share is None else f'{100 * share:.0f} %',
      f'{first:.1f} s',
      '' if memory is None else _size(memory),
      '' if ratio is None else '{:.2f}x ({:.2f}-{:.2f})'.format(ratio, *row['our_speed_over_theirs_range']),
    )


def _memory_lines(result: dict[str, Any]) -> Iterator[str]:
  rows = [(name, _size(m['temporaries']), _size(m['total'])) for name, m in result['forms'].items()]
  yield from _table(rows, ('bytes a device', 'temporaries', 'total'), ('left', 'right', 'right'))


def _input_lines(result: dict[str, Any]) -> Iterator[str]:
  yield f'  {result["dataset"]}, {result["records"]} records'
  rows = []
  for row in result['settings']:
    low, high = row['images_per_second_quartiles']
    workers = f'{row["num_workers"]} processes' if row['num_workers'] else 'threads'
    place = 'device' if row['on_device'] else f'host, {workers}'
    rows.append((place, f'{row["images_per_second"]:.1f}', f'records/s ({low:.1f} to {high:.1f})'))
  yield from _table(rows, align=('left', 'right', 'left'))


def _table(
  rows: list[tuple[str, ...]], headers: tuple[str, ...] = (), align: tuple[str, ...] | None = None
) -> Iterator[str]:
  table = tabulate(rows, headers, tablefmt='plain', disable_numparse=True, colalign=align)
  yield from (f'  {line}' for line in table.splitlines())


def _size(num_bytes: float) -> str:
  return f'{num_bytes / 2**30:.2f} GiB' if num_bytes >= 2**30 else f'{num_bytes / 2**20:.1f} MiB'


_LINES = {'memory': _memory_lines, 'input': _input_lines}
