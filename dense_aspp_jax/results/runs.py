"""Reads the directories of runs: every score that was taken, with its protocol and where it comes from."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.files import read_json
from dense_aspp_jax.models.counts import count_parameters
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.results.machine_paths import without_machine_paths
from dense_aspp_jax.results.protocol import BEST, LAST, ONE_MATRIX, Protocol
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.config import canonical, config_hash

EVALUATIONS = 'evaluations'  # folder of what `dense-aspp evaluate --record` wrote
METRICS = 'metrics.jsonl'
REMEDY = 'restore it, or leave the run out'
_MEANS = ('mean_iou', 'mean_iou_19', 'mean_iou_20')


@dataclasses.dataclass(frozen=True)
class Row:
  """One score of one run, without paths of the machine.

  Attributes:
    run: Name of the run's directory.
    seed: The run's seed.
    step: Updates made before the checkpoint was written.
    network: What the network is, in words.
    parameters: How many it has, without the auxiliary head, which only training has a use for.
    weights: 'raw' or 'ema'.
    config_hash: See `config_hash`.
    scores: What was measured.
    protocol: How it was measured.
    commands: What trained the run; several, if it was resumed by another one.
    git_commits: Of the code that trained it; None for a start without a checkout.
    devices: What it was trained on, such as '1 x gpu: NVIDIA H200'.
    hours: Of training steps, without compilation and evaluations; None if they were not logged.
    evaluation_command: What took the score; None: the training itself.
  """

  run: str
  seed: int | None
  step: int
  network: str
  parameters: int
  weights: str
  config_hash: str
  scores: Scores
  protocol: Protocol
  commands: list[str]
  git_commits: list[str | None]
  devices: list[str]
  hours: float | None
  evaluation_command: str | None = None

  def to_json(self) -> dict[str, Any]:
    """The row as plain JSON data."""
    return {**dataclasses.asdict(self), 'scores': self.scores.to_json()}

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Row:
    """Reads what `to_json` gave. Raises KeyError or TypeError for anything else."""
    return cls(
      **{**data, 'scores': _read_row_scores(data['scores']), 'protocol': Protocol(**data['protocol'])}
    )


def _read_row_scores(data: Mapping[str, Any]) -> Scores:
  means = {name: data[name] for name in _MEANS if name in data}
  return Scores(means, data['pixel_accuracy'], data['iou'])


def read_run(workdir: pathlib.Path) -> list[Row]:
  """Every score of a finished run: that of its end, raw and EMA, and those of WORKDIR/evaluations.

  A file with test-time averaging has two, the plain one first. What an evaluation scored again, the same
  checkpoint in the same way, counts once.

  Raises:
    InputError: Not the directory of a run, or the run is not finished.
  """
  config = workdirs.read_config(workdir)
  label_set = workdirs.read_label_set(workdir)
  scores = _read_scores(workdir)
  starts = read_json(workdir / workdirs.PROVENANCE, REMEDY)
  with _explained(workdir):
    data = config['data']
    counts = count_parameters(create_model(**config['model']), data['image_size'])
    common = {
      'run': workdir.resolve().name,
      'seed': config['seed'],
      'network': _network(config['model']),
      'parameters': counts['total'] - counts['auxiliary_head'],
      'config_hash': config_hash(config, label_set, starts),
      'commands': _distinct(start['command'] for start in starts),
      'git_commits': _distinct(start['git_commit'] for start in starts),
      'devices': _distinct(_devices(start['devices']) for start in starts),
      'hours': _hours(workdir / METRICS, config['training']['batch_size']),
    }
    training = Protocol(
      dataset=data['dataset'],
      train_split=data['train_split'],
      held_out=list(data.get('held_out', ())),
      train_images=scores['train_images'],
      image_size=list(data['image_size']),
      label_set=label_set.name,
      classes=label_set.num_classes,
      void_ignored=bool(label_set.ignore_ids),
      metric=ONE_MATRIX,
      pretraining=['ImageNet'] if config['init']['extractor_weights'] is not None else [],
    )
    rows = []
    if scores['ema'] is not None:
      rows.append(_row(common, training, {**scores, **scores['ema'], 'weights': 'ema'}, scores, data))
    rows.insert(0, _row(common, training, scores, scores, data))
  for path in sorted((workdir / EVALUATIONS).glob('*.json')):
    evaluation = read_json(path, REMEDY)
    with _explained(path):
      rows.append(_row(common, training, evaluation, scores, data))
      if evaluation['test_time'] is not None:
        averaged = {**evaluation, **evaluation['test_time']['scores']}
        rows.append(_row(common, training, averaged, scores, data, evaluation['test_time']))
  return _once(rows)


def _row(
  common: Mapping[str, Any],
  training: Protocol,
  result: Mapping[str, Any],
  last: Mapping[str, Any],
  data: Mapping[str, Any],
  test_time: Mapping[str, Any] | None = None,
) -> Row:
  """A row from the JSON of an evaluation; `last` is that of the run's end."""
  checkpoint = result['checkpoint']
  if checkpoint != BEST:
    checkpoint = LAST if result['step'] == last['step'] else f'step {result["step"]}'
  protocol = dataclasses.replace(
    training,
    split=result['split'],
    images=result['images'],
    test_time=None if test_time is None else {name: test_time[name] for name in ('flip', 'scales', 'window')},
    bn=result['bn'],
    bn_batch_size=result['bn_batch_size'],
    checkpoint=checkpoint,
    selected_on=data['validation_split'] if checkpoint == BEST else None,
  )
  row = Row(
    **common,
    step=result['step'],
    weights=result['weights'],
    scores=_read_row_scores(result),
    protocol=protocol,
    evaluation_command=None if 'num_steps' in result else result['provenance']['command'],
  )
  return Row.from_json(without_machine_paths(row.to_json()))


