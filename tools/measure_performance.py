r"""Measures every network beside its peers on this machine's CPU; prints the tables of docs/performance.md.

  python tools/measure_performance.py results.json           measures what is not in the file yet, then prints
  python tools/measure_performance.py results.json --table   prints only

Needs the extra [peers], and cores that have nothing else to do. On 2 cores an entry takes one to two minutes
without torch.compile, which takes several more for each training step. It may be stopped and started again.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

from dense_aspp_jax.benchmark.device import available_cores
from dense_aspp_jax.benchmark.output import read_results
from dense_aspp_jax.benchmark.peers.installed import PEERS


class Entry(NamedTuple):
  """One step that is measured; what tells it from others in a file of results."""

  config: str
  extractor: str
  mode: str
  batch: int
  height: int
  width: int
  threads: int

  def arguments(self) -> list[str]:
    """Of `dense-aspp benchmark`."""
    return [
      f'--config={self.config}',
      f'--config.model.extractor={self.extractor}',
      *('--device', 'cpu', '--mode', self.mode, '--batch', str(self.batch)),
      *('--image-size', str(self.height), str(self.width), '--threads', str(self.threads)),
    ]


# Slides' model #4, on other extractors, and street_scenes' small network.
_FAMILIES = ('densenet121', 'efficientnet_lite0', 'mobilenet_v3_large', 'convnext_tiny')


def entries(most_threads: int) -> dict[Entry, list[str]]:
  """What the tables have, on one and all threads, with the peers.

  torch.compile takes minutes for each network, size and number of threads. It is measured on all threads
  only, and in inference, where others are faster, only at the first size.
  """
  inference = [
    *(('default', family, 'inference', 1, 256, 512) for family in _FAMILIES),
    *(('default', family, 'inference', 1, 360, 480) for family in _FAMILIES),
    ('street_scenes', 'densenet_small', 'inference', 1, 128, 256),
  ]
  train = [
    ('default', 'densenet121', 'train', 1, 256, 512),
    ('default', 'densenet121', 'train', 4, 256, 512),
    ('camvid_efficientnet_lite', 'efficientnet_lite0', 'train', 8, 288, 384),
  ]
  most = [*inference[:4], *train, *inference[4:]]
  steps = [Entry(*step, most_threads) for step in most]
  steps += [Entry(*step, 1) for step in most if most_threads > 1]

  def peers(entry: Entry) -> list[str]:
    compiled = entry.threads == most_threads and (entry.mode == 'train' or entry.width == 512)
    names = [name for name, kind in PEERS.items() if entry.mode in kind.modes]
    return names if compiled else [name for name in names if name != 'compile']

  return {entry: peers(entry) for entry in steps}


def measured(records: Iterable[dict[str, Any]]) -> dict[Entry, dict[str, Any]]:
  """The results of a file by entry; of several the last."""
  found = {}
  for record in records:
    for result in record['results']:
      if 'peers' in result:
        where = record['config_file'], record['config']['model']['extractor'], result['mode']
        found[Entry(*where, result['batch_size'], *result['image_size'], result['threads'])] = result
  return found


def tables(results: dict[Entry, dict[str, Any]]) -> Iterator[str]:
  """A Markdown table for each mode."""
  by_mode = collections.defaultdict(list)
  for entry, result in results.items():
    by_mode[entry.mode].append((entry, result))
  for mode, group in by_mode.items():
    names = [name for name in PEERS if any(name in result['peers'] for _, result in group)]
    headers = [mode, 'size', 'batch', 'threads', 'ours', *names, 'ours over the fastest', 'of the peak']
    rows = sorted(group, key=lambda pair: pair[0])
    yield tabulate(
      [_row(entry, result, names) for entry, result in rows], headers, 'github', disable_numparse=True
    )


def _row(entry: Entry, result: dict[str, Any], names: Sequence[str]) -> list[str]:
  peers = result['peers']
  fastest = min(peers.values(), key=lambda peer: peer['our_speed_over_theirs'], default=None)
  ratio = fastest and '{:.2f} ({:.2f} to {:.2f})'.format(
    fastest['our_speed_over_theirs'], *fastest['our_speed_over_theirs_range']
  )
  return [
    f'{entry.config}, {entry.extractor}',
    f'{entry.height}x{entry.width}',
    str(entry.batch),
    str(entry.threads),
    _milliseconds(result),
    *(_milliseconds(peers[name]) if name in peers else '' for name in names),
    ratio or '',
    f'{100 * result["share_of_peak_flops"]:.0f} %',
  ]


def _milliseconds(result: dict[str, Any]) -> str:
  """On the clock, and of the whole process."""
  wall, cpu = result['ms_per_step'], result['cpu_ms_per_step']
  digits = 0 if wall >= 100 else 1
  return f'{wall:.{digits}f} ({cpu:.{digits}f})'


def main() -> int:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('results', type=pathlib.Path, help='JSON file that results are appended to')
  parser.add_argument('--table', action='store_true', help='measure nothing')
  parser.add_argument('--repeats', type=int, default=5, help='turns of each')
  args = parser.parse_args()
  if not args.table:
    for entry, peers in entries(len(available_cores())).items():
      if entry in measured(read_results(args.results)):
        continue
      print(*entry, file=sys.stderr, flush=True)
      command = [sys.executable, '-m', 'dense_aspp_jax', 'benchmark', *entry.arguments()]
      options = ['--peers', *peers, '--repeats', str(args.repeats), '--output', str(args.results)]
      done = subprocess.run([*command, *options], stdout=subprocess.DEVNULL, check=False)
      if done.returncode:
        return done.returncode
  print('ms a step on the clock, in parentheses of the whole process on all cores\n')
  print('\n\n'.join(tables(measured(read_results(args.results)))))
  return 0


if __name__ == '__main__':
  sys.exit(main())
