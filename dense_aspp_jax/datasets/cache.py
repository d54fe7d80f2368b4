"""A split at training resolution on disk: decoded and resized once, then read at memory speed.

A 1024x2048 PNG takes 50 ms to decode, a raw record under 1 ms to read. A cache is a folder NAME-DIGEST:

    manifest.json           what the records were made from and how, and what was left out; written last
    <digest>.array_record   one record per example that can be used, in the source's order, not compressed

The digest is of all that the records were made from: two processes that build at once write the same file,
and a data set that was moved finds its cache. A superseded cache is removed unless readers lock its records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import tempfile
import weakref
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from dense_aspp_jax.datasets import cache_record
from dense_aspp_jax.datasets.examples import CachedExample, Split
from dense_aspp_jax.datasets.pairs import BadPairs, check_pair, map_good
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image, resize_label
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import remove_abandoned
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import progress, say

FORMAT_VERSION = 3
_MANIFEST = 'manifest.json'
_WRITER_OPTIONS = 'group_size:1,uncompressed'
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'  # what array_record advises for random access
_BUILDING = '.building-'
_GIB = 2**30
# What a cache is for, in its manifest: of two caches for the same, the one of other content is stale.
_PURPOSE = ('source', 'label_set_name', 'image_size', 'native_labels', 'keep_aspect')


@dataclasses.dataclass(frozen=True)
class DecodedSplit:
  """A split without a cache: every access decodes and resizes. Gives the same examples as `CacheSplit`.

  Attributes:
    source: The stored pairs.
    label_set: The label ids that may occur, and their classes.
    preprocessing: Has the size of the network's input.
    native_labels: False for training: images are resized to `image_size`, labels become class indices
      of the same size. True for evaluation: images are resized to `Preprocessing.input_size`, labels stay
      the stored ids at their native size.
  """

  source: Split
  label_set: LabelSet
  preprocessing: Preprocessing
  native_labels: bool

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> CachedExample:
    """Decodes one example. Raises InputError if the pair cannot be used (`check_pair`)."""
    example, image, label_ids, labels = check_pair(self.source[index], self.label_set)
    if self.native_labels:
      size, label = self.preprocessing.input_size(label_ids.shape), label_ids
    else:
      size = self.preprocessing.image_size
      label = resize_label(self.label_set.for_training(labels, label_ids), size)
    return CachedExample(example.image_id, resize_image(image, size), label)


class CacheSplit:
  """The examples of a cache, by random access; made by `open_cache`.

  It can be pickled and read from several threads; each process opens its own reader.

  Attributes:
    name, fingerprint, former_fingerprint: Those of the source.
    label_set: The label ids that may occur, and their classes.
    path: The record file.
    class_pixels: Pixels of its labels by class index, int64 `[256]`; those at `IGNORE_LABEL` are ignored.
  """

  def __init__(
    self, split: DecodedSplit, path: pathlib.Path, count: int, lock: int, class_pixels: np.ndarray
  ):
    """Takes what was cached, the record file, the number of records, and a descriptor of it with a lock."""
    source, self.label_set = split.source, split.label_set
    self.name = source.name
    self.path = path
    self.fingerprint, self.former_fingerprint = source.fingerprint, source.former_fingerprint
    self.class_pixels = class_pixels
    self._count = count
    weakref.finalize(self, os.close, lock)
    self._reader: ArrayRecordReader | None = None

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> CachedExample:
    """Reads one example, as read-only arrays. Raises RunError if the record cannot be read."""
    if not 0 <= index < self._count:
      raise IndexError(f'{self.name}: example {index} of {self._count}')
    try:
      # Two threads may both open a reader here; one is dropped, which does no harm.
      reader = self._reader or ArrayRecordReader(os.fsencode(self.path), _READER_OPTIONS)
      self._reader = reader
      (record,) = reader.read([int(index)])
      return cache_record.unpack(record)
    except (RuntimeError, IndexError, ValueError) as error:
      raise RunError(
        f'{self.path}: record {index} cannot be read ({error}); remove {self.path.parent}, '
        'and the cache is built again'
      ) from error

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_reader': None}


def open_cache(
  split: DecodedSplit, cache_dir: pathlib.Path, skip_bad: int = 0, fallback: pathlib.Path | None = None
) -> CacheSplit:
  """Opens the cache of a split; builds it first if there is none, or if it is stale or incomplete.

  Args:
    split: What to cache.
    cache_dir: Folder of all caches; this one gets a folder of its own inside.
    skip_bad: How many bad pairs may be left out; a warning on stderr names them each time the cache is
      opened.
    fallback: Another such folder, for where `cache_dir` has no such cache and cannot be written.

  Raises:
    InputError: More pairs that cannot be used, a folder that cannot be written, too little disk space.
    RunError: Writing failed.
  """
  made_from = _made_from(split)
  digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
  places = [cache_dir] if fallback is None else [cache_dir, fallback]
  reasons = []
  for folder in (folder for place in places for folder in sorted(place.glob(f'*-{digest}'))):
    try:
      return _open(split, folder, made_from, skip_bad)
    except _UnusableError as error:
      reasons.append(f'{folder}: the cache is built again: {error}')
  folder = _make_folder(f'{_readable_name(split)}-{digest}', places)
  stale = _find_stale(folder, split, made_from)
  for text in reasons or [f'{path}: the cache is built again: {why}' for path, why in stale.items()][:1]:
    say(text)
  bad = BadPairs(split.source.name, skip_bad)
  _build(split, folder / f'{digest}.array_record', made_from, bad)
  for path in stale:
    _remove_unless_read(path)
  try:
    return _open(split, folder, made_from, skip_bad)
  except _UnusableError as error:
    raise RunError(f'{folder}: the cache has changed while it was built ({error}); try again') from error


def _open(split: DecodedSplit, folder: pathlib.Path, made_from: dict[str, Any], skip_bad: int) -> CacheSplit:
  """Opens a cache that exists. Raises `_UnusableError`."""
  source = split.source
  try:
    manifest = json.loads((folder / _MANIFEST).read_text(encoding='utf-8'))
    for key, value in made_from.items():
      if manifest[key] != value:
        raise _UnusableError(f'{key} was {manifest[key]}, is {value}')
    path = folder / manifest['file']
    size = path.stat().st_size
    if size != manifest['file_size']:
      raise _UnusableError(f'{path.name} has {size} bytes, expected {manifest["file_size"]}')
    values = np.array(manifest['label_values'], np.int64).reshape(256)
    left_out = [str(text).replace(str(manifest['source']), source.name) for text in manifest['left_out']]
    if len(left_out) > skip_bad:
      raise _UnusableError(f'it leaves out {len(left_out)} pairs, but now at most {skip_bad} may be left out')
    lock = _lock(path)
  except OSError as error:
    why = 'is missing' if isinstance(error, FileNotFoundError) else f'cannot be read ({error.strerror})'
    raise _UnusableError(f'{pathlib.Path(error.filename or _MANIFEST).name} {why}') from error
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise _UnusableError(f'{_MANIFEST} cannot be read ({error!r})') from error
  BadPairs(source.name, skip_bad, left_out).say(len(source))
  class_pixels = split.label_set.count_classes(values) if split.native_labels else values
  return CacheSplit(split, path, len(source) - len(left_out), lock, class_pixels)


def _lock(path: pathlib.Path) -> int:
  """Opens a file with a shared lock, as a descriptor. Raises OSError, for a file that was removed too."""
  while True:
    with path.open('rb') as file:
      with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
      # False: removed before the lock was there, or replaced with the same records by another build.
      if os.path.samestat(os.fstat(file.fileno()), path.stat()):
        return os.dup(file.fileno())


def _readable_name(split: DecodedSplit) -> str:
  height, width = split.preprocessing.image_size
  name = f'{"/".join(split.source.name.split("/")[-2:])}-{height}x{width}-{split.label_set.name}'
  if split.native_labels:
    name += '-native' if split.preprocessing.keep_aspect else '-native-stretched'
  return re.sub(r'[^A-Za-z0-9-]+', '_', name)[-80:]


def _make_folder(name: str, places: list[pathlib.Path]) -> pathlib.Path:
  """Makes a folder in the first of the places that can be written. Raises InputError if none can."""
  failed = []
  for place in places:
    folder = place / name
    try:
      folder.mkdir(parents=True, exist_ok=True)
      tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
      failed.append(f'{folder}: cannot be written ({error.strerror})')
      continue
    if failed:
      _say_once(f'{places[0]}: cannot be written; caches are kept in {place} (config.data.cache_dir)')
    return folder
  raise InputError(f'{failed[0]}; choose another folder for caches: config.data.cache_dir')


@functools.cache
def _say_once(text: str) -> None:
  say(text)


class _UnusableError(Exception):
  """Why a cache cannot be used."""


def _made_from(split: DecodedSplit) -> dict[str, Any]:
  """All that the records depend on."""
  decoding = split.label_set.decoding(training=not split.native_labels)
  return {
    'format_version': FORMAT_VERSION,
    'fingerprint': split.source.fingerprint,
    'count': len(split),
    'image_size': list(split.preprocessing.image_size),
    'native_labels': split.native_labels,
    'keep_aspect': split.preprocessing.keep_aspect and split.native_labels,
    'label_set': hashlib.sha256(json.dumps(decoding).encode()).hexdigest(),
    'image_interpolation': 'area; bilinear where it grows',
    'label_interpolation': 'none' if split.native_labels else 'nearest',
  }


def _find_stale(
  folder: pathlib.Path, split: DecodedSplit, made_from: dict[str, Any]
) -> dict[pathlib.Path, str]:
  """Caches beside `folder` for the same purpose that were made from something else, with what has changed."""
  wanted, found = {**made_from, **_place(split)}, {}
  for path in sorted(folder.parent.glob(f'*/{_MANIFEST}')):
    try:
      manifest = json.loads(path.read_text(encoding='utf-8'))
      if manifest['format_version'] < FORMAT_VERSION and manifest['source'] == split.source.name:
        say(f'{path.parent}: a cache of an earlier version, which is not read any more; it may be removed')
      if path.parent == folder or any(manifest[key] != wanted[key] for key in _PURPOSE):
        continue
      key = next(key for key in made_from if manifest[key] != made_from[key])
      changed = f'{key} was {manifest[key]}, is {made_from[key]}'
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
      continue
    found[path.parent] = 'the stored data have changed' if key == 'fingerprint' else changed
  return found


def _place(split: DecodedSplit) -> dict[str, str]:
  """What the manifest has besides: not identity, but which data set by name the cache was built for."""
  return {'source': split.source.name, 'label_set_name': split.label_set.name}


def _remove_unless_read(folder: pathlib.Path) -> None:
  """Removes a cache; one that a process reads is left, and so is every one where there are no locks."""
  with contextlib.suppress(OSError), contextlib.ExitStack() as files:
    for record in folder.glob('*.array_record'):
      fcntl.flock(files.enter_context(record.open('r+b')), fcntl.LOCK_EX | fcntl.LOCK_NB)
    shutil.rmtree(folder)


def _build(split: DecodedSplit, path: pathlib.Path, made_from: dict[str, Any], bad: BadPairs) -> None:
  folder = path.parent
  remove_abandoned(folder.parent, f'*/{_BUILDING}*')
  try:
    building = pathlib.Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
  except OSError as error:
    raise RunError(f'{folder}: cannot be written ({error.strerror})') from error
  try:
    values = _write_records(split, building / path.name, bad).tolist()
    size = (building / path.name).stat().st_size
    manifest = {**made_from, **_place(split), 'left_out': bad.messages, 'file': path.name, 'file_size': size}
    manifest['label_values'] = values
    (building / _MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n', encoding='utf-8')
    os.replace(building / path.name, path)
    os.replace(building / _MANIFEST, folder / _MANIFEST)
  except OSError as error:
    raise RunError(f'{folder}: the cache could not be written ({error.strerror or error})') from error
  finally:
    shutil.rmtree(building, ignore_errors=True)
    with contextlib.suppress(OSError):  # nothing was built, and nobody else builds there
      folder.rmdir()


def _write_records(split: DecodedSplit, path: pathlib.Path, bad: BadPairs) -> np.ndarray:
  """Writes the records; returns how many pixels of the labels have each value, int64 `[256]`."""

  def pack(index: int) -> tuple[bytes, np.ndarray]:
    example = split[index]
    return cache_record.pack(example), np.bincount(example.label.ravel(), minlength=256)

  indices = progress(range(len(split)), f'caching {split.source.name}', unit='image')
  values = np.zeros(256, np.int64)
  records = map_good(pack, indices, bad)
  first = next(records, None)
  if first is None:
    raise InputError(f'{bad.name}: none of {len(split)} pairs can be used; correct them')
  needed, free = len(first[0]) * len(split), shutil.disk_usage(path.parent).free
  if needed > free:
    raise InputError(
      f'{path.parent.parent}: the cache needs about {needed / _GIB:.2f} GiB, {free / _GIB:.2f} GiB are free; '
      'free some space, choose another config.data.cache_dir, or a smaller image size'
    )
  try:
    with contextlib.closing(ArrayRecordWriter(os.fsencode(path), _WRITER_OPTIONS)) as writer:
      for record, counts in itertools.chain([first], records):
        writer.write(record)
        values += counts
    # The writer does not report every failure, so count the records.
    with contextlib.closing(ArrayRecordReader(os.fsencode(path), _READER_OPTIONS)) as reader:
      written = reader.num_records()
  except (OSError, RuntimeError) as error:
    raise RunError(f'{path.parent.parent}: the cache could not be written ({error})') from error
  expected = len(split) - len(bad.messages)
  if written != expected:
    raise RunError(
      f'{path.parent.parent}: {written} of {expected} records of the cache were written; is the disk full?'
    )
  return values
