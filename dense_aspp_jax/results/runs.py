"""Reads the directories of runs: every score that was taken, with its protocol and where it comes from."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dense_aspp_jax.datasets.examples import FOLDER_PREFIX
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.fields import check_types
from dense_aspp_jax.files import read_json
from dense_aspp_jax.models.counts import count_parameters
from dense_aspp_jax.models.segmentation import Network
from dense_aspp_jax.results.protocol import BEST, LAST, ONE_MATRIX, Protocol
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.config import canonical, config_hash, tuples
from dense_aspp_jax.training.start import pretraining

EVALUATIONS = 'evaluations'  # folder of what `dense-aspp evaluate --record` wrote
METRICS = 'metrics.jsonl'
REMEDY = 'restore it, or leave the run out'
MEANS = {  # by field, the title in tables
  'mean_iou': 'mean IoU',
  'mean_iou_19': 'mean IoU, 19 classes',
  'mean_iou_20': 'mean IoU, 20 classes',
}
_UNFINISHED = 'finish the run (the command that began it resumes it), or leave it out'
# A path that is not the rest of a word, another path or an address (https://...).
_ABSOLUTE = re.compile(r'(?<![\w./~-])(?:file://)?/(?!/)[^\s\'",;)\]}]+')


@dataclasses.dataclass(frozen=True)
class Design:
  """What tells the networks of the slides' table apart, beside the extractor.

  Attributes:
    dilation_rates: Of the atrous layers.
    growth_rate: Channels that each of them adds.
    bottleneck_width: Channels of their 1x1 convolution, 0: none.
    parameters: Of DenseASPP and the head.
    epochs: Passes over the training split.
  """

  dilation_rates: list[int]
  growth_rate: int
  bottleneck_width: int
  parameters: int
  epochs: float


@dataclasses.dataclass(frozen=True)
class Row:
  """One score of one run, without paths of the machine.

  Attributes:
    run: Name of the run's directory.
    step: Updates made before the checkpoint was written.
    network: The extractor, and '+ skip' with the skip decoder.
    parameters: How many it has, without the auxiliary head, which only training uses.
    weights: 'raw' or 'ema'.
    commands: Those that trained the run; several if another one resumed it.
    git_commits: Of the code that trained it; None for a start without a checkout.
    devices: Those it was trained on, such as '1 x gpu: NVIDIA H200'.
    hours: Of training steps, without compilation and evaluations; None if they were not logged.
    evaluation_command: The command that took the score; None: training itself.
    design: Of the network; None: a score of an earlier version, which did not keep it.
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
  design: Design | None = None

  @property
  def experiment(self) -> str:
    """Equal for scores that differ only in the seed."""
    return canonical([self.config_hash, self.weights, dataclasses.asdict(self.protocol)])

  def to_json(self) -> dict[str, Any]:
    """The row as plain JSON data."""
    return {**dataclasses.asdict(self), 'scores': self.scores.to_json()}

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Row:
    """Reads what `to_json` gave. Raises KeyError or TypeError for anything else."""
    scores, protocol = data['scores'], Protocol(**data['protocol'])
    means = {name: scores[name] for name in MEANS if name in scores}
    if next(iter(means.values()), None) is None:
      raise KeyError('mean_iou')
    scores = Scores(means, scores['pixel_accuracy'], scores['iou'])
    design = Design(**data['design']) if data.get('design') else None
    row = cls(**{**data, 'scores': scores, 'protocol': protocol, 'design': design})
    for part in filter(None, (row, scores, protocol, design)):
      check_types(part)
    return row


