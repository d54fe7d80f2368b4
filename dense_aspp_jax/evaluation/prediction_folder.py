"""The folder that `dense-aspp predict` writes: pictures of each image, and a record of all that stands there.

Several calls may write into one folder, even at the same time, if one network predicts with the same options.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dense_aspp_jax.checkpoint_io import named_arrays
from dense_aspp_jax.datasets.stored_files import files_of_folder
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.evaluation.pictures import Classes, Rgb, save_png
from dense_aspp_jax.files import read_json, shown, write_json
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import say

LABEL_IDS_FOLDER = 'label_ids'  # the PNGs that can be scored
FOLDERS = (LABEL_IDS_FOLDER, 'color', 'overlay')
PREDICTIONS_FILE = 'predictions.json'
_REMEDY = 'choose another --output, or remove this folder'
# What decides the pixels of a prediction, by its place in the record.
_OPTIONS = ('step', 'weights', 'bn', 'as_stored', 'test_time', 'variables_sha256')
_WORDS = {'variables_sha256': 'weights', 'test_time': 'test-time averaging', 'label_set': 'label set'}
_INPUT = ('image_size', 'mean', 'std', 'keep_aspect')
# What others may have written into a record, and this reads.
_ENTRIES = {
  'sources': lambda x: isinstance(x, dict) and all(isinstance(path, str | None) for path in x.values()),
  'refused': lambda x: isinstance(x, dict),
  'left': lambda x: isinstance(x, list) and all(isinstance(text, str) for text in x),
  'config': lambda x: isinstance(x, dict) and isinstance(x.get('data', {}), dict),
}


class PredictionFolder:
  """Keeps `predictions.json` in step with the pictures: written at entry and at exit of a `with` block.

  Its entries beyond `made_by`: `images`, how many predictions stand there; `sources`, the image of each, or
  null where an older version did not say; `unrecorded`, the names of pictures of unknown origin; `refused`,
  why by name; `left`, 'PATH: why' of files that are no images.

  Attributes:
    path: The folder.
    sources: Path of the image by name, of what this process saved.
    refused: What could not be predicted, and why, by name; written at exit.
  """

  def __init__(
    self,
    path: pathlib.Path,
    made_by: Mapping[str, Any],
    images: Mapping[str, pathlib.Path],
    refused: Mapping[str, str],
    left: Sequence[str] = (),
  ):
    """Checks what stands in the folder already.

    Args:
      path: The folder; may be missing.
      made_by: JSON data: the network and the options.
      images: What is to be saved: paths of images by name.
      refused: See above.
      left: 'PATH: why' of what is no image.

    Raises:
      InputError: The folder has predictions of another network, or with other options, some of which would
        remain. If all are to be replaced, they are removed instead.
      RunError: They cannot be removed.
    """
    self.path = path
    self.sources: dict[str, str] = {}
    self.refused = refused
    self._images = images
    self._left = left
    self._made_by = json.loads(json.dumps(made_by))  # as it is read back
    record, standing = self._read_record(), self._standing()
    if difference := _difference(record, self._made_by):
      self._remove(standing, difference)
      return
    recorded = _sources(record, standing)
    if others := [n for n in recorded.keys() & images.keys() if recorded[n] not in (None, self._source(n))]:
      name = min(others)
      say(
        f'warning: {shown(path)}: {len(others)} predictions of other images are replaced, such as that of '
        f'{shown(recorded[name])} by that of {shown(images[name])}'
      )
    if unknown := sorted(standing - recorded.keys() - images.keys()):
      say(
        f'warning: {shown(path / LABEL_IDS_FOLDER)}: {len(unknown)} PNGs of which {PREDICTIONS_FILE} knows '
        f'nothing, such as {shown(unknown[0])}.png; they are kept'
      )

  def __enter__(self) -> PredictionFolder:
    self._write_record()
    return self

  def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
    with contextlib.suppress(RunError) if error else contextlib.nullcontext():  # the first error matters
      self._write_record()

  def save(self, name: str, pictures: Sequence[Classes | Rgb]) -> None:
    """Writes the pictures of an image, one per entry of `FOLDERS`; any thread may.

    Raises:
      RunError: One cannot be written.
    """
    for folder, picture in zip(FOLDERS, pictures, strict=True):
      save_png(self.path / folder / f'{name}.png', picture)
    self.sources[name] = self._source(name)

  def _source(self, name: str) -> str:
    return os.path.abspath(self._images[name])

  def _standing(self) -> set[str]:
    folder = self.path / LABEL_IDS_FOLDER
    files = files_of_folder(folder).taken if folder.is_dir() else ()
    return {name.removesuffix('.png') for name in files if name.endswith('.png')}

  def _read_record(self) -> dict[str, Any]:
    path = self.path / PREDICTIONS_FILE
    record = read_json(path, _REMEDY, default={})
    if not isinstance(record, dict) or not all(_ENTRIES[k](v) for k, v in record.items() if k in _ENTRIES):
      raise InputError(f'{shown(path)}: not a record of predictions; {_REMEDY}')
    return record

  def _remove(self, standing: set[str], difference: str) -> None:
    if remaining := sorted(standing - self._images.keys()):
      raise InputError(
        f'{shown(self.path)}: has {len(standing)} predictions of another network or with other options '
        f'({difference}); {len(remaining)} of them would remain, such as {shown(remaining[0])}; {_REMEDY}'
      )
    if standing:
      say(f'replacing the {len(standing)} predictions in {shown(self.path)} ({difference})')
    for path in (self.path / folder / f'{name}.png' for name in standing for folder in FOLDERS):
      try:
        path.unlink(missing_ok=True)
      except OSError as error:
        raise RunError(f'{shown(path)}: cannot be removed ({error.strerror})') from error

  def _write_record(self) -> None:
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      directory = os.open(self.path, os.O_RDONLY)
    except OSError as error:
      raise RunError(f'{shown(self.path)}: cannot be written ({error.strerror})') from error
    try:
      with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(directory, fcntl.LOCK_EX)
      self._merge_record()
    finally:
      os.close(directory)

  def _merge_record(self) -> None:
    record, standing = self._read_record(), self._standing()  # again: another process may have written
    if _difference(record, self._made_by):
      record = {}
    sources = {**_sources(record, standing), **self.sources}
    refused = {**record.get('refused', {}), **self.refused}
    entries = {
      'images': len(sources),
      'sources': dict(sorted(sources.items())),
      'unrecorded': sorted(standing - sources.keys()),
      'refused': {name: why for name, why in refused.items() if name not in self.sources},
      'left': sorted({*record.get('left', ()), *self._left}),
    }
    write_json(self.path / PREDICTIONS_FILE, {**entries, **self._made_by})


def variables_digest(variables: Mapping[str, Any]) -> str:
  """SHA-256 of a network's variables: names, types, shapes and values."""
  digest = hashlib.sha256()
  for name, array in sorted(named_arrays(variables).items()):
    array = np.asarray(array)
    digest.update(f'{name} {array.dtype.name} {array.shape} '.encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return digest.hexdigest()


def _sources(record: Mapping[str, Any], standing: Collection[str]) -> dict[str, str | None]:
  """The image of each recorded prediction that still stands; records of old versions do not name it."""
  if not record:
    return {}
  sources = record.get('sources', dict.fromkeys(standing))
  return {name: source for name, source in sources.items() if name in standing}


def _difference(record: Mapping[str, Any], made_by: Mapping[str, Any]) -> str:
  """In words, what made the predictions of a record differ from what would be made now."""
  old, new = _decisive(record), _decisive(made_by)
  differing = [name for name in new if name in old and old[name] != new[name]]
  texts = [
    f'{name} {old[name]}, now {new[name]}' if name in _OPTIONS[:4] else f'different {_WORDS.get(name, name)}'
    for name in differing
  ]
  return ', '.join(texts)


def _decisive(record: Mapping[str, Any]) -> dict[str, Any]:
  config = record.get('config', {})
  found = {name: record[name] for name in _OPTIONS if name in record}
  found |= {name: value for name, value in config.get('data', {}).items() if name in _INPUT}
  if 'model' in config:
    found['model'] = config['model']
  if 'label_set' in record:
    found['label_set'] = LabelSet.from_json(record['label_set'], PREDICTIONS_FILE)
  return found
