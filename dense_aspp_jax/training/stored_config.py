"""A configuration that is read from the directory of a run: its checks, and how a resumed run may differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from dense_aspp_jax import fields
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.config import FREE, SECTIONS, plain

# A resumed run may change these too; the updates that follow are others, so its hash is another one.
_CONTINUATION = (
  'training.num_epochs',
  'optimizer.learning_rate',
  'optimizer.weight_decay',
  'optimizer.schedule',
  'optimizer.poly_power',
  'optimizer.warmup_steps',
)


def check_stored(config: Any) -> None:
  """Checks a configuration that was stored with a run, which anyone may have edited since.

  Sections and fields may be missing where an earlier version or another program wrote none and there is a
  default.

  Raises:
    InputError: Names the field.
  """
  if not isinstance(config, Mapping):
    raise InputError(f'{str(config)[:40]!r}: expected the sections of a configuration')
  for name, cls in SECTIONS.items():
    if name not in config and name not in ('model', 'data'):
      continue
    section = config.get(name)
    fields.check(name, section, isinstance(section, Mapping), 'fields with values')
    known = dataclasses.fields(cls)
    problems = [f'unknown field config.{name}.{f}' for f in sorted(section.keys() - {f.name for f in known})]
    problems += [
      f'missing field config.{name}.{field.name}'
      for field in known
      if field.default is dataclasses.MISSING and field.name not in section
    ]
    if problems:
      raise InputError('; '.join(problems))
    checked = cls(**section)
    if name == 'model':
      checked.create()
  if (seed := config.get('seed')) is not None:  # trained elsewhere
    fields.check_integer('seed', seed, 0, 2**32 - 1)


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
  """In which fields a run cannot be resumed because it was begun with others: the name and both values.

  Where a data set, weights or a labels.json lie does not matter: content is compared elsewhere.
  """
  free = tuple(name for name, field in FREE.items() if field.on_resume)
  return [
    f'config.{name}: {before!r} there, {after!r} given'
    for name, (before, after) in _different(stored, given).items()
    if not name.startswith(free) and name not in _CONTINUATION and not _may_have_moved(name, before, after)
  ]


def continuation(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, list[Any]]:
  """How a resumed run is to go on otherwise than it was begun: [former, new value] by field."""
  return {name: values for name, values in _different(stored, given).items() if name in _CONTINUATION}


def _different(stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, list[Any]]:
  stored, given = (flatten_dict(plain(config), sep='.') for config in (stored, given))
  names = sorted(stored.keys() | given.keys())
  return {n: [stored.get(n), given.get(n)] for n in names if stored.get(n) != given.get(n)}


def _may_have_moved(name: str, before: Any, after: Any) -> bool:
  if name in ('init.extractor_weights', 'init.run'):
    return before is not None and after is not None
  if name == 'data.dataset':
    if not isinstance(before, list) or not isinstance(after, list):
      before, after = [before], [after]
    return len(before) == len(after) and all(
      old == new or all(str(value).startswith(FOLDER_PREFIX) for value in (old, new))
      for old, new in zip(before, after, strict=True)
    )
  return name == 'data.label_set'
