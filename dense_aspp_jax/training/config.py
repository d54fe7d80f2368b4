"""The configuration of a run: the checked form of its fields, its hash, and what older versions wrote.

configs/default.py describes every field. A section becomes one frozen dataclass, which checks its values and
lives in the module that uses it. Sections that only the training script reads are here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from dense_aspp_jax import fields
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import LABEL_SETS
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.models.segmentation import Network, SegmentationModel
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.objective import Objective
from dense_aspp_jax.training.optimizer import Optimizer


class _Free(NamedTuple):
  """Where a field does not matter."""

  on_resume: bool  # a resumed run may change it: no update already made depends on it
  in_hash: bool  # the hash leaves it out: the experiment is the same


# Fields that do not matter everywhere. A name that ends with a dot is a whole section.
FREE = {
  'seed': _Free(on_resume=False, in_hash=True),
  'data.data_dir': _Free(on_resume=True, in_hash=True),
  'data.cache_dir': _Free(on_resume=True, in_hash=True),
  'data.num_workers': _Free(on_resume=True, in_hash=True),
  'data.on_device': _Free(on_resume=True, in_hash=True),
  'data.skip_bad': _Free(on_resume=True, in_hash=False),  # data.json tells if it leaves out other images
  'training.max_skipped_steps': _Free(on_resume=True, in_hash=False),
  'training.log_every_steps': _Free(on_resume=True, in_hash=True),
  'evaluation.': _Free(on_resume=True, in_hash=True),
  'checkpoint.': _Free(on_resume=True, in_hash=True),
}
# Fields added since runs were published, with the value that a configuration without them means. The hash
# leaves out this value.
_ADDED = {
  'data.cache_dir': None,
  'data.class_map': (),
  'data.shares': (),
  'init.run': None,
  'optimizer.extractor_learning_rate_factor': 1.0,
  'augmentation.gamma': 0.0,
  'augmentation.white_balance': 0.0,
  'augmentation.grayscale_probability': 0.0,
  'augmentation.rotation': 0.0,
  'augmentation.blur': 0.0,
  'augmentation.noise': 0.0,
}
# The arrays of a network do not depend on them. 'formulation' is the former name of 'implementation'.
_NOT_IN_ARRAYS = ('compute_dtype', 'implementation', 'formulation', 'rematerialize', 'dropout_rate')
_FORMULATIONS = {'fast': 'fused', 'plain': 'reference'}  # former value of model.formulation -> implementation
_HASH_DIGITS = 12
EVERY_FIELD = 'configs/default.py has every field (`dense-aspp config default` prints it)'


@dataclasses.dataclass(frozen=True)
class Init:
  """The section `config.init`: what a run starts from."""

  extractor_weights: str | None = None
  run: str | None = None

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    for name, expected in (
      ('extractor_weights', 'a directory that `dense-aspp convert` wrote'),
      ('run', 'the workdir of a run, or a model file'),
    ):
      if getattr(self, name) is not None:
        fields.check_string(f'init.{name}', getattr(self, name), expected)
    if self.extractor_weights is not None and self.run is not None:
      raise InputError(
        f'config.init.run = {self.run!r}, config.init.extractor_weights = {self.extractor_weights!r}: set '
        'one of them; the weights of a run include its extractor'
      )


@dataclasses.dataclass(frozen=True)
class Training:
  """The section `config.training`: how long and in which batches a run trains."""

  num_epochs: float
  batch_size: int
  gradient_accumulation: int = 1
  ema_decay: float = 0.0
  max_skipped_steps: int = 0
  log_every_steps: int = 1

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    fields.check_number('training.num_epochs', self.num_epochs, above=0)
    fields.check_integer('training.batch_size', self.batch_size, 1)
    fields.check_integer('training.gradient_accumulation', self.gradient_accumulation, 1)
    fields.check_number('training.ema_decay', self.ema_decay, at_least=0, below=1)
    fields.check_integer('training.max_skipped_steps', self.max_skipped_steps, 0)
    fields.check_integer('training.log_every_steps', self.log_every_steps, 1)


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The section `config.evaluation`: when and how the validation split is scored."""

  every_epochs: float = 1.0
  batch_size: int = 8
  num_pictures: int = 4

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    fields.check_number('evaluation.every_epochs', self.every_epochs, above=0)
    fields.check_integer('evaluation.batch_size', self.batch_size, 1)
    fields.check_integer('evaluation.num_pictures', self.num_pictures, 0)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The section `config.checkpoint`: when the state is saved, and how many of the newest states stay."""

  every_epochs: float = 1.0
  keep: int = 2

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    fields.check_number('checkpoint.every_epochs', self.every_epochs, above=0)
    fields.check_integer('checkpoint.keep', self.keep, 1)


SECTIONS = {
  'model': Network,
  'init': Init,
  'data': Data,
  'augmentation': Augmentation,
  'loss': Objective,
  'optimizer': Optimizer,
  'training': Training,
  'evaluation': Evaluation,
  'checkpoint': Checkpoint,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """A checked configuration: one attribute per section of configs/default.py."""

  seed: int
  model: SegmentationModel
  init: Init
  data: Data
  augmentation: Augmentation
  loss: Objective
  optimizer: Optimizer
  training: Training
  evaluation: Evaluation
  checkpoint: Checkpoint
  label_set: LabelSet


def parse_config(config: ConfigDict | Mapping[str, Any], num_devices: int = 1) -> Config:
  """Checks the names and values of all fields, and what they must agree on.

  Args:
    config: As configs/default.py.
    num_devices: Devices that a batch of training is spread over.

  Raises:
    InputError: Names the field, what was found and what is expected.
  """
  config = tuples(with_added_fields(config))
  check_names(config)
  fields.check_integer('seed', config['seed'], 0, 2**32 - 1)
  sections = {name: cls(**config[name]) for name, cls in SECTIONS.items()}
  sections['model'] = sections['model'].create(sections['optimizer'].freezes_extractor)
  label_set = sections['data'].load_label_set()
  checked = Config(config['seed'], label_set=label_set, **sections)
  if label_set.num_classes != checked.model.num_classes:
    raise InputError(
      f'config.model.num_classes = {checked.model.num_classes}, but label set '
      f'{checked.data.label_set or label_set.name!r} has {label_set.num_classes} classes; set '
      f'config.model.num_classes = {label_set.num_classes}'
    )
  if checked.loss.class_weights and len(checked.loss.class_weights) != label_set.num_classes:
    raise InputError(
      f'config.loss.class_weights has {len(checked.loss.class_weights)} values; '
      f'expected {label_set.num_classes}, one per class, or none'
    )
  checked.data.label_sets(label_set)  # raises where classes have no counterpart
  shares, batch_size = checked.data.shares, checked.training.batch_size
  if shares and sum(shares) != batch_size:
    raise InputError(
      f'config.data.shares = {shares}: their sum is {sum(shares)}; expected {batch_size}, '
      'config.training.batch_size'
    )
  parts = num_devices * checked.training.gradient_accumulation
  if batch_size % parts:
    raise InputError(
      f'config.training.batch_size = {batch_size}: expected a multiple of {parts} '
      f'({num_devices} devices x gradient_accumulation {checked.training.gradient_accumulation})'
    )
  return checked


def check_names(config: Mapping[str, Any]) -> None:
  """Raises InputError for fields that are unknown or missing."""
  there = {name: cls for name, cls in SECTIONS.items() if isinstance(config.get(name), ConfigDict | Mapping)}
  expected = {f'{name}.{field.name}' for name, cls in there.items() for field in dataclasses.fields(cls)}
  expected.add('seed')
  missing = sorted(SECTIONS.keys() - there.keys())
  found = set(flatten_dict(plain(config), keep_empty_nodes=True, sep='.')) - {*missing}
  problems = [f'config.{name} = {config.get(name)!r}: expected a section with fields' for name in missing]
  problems += [f'unknown field config.{name}' for name in sorted(found - expected)]
  problems += [f'missing field config.{name}' for name in sorted(expected - found)]
  if problems:
    raise InputError(f'{"; ".join(problems)}. {EVERY_FIELD}')


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
  """A stored configuration in today's fields: what an older version wrote, with what it meant."""
  config = with_added_fields(config)
  model = config.get('model')
  if isinstance(model, dict) and (former := model.pop('formulation', None)):
    model['implementation'] = _FORMULATIONS.get(former, former) if isinstance(former, str) else former
  return config


