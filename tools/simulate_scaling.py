"""Simulates training on 1 to 1024 devices; nothing of it is measured on several devices.

  python -m tools.step_communication --config=configs/default.py --output=communication.json
  python -m tools.simulate_scaling --communication=communication.json --step-ms=37.9 --output=scaling.json

The step of one device, plus what it communicates (the collectives of the compiled program) at the speed of
the links (tools/interconnects.py). Every device has the same number of images, whatever their number: weak
scaling. Two figures each:

- slow: the collectives one after another, as the CPU compiler combined them, none beside computation.
- fast: those that are independent of each other in one launch each, and those that no later one waits for
  (sums of gradients) beside the backward pass.

The step is given in milliseconds (--step-ms) or taken from a file of `dense-aspp benchmark --output` on one
device (--benchmark). For other devices than this it is scaled by the highest rate of their data sheets.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from dense_aspp_jax.benchmark.device import PEAK_FLOPS
from dense_aspp_jax.benchmark.output import read_results
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.provenance import provenance, write_json
from tools.interconnects import INTERCONNECTS, Interconnect

DEVICES = tuple(2**i for i in range(11))
BACKWARD_SHARE = 2 / 3  # of a step: two of its three passes. Assumed.


def main(arguments: Sequence[str] | None = None) -> int:
  """Simulates, prints tables in Markdown and writes JSON; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--communication', required=True, type=pathlib.Path, help='of step_communication.py')
  step = parser.add_mutually_exclusive_group(required=True)
  step.add_argument('--step-ms', type=float, help='of a step on one device, with the configured batch')
  step.add_argument('--benchmark', type=pathlib.Path, help='file with a `train` result on one device')
  parser.add_argument('--device', default='NVIDIA H100 80GB HBM3', help='that --step-ms is of')
  parser.add_argument('--output', required=True, type=pathlib.Path, help='JSON file')
  args = parser.parse_args(arguments)
  try:
    communication = read_communication(args.communication)
    if args.benchmark:
      step = benchmarked_step(args.benchmark)
    else:
      images = communication['config']['training']['batch_size']
      step = {'ms': args.step_ms, 'images': images, 'device': args.device, 'from': 'the command line'}
    result = simulate(communication, step)
    print(markdown(result))
    write_json(args.output, result | {'provenance': provenance()})
  except (InputError, RunError) as error:
    print(f'simulate_scaling: {error}', file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  return 0


def read_communication(path: pathlib.Path) -> dict[str, Any]:
  """What tools/step_communication.py wrote.

  Raises:
    InputError: Something else.
  """
  try:
    communication = json.loads(path.read_text(encoding='utf-8'))
    kinds = {launch['kind'] for launch in communication['launches']}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f'--communication={path}: {error}; expected what step_communication.py wrote') from error
  if foreign := kinds - {'all-reduce', 'all-gather'}:
    raise InputError(f'{path}: {", ".join(sorted(foreign))}: only all-reduce and all-gather can be simulated')
  return communication


def benchmarked_step(path: pathlib.Path) -> dict[str, Any]:
  """The newest train step on one device in a file of `dense-aspp benchmark`.

  Raises:
    InputError: There is none.
  """
  for record in reversed(read_results(path)):
    for result in record['results']:
      if result['mode'] == 'train' and result['num_devices'] == 1:
        step = {'ms': result['ms_per_step'], 'images': result['batch_size'], 'device': result['device']}
        return step | {'from': f'measured, {path.name}, git {record["provenance"]["git_commit"]}'}
  raise InputError(
    f'--benchmark={path}: no train result on one device; run dense-aspp benchmark --mode=train'
  )


