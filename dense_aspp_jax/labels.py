"""Label sets: stored label ids, the classes a network learns, their names and colours.

A label PNG holds *label ids*. A `LabelSet` maps them to *class indices* 0..C-1, which the network predicts,
or to `IGNORE_LABEL`, and back. Depends on NumPy only.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from dense_aspp_jax.errors import InputError

IGNORE_LABEL = 255  # class index left out of loss and metrics
ORIENTATIONS = ('applied', 'as_stored')
# Of labels.json, see datasets/folder_layout.
FOLDER_KEYS = ('images', 'labels', 'image_suffix', 'label_suffix', 'lists')
_SET_KEYS = ('name', 'classes', 'ignore_ids', 'ignore_colors', 'label_colors', 'orientation')
_CLASS_KEYS = ('name', 'ids', 'color', 'colors')
_BLACK = (0, 0, 0)
_IDS_SHOWN = 10  # in a message
_LONGEST_ID = 10  # digits; Python refuses to convert very long ones

NUM_CITYSCAPES_IDS = 34  # ids 0..33 occur in label PNGs

Color = tuple[int, int, int]  # RGB, 0..255


@dataclasses.dataclass(frozen=True)
class LabelClass:
  """One class the network predicts.

  Attributes:
    name: The class's name, unique in its set.
    ids: Label ids (0..255) of this class; predictions are written with the first.
    color: RGB, 0..255, in pictures.
    more_colors: Other colours of this class in colour label maps.
  """

  name: str
  ids: tuple[int, ...]
  color: Color
  more_colors: tuple[Color, ...] = ()


@dataclasses.dataclass(frozen=True)
class LabelSet:
  """The mapping between label ids and classes.

  Attributes:
    name: Name of the set, as in `config.data.label_set`.
    classes: One entry per class index.
    ignore_ids: Label ids that become `IGNORE_LABEL`. Any id that is neither here nor in a class is an error.
    label_colors: Whether label maps hold the classes' colours instead of label ids.
    ignore_colors: With `label_colors`: the colours of ignored pixels; of no use without `ignore_ids`.
    orientation: What label maps are drawn on where the EXIF orientation turns the image and the sizes do not
      tell: the image as turned ('applied') or 'as_stored'; None: such a pair is an error.
  """

  name: str
  classes: tuple[LabelClass, ...]
  ignore_ids: tuple[int, ...] = ()
  label_colors: bool = False
  ignore_colors: tuple[Color, ...] = (_BLACK,)
  orientation: str | None = None

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
    if self.label_colors:
      colors = [color for c in self.classes for color in (c.color, *c.more_colors)]
      if len(self.id_of_color) != len(colors) + len(self.ignore_colors) * bool(self.ignore_ids):
        black = 'black' if self.ignore_colors == (_BLACK,) else 'another (ignore_colors)'
        ignored = f', and {black} for what is ignored' if self.ignore_ids else ''
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
  def id_of_color(self) -> dict[Color, int]:
    """Colour -> label id, for colour label maps; several colours may have the same id."""
    ignored = {color: self.ignore_ids[0] for color in self.ignore_colors if self.ignore_ids}
    return ignored | {color: c.ids[0] for c in self.classes for color in (c.color, *c.more_colors)}

  @property
  def of_predictions(self) -> LabelSet:
    """The set of predicted label ids: this one, unless the label maps have ids of their own."""
    return self

  def decoding(self, training: bool = False) -> list[Any]:
    """All that decides the class of a stored pixel, as JSON data: ids, and colours with `label_colors`.

    Args:
      training: Whether it is the class that `for_training` gives.
    """
    found: list[Any] = [[list(c.ids) for c in self.classes], list(self.ignore_ids)]
    if self.label_colors:
      found.append([list(c.color) for c in self.classes])
      if self.ignore_colors != (_BLACK,) or any(c.more_colors for c in self.classes):
        found.append(sorted(self.id_of_color.items()))
    return [*found, self.orientation] if self.orientation else found

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

  def encode(self, label_ids: np.ndarray, where: str, remedy: str | None = None) -> np.ndarray:
    """Maps label ids to class indices 0..C-1 and `IGNORE_LABEL`.

    Args:
      label_ids: uint8 `[...]`.
      where: Their place, for the message.
      remedy: What to do about unknown ids, for the message; None: the usual.

    Returns:
      uint8 `[...]`.

    Raises:
      InputError: Ids that are not in the set; the message has `where`, the ids and their pixel counts.
    """
    if label_ids.dtype != np.uint8:
      raise InputError(f'{where}: label ids of type {label_ids.dtype}; expected uint8')
    labels = self._class_of_id[label_ids]
    if labels.min(initial=0) < 0:
      known = compact_ranges(np.flatnonzero(self._class_of_id >= 0))
      usual = 'Correct the label image, or choose another label set'
      if self.name in ('cityscapes20', 'cityscapes19') and np.isin(label_ids, (*range(19), 255)).all():
        usual = 'If these are train ids, name the files *_labelTrainIds.png, or use cityscapes19_train_ids'
      raise InputError(
        f'{where}: unknown label ids {count_ids(label_ids[labels < 0])}; label set {self.name!r} knows '
        f'{known}. {remedy or usual}'
      )
    return labels.astype(np.uint8)

  def for_training(self, labels: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    """Class indices as training takes them, of those that `encode` gave and the label ids they came from."""
    return labels

  def count_classes(self, id_pixels: np.ndarray) -> np.ndarray:
    """Pixels by class index, int64 `[256]` with those at `IGNORE_LABEL`, from pixels by label id, `[256]`."""
    found = np.flatnonzero(id_pixels)
    pixels = np.zeros(256, np.int64)
    np.add.at(pixels, self.encode(found.astype(np.uint8), self.name), id_pixels[found])
    return pixels

  def decode(self, labels: np.ndarray) -> np.ndarray:
    """Maps class indices (uint8, any shape) to the label ids of predictions."""
    return self._id_of_class[labels]

  def to_json(self) -> dict[str, Any]:
    """The set as plain JSON data, the format of a labels.json file; what is as usual is left out."""
    data = {
      'name': self.name,
      'classes': [{'name': c.name, 'ids': list(c.ids), **_colors_to_json(c)} for c in self.classes],
      'ignore_ids': list(self.ignore_ids),
      'label_colors': self.label_colors,
    }
    if self.ignore_colors != (_BLACK,):
      data['ignore_colors'] = [list(color) for color in self.ignore_colors]
    return data | ({'orientation': self.orientation} if self.orientation else {})

  @classmethod
  def from_json(cls, data: Any, where: str) -> LabelSet:
    """Reads the content of a labels.json, without `FOLDER_KEYS`; docs/own_data.md describes it.

    Raises:
      InputError: Names the entry, after `where`.
    """
    try:
      return _parse(data)
    except InputError as error:
      raise InputError(f'{where}: {error}') from error


def _colors_to_json(label_class: LabelClass) -> dict[str, Any]:
  colors = [list(color) for color in (label_class.color, *label_class.more_colors)]
  return {'colors': colors} if label_class.more_colors else {'color': colors[0]}


def _parse(data: Any) -> LabelSet:
  if not isinstance(data, Mapping) or 'classes' not in data:
    found = f'entries {", ".join(data) or "none"}' if isinstance(data, Mapping) else f'{str(data)[:40]!r}'
    raise InputError(
      f'not a label set ({found}); expected {{"classes": [{{"name": ..., "ids": [...], '
      '"color": [r, g, b]}], "ignore_ids": [...]} (docs/own_data.md)'
    )
  _refuse_unknown(data, (*_SET_KEYS, *FOLDER_KEYS), '')
  label_colors, orientation = data.get('label_colors', False), data.get('orientation')
  if not isinstance(label_colors, bool):
    raise InputError(f'label_colors {label_colors!r} is neither true nor false')
  if orientation not in (None, *ORIENTATIONS):
    raise InputError(f'orientation {orientation!r}: expected {" or ".join(ORIENTATIONS)}')
  ignore_colors = data.get('ignore_colors')
  return LabelSet(
    _name('name', data.get('name', 'labels')),
    _parse_classes(data['classes']),
    _ids('ignore_ids', data.get('ignore_ids', () if ignore_colors is None else (IGNORE_LABEL,))),
    label_colors,
    (_BLACK,) if ignore_colors is None else _colors('ignore_colors', ignore_colors),
    orientation,
  )


def _parse_classes(value: Any) -> tuple[LabelClass, ...]:
  """Reads a list of classes or of names (ids 0, 1, ...), or an object: name -> ids, or id -> name."""
  if isinstance(value, Mapping):
    if all(isinstance(name, str) for name in value.values()):
      ids_of: dict[str, list[Any]] = {}
      for i, name in value.items():
        ids_of.setdefault(name, []).append(int(i) if i.isdecimal() and len(i) <= _LONGEST_ID else i)
      value = ids_of
    entries = [{'name': name, 'ids': ids} for name, ids in value.items()]
  elif isinstance(value, list | tuple):
    entries = [{'name': entry} if isinstance(entry, str) else entry for entry in value]
  else:
    raise InputError(f'classes {value!r}: expected a list of classes')
  coloured = isinstance(value, list | tuple) and any(isinstance(v, Mapping) and 'ids' in v for v in value)
  classes = []
  for index, entry in enumerate(entries):
    if not isinstance(entry, Mapping) or 'name' not in entry:
      raise InputError(f'class {index} is {entry!r}; expected a name or {{"name": ..., "ids": [...]}}')
    name = _name(f'name of class {index}', entry['name'])
    _refuse_unknown(entry, _CLASS_KEYS, f' in class {name!r}')
    if 'ids' not in entry and coloured:
      raise InputError(f'class {name!r} has no "ids"; other classes have. Add them')
    ids = _ids(f'ids of class {name!r}', entry.get('ids', (index,)))
    if 'color' in entry and 'colors' in entry:
      raise InputError(f'class {name!r} has both "color" and "colors"; give one of them')
    usual = _BLACK if coloured else _voc_color(index)
    colors = _colors(f'color of class {name!r}', entry.get('colors', [entry.get('color', usual)]))
    classes.append(LabelClass(name, ids, colors[0], colors[1:]))
  return tuple(classes)


def _name(what: str, value: Any) -> str:
  if not isinstance(value, str | int | float):
    raise InputError(f'{what} is {value!r}; expected a string')
  return str(value)


def _ids(what: str, value: Any) -> tuple[int, ...]:
  values = [value] if isinstance(value, int) else value
  if not isinstance(values, list | tuple) or any(type(v) is not int for v in values):
    raise InputError(f'{what}: {value!r} is not a list of integers')
  return tuple(values)


def _colors(what: str, value: Any) -> tuple[Color, ...]:
  if not isinstance(value, list | tuple) or not value:
    raise InputError(f'{what}: {value!r} is not a list of colours')
  for color in value:
    values = color if isinstance(color, list | tuple) else ()
    if len(values) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in values):
      raise InputError(f'{what}: {color!r} is not three values 0..255')
  return tuple(tuple(color) for color in value)


def _refuse_unknown(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
  if unknown := [name for name in entry if name not in known]:
    similar = difflib.get_close_matches(unknown[0], known, 1)
    meant = f'; did you mean {similar[0]}?' if similar else f'; expected {", ".join(known)}'
    raise InputError(f'unknown entry {", ".join(unknown)}{where}{meant}')


def _voc_color(index: int) -> Color:
  """The colour of an index in the palette of PASCAL VOC's label maps; distinct for 256 classes."""
  bits = [[index >> (3 * i + channel) & 1 for i in range(3)] for channel in range(3)]
  return tuple(sum(bit << (7 - i) for i, bit in enumerate(channel)) for channel in bits)


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