def with_added_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """A configuration as plain data, with the fields that did not exist yet when it was written."""
  config = plain(config)
  for name, value in _ADDED.items():
    section, _, field = name.partition('.')
    if isinstance(config.get(section), dict):
      config[section].setdefault(field, plain(value))
  return config


def model_record(model_fields: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a network that decide its arrays, as JSON data."""
  return {name: plain(value) for name, value in model_fields.items() if name not in _NOT_IN_ARRAYS}


def config_hash(config: Mapping[str, Any], label_set: LabelSet, starts: Sequence[Mapping[str, Any]]) -> str:
  """A short name of a configuration: equal for all seeds of an experiment, on every machine and version.

  The first 12 hexadecimal digits of the SHA-256 of its canonical JSON, without the fields that do not matter.
  Paths are replaced by a folder's own name, the content of a label set, the digest of the weights that a run
  starts from. A run that was continued with other fields is another experiment: the steps and the former
  values count.

  Args:
    config: Of the run, as plain data.
    label_set: What its class indices mean.
    starts: The entries of its provenance.json.
  """
  config = plain(config)
  data, init, model = config['data'], config['init'], config.get('model', {})
  if isinstance(data.get('dataset'), list):
    data['dataset'] = [_without_path(name) for name in data['dataset']]
  elif 'dataset' in data:
    data['dataset'] = _without_path(data['dataset'])
  if data.get('label_set') is None and LABEL_SETS.get(label_set.name) == label_set:
    data['label_set'] = label_set.name  # as if it had been named
  elif data.get('label_set') not in LABEL_SETS:
    data['label_set'] = label_set.to_json()
  if init['extractor_weights'] is not None:
    digests = [s['extractor_weights']['sha256'] for s in starts if s.get('extractor_weights')]
    init['extractor_weights'] = digests[0] if digests else _last_part(init['extractor_weights'])
  if init.get('run') is not None:
    digests = [s['init_run']['sha256'] for s in starts if s.get('init_run')]
    init['run'] = digests[0] if digests else _last_part(init['run'])
  for name, value in _ADDED.items():
    section, _, field = name.partition('.')
    if field in config.get(section, {}) and config[section][field] == plain(value):
      del config[section][field]
  if continued := _continuations(config, starts):
    config['continued'] = continued
  if 'implementation' in model:  # hashed under its former name: the hashes of published runs stay
    former = {value: name for name, value in _FORMULATIONS.items()}
    implementation = model.pop('implementation')
    model['formulation'] = former.get(implementation, implementation)
  for name in (name for name, free in FREE.items() if free.in_hash):
    section, _, field = name.partition('.')
    (config[section] if field else config).pop(field or section, None)
  return hashlib.sha256(canonical(config).encode()).hexdigest()[:_HASH_DIGITS]


def _continuations(config: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> list[Any]:
  """The step of each continuation and the former values of its fields, the last one first."""
  fields_from: dict[float, dict[str, Any]] = {}  # by step; of several starts at one step the last counts
  values, step = flatten_dict(config, sep='.'), math.inf
  for start in reversed(starts):
    step = min(step, start.get('step', 0))  # a run may have fallen back to an older checkpoint later
    fields_from.setdefault(step, values)
    values = values | {name: before for name, (before, _) in (start.get('changed') or {}).items()}
  found = []
  for (step, after), (_, before) in itertools.pairwise([*fields_from.items(), (0, values)]):
    changed = {name: value for name, value in before.items() if value != after.get(name)}
    if before.get('optimizer.schedule') == after.get('optimizer.schedule') == 'constant':
      changed.pop('training.num_epochs', None)  # the same updates as of a run begun with as many epochs
    if changed:
      found.append([step, changed])
  return found


def canonical(data: Any) -> str:
  """JSON data as the one text that equal data have."""
  return json.dumps(data, sort_keys=True, separators=(',', ':'), ensure_ascii=True)


def plain(value: Any) -> Any:
  """As JSON has it, copied: tuples become lists."""
  if isinstance(value, ConfigDict | Mapping):
    return {name: plain(v) for name, v in value.items()}
  return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def tuples(value: Any) -> Any:
  """As a configuration file has it: the lists of JSON become tuples."""
  if isinstance(value, dict):
    return {name: tuples(v) for name, v in value.items()}
  return tuple(tuples(v) for v in value) if isinstance(value, list) else value


def _without_path(dataset: str) -> str:
  """A data set as the hash has it: of a folder its own name."""
  if not dataset.startswith(FOLDER_PREFIX):
    return dataset
  return FOLDER_PREFIX + _last_part(dataset.removeprefix(FOLDER_PREFIX))


def _last_part(path: str) -> str:
  return path.rstrip('/').rsplit('/', 1)[-1]
