"""Predicts how long a program takes on a card, from what its launches move and compute.

A launch takes as long as its memory traffic at the bandwidth that such launches achieve, or as its products
at the rate of the tensor cores, whichever is longer, and what it costs to start it. This is a prediction. It
was fitted to one measured training step on an H100 (37 ms) and is not checked on another card.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from tools.gpu.traffic import Launch

# Bytes a second that a large copy achieves: measured. The published ones are 3.35 and 4.8.
BANDWIDTH = {'h100': 3.0e12, 'h200': 4.3e12}
FLOPS_PER_SECOND = 790e12  # large products in bfloat16, measured on an H100; an H200 has the same processor
SMALL = 4e6  # bytes: a launch that moves less takes as long as its start
SMALL_SECONDS, GAP_SECONDS = 2e-6, 1e-6  # of a small launch; between other launches
# Share of the bandwidth: the milliseconds that the traffic of a step's launches would take on an H100, over
# those measured. Other XLA operations are predicted at the full bandwidth, as the measured step agrees.
EFFICIENCY = (
  ('triton', 'dot_backward', 5.9 / 13.8),
  ('triton', 'conv_backward', 1.3 / 5.7),
  ('triton', 'dot', 2.2 / 4.3),
  ('cudnn', '', 0.7 / 2.4),
  ('mosaic', '', 0.8),  # assumed, not measured
)
# The first that fits names a group: what a launch's kind, and the path of its names, must contain.
_GROUPS = (
  ('1x1 backward kernels', r'dot_backward', ''),
  ('3x3 backward kernels', r'conv_backward', ''),
  ('1x1 forward kernels', r'bn_relu_dot', ''),
  ('3x3 forward kernels', r'bn_relu_conv', ''),
  ('other kernels', r'^(triton|mosaic) ', ''),
  ('small', r'^small', ''),
  ('cuDNN', r'cudnn', ''),
  ('copies', r'copy', ''),
  ('cascade, backward', '', r'transpose\(jvp.*dense_aspp'),
  ('blocks, backward', '', r'transpose\(jvp.*denseblock'),
  ('blocks, forward', '', r'denseblock|dense_aspp'),
  ('transitions', '', r'transition'),
  ('head', '', r'head'),
  ('upsampling, loss', '', r'objective|cross_entropy|upsampl|optimization_barrier'),
  ('stem, pooling, norm5', '', r'extractor'),
  ('other', '', ''),
)


class Prediction(NamedTuple):
  """Of one launch."""

  group: str
  seconds: dict[str, float]  # by card


def predict(launch: Launch) -> Prediction:
  """The group of a launch and its time on each card."""
  seconds = {}
  small = launch.num_bytes < SMALL
  for card, bandwidth in BANDWIDTH.items():
    moving = launch.num_bytes / (bandwidth * _efficiency(launch))
    working = max(moving, launch.flops / FLOPS_PER_SECOND)
    seconds[card] = max(working, SMALL_SECONDS) if small else working + GAP_SECONDS
  kind = f'{launch.kind} {launch.kernel}' if launch.kernel else launch.kind
  kind = f'small {kind}' if small and not launch.kernel else kind
  group = next(
    name for name, of_kind, path in _GROUPS if re.search(of_kind, kind) and re.search(path, launch.op_name)
  )
  return Prediction(group, seconds)


def by_group(launches: Iterable[Launch]) -> dict[str, dict[str, Any]]:
  """Launches, bytes, operations, predicted milliseconds of each group, the longest first, and their sum."""
  groups: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for launch in launches:
    group, seconds = predict(launch)
    for name in (group, 'sum'):
      groups[name].update(
        launches=launch.times,
        bytes=launch.times * launch.num_bytes,
        flops=launch.times * launch.flops,
        **{f'{card}_ms': 1e3 * launch.times * value for card, value in seconds.items()},
      )
  total = groups.pop('sum', collections.Counter())
  ordered = sorted(groups.items(), key=lambda item: -item[1]['h100_ms'])
  return {name: dict(counts) for name, counts in [*ordered, ('sum', total)]}


def alike(launches: Iterable[Launch]) -> list[dict[str, Any]]:
  """Launches of one group, kind and origin together, as `by_group`; the longest first."""
  sets = collections.defaultdict(list)
  for launch in launches:
    path = re.sub(r'\d+', '#', re.sub(r'\[bytes=.*?\]', '', launch.op_name))
    sets[predict(launch).group, launch.kind, path].append(launch)
  rows = [
    {'group': group, 'kind': kind, 'path': path, **by_group(members)['sum']}
    for (group, kind, path), members in sets.items()
  ]
  return sorted(rows, key=lambda row: -row['h100_ms'])


def _efficiency(launch: Launch) -> float:
  return next(
    (share for kind, kernel, share in EFFICIENCY if kind in launch.kind.lower() and kernel in launch.kernel),
    1.0,
  )
