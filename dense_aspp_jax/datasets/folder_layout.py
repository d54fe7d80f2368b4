"""Where a labelled folder keeps its files: as docs/own_data.md says, or as its labels.json does."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dense_aspp_jax.datasets.examples import LABELS_FILE
from dense_aspp_jax.datasets.images import IMAGE_EXTENSIONS, LABEL_EXTENSIONS
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json
from dense_aspp_jax.labels import FOLDER_KEYS, LabelSet
from dense_aspp_jax.paths import local_path

# Labels in formats of images are listed too: reading one says what is wrong with it.
EXTENSIONS = {'images': IMAGE_EXTENSIONS, 'labels': (*LABEL_EXTENSIONS, *IMAGE_EXTENSIONS)}
_SPLIT = '{split}'  # in a layout
_FIRST_PATH = re.compile(rf'.*?({"|".join(map(re.escape, IMAGE_EXTENSIONS))})(?=[\s,;]|$)', re.IGNORECASE)
# What a split may be called; the first name that is there is taken.
SPLIT_NAMES = {
  'train': ('train', 'training'),
  'validation': ('validation', 'val', 'valid'),
  'test': ('test', 'testing'),
}


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where a labelled folder keeps its files: `FOLDER_KEYS` of its labels.json.

  Attributes:
    images, labels: Folders, with `{split}` for the name of the split; they may be the same one.
    image_suffix, label_suffix: How names of files go on after the image id, with or without extension.
    lists: A text file with a name of an image in each line; None: all images of the folder.
  """

  images: str = f'{_SPLIT}/images'
  labels: str = f'{_SPLIT}/labels'
  image_suffix: str = ''
  label_suffix: str = ''
  lists: str | None = None

  @classmethod
  def of(cls, folder: pathlib.Path) -> Layout:
    """The layout that the folder's labels.json describes, or the usual one.

    Raises:
      InputError: The file cannot be read, or its entries do not make a layout.
    """
    path = folder / LABELS_FILE
    data = read_json(path, 'correct it', default={}) if path.is_file() else {}
    if not isinstance(data, Mapping) or not (
      'classes' in data
      or data.keys() <= {*FOLDER_KEYS}
      or any(isinstance(data.get(name), str) and _SPLIT in data[name] for name in FOLDER_KEYS)
    ):
      return cls()  # of another program
    found = {name: data[name] for name in FOLDER_KEYS if name in data}
    if problem := cls._problem(found):
      LabelSet.from_json(data, str(path))  # where an entry is misspelt, this says so
      raise InputError(f'{path}: {problem} (docs/own_data.md)')
    return cls(**found)

  @classmethod
  def _problem(cls, entries: Mapping[str, Any]) -> str | None:
    for name, value in entries.items():
      if not isinstance(value, str) or (not value and not name.endswith('suffix')):
        return f'"{name}" is {value!r}; expected a string'
    layout = cls(**entries)
    if _SPLIT not in layout.images and _SPLIT not in (layout.lists or ''):
      return f'neither "images" nor "lists" has {_SPLIT}, so that all splits would have the same images'
    same = pathlib.PurePath(layout.images) == pathlib.PurePath(layout.labels)
    if same and layout.label_suffix in ('', layout.image_suffix):
      return '"images" and "labels" are the same folder; expected a "label_suffix" by which labels are told'
    return None

  def places(self, folder: pathlib.Path, name: str) -> Places:
    """The paths of a split under one of its names."""
    images, labels, lists = (
      folder / local_path(path.replace(_SPLIT, name)) if path else None
      for path in (self.images, self.labels, self.lists)
    )
    return Places(name, images, labels, lists)

  def find(self, folder: pathlib.Path, split: str) -> list[Places]:
    """The paths of a split under each of its names that is there; the first are taken."""
    candidates = (self.places(folder, name) for name in SPLIT_NAMES.get(split, (split,)))
    return [places for places in candidates if places.exist()]

  @property
  def has_folders_of_splits(self) -> bool:
    """Whether all files of a split lie in a folder of its name."""
    return all(path.startswith(f'{_SPLIT}/') for path in (self.images, self.labels))

  def begun(self, folder: pathlib.Path, split: str) -> bool:
    """Whether anything is there that bears the split's name, complete or not."""
    patterns = (path for path in (self.images, self.labels, self.lists) if path and _SPLIT in path)
    tops = (re.match(r'.*?\{split\}[^/]*', path)[0] for path in patterns)
    names = SPLIT_NAMES[split]
    return any((folder / local_path(top.replace(_SPLIT, name))).exists() for top in tops for name in names)

  def identify(self, path: pathlib.Path, places: Places) -> tuple[str, str] | None:
    """Whether a file is among images or labels, and its image id; None: neither."""
    found = []
    for kind, place, suffix in (
      ('labels', places.labels, self.label_suffix),
      ('images', places.images, self.image_suffix),
    ):
      if path.is_relative_to(place):
        image_id = _image_id(path.relative_to(place).as_posix(), suffix, EXTENSIONS[kind])
        found.append((len(place.parts), kind, image_id))
    deepest = max((depth for depth, _, _ in found), default=0)  # of folders inside each other, the inner one
    return next(((k, i) for depth, k, i in found if depth == deepest and i is not None), None)

  def listed_ids(self, line: str) -> Iterator[str]:
    """The image ids that a line may mean, the most likely first: with and without folder and suffix."""
    line = unicodedata.normalize('NFC', line.replace('\\', '/'))
    first = _FIRST_PATH.match(line)  # which may have spaces
    for name in (first[0] if first else line, re.split(r'[\s,;]', line)[0]):
      parts = pathlib.PurePosixPath(name).parts
      for start in range(len(parts)):  # below the folder of images, whatever stands before it
        path = '/'.join(parts[start:])
        yield path
        yield path.removesuffix(self.image_suffix)
        if image_id := _image_id(path, self.image_suffix, IMAGE_EXTENSIONS):
          yield image_id


class Places(NamedTuple):
  """The paths of a split."""

  name: str
  images: pathlib.Path
  labels: pathlib.Path
  list: pathlib.Path | None

  def exist(self) -> bool:
    """Whether all of them do."""
    return self.images.is_dir() and self.labels.is_dir() and (self.list is None or self.list.is_file())


def _image_id(name: str, suffix: str, extensions: tuple[str, ...]) -> str | None:
  """The image id in a file name that goes on with `suffix`; None: it does not, or has another extension."""
  name, suffix = (unicodedata.normalize('NFC', text) for text in (name, suffix))
  if not suffix.lower().endswith(extensions):
    extension = pathlib.PurePosixPath(name).suffix
    if extension.lower() not in extensions:
      return None
    name = name.removesuffix(extension)
  elif name.lower().endswith(suffix.lower()):
    return name[: -len(suffix)] or None
  return name.removesuffix(suffix) or None if name.endswith(suffix) else None