def _once(rows: Iterable[Row]) -> list[Row]:
  """The first of the rows that are one score."""
  by_score: dict[str, Row] = {}
  for row in rows:
    by_score.setdefault(canonical([row.weights, dataclasses.asdict(row.protocol)]), row)
  return list(by_score.values())


def _read_scores(workdir: pathlib.Path) -> dict[str, Any]:
  """The scores of a run's end."""
  path = workdir / workdirs.SCORES
  if not path.exists():
    raise InputError(
      f'{workdir}: this run has no {workdirs.SCORES} yet. Finish it (the command that began it resumes it), '
      'or leave it out'
    )
  scores = read_json(path, REMEDY)
  with _explained(path):
    step, num_steps = scores['step'], scores['num_steps']
  if step != num_steps:
    raise InputError(
      f'{workdir}: this run is not finished, its {workdirs.SCORES} is of step {step} of {num_steps}. '
      'Finish it (the command that began it resumes it), or leave it out'
    )
  return scores


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  """Says which file lacks something."""
  try:
    yield
  except InputError:
    raise
  except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
    raise InputError(
      f'{path}: not what this version writes for a run ({type(error).__name__}: {error}). Make it again with '
      '`dense-aspp train` or `dense-aspp evaluate --record`, or leave it out'
    ) from error


def _network(model: Mapping[str, Any]) -> str:
  return f'{model["extractor"]} + skip' if model.get('skip_head') else model['extractor']


def _devices(devices: Sequence[str]) -> str:
  return ', '.join(f'{count} x {name}' for name, count in collections.Counter(devices).items())


def _distinct(values: Iterable[Any]) -> list[Any]:
  return list(dict.fromkeys(values))


def _hours(path: pathlib.Path, batch_size: int) -> float | None:
  """Hours that all steps took; those that were made again after an interruption count once."""
  if not path.exists():
    return None
  seconds, before = 0.0, 0
  for line in path.read_text(encoding='utf-8').splitlines():
    entry = json.loads(line)
    if entry['kind'] == 'train':
      seconds += (entry['step'] - before) * batch_size / entry['images_per_second']
      before = entry['step']
  return seconds / 3600 if before else None
