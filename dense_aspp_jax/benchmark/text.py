"""What the benchmark measured, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines(result: dict[str, Any]) -> Iterator[str]:
  """What a result of `modes` says."""
  height, width = result['image_size']
  dtype = result.get('compute_dtype', 'uint8')
  yield (
    f'{result["mode"]}: {result["batch_size"]} images of {height}x{width}, {dtype}, on '
    f'{result["num_devices"]} x {result["device"]}'
  )
  yield from _LINES.get(result['mode'], _step_lines)(result)


def _step_lines(result: dict[str, Any]) -> Iterator[str]:
  memory = {name: _size(num_bytes) for name, num_bytes in result['memory_per_device'].items()}
  (low, high), (lowest, highest) = result['ms_quartiles'], result['ms_range']
  rate_low, rate_high = result['images_per_second_quartiles']
  yield f'  compilation {result["compile_seconds"]:.1f} s, after {result["lower_seconds"]:.1f} s of tracing'
  yield (
    f'  step        {result["ms_per_step"]:.2f} ms (half of {result["repeats"]} repeats of '
    f'{result["steps_per_repeat"]} steps within {low:.2f} to {high:.2f}, all {lowest:.2f} to {highest:.2f})'
  )
  yield f'  images/s    {result["images_per_second"]:.1f} ({rate_low:.1f} to {rate_high:.1f})'
  yield (
    f'  memory      {memory["total"]} a device: arguments {memory["arguments"]}, temporaries '
    f'{memory["temporaries"]}, outputs {memory["outputs"]}, in place of arguments {memory["aliased"]}'
  )
  if result['peak_bytes_in_use'] is not None:
    yield f'  in use      {_size(result["peak_bytes_in_use"])} at most since the start'
  share = result['share_of_peak_flops']
  of_peak = '' if share is None else f', {100 * share:.1f} % of what the device can do'
  flops, rate = result['flops_per_step'] / 1e12, result['flops_per_second'] / 1e12
  yield f'  FLOPs       {flops:.3f} T a step, {rate:.2f} T/s{of_peak}'
  if result['bytes_accessed'] is not None:
    yield f'  bytes       {_size(result["bytes_accessed"])} read and written a step, as XLA counts'
  if 'kernels' in result:
    yield f'  kernels     {result["kernel_ms"]:.2f} ms in {result["launches"]:.0f} launches a step'
    for kernel in result['kernels']:
      yield f'  {kernel["milliseconds"]:11.3f} ms x {kernel["launches"]:5.0f}  {kernel["name"]}'


def _memory_lines(result: dict[str, Any]) -> Iterator[str]:
  yield f'  {"bytes a device":22} {"temporaries":>12} {"total":>12}'
  for name, memory in result['forms'].items():
    yield f'  {name:22} {_size(memory["temporaries"]):>12} {_size(memory["total"]):>12}'


def _input_lines(result: dict[str, Any]) -> Iterator[str]:
  yield f'  {result["dataset"]}, {result["records"]} records'
  for row in result['settings']:
    low, high = row['images_per_second_quartiles']
    workers = f'{row["num_workers"]} processes' if row['num_workers'] else 'threads'
    place = 'device' if row['on_device'] else f'host, {workers}'
    yield f'  {place:20} {row["images_per_second"]:10.1f} records/s ({low:.1f} to {high:.1f})'


def _size(num_bytes: float) -> str:
  return f'{num_bytes / 2**30:.2f} GiB' if num_bytes >= 2**30 else f'{num_bytes / 2**20:.1f} MiB'


_LINES = {'memory': _memory_lines, 'input': _input_lines}
