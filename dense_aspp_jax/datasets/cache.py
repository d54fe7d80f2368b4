"""A split at training resolution on disk: decoded and resized once, then read at memory speed.

A 1024x2048 PNG takes 50 ms to decode, a raw record under 1 ms to read. A cache is a folder:

    manifest.json           what the records were made from and how, and what was left out; written last
    <digest>.array_record   one record per example that can be used, in the source's order, not compressed

A record is a little-endian header `_HEADER` (image height and width, label height and width, bytes of
the image id), then the image id in UTF-8, the image as uint8 `[h, w, 3]` RGB and the label as uint8
`[h, w]`, both row by row. The file's name is a digest of all it was made from: two processes that build at
once write the same file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import struct
import sys
import tempfile
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from dense_aspp_jax.datasets.examples import CachedExample, Split
from dense_aspp_jax.datasets.pairs import BadPairs, check_pair, map_good
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image, resize_label
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import remove_abandoned
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import progress

FORMAT_VERSION = 2
_HEADER = struct.Struct('<5I')
_MANIFEST = 'manifest.json'
_WRITER_OPTIONS = 'group_size:1,uncompressed'
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'  # what array_record advises for random access
_BUILDING = '.building-'
_GIB = 2**30


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
      label = resize_label(labels, size)
    return CachedExample(example.image_id, resize_image(image, size), label)


class CacheSplit:
  """The examples of a cache, by random access; made by `open_cache`.

  It can be pickled and read from several threads; each process opens its own reader.
  """

  def __init__(self, name: str, path: pathlib.Path, count: int, fingerprint: str):
    """Takes the split's name, the record file, the number of records, the source's fingerprint."""
    self.name = name
    self.path = path
    self.fingerprint = fingerprint
    self._count = count
    self._reader: ArrayRecordReader | None = None

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: int) -> CachedExample:
    """Reads one example, as read-only arrays. Raises RunError if the record cannot be read."""
    if not 0 <= index < self._count:
      raise IndexError(f'{self.name}: example {index} of {self._count}')
    try:
      # Two threads may both open a reader here; one is dropped, which does no harm.
      reader = self._reader or ArrayRecordReader(str(self.path), _READER_OPTIONS)
      self._reader = reader
      (record,) = reader.read([int(index)])
      return _unpack(record)
    except (RuntimeError, IndexError, ValueError, struct.error) as error:
      raise RunError(
        f'{self.path}: record {index} cannot be read ({error}); remove {self.path.parent}, '
        'and the cache is built again'
      ) from error

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_reader': None}


def open_cache(split: DecodedSplit, cache_dir: pathlib.Path, skip_bad: int = 0) -> CacheSplit:
  """Opens the cache of a split; builds it first if there is none, or if it is stale or incomplete.

  Args:
    split: What to cache.
    cache_dir: Folder of all caches; this one gets a folder of its own inside.
    skip_bad: How many bad pairs may be left out; a warning on stderr names them each time the cache is
      opened.

  Raises:
    InputError: More pairs that cannot be used, a folder that cannot be written, too little disk space.
    RunError: Writing failed.
  """
  source, made_from = split.source, _made_from(split)
  kind = (
    ('-native' if split.preprocessing.keep_aspect else '-native-stretched') if split.native_labels else ''
  )
  height, width = split.preprocessing.image_size
  name = f'{source.name}-{height}x{width}-{split.label_set.name}{kind}'
  folder = pathlib.Path(cache_dir) / re.sub(r'[^A-Za-z0-9-]+', '_', name)[-100:]
  path = folder / (hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16] + '.array_record')
  try:
    bad = BadPairs(source.name, skip_bad, _read_manifest(folder, made_from, skip_bad))
  except _UnusableError as error:
    if (folder / _MANIFEST).exists():
      print(f'{folder}: the cache is built again: {error}', file=sys.stderr)
    bad = BadPairs(source.name, skip_bad)
    _build(split, path, made_from, bad)
  bad.say(len(source))
  return CacheSplit(source.name, path, len(source) - len(bad.messages), source.fingerprint)


class _UnusableError(Exception):
  """Why a cache cannot be used."""


def _made_from(split: DecodedSplit) -> dict[str, Any]:
  """All that the records depend on. Colours are left out without `label_colors`, names of classes always."""
  label_set = split.label_set
  ids: list[Any] = [[list(c.ids) for c in label_set.classes], list(label_set.ignore_ids)]
  if label_set.label_colors:
    ids.append([list(c.color) for c in label_set.classes])
    if label_set.ignore_colors != ((0, 0, 0),) or any(c.more_colors for c in label_set.classes):
      ids.append(sorted(label_set.id_of_color.items()))
  if label_set.orientation:
    ids.append(label_set.orientation)
  return {
    'format_version': FORMAT_VERSION,
    'source': split.source.name,
    'fingerprint': split.source.fingerprint,
    'count': len(split),
    'image_size': list(split.preprocessing.image_size),
    'native_labels': split.native_labels,
    'keep_aspect': split.preprocessing.keep_aspect and split.native_labels,
    'label_set': hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
    'image_interpolation': 'area; bilinear where it grows',
    'label_interpolation': 'none' if split.native_labels else 'nearest',
  }


def _read_manifest(folder: pathlib.Path, made_from: dict[str, Any], skip_bad: int) -> list[str]:
  """What the cache in `folder` leaves out. Raises `_UnusableError`."""
  try:
    manifest = json.loads((folder / _MANIFEST).read_text(encoding='utf-8'))
    for key, value in made_from.items():
      if manifest[key] != value:
        changed = f'{key} was {manifest[key]}, is {value}'
        raise _UnusableError('the stored data have changed' if key == 'fingerprint' else changed)
    size = (folder / manifest['file']).stat().st_size
    if size != manifest['file_size']:
      raise _UnusableError(f'{manifest["file"]} has {size} bytes, expected {manifest["file_size"]}')
    left_out = [str(message) for message in manifest['left_out']]
  except FileNotFoundError as error:
    raise _UnusableError(f'{pathlib.Path(error.filename).name} is missing') from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _UnusableError(f'{_MANIFEST} cannot be read ({error!r})') from error
  if len(left_out) > skip_bad:
    raise _UnusableError(f'it leaves out {len(left_out)} pairs, but now at most {skip_bad} may be left out')
  return left_out


def _build(split: DecodedSplit, path: pathlib.Path, made_from: dict[str, Any], bad: BadPairs) -> None:
  folder = path.parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
    building = pathlib.Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
  except OSError as error:
    raise InputError(
      f'{folder}: cannot be written ({error.strerror}); choose another cache folder'
    ) from error
  try:
    remove_abandoned(folder, f'{_BUILDING}*')
    _write_records(split, building / path.name, bad)
    size = (building / path.name).stat().st_size
    manifest = {**made_from, 'left_out': bad.messages, 'file': path.name, 'file_size': size}
    (building / _MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n', encoding='utf-8')
    os.replace(building / path.name, path)
    os.replace(building / _MANIFEST, folder / _MANIFEST)
  finally:
    shutil.rmtree(building, ignore_errors=True)
  for other in folder.glob('*.array_record'):
    if other != path:
      other.unlink(missing_ok=True)


def _write_records(split: DecodedSplit, path: pathlib.Path, bad: BadPairs) -> None:
  indices = progress(range(len(split)), f'caching {split.source.name}', unit='image')
  records = map_good(lambda index: _pack(split[index]), indices, bad)
  first = next(records, None)
  if first is None:
    raise InputError(f'{bad.name}: none of {len(split)} pairs can be used; correct them')
  needed, free = len(first) * len(split), shutil.disk_usage(path.parent).free
  if needed > free:
    raise InputError(
      f'{path.parent.parent}: the cache needs about {needed / _GIB:.2f} GiB, {free / _GIB:.2f} GiB are free; '
      'free some space, choose another cache folder, or a smaller image size'
    )
  try:
    with contextlib.closing(ArrayRecordWriter(str(path), _WRITER_OPTIONS)) as writer:
      for record in itertools.chain([first], records):
        writer.write(record)
    # The writer does not report every failure, so count the records.
    with contextlib.closing(ArrayRecordReader(str(path), _READER_OPTIONS)) as reader:
      written = reader.num_records()
  except (OSError, RuntimeError) as error:
    raise RunError(f'{path.parent.parent}: the cache could not be written ({error})') from error
  expected = len(split) - len(bad.messages)
  if written != expected:
    raise RunError(
      f'{path.parent.parent}: {written} of {expected} records of the cache were written; is the disk full?'
    )


def _pack(example: CachedExample) -> bytes:
  image_id = example.image_id.encode(errors='surrogateescape')  # a file name may be any bytes
  header = _HEADER.pack(*example.image.shape[:2], *example.label.shape, len(image_id))
  return b''.join((header, image_id, example.image.tobytes(), example.label.tobytes()))


def _unpack(record: bytes) -> CachedExample:
  height, width, label_height, label_width, id_bytes = _HEADER.unpack_from(record)
  image_at = _HEADER.size + id_bytes
  label_at = image_at + height * width * 3
  image = np.frombuffer(record, np.uint8, height * width * 3, image_at)
  label = np.frombuffer(record, np.uint8, label_height * label_width, label_at)
  return CachedExample(
    record[_HEADER.size : image_at].decode(errors='surrogateescape'),
    image.reshape(height, width, 3),
    label.reshape(label_height, label_width),
  )
