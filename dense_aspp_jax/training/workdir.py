"""The directory of a run: what is written beside the checkpoints, and how a run is loaded from it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from dense_aspp_jax.datasets.cache import CacheSplit, DecodedSplit
from dense_aspp_jax.datasets.load import load_split
from dense_aspp_jax.datasets.source import FOLDER_PREFIX
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.evaluation.inference import Predictor
from dense_aspp_jax.labels import LABEL_SETS, LabelSet
from dense_aspp_jax.models.complexity import abstract_variables
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.provenance import provenance, write_json
from dense_aspp_jax.training.checkpoints import EMA, RAW, restore_variables
from dense_aspp_jax.training.recalibration import load_statistics
from dense_aspp_jax.whole_files import check_writable

CONFIG = 'config.json'
LABELS = 'labels.json'
DATA = 'data.json'
SCORES = 'scores.json'  # of the last evaluation
PROVENANCE = 'provenance.json'  # one entry for each time the run was started
RUNNING = 'running'
RECALIBRATED = 'recalibrated'

# Fields that a resumed run may change: none of them alters what a given step computes. Nor does
# training.num_epochs where the learning rate is constant; a schedule ends with the run.
_FREE_FIELDS = (
  'data.data_dir',
  'data.num_workers',
  'data.on_device',
  'data.skip_bad',  # data.json tells whether it left out other images
  'training.log_every_steps',
  'training.max_skipped_steps',
  'evaluation.',
  'checkpoint.',
)


def check(workdir: pathlib.Path, config: dict[str, Any], label_set: LabelSet) -> None:
  """Checks that a run may be started or resumed in a directory; writes nothing.

  Args:
    workdir: The directory, which may be missing.
    config: The whole configuration as plain data.
    label_set: What the class indices mean.

  Raises:
    InputError: The directory holds something else, a run of another configuration, or is not writable.
  """
  check_writable(workdir, '--workdir')
  if (workdir / CONFIG).exists():
    _check_same(workdir, _stored_form(config), label_set)
    return
  # Ours of a start that was cut off before CONFIG, or that another process is making just now.
  ours = {LABELS, DATA, PROVENANCE}
  names = [p.name for p in workdir.iterdir()] if workdir.exists() else []
  found = sorted(name for name in names if name not in ours and not name.startswith('.'))
  if found:
    raise InputError(
      f'{workdir}: holds {", ".join(found[:3])}{", ..." if len(found) > 3 else ""} but no {CONFIG}, so it '
      'is not the directory of a run; nothing was written. Choose another --workdir'
    )


@contextlib.contextmanager
def begin(
  workdir: pathlib.Path, config: dict[str, Any], label_set: LabelSet, splits: Mapping[str, CacheSplit]
) -> Iterator[None]:
  """Makes a directory that `check` let pass a run's, and this process's own inside the `with` block.

  Args:
    workdir: Created if missing.
    config: The whole configuration as plain data; paths in it are stored as absolute ones.
    label_set: What the class indices mean.
    splits: The data the run uses, by split.

  Raises:
    InputError: Another process is training there, or the data are not those the run began with.
    RunError: It cannot be written.
  """
  if jax.process_index() != 0:
    yield
    return
  data = {
    split: {'name': s.name, 'examples': len(s), 'fingerprint': s.fingerprint} for split, s in splits.items()
  }
  with _lock(workdir):
    if (workdir / CONFIG).exists():
      _check_same_data(workdir, data)
    else:
      write_json(workdir / LABELS, label_set.to_json())
      write_json(workdir / DATA, data)
      write_json(workdir / PROVENANCE, [])
      write_json(workdir / CONFIG, _stored_form(config))  # last: it makes the directory a run's
    yield


def record_start(
  workdir: pathlib.Path,
  config: dict[str, Any],
  step: int,
  extractor_weights: dict[str, Any] | None = None,
  class_weights: tuple[float, ...] | None = None,
) -> None:
  """Notes that a run starts or resumes at `step`, with which configuration and which weights."""
  if jax.process_index() == 0:
    starts = _read_json(workdir, PROVENANCE)
    start = {'step': step, **provenance()}
    if extractor_weights is not None:
      start['extractor_weights'] = extractor_weights
    if class_weights is not None:
      start['class_weights'] = list(class_weights)
    write_json(workdir / PROVENANCE, [*starts, start])
    write_json(workdir / CONFIG, _stored_form(config))


@contextlib.contextmanager
def _lock(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps a second training out of the directory; the lock ends with the process, however it ends."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = (workdir / '.lock').open('a')
  except OSError as error:
    raise RunError(f'{workdir}: cannot be written ({error.strerror})') from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise InputError(f'{workdir}: another process is training there; wait, or choose another') from error
    yield


def _check_same_data(workdir: pathlib.Path, data: dict[str, Any]) -> None:
  stored = _read_json(workdir, DATA)
  for split, found in data.items():
    before = stored.get(split, {})
    if (before.get('examples'), before.get('fingerprint')) != (found['examples'], found['fingerprint']):
      raise InputError(
        f'{workdir}: the data of split {split!r} have changed since this run began ({before.get("examples")} '
        f'examples of {before.get("name")}, now {found["examples"]} of {found["name"]}). Restore them, or '
        'choose another --workdir'
      )


def _check_same(workdir: pathlib.Path, config: dict[str, Any], label_set: LabelSet) -> None:
  stored = dict(_flat(read_config(workdir)))
  given = dict(_flat(config))
  free = _FREE_FIELDS
  if given.get('optimizer.schedule') == 'constant':
    free += ('training.num_epochs',)
  different = [
    f'config.{name}: {stored.get(name)!r} there, {given.get(name)!r} given'
    for name in sorted(stored.keys() | given.keys())
    if stored.get(name) != given.get(name) and not name.startswith(free)
  ]
  if read_label_set(workdir) != label_set:
    different.append(f'the content of label set {label_set.name!r}')
  if different:
    raise InputError(
      f'{workdir}: holds a run of another configuration ({"; ".join(different)}). '
      'Give its configuration to resume it, or choose another --workdir'
    )


def _stored_form(config: dict[str, Any]) -> dict[str, Any]:
  """Plain JSON data with absolute paths, so that a run can be used from any directory."""
  config = _plain(config)
  data = config['data']
  if data['data_dir'] is not None:
    data['data_dir'] = _absolute(data['data_dir'])
  if data['dataset'].startswith(FOLDER_PREFIX):
    data['dataset'] = FOLDER_PREFIX + _absolute(data['dataset'].removeprefix(FOLDER_PREFIX))
  if data['label_set'] not in LABEL_SETS:
    data['label_set'] = _absolute(data['label_set'])
  if config['init']['extractor_weights'] is not None:
    config['init']['extractor_weights'] = _absolute(config['init']['extractor_weights'])
  return config


def _absolute(path: str) -> str:
  return str(pathlib.Path(path).expanduser().absolute())


def _plain(value: Any) -> Any:
  """Tuples become lists, as JSON has them."""
  if isinstance(value, dict):
    return {name: _plain(v) for name, v in value.items()}
  return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _tuples(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _tuples(v) for name, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _flat(tree: dict[str, Any], prefix: str = '') -> list[tuple[str, Any]]:
  pairs = []
  for name, value in tree.items():
    pairs += (
      _flat(value, f'{prefix}{name}.') if isinstance(value, dict) else [(f'{prefix}{name}', _plain(value))]
    )
  return pairs


def _read_json(workdir: pathlib.Path, name: str) -> Any:
  path = workdir / name
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError as error:
    raise InputError(
      f'{workdir}: no {name} there, so it is not the directory of a run; check --workdir'
    ) from error
  except (OSError, ValueError) as error:
    raise InputError(f'{path}: cannot be read as JSON ({error})') from error


def scored_step(workdir: pathlib.Path) -> int | None:
  """Step of the last evaluation that is complete, None if there is none."""
  try:
    return json.loads((workdir / SCORES).read_text(encoding='utf-8'))['step']
  except (OSError, ValueError, KeyError, TypeError):
    return None


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """The configuration stored with a run, as plain data; no code of the workdir is executed."""
  return _tuples(_read_json(workdir, CONFIG))


def read_label_set(workdir: pathlib.Path) -> LabelSet:
  """The label set stored with a run."""
  return LabelSet.from_json(_read_json(workdir, LABELS), str(workdir / LABELS))


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained network with all that is needed to use it.

  Attributes:
    config: The run's configuration as plain data.
    label_set: What its class indices mean.
    model: The segmentation model.
    variables: Its 'params' and 'batch_stats'.
    step: Updates made before the checkpoint was written.
    predictor: Predicts RGB images of any size.
    weights: Which variables they are: 'raw', or 'ema', their moving averages.
    bn: Which statistics BN takes: 'running', those of training, or 'recalibrated'.
  """

  config: dict[str, Any]
  label_set: LabelSet
  model: nn.Module
  variables: dict[str, Any]
  step: int
  predictor: Predictor
  weights: str
  bn: str

  def load_split(
    self, split: str, data_dir: str | None = None, cached: bool = False
  ) -> CacheSplit | DecodedSplit:
    """Opens a split of the run's data set as this network takes it, with labels at their native size.

    Args:
      split: 'train' (not augmented, without what the run held out), 'held_out', 'train+validation',
        'validation' or 'test'.
      data_dir: Where the prepared data are; None: where the run's configuration says.
      cached: See `datasets.load.load_split`.
    """
    data = self.config['data']
    return load_split(
      data['dataset'],
      split,
      data_dir=data_dir or data['data_dir'],
      label_set=self.label_set,
      image_size=data['image_size'],
      native_labels=True,
      keep_aspect=data['keep_aspect'],
      cached=cached,
      held_out=data.get('held_out', ()),
    )

  def load_train_split(self, data_dir: str | None = None) -> CacheSplit:
    """Opens the training split as training reads it, without what is held out; not augmented.

    Args:
      data_dir: As in `load_split`.
    """
    data = self.config['data']
    return load_split(
      data['dataset'],
      data['train_split'],
      data_dir=data_dir or data['data_dir'],
      label_set=self.label_set,
      image_size=data['image_size'],
      native_labels=False,
      skip_bad=data.get('skip_bad', 0),
      held_out=data.get('held_out', ()),
    )


