"""Scores over seeds, beside the published ones of the same data: the content of results.json."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.results.machine_paths import without_machine_paths
from dense_aspp_jax.results.protocol import STANDARDS, differences, standard_of
from dense_aspp_jax.results.published import read_published
from dense_aspp_jax.results.runs import Row, canonical


def summarize(rows: Sequence[Row], provenance: dict[str, Any]) -> dict[str, Any]:
  """Groups scores that differ in the seed alone.

  Args:
    rows: Of any number of runs.
    provenance: Of this summary.

  Returns:
    JSON data without a path of the machine:
      standard: The standard protocol by data set, for those of ours that have one.
      ours: One entry for each configuration and protocol, by data set and split, the most comparable and
        then the best first: 'name', 'seeds', 'summary' (of each score, and of each class's IoU, 'mean' and
        'std': mean and sample standard deviation over the seeds, fractions; std is null for one seed, both
        are where a class was neither present nor predicted), 'not_comparable_because' (null: the data set
        has no standard protocol) and 'rows', as `Row`, one a seed.
      published: As `Published`, each with 'not_comparable_because'; of the data sets of ours, where we have
        a list, the highest first.
      provenance: As given.

  Raises:
    InputError: Two rows are of the same seed, configuration and protocol.
  """
  groups: dict[str, list[Row]] = {}
  for row in rows:
    key = canonical([row.config_hash, row.weights, dataclasses.asdict(row.protocol)])
    groups.setdefault(key, []).append(row)
  ours = sorted((_group(group) for group in groups.values()), key=_order)
  standards = {
    name: s for name, s in STANDARDS.items() if any(standard_of(row.protocol) is s for row in rows)
  }
  published = [row for name in standards for row in read_published(name)]
  result = {
    'standard': {name: dataclasses.asdict(standard) for name, standard in standards.items()},
    'ours': ours,
    'published': [
      {**dataclasses.asdict(row), 'not_comparable_because': differences(row.protocol)}
      for row in sorted(published, key=lambda row: -(row.mean_iou or 0))
    ],
    'provenance': provenance,
  }
  return without_machine_paths(result)


def read_results(path: pathlib.Path) -> list[Row]:
  """The rows of a results.json that was written before.

  Raises:
    InputError: It is something else.
  """
  try:
    groups = json.loads(path.read_text(encoding='utf-8'))['ours']
    return [Row.from_json(row) for group in groups for row in group['rows']]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f'{path}: expected what `dense-aspp results --output FILE.json` writes, or the directory of a run '
      f'({type(error).__name__}: {error})'
    ) from error


def _group(rows: list[Row]) -> dict[str, Any]:
  rows = sorted(rows, key=lambda row: (row.seed is None, row.seed))
  for first, second in itertools.pairwise(rows):
    if first.seed == second.seed:
      raise InputError(
        f'{first.run} and {second.run}: both are of seed {first.seed}, configuration {first.config_hash} and '
        'one protocol, so this is one run, given twice. Give it once'
      )
  scores = [row.scores for row in rows]
  summary = {name: _over_seeds([s[name] for s in scores]) for name in scores[0] if name != 'iou'}
  summary['iou'] = {name: _over_seeds([s['iou'][name] for s in scores]) for name in scores[0]['iou']}
  return {
    'name': _name([row.run for row in rows]),
    'seeds': [row.seed for row in rows],
    'summary': summary,
    'not_comparable_because': differences(rows[0].protocol),
    'rows': [dataclasses.asdict(row) for row in rows],
  }


def _over_seeds(values: list[float | None]) -> dict[str, float | None]:
  if None in values:
    return {'mean': None, 'std': None}
  return {
    'mean': statistics.fmean(values),
    'std': statistics.stdev(values) if len(values) > 1 else None,
  }


def _name(runs: list[str]) -> str:
  """What runs of several seeds are called: 'a_seed0' and 'a_seed1' are 'a'."""
  if len(runs) == 1:
    return runs[0]
  names = dict.fromkeys(re.sub(r'[-_.](seed|s)?[-_.]?\d+$', '', run) for run in runs)
  return ', '.join(names)


def _order(group: dict[str, Any]) -> tuple[Any, ...]:
  protocol, reasons = group['rows'][0]['protocol'], group['not_comparable_because']
  mean = next(iter(group['summary'].values()))['mean']
  apart = len(reasons) if reasons is not None else int(protocol['test_time'] is not None)
  return protocol['dataset'], protocol['split'], apart, -mean
