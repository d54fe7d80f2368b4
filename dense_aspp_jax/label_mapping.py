"""Label maps of one data set in the classes of another one.

The counterpart of a class is what a configuration says, else what the table of a published pair says, else
the class of the same name. A class that has no single counterpart can be ignored, or be one of several:
training learns that a pixel is of one of them, without saying of which, and scores leave it out.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CAMVID_11, CAMVID_31, CITYSCAPES_19
from dense_aspp_jax.label_tables import (
  CAMVID_32_TO_CITYSCAPES,
  CAMVID_TO_CITYSCAPES,
  CITYSCAPES_TO_CAMVID,
  IGNORED,
)
from dense_aspp_jax.labels import IGNORE_LABEL, Color, LabelSet

# Pairs (class of a data set, class of a run, several joined by `OR`, or `IGNORED`).
ClassMap = Sequence[tuple[str, str]]
OR = '|'

# From the classes of one label set to those of another.
_TABLES = (
  (CAMVID_11, CITYSCAPES_19, CAMVID_TO_CITYSCAPES),
  (CAMVID_31, CITYSCAPES_19, CAMVID_32_TO_CITYSCAPES),
  (CITYSCAPES_19, CAMVID_11, CITYSCAPES_TO_CAMVID),
)


@dataclasses.dataclass(frozen=True)
class MappedLabelSet(LabelSet):
  """The classes of a run with the label ids of a data set that has other classes.

  `encode` takes the data set's label ids, `decode` gives the run's. A class that the data set lacks has no
  ids.

  Attributes:
    own: The data set's label set.
    run: The run's.
    counterparts: Each class of the data set with its class of the run, several joined by `OR`, or `IGNORED`.
    groups: Of `label_groups`, those that are a counterpart: label ids, and the value that stands for them.
  """

  own: LabelSet = dataclasses.field(kw_only=True)
  run: LabelSet = dataclasses.field(kw_only=True)
  counterparts: ClassMap = dataclasses.field(kw_only=True)
  groups: tuple[tuple[tuple[int, ...], int], ...] = dataclasses.field(default=(), kw_only=True)

  @classmethod
  def of(
    cls,
    own: LabelSet,
    run: LabelSet,
    counterparts: Mapping[str, tuple[str, ...]],
    groups: Sequence[tuple[int, ...]] = (),
  ) -> MappedLabelSet:
    """Makes the set of two others.

    Args:
      own: The data set's.
      run: The run's.
      counterparts: Of every class of `own`: the classes of `run` that `_members` gives.
      groups: From `label_groups`.
    """
    ids: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for label_class in own.classes:
      ids[counterparts[label_class.name]] += label_class.ids
    of_groups = [
      (tuple(ids[tuple(run.class_names[i] for i in members)]), group_value(number))
      for number, members in enumerate(groups)
    ]
    return cls(
      f'{own.name} as {run.name}',
      tuple(dataclasses.replace(c, ids=tuple(ids[c.name,]), more_colors=()) for c in run.classes),
      (*own.ignore_ids, *ids[()], *(i for group_ids, _ in of_groups for i in group_ids)),
      own.label_colors,
      own.ignore_colors,
      own.orientation,
      own=own,
      run=run,
      counterparts=tuple((name, OR.join(members) or IGNORED) for name, members in counterparts.items()),
      groups=tuple(group for group in of_groups if group[0]),
    )

  def _problem(self) -> str | None:
    return None  # both sets were checked

  @property
  def of_predictions(self) -> LabelSet:
    """The run's label set."""
    return self.run

  @property
  def id_of_color(self) -> dict[Color, int]:
    """Colour -> label id of the data set, for colour label maps."""
    return self.own.id_of_color

  def decoding(self, training: bool = False) -> list[Any]:
    """See `LabelSet.decoding`; the colours are the data set's."""
    found = [[list(c.ids) for c in self.classes], list(self.ignore_ids), self.own.decoding()]
    return [*found, [[list(ids), value] for ids, value in self.groups]] if training and self.groups else found

  def decode(self, labels: np.ndarray) -> np.ndarray:
    """Maps class indices to the run's label ids."""
    return self.run.decode(labels)

  def for_training(self, labels: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    """See `LabelSet.for_training`; pixels of a group get its value."""
    for ids, value in self.groups:
      labels = np.where(np.isin(label_ids, ids), np.uint8(value), labels)
    return labels

  def describe(self) -> dict[str, Any]:
    """What a record of a run says of the mapping, as JSON data; it changes with the class of any label id."""
    digest = hashlib.sha256(json.dumps(self.decoding(training=True)).encode()).hexdigest()
    return {'label_set': self.own.name, 'classes': dict(self.counterparts), 'sha256': digest}


def mapped_from(label_set: LabelSet) -> str | None:
  """The name of the data set's own label set; None where nothing is mapped."""
  return label_set.own.name if isinstance(label_set, MappedLabelSet) else None


def map_label_set(sets: Sequence[LabelSet], run: LabelSet, class_map: ClassMap, where: str) -> MappedLabelSet:
  """Maps the first of a data set's label sets all of whose classes have a counterpart in a run's.

  Args:
    sets: The label sets that are made for the data set's label ids.
    run: The run's label set.
    class_map: What the configuration tells, see `config.data.class_map`.
    where: The data set, for messages.

  Raises:
    InputError: A counterpart in `class_map` is no class of the run's, each set has classes without one, or
      all classes are ignored.
  """
  _check_counterparts(class_map, run)
  found = [(own, _counterparts(own, run, class_map)) for own in sets]
  own, counterparts = min(found, key=lambda pair: list(pair[1].values()).count(None))
  if missing := [name for name, counterpart in counterparts.items() if counterpart is None]:
    raise InputError(
      f'{where}: no counterpart in label set {run.name!r} for the classes {", ".join(missing)} of '
      f'{own.name!r}; the classes there are {", ".join(run.class_names)}. Add to config.data.class_map pairs '
      f"such as ({missing[0]!r}, {run.class_names[0]!r}), or ({missing[0]!r}, '{IGNORED}') to leave it out"
    )
  if not any(counterparts.values()):
    raise InputError(
      f'{where}: all classes of its label set {own.name!r} are ignored, so that nothing can be learned from '
      'it. Correct config.data.class_map, or leave the data set out'
    )
  return MappedLabelSet.of(own, run, counterparts, label_groups(class_map, run))


def label_groups(class_map: ClassMap, run: LabelSet) -> tuple[tuple[int, ...], ...]:
  """The groups of classes in `config.data.class_map`, as class indices of a run, in its order.

  Raises:
    InputError: There is no value left for one.
  """
  named = [_members(text, run) or () for _, text in class_map]
  groups = dict.fromkeys(tuple(map(run.class_names.index, names)) for names in named if len(names) > 1)
  if groups and group_value(len(groups) - 1) < run.num_classes:
    raise InputError(
      f'config.data.class_map: {len(groups)} groups of classes beside {run.num_classes} classes; '
      f'expected at most {IGNORE_LABEL} together. Use fewer groups'
    )
  return tuple(groups)


def group_value(number: int) -> int:
  """What stands for a group of `label_groups` in the labels of training: those below `IGNORE_LABEL`."""
  return IGNORE_LABEL - 1 - number


def check_class_map(class_map: ClassMap, run: LabelSet, label_sets: Sequence[LabelSet]) -> None:
  """Checks the names in `config.data.class_map`.

  Args:
    class_map: The pairs.
    run: The run's label set.
    label_sets: What the label ids of each data set mean, mapped or not.

  Raises:
    InputError: A pair names a class that no mapped data set has, or none of the run's.
  """
  mapped = [label_set.own for label_set in label_sets if isinstance(label_set, MappedLabelSet)]
  there = [name for own in mapped for name in own.class_names]
  for first, _ in class_map:
    if all(_key(first) != _key(name) for name in there):
      expected = ', '.join(dict.fromkeys(there)) or 'none, for no data set has other classes than the run'
      raise InputError(
        f'config.data.class_map: no data set whose classes are mapped has a class {first!r}; their classes '
        f'are: {expected}. Correct or remove the pair'
      )
  _check_counterparts(class_map, run)


def _check_counterparts(class_map: ClassMap, run: LabelSet) -> None:
  for first, second in class_map:
    if _members(second, run) is None:
      raise InputError(
        f"config.data.class_map: {second!r} is neither '{IGNORED}' nor a class of label set {run.name!r} "
        f"({', '.join(run.class_names)}), nor several of them joined by '{OR}'. Correct the pair of {first!r}"
      )


def repeated_classes(class_map: ClassMap) -> list[str]:
  """The classes of data sets that have a second pair."""
  keys = [_key(first) for first, _ in class_map]
  return [first for i, (first, _) in enumerate(class_map) if keys[i] in keys[:i]]


def _counterparts(own: LabelSet, run: LabelSet, class_map: ClassMap) -> dict[str, tuple[str, ...] | None]:
  """`_members` of the counterpart of each class of a data set."""
  told = {_key(first): second for first, second in class_map}
  table = next((t for source, target, t in _TABLES if _is_from(own, source) and _has(run, target)), {})
  return {name: _members(told.get(_key(name), table.get(name, name)), run) for name in own.class_names}


def _members(text: str, run: LabelSet) -> tuple[str, ...] | None:
  """The run's classes that a counterpart names, in the run's order; () for `IGNORED`; None: there is none."""
  if text == IGNORED:
    return ()
  if (name := _same_name(text, run)) is not None:
    return (name,)
  names = {_same_name(part, run) for part in text.split(OR)}
  if None in names or len(names) < 2:
    return None
  return tuple(name for name in run.class_names if name in names)


def _is_from(own: LabelSet, source: LabelSet) -> bool:
  return (own.name, own.class_names) == (source.name, source.class_names)


def _has(run: LabelSet, target: LabelSet) -> bool:
  return set(target.class_names) <= set(run.class_names)


def _same_name(name: str, run: LabelSet) -> str | None:
  """The class of this name: exactly, or the only one apart from case, blanks, hyphens and underscores."""
  if name in run.class_names:
    return name
  similar = [other for other in run.class_names if _key(other) == _key(name)]
  return similar[0] if len(similar) == 1 else None


def _key(name: str) -> str:
  return re.sub(r'[\s_-]+', ' ', name.casefold()).strip()