def load_run(
  workdir: str | os.PathLike, checkpoint: str = 'best', weights: str | None = None, bn: str = RUNNING
) -> Run:
  """Loads a run: `load_run('runs/x').predictor.predict(image)` gives class indices.

  Args:
    workdir: The run's directory.
    checkpoint: 'best' (by validation mIoU), 'latest', or a step.
    weights: 'raw', or 'ema' for the moving averages; None: these where the run has them.
    bn: The statistics that BN takes: 'running', those of training, or 'recalibrated', what `dense-aspp
      recalibrate` made of them.

  Raises:
    InputError: Not a run's directory, or no such checkpoint, averages or statistics.
  """
  workdir = pathlib.Path(workdir)
  config = read_config(workdir)
  label_set = read_label_set(workdir)
  try:
    model = create_model(**config['model'])
    data = config['data']
    preprocessing = {name: data[name] for name in ('image_size', 'mean', 'std', 'keep_aspect')}
  except (KeyError, TypeError) as error:
    raise InputError(f'{workdir / CONFIG}: not the configuration of a run ({error})') from error
  if label_set.num_classes != config['model']['num_classes']:
    raise InputError(
      f'{workdir}: {LABELS} has {label_set.num_classes} classes, {CONFIG} says model.num_classes = '
      f'{config["model"]["num_classes"]}; restore the files of the run'
    )
  weights = _weights(workdir, config, weights)
  step, variables = restore_variables(
    workdir, checkpoint, abstract_variables(model), config['model'], weights
  )
  if bn == RECALIBRATED:
    statistics = load_statistics(workdir, checkpoint, step, weights, variables.get('batch_stats', {}))
    variables = {**variables, 'batch_stats': jax.device_put(statistics, jax.local_devices()[0])}
  elif bn != RUNNING:
    raise InputError(f'bn {bn!r}: expected {RUNNING} or {RECALIBRATED}')
  predictor = Predictor(model, variables, **preprocessing)
  return Run(config, label_set, model, variables, step, predictor, weights, bn)


def _weights(workdir: pathlib.Path, config: dict[str, Any], weights: str | None) -> str:
  has_ema = bool(config.get('training', {}).get('ema_decay'))
  if weights is None:
    return EMA if has_ema else RAW
  if weights not in (RAW, EMA):
    raise InputError(f'weights {weights!r}: expected {RAW} or {EMA}')
  if weights == EMA and not has_ema:
    raise InputError(
      f'{workdir}: no moving averages of the weights (training.ema_decay = 0 in {CONFIG}); use those of {RAW}'
    )
  return weights
