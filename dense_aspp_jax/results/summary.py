"""Scores over seeds, beside the published ones of the same data: the content of results.json."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json
from dense_aspp_jax.results.protocol import STANDARDS, Protocol
from dense_aspp_jax.results.published import Published, read_published
from dense_aspp_jax.results.runs import Row, without_machine_paths


@dataclasses.dataclass(frozen=True)
class Spread:
  """A score over the seeds, as fractions.

  Attributes:
    mean: None for a class that was neither present nor predicted.
    std: Sample standard deviation; None for a single seed.
  """

  mean: float | None = None
  std: float | None = None

  @classmethod
  def of(cls, *values: float | None) -> Spread:
    """Mean and deviation of one value per seed."""
    if None in values:
      return cls()
    return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

  def __str__(self) -> str:
    if self.mean is None:
      return '-'
    return f'{100 * self.mean:.2f}' + ('' if self.std is None else f' ± {100 * self.std:.2f}')


@dataclasses.dataclass(frozen=True)
class Group:
  """Scores that differ only in the seed.

  Attributes:
    rows: One per seed, in the order of the seeds.
  """

  rows: tuple[Row, ...]

  def __post_init__(self):
    for first, second in itertools.pairwise(self.rows):
      if first.seed == second.seed:
        raise InputError(
          f'{first.run} and {second.run}: both have seed {first.seed}, configuration {first.config_hash} and '
          'one protocol, so this is one run, given twice. Give it once'
        )

  @property
  def name(self) -> str:
    """Name of the runs without their seeds: 'a_seed0' and 'a_seed1' are 'a'."""
    if len(self.rows) == 1:
      return self.rows[0].run
    return ', '.join(dict.fromkeys(re.sub(r'[-_.](seed|s)?[-_.]?\d+$', '', row.run) for row in self.rows))

  @property
  def protocol(self) -> Protocol:
    """How all the scores were taken."""
    return self.rows[0].protocol

  @functools.cached_property
  def summary(self) -> dict[str, Any]:
    """A `Spread` for each score: of the mean IoUs by name, 'pixel_accuracy', and 'iou' by class."""
    return _by_name(Spread.of, *(row.scores.to_json() for row in self.rows))

  def to_json(self) -> dict[str, Any]:
    """The group as plain JSON data, with its means and each row."""
    return {
      'name': self.name,
      'seeds': [row.seed for row in self.rows],
      'summary': _by_name(dataclasses.asdict, self.summary),
      'not_comparable_because': self.protocol.differences,
      'rows': [row.to_json() for row in self.rows],
    }


def _by_name(function: Callable[..., Any], *trees: Any) -> Any:
  """Calls `function` with the values that have one name in nested dicts."""
  if not isinstance(trees[0], dict):
    return function(*trees)
  return {name: _by_name(function, *(tree[name] for tree in trees)) for name in trees[0]}


@dataclasses.dataclass(frozen=True)
class Results:
  """Everything a table shows.

  Attributes:
    groups: Ours, by data set and split, the most comparable and then the best first.
    standards: The standard protocol by data set, for those of ours that have one.
    published: The published scores of these data sets, the highest first.
  """

  groups: tuple[Group, ...]
  standards: dict[str, Protocol]
  published: tuple[Published, ...]

  def to_json(self, provenance: dict[str, Any]) -> dict[str, Any]:
    """The content of results.json, without paths of the machine; `provenance` is that of this summary."""
    return {
      'standard': {name: dataclasses.asdict(standard) for name, standard in self.standards.items()},
      'ours': [group.to_json() for group in self.groups],
      'published': [
        {**dataclasses.asdict(row), 'not_comparable_because': row.protocol.differences}
        for row in self.published
      ],
      'provenance': without_machine_paths(provenance),
    }


def summarize(rows: Sequence[Row]) -> Results:
  """Groups the scores of any number of runs and adds the published ones of the same data sets.

  Raises:
    InputError: Two rows have the same seed, configuration and protocol.
  """
  by_experiment: dict[str, list[Row]] = {}
  for row in sorted(rows, key=lambda row: (row.seed is None, row.seed)):
    by_experiment.setdefault(row.experiment, []).append(row)
  groups = sorted((Group(tuple(group)) for group in by_experiment.values()), key=_order)
  ours = [group.protocol.standard for group in groups]
  standards = {name: standard for name, standard in STANDARDS.items() if standard in ours}
  published = [row for name in standards for row in read_published(name)]
  return Results(tuple(groups), standards, tuple(sorted(published, key=lambda row: -(row.mean_iou or 0))))


def read_results(path: pathlib.Path) -> list[Row]:
  """The rows of a results.json that was written before.

  Raises:
    InputError: It is something else.
  """
  expected = 'expected what `dense-aspp results --output FILE.json` writes, or the directory of a run'
  data = read_json(path, expected)
  try:
    return [Row.from_json(row) for group in data['ours'] for row in group['rows']]
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f'{path}: {expected} ({type(error).__name__}: {error})') from error


def _order(group: Group) -> tuple[Any, ...]:
  protocol, reasons = group.protocol, group.protocol.differences
  apart = len(reasons) if reasons is not None else int(protocol.test_time is not None)
  return protocol.dataset, protocol.split or '', apart, -next(iter(group.summary.values())).mean