def simulate(communication: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
  """All interconnects and numbers of devices.

  Args:
    communication: As `step_communication.record`.
    step: 'ms' of a step on one 'device' with so many 'images', and where that is 'from'.

  Returns:
    Plain JSON data: what is assumed, and a row for each interconnect and number of devices.

  Raises:
    InputError: A step that takes no time, or a device whose peak is not known.
  """
  if not step['ms'] > 0:
    raise InputError(f'--step-ms={step["ms"]}: expected milliseconds, above 0')
  dtype = communication['config']['model']['compute_dtype']
  results = {}
  for name, links in INTERCONNECTS.items():
    seconds = step['ms'] / 1e3
    if links.device != step['device']:
      seconds *= _peak(step['device'], dtype) / _peak(links.device, dtype)
    rows = [
      weak_row(communication, links, seconds, step['images'], devices)
      for devices in DEVICES
      if devices <= links.max_devices
    ]
    strong = [
      strong_row(communication, links, seconds, step['images'], devices)
      for devices in DEVICES
      if step['images'] % devices == 0
    ]
    results[name] = {
      'device': links.device,
      'step_ms': 1e3 * seconds,
      'devices_per_host': links.devices_per_host,
      'source': links.source,
      'weak': rows,
      'strong': strong,
    }
  return {
    'step': step,
    'backward_share': BACKWARD_SHARE,
    'communication': {name: value for name, value in communication.items() if name != 'launches'},
    'interconnects': results,
  }


def _peak(device: str, dtype: str) -> float:
  try:
    return PEAK_FLOPS[device][dtype]
  except KeyError:
    raise InputError(
      f'{device!r}: its peak in {dtype} is not known; known: {", ".join(PEAK_FLOPS)}'
    ) from None


def weak_row(
  communication: dict[str, Any], links: Interconnect, seconds: float, images: int, devices: int
) -> dict[str, Any]:
  """So many images on every device; pairs are slow and fast, see the module."""
  slow, fast, gathers = _communication_seconds(communication['launches'], links, seconds, devices)
  efficiency = [seconds / (seconds + slow), seconds / (seconds + fast)]
  rate = [devices * images / seconds * e for e in efficiency]
  of_host = min(devices, links.devices_per_host) / devices
  return {
    'devices': devices,
    'hosts': -(-devices // links.devices_per_host),
    'batch_size': devices * images,
    'communication_ms': [1e3 * slow, 1e3 * fast],
    'gathers_ms': 1e3 * gathers,
    'efficiency': efficiency,
    'images_per_second': rate,
    'images_per_second_of_host': rate[1] * of_host,
    'input_bytes_per_second_of_host': rate[1] * of_host * communication['record_bytes'],
  }


def strong_row(
  communication: dict[str, Any], links: Interconnect, seconds: float, images: int, devices: int
) -> dict[str, Any]:
  """The images of one device's step spread over several, each as fast an image as before."""
  slow, fast, _ = _communication_seconds(communication['launches'], links, seconds / devices, devices)
  return {
    'devices': devices,
    'images_per_device': images // devices,
    'speedup': [seconds / (seconds / devices + slow), seconds / (seconds / devices + fast)],
  }


def _communication_seconds(
  launches: list[dict[str, Any]], links: Interconnect, step_seconds: float, devices: int
) -> tuple[float, float, float]:
  """Seconds that a step is longer for: slow, fast, and the part of all-gathers in fast."""
  if devices == 1:
    return 0.0, 0.0, 0.0
  take = {'all-reduce': links.all_reduce, 'all-gather': links.all_gather}
  slow = sum(launch['executions'] * take[launch['kind']](launch['bytes'], devices) for launch in launches)
  combined = collections.defaultdict(lambda: (0, 0))
  for launch in launches:
    key = launch['kind'], launch['feeds'], launch['executions'], tuple(launch['level'])
    combined[key] = combined[key][0] + launch['bytes'], launch['executions']
  seconds = collections.Counter()
  for (kind, feeds, *_), (num_bytes, executions) in combined.items():
    seconds[kind, feeds] += executions * take[kind](num_bytes, devices)
  beside = sum(value for (_, feeds), value in seconds.items() if not feeds)
  waited = sum(value for (_, feeds), value in seconds.items() if feeds)
  fast = waited + max(0.0, beside - BACKWARD_SHARE * step_seconds)
  return slow, fast, seconds['all-gather', True]


def markdown(result: dict[str, Any]) -> str:
  """A table for each interconnect."""
  return '\n\n'.join('\n'.join(_table(name, of)) for name, of in result['interconnects'].items())


def _table(name: str, result: dict[str, Any]) -> Iterator[str]:
  yield f'**{name}**, {result["step_ms"]:.1f} ms a step on one device'
  yield ''
  columns = 'devices', 'hosts', 'batch', 'added, ms', 'gathers, ms', 'efficiency', 'images/s', 'read a host'
  yield f'| {" | ".join(columns)} |'
  yield '|---|---|---|---|---|---|---|---|'
  for row in result['weak']:
    (ms_slow, ms_fast), (slow, fast) = row['communication_ms'], row['efficiency']
    rate_slow, rate_fast = row['images_per_second']
    yield (
      f'| {row["devices"]} | {row["hosts"]} | {row["batch_size"]:,} | {ms_fast:.1f} to {ms_slow:.1f} | '
      f'{row["gathers_ms"]:.1f} | {100 * slow:.0f} to {100 * fast:.0f} % | '
      f'{rate_slow:,.0f} to {rate_fast:,.0f} | '
      f'{row["images_per_second_of_host"]:,.0f} images/s, '
      f'{row["input_bytes_per_second_of_host"] / 1e9:.1f} GB/s |'
    )
  yield ''
  speedups = [
    f'{row["speedup"][0]:.1f} to {row["speedup"][1]:.1f} on {row["devices"]}' for row in result['strong'][1:]
  ]
  yield f'The batch of one device spread over several: {", ".join(speedups)} times as fast.'


if __name__ == '__main__':
  sys.exit(main())