def read_run(workdir: pathlib.Path) -> list[Row]:
  """Every score of a finished run: that of its end, raw and EMA, and those of WORKDIR/evaluations.

  A file with test-time averaging has two, the plain one first. A checkpoint that was scored twice in the same
  way counts once.

  Raises:
    InputError: Not the directory of a run, or the run is not finished.
  """
  config, label_set = workdirs.read_config(workdir), workdirs.read_label_set(workdir)
  path = workdir / workdirs.SCORES
  last = read_json(path, _UNFINISHED)
  with _explained(path):
    step, num_steps = last['step'], last['num_steps']
  starts = workdirs.read_starts(workdir)
  if starts:  # continued with more epochs, it was finished before
    num_steps = starts[-1].get('num_steps', num_steps)
  if step != num_steps:
    raise InputError(
      f'{workdir}: this run is not finished, its {path.name} is of step {step} of {num_steps}; {_UNFINISHED}'
    )
  with _explained(workdir):
    data, model = config['data'], config['model']
    network = Network(**tuples(model))  # with the defaults of fields that an older run does not have
    counts = count_parameters(network.create(), data['image_size'])
    common = {
      'run': workdir.resolve().name,
      'seed': config['seed'],
      'network': model['extractor'] + (' + skip' if model.get('skip_head') else ''),
      'parameters': counts['total'] - counts['auxiliary_head'],
      'config_hash': config_hash(config, label_set, starts),
      'commands': _distinct(start['command'] for start in starts),
      'git_commits': _distinct(start['git_commit'] for start in starts),
      'devices': _distinct(
        ', '.join(f'{count} x {name}' for name, count in collections.Counter(start['devices']).items())
        for start in starts
      ),
      'hours': _hours(workdir / METRICS, config['training']['batch_size']),
      'design': {
        'dilation_rates': list(network.dilation_rates),
        'growth_rate': network.growth_rate,
        'bottleneck_width': network.bottleneck_width,
        'parameters': counts['dense_aspp_and_head'],
        'epochs': float(config['training']['num_epochs']),
      },
    }
    first = _first(data['dataset'])
    training = {
      'train_split': data['train_split'],
      'held_out': list(data.get('held_out', ())),
      'train_images': last['train_images'],
      'also_trained_on': last.get('also_trained_on', []),
      'image_size': list(data['image_size']),
      'label_set': label_set.name,
      'classes': label_set.num_classes,
      'metric': ONE_MATRIX,
      'pretraining': pretraining(config, starts),
    }

  def row(result: Mapping[str, Any], test_time: Mapping[str, Any] | None = None) -> Row:
    checkpoint = result['checkpoint']
    if checkpoint != BEST:
      checkpoint = LAST if result['step'] == last['step'] else f'step {result["step"]}'
    scored = _first(result['dataset'])
    protocol = {
      **training,
      'dataset': scored,
      'trained_on': None if scored == first else first,
      'split': result['split'],
      'images': result['images'],
      'mapped_from': result.get('mapped_from'),
      'void_ignored': bool(label_set.ignore_ids or result.get('mapped_from')),
      'test_time': test_time and {name: test_time[name] for name in ('flip', 'scales', 'window')},
      'bn': result['bn'],
      'bn_batch_size': result['bn_batch_size'],
      'checkpoint': checkpoint,
      'selected_on': data['validation_split'] if checkpoint == BEST else None,
    }
    fields = {
      **common,
      'step': result['step'],
      'weights': result['weights'],
      'scores': result if test_time is None else test_time['scores'],
      'protocol': protocol,
      'evaluation_command': None if 'num_steps' in result else result['provenance']['command'],
    }
    return Row.from_json(without_machine_paths(fields))

  with _explained(path):
    rows = [row(last)]
    if last['ema'] is not None:
      rows.append(row({**last, **last['ema'], 'weights': 'ema'}))
  for path in sorted((workdir / EVALUATIONS).glob('*.json')):
    evaluation = read_json(path, REMEDY)
    with _explained(path):
      rows.append(row(evaluation))
      if evaluation['test_time'] is not None:
        rows.append(row(evaluation, evaluation['test_time']))
  once: dict[str, Row] = {}
  for found in rows:
    once.setdefault(found.experiment, found)
  return list(once.values())


def _first(dataset: str | list[str]) -> str:
  """Of several data sets that a network was trained on, the one that is scored."""
  return dataset if isinstance(dataset, str) else dataset[0]


def without_machine_paths(data: Any) -> Any:
  """JSON data with only the last part of every absolute path: '/home/x/runs/a' becomes 'a'.

  The same holds for paths within a string: 'folder:/data/camvid' becomes 'folder:camvid'.
  """
  if isinstance(data, dict):
    return {name: without_machine_paths(value) for name, value in data.items()}
  if isinstance(data, list | tuple):
    return [without_machine_paths(value) for value in data]
  if not isinstance(data, str):
    return data
  for prefix in ('', FOLDER_PREFIX):
    if data.startswith(f'{prefix}/') and not data.startswith('//'):  # a path alone, perhaps with blanks in it
      return prefix + pathlib.PurePosixPath(data).name
  return _ABSOLUTE.sub(lambda found: pathlib.PurePosixPath(found.group()).name, data)


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  """Turns errors about the content of a file into an InputError that names it."""
  try:
    yield
  except InputError:
    raise
  except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
    raise InputError(
      f'{path}: not what this version writes for a run ({type(error).__name__}: {error}). Make it again with '
      '`dense-aspp train` or `dense-aspp evaluate --record`, or leave it out'
    ) from error


def _distinct(values: Iterable[Any]) -> list[Any]:
  return list(dict.fromkeys(values))


def _hours(path: pathlib.Path, batch_size: int) -> float | None:
  """Hours that all steps took; those repeated after an interruption count once."""
  if not path.exists():
    return None
  seconds, before = 0.0, 0
  for line in path.read_text(encoding='utf-8').splitlines():
    entry = json.loads(line)
    if entry['kind'] == 'train':
      seconds += (entry['step'] - before) * batch_size / entry['images_per_second']
      before = entry['step']
  return seconds / 3600 if before else None
