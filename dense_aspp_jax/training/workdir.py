"""The directory of a run: what is written beside the checkpoints, and whether a run may go on in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dense_aspp_jax.datasets.cache import CacheSplit
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import check_writable, read_json, write_json
from dense_aspp_jax.labels import LABEL_SETS, LabelSet
from dense_aspp_jax.provenance import provenance

CONFIG = 'config.json'
LABELS = 'labels.json'
DATA = 'data.json'
SCORES = 'scores.json'  # of the last evaluation
PROVENANCE = 'provenance.json'  # one entry for each time the run was started

_REMEDY = 'restore the files of the run, or check --workdir'

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
    starts = read_json(workdir / PROVENANCE, _REMEDY)
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
  stored = read_json(workdir / DATA, _REMEDY)
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


def scored_step(workdir: pathlib.Path) -> int | None:
  """Step of the last evaluation that is complete, None if there is none."""
  try:
    return json.loads((workdir / SCORES).read_text(encoding='utf-8'))['step']
  except (OSError, ValueError, KeyError, TypeError):
    return None


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
  """The configuration stored with a run, as plain data; no code of the workdir is executed."""
  if not (workdir / CONFIG).exists():
    raise InputError(f'{workdir}: no {CONFIG} there, so it is not the directory of a run; check --workdir')
  return _migrated(_tuples(read_json(workdir / CONFIG, _REMEDY)))


def _migrated(config: dict[str, Any]) -> dict[str, Any]:
  """A configuration as it is written now: `model.implementation` was `formulation`, 'fast' or 'plain'."""
  model = config.get('model')
  if not isinstance(model, dict) or 'formulation' not in model:
    return config
  names = {'fast': 'fused', 'plain': 'reference'}
  model = {**model, 'implementation': names.get(model['formulation'], model['formulation'])}
  del model['formulation']
  return {**config, 'model': model}


def read_label_set(workdir: pathlib.Path) -> LabelSet:
  """The label set stored with a run."""
  return LabelSet.from_json(read_json(workdir / LABELS, _REMEDY), str(workdir / LABELS))
