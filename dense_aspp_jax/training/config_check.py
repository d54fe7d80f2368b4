"""Which fields a configuration has, and which values each may take; found before anything is written."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dense_aspp_jax.datasets.class_frequencies import CLASS_WEIGHTINGS
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.training.augmentation import Augmentation
from dense_aspp_jax.training.region_losses import REGION_LOSSES
from dense_aspp_jax.weights.store import ExtractorWeights


def _is_integer(value: Any, low: float, high: float = math.inf) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(count: int | None, low: float, *, above: bool = False) -> Callable[[Any], bool]:
  """Whether a value is so many finite numbers, each at least `low`, or above it."""

  def holds(value: Any) -> bool:
    return (
      isinstance(value, tuple | list)
      and (count is None or len(value) == count)
      and all(_is_number(v) and (v > low if above else v >= low) for v in value)
    )

  return holds


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and bool(value)


_POSITIVE = (lambda v: _is_number(v) and v > 0, 'a number above 0')
_NOT_NEGATIVE = (lambda v: _is_number(v) and v >= 0, 'a number of at least 0')
_COUNT = (lambda v: _is_integer(v, 1), 'an integer of at least 1')
_COUNT_OR_ZERO = (lambda v: _is_integer(v, 0), 'an integer of at least 0')
_SHARE = (lambda v: _is_number(v) and 0 <= v <= 1, 'a number, 0 to 1')
_BELOW_ONE = (lambda v: _is_number(v) and 0 <= v < 1, 'a number of at least 0, below 1')
_TEXT = (_is_text, 'a text')
_SWITCH = (lambda v: isinstance(v, bool), 'True or False')
_MOST = 2**16  # channels of a layer, pixels of a dilation: what is larger is a mistake and fits no device

# Section -> field -> (whether a value is right, what is expected). configs/default.py says what each means.
RULES: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
  'model': {
    'extractor': _TEXT,
    'output_stride': _COUNT,
    'last_layer': (lambda v: v is None or _is_text(v), 'the name of a layer'),
    'fourth_transition': _SWITCH,
    'dilation_rates': (
      lambda v: isinstance(v, tuple | list) and bool(v) and all(_is_integer(n, 1, _MOST) for n in v),
      f'integers, 1 to {_MOST}',
    ),
    'growth_rate': (lambda v: _is_integer(v, 1, _MOST), f'an integer, 1 to {_MOST}'),
    'bottleneck_width': (lambda v: _is_integer(v, 0, _MOST), f'an integer, 0 to {_MOST}'),
    'first_norm': _SWITCH,
    'final_norm': _SWITCH,
    'use_bias': _SWITCH,
    'rectify_features': _SWITCH,
    'dropout_rate': _BELOW_ONE,
    'skip_head': _SWITCH,
    'auxiliary_head': _SWITCH,
    'num_classes': _COUNT,
    'compute_dtype': _TEXT,
    'implementation': _TEXT,
    'rematerialize': _SWITCH,
  },
  'init': {
    'extractor_weights': (lambda v: v is None or _is_text(v), 'a directory that `dense-aspp convert` wrote'),
  },
  'data': {
    'dataset': _TEXT,
    'data_dir': (lambda v: v is None or _is_text(v), 'a folder'),
    'label_set': _TEXT,
    'train_split': _TEXT,
    'validation_split': _TEXT,
    'held_out': (
      lambda v: isinstance(v, tuple | list) and all(map(_is_text, v)),
      'a tuple of texts, beginnings of image ids',
    ),
    'image_size': (
      lambda v: isinstance(v, tuple | list) and len(v) == 2 and all(_is_integer(n, 1) for n in v),
      '(height, width) in pixels',
    ),
    'keep_aspect': _SWITCH,
    'mean': (_numbers(3, -math.inf), 'three numbers'),
    'std': (_numbers(3, 0, above=True), 'three numbers above 0'),
    'on_device': _SWITCH,
    'num_workers': _COUNT_OR_ZERO,
    'skip_bad': _COUNT_OR_ZERO,
  },
  'loss': {
    'class_weighting': (
      lambda v: v in ('none', *CLASS_WEIGHTINGS),
      f'none, {" or ".join(CLASS_WEIGHTINGS)}',
    ),
    'class_weights': (
      lambda v: _numbers(None, 0)(v) and (not v or any(v)),
      'none, or one number of at least 0 a class, not all 0',
    ),
    'ignore_label': (lambda v: _is_integer(v, 0, 255), 'a class index, or 255'),
    'ohem_threshold': _SHARE,
    'ohem_min_kept': _SHARE,
    'region': (lambda v: v in ('none', *REGION_LOSSES), f'none, {" or ".join(REGION_LOSSES)}'),
    'region_weight': _NOT_NEGATIVE,
    'auxiliary_weight': _NOT_NEGATIVE,
  },
  'optimizer': {
    'name': _TEXT,
    'learning_rate': _POSITIVE,
    'weight_decay': _NOT_NEGATIVE,
    'decay_norms_and_biases': _SWITCH,
    'clip_norm': _NOT_NEGATIVE,
    'momentum': _BELOW_ONE,
    'schedule': _TEXT,
    'poly_power': _POSITIVE,
    'warmup_steps': _COUNT_OR_ZERO,
  },
  'training': {
    'num_epochs': _POSITIVE,
    'batch_size': _COUNT,
    'gradient_accumulation': _COUNT,
    'ema_decay': _BELOW_ONE,
    'max_skipped_steps': _COUNT_OR_ZERO,
    'log_every_steps': _COUNT,
  },
  'evaluation': {'every_epochs': _POSITIVE, 'batch_size': _COUNT, 'num_pictures': _COUNT_OR_ZERO},
  'checkpoint': {'every_epochs': _POSITIVE, 'keep': _COUNT},
}


def check_fields(config: ConfigDict) -> None:
  """Checks that a configuration has exactly the fields it should, each with a value it may have.

  Raises:
    InputError: Names the field, what it is and what is expected.
  """
  expected = {section: set(rules) for section, rules in RULES.items()}
  expected['augmentation'] = set(inspect.signature(Augmentation).parameters)
  _compare('config', set(config.keys()), {*expected, 'seed'})
  for section, fields in expected.items():
    if not isinstance(config[section], ConfigDict):
      raise InputError(f'config.{section} = {config[section]!r}: expected a section with fields')
    _compare(f'config.{section}', set(config[section].keys()), fields)
    for field, value in config[section].items():
      _refuse_section(f'config.{section}.{field}', value)
  _refuse_section('config.seed', config.seed)
  if not _is_integer(config.seed, 0, 2**32 - 1):
    raise InputError(f'config.seed = {config.seed!r}: expected an integer, 0 to {2**32 - 1}')
  for section, rules in RULES.items():
    for field, (holds, text) in rules.items():
      value = config[section][field]
      if not holds(value):
        raise InputError(f'config.{section}.{field} = {value!r}: expected {text}')


def check_extractor_weights(config: ConfigDict, weights: ExtractorWeights) -> None:
  """Checks that converted weights are of the configured extractor and see the images they are used to.

  Raises:
    InputError: Names the fields and both values.
  """
  where = f'config.init.extractor_weights = {config.init.extractor_weights!r}'
  if weights.architecture != config.model.extractor:
    raise InputError(
      f'{where} are of {weights.architecture}, but config.model.extractor = {config.model.extractor!r}; '
      'set them alike'
    )
  for name in ('mean', 'std'):
    if not np.allclose(config.data[name], getattr(weights, name), rtol=0, atol=1e-4):
      raise InputError(
        f'{where} need config.data.{name} = {getattr(weights, name)}, but it is {tuple(config.data[name])}; '
        'set it so'
      )


def check_consistency(config: ConfigDict, label_set: LabelSet, num_devices: int) -> None:
  """Checks what fields must agree on among themselves, with the label set and the devices.

  Raises:
    InputError: Names the fields and both values.
  """
  if label_set.num_classes != config.model.num_classes:
    raise InputError(
      f'config.model.num_classes = {config.model.num_classes}, but label set {config.data.label_set!r} has '
      f'{label_set.num_classes} classes; set them alike'
    )
  if config.loss.class_weights and len(config.loss.class_weights) != label_set.num_classes:
    raise InputError(
      f'config.loss.class_weights has {len(config.loss.class_weights)} values; '
      f'expected {label_set.num_classes}, one a class, or none'
    )
  if config.loss.class_weights and config.loss.class_weighting != 'none':
    raise InputError(
      f'config.loss.class_weighting = {config.loss.class_weighting!r}, and config.loss.class_weights are '
      'given: set one of them only'
    )
  parts = num_devices * config.training.gradient_accumulation
  if config.training.batch_size % parts:
    raise InputError(
      f'config.training.batch_size = {config.training.batch_size}: expected a multiple of {parts} '
      f'({num_devices} devices x gradient_accumulation {config.training.gradient_accumulation})'
    )


def _refuse_section(where: str, value: Any) -> None:
  if isinstance(value, ConfigDict):
    raise InputError(f'{where} is a section with fields; expected a value')


def _compare(where: str, found: set[str], expected: set[str]) -> None:
  problems = [f'unknown field {where}.{name}' for name in sorted(found - expected)]
  problems += [f'missing field {where}.{name}' for name in sorted(expected - found)]
  if problems:
    raise InputError(f'{"; ".join(problems)}. configs/default.py has every field')
