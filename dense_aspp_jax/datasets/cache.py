"""A split at training resolution on disk: decoded and resized once, then read at memory speed.

A 2048 x 1024 PNG takes 50 ms to decode, a raw record under 1 ms to read. A cache is a folder:

    manifest.json           what the records were made from and how; written last
    <digest>.array_record   one record per example, in the source's order, not compressed

A record is a little-endian header `_HEADER` (image height and width, label height and width, bytes of
the image id), then the image id in UTF-8, the image as uint8 `[h, w, 3]` RGB and the label as uint8
`[h, w]`, both row by row. The file's name is a digest of all it was made from, so that two processes
that build at once write the same file, and a cache that was made from something else is seen.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from dense_aspp_jax.datasets import images
from dense_aspp_jax.datasets.network_size import network_size
from dense_aspp_jax.datasets.source import SplitSource
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import progress

FORMAT_VERSION = 1
_HEADER = struct.Struct('<5I')
_MANIFEST = 'manifest.json'
_WRITER_OPTIONS = 'group_size:1,uncompressed'
_READER_OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'  # what array_record advises for random access
_BUILDING = '.building-'
_ABANDONED_AFTER_SECONDS = 3600  # a build that wrote nothing for so long was killed
_GIB = 2**30


class CachedExample(NamedTuple):
  """One example as the network and the metric take it.

  Attributes:
    image_id: Unique in its split.
    image: RGB, uint8 `[h, w, 3]`.
    label: uint8. For training class indices and `IGNORE_LABEL`, `[h, w]` as the image; for evaluation
      the stored label ids at their native size.
  """

  image_id: str
  image: np.ndarray
  label: np.ndarray


@dataclasses.dataclass(frozen=True)
class DecodedSplit:
  """A split without a cache: every access decodes and resizes. The same examples as `CacheSplit`.

  Attributes:
    source: Where the encoded examples come from.
    label_set: The label ids that may occur, and the classes that they mean.
    image_size: Height and width of the network's input.
    native_labels: False for training: images are resized to `image_size`, labels become class indices
      of the same size. True for evaluation: images are resized to `network_size`, labels stay the
      stored ids at their native size.
    keep_aspect: See `network_size`; training images always get `image_size`.
  """

  source: SplitSource
  label_set: LabelSet
  image_size: tuple[int, int]
  native_labels: bool
  keep_aspect: bool = True

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> CachedExample:
    """Decodes one example.

    Raises:
      InputError: An image or label that cannot be used: unreadable, of different sizes, with label ids
        that the label set does not know.
    """
    example = self.source[index]
    where = f'{self.source.name} {example.image_id}'
    image = images.decode_image(example.image, f'{where} (image)')
    label_ids = images.decode_label(example.label, f'{where} (label)')
    if image.shape[:2] != label_ids.shape:
      raise InputError(
        f'{where}: the image is {_by(image.shape)} (height x width), its label {_by(label_ids.shape)}; '
        'expected the same size. Correct the pair'
      )
    labels = self.label_set.encode(label_ids, f'{where} (label)')
    if self.native_labels:
      size = network_size(label_ids.shape, self.image_size, self.keep_aspect)
      return CachedExample(example.image_id, images.resize_image(image, size), label_ids)
    return CachedExample(
      example.image_id,
      images.resize_image(image, self.image_size),
      images.resize_label(labels, self.image_size),
    )


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
    """Reads one example; its arrays cannot be written to.

    Raises:
      RunError: The record cannot be read.
    """
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


def open_cache(
  source: SplitSource,
  label_set: LabelSet,
  image_size: tuple[int, int],
  native_labels: bool,
  cache_dir: pathlib.Path,
  num_workers: int | None = None,
  keep_aspect: bool = True,
) -> CacheSplit:
  """Opens the cache of a split; builds it first if there is none, or if it is stale or incomplete.

  Args:
    source: The split to cache.
    label_set: Which label ids mean which class.
    image_size: Height and width of the network's input.
    native_labels: False for training, True for evaluation (see `DecodedSplit`).
    cache_dir: Folder of all caches; this one gets a folder of its own inside.
    num_workers: Threads that decode while building; None: one per CPU.
    keep_aspect: See `DecodedSplit`.

  Raises:
    InputError: An example that cannot be used, a folder that cannot be written, too little disk space.
    RunError: Writing failed.
  """
  image_size = (int(image_size[0]), int(image_size[1]))
  split = DecodedSplit(source, label_set, image_size, native_labels, keep_aspect)
  made_from = _made_from(split)
  kind = ('-native' if keep_aspect else '-native-stretched') if native_labels else ''
  name = f'{source.name}-{_by(image_size)}-{label_set.name}{kind}'
  folder = pathlib.Path(cache_dir) / re.sub(r'[^A-Za-z0-9-]+', '_', name)[-100:]
  file_name = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16] + '.array_record'
  if (folder / _MANIFEST).exists():
    reason = _why_stale(folder, made_from)
    if reason is None:
      return CacheSplit(source.name, folder / file_name, len(source), source.fingerprint)
    print(f'{folder}: the cache is built again: {reason}', file=sys.stderr)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    building = pathlib.Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
  except OSError as error:
    raise InputError(
      f'{folder}: cannot be written ({error.strerror}); choose another cache folder'
    ) from error
  try:
    _remove_abandoned(folder)
    _write_records(split, building / file_name, num_workers or os.cpu_count() or 1)
    manifest = {**made_from, 'file': file_name, 'file_size': (building / file_name).stat().st_size}
    (building / _MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n', encoding='utf-8')
    os.replace(building / file_name, folder / file_name)
    os.replace(building / _MANIFEST, folder / _MANIFEST)
  finally:
    shutil.rmtree(building, ignore_errors=True)
  for path in folder.glob('*.array_record'):
    if path.name != file_name:
      path.unlink(missing_ok=True)
  return CacheSplit(source.name, folder / file_name, len(source), source.fingerprint)


def _made_from(split: DecodedSplit) -> dict[str, Any]:
  """All that decides what the records hold; colours and names of classes do not."""
  ids = [[list(c.ids) for c in split.label_set.classes], list(split.label_set.ignore_ids)]
  return {
    'format_version': FORMAT_VERSION,
    'source': split.source.name,
    'fingerprint': split.source.fingerprint,
    'count': len(split),
    'image_size': list(split.image_size),
    'native_labels': split.native_labels,
    'keep_aspect': split.keep_aspect and split.native_labels,
    'label_set': hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
    'image_interpolation': 'area; bilinear where it grows',
    'label_interpolation': 'none' if split.native_labels else 'nearest',
  }


def _why_stale(folder: pathlib.Path, made_from: dict[str, Any]) -> str | None:
  """Why the cache in `folder` cannot be used, None if it can."""
  try:
    manifest = json.loads((folder / _MANIFEST).read_text(encoding='utf-8'))
    for key, value in made_from.items():
      if manifest[key] != value:
        return (
          'the stored data have changed' if key == 'fingerprint' else f'{key} was {manifest[key]}, is {value}'
        )
    size = (folder / manifest['file']).stat().st_size
    if size != manifest['file_size']:
      return f'{manifest["file"]} has {size} bytes, expected {manifest["file_size"]}'
  except FileNotFoundError as error:
    return f'{pathlib.Path(error.filename).name} is missing'
  except (OSError, ValueError, KeyError, TypeError) as error:
    return f'{_MANIFEST} cannot be read ({error!r})'
  return None


def _write_records(split: DecodedSplit, path: pathlib.Path, num_workers: int) -> None:
  first = _pack(split[0])
  needed, free = len(first) * len(split), shutil.disk_usage(path.parent).free
  if needed > free:
    raise InputError(
      f'{path.parent.parent}: the cache needs about {needed / _GIB:.2f} GiB, {free / _GIB:.2f} GiB are free; '
      'free some space, choose another cache folder, or a smaller image size'
    )
  try:
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
      records = progress(
        _records(split, num_workers), f'caching {split.source.name}', total=len(split), unit='image'
      )
      for record in records:
        writer.write(record)
    finally:
      writer.close()
    # The writer does not report every failure, so ask the file itself.
    reader = ArrayRecordReader(str(path), _READER_OPTIONS)
    written = reader.num_records()
    reader.close()
  except InputError:
    raise
  except (OSError, RuntimeError) as error:
    raise RunError(f'{path.parent.parent}: the cache could not be written ({error})') from error
  if written != len(split):
    raise RunError(
      f'{path.parent.parent}: {written} of {len(split)} records of the cache were written; is the disk full?'
    )


def _records(split: DecodedSplit, num_workers: int) -> Iterator[bytes]:
  """Records in order, prepared by threads (Pillow and zlib release the GIL), a few ahead."""
  with concurrent.futures.ThreadPoolExecutor(num_workers) as executor:
    pending = collections.deque()
    try:
      for index in range(len(split)):
        pending.append(executor.submit(lambda i: _pack(split[i]), index))
        if len(pending) > 2 * num_workers:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()


def _remove_abandoned(folder: pathlib.Path) -> None:
  """Removes what builds that were killed left behind."""
  for building in folder.glob(f'{_BUILDING}*'):
    try:
      last_write = max(path.stat().st_mtime for path in (building, *building.iterdir()))
    except FileNotFoundError:  # its builder has just finished
      continue
    if last_write < time.time() - _ABANDONED_AFTER_SECONDS:
      shutil.rmtree(building, ignore_errors=True)


def _pack(example: CachedExample) -> bytes:
  image_id = example.image_id.encode()
  header = _HEADER.pack(*example.image.shape[:2], *example.label.shape, len(image_id))
  return b''.join((header, image_id, example.image.tobytes(), example.label.tobytes()))


def _unpack(record: bytes) -> CachedExample:
  height, width, label_height, label_width, id_bytes = _HEADER.unpack_from(record)
  image_at = _HEADER.size + id_bytes
  label_at = image_at + height * width * 3
  image = np.frombuffer(record, np.uint8, height * width * 3, image_at)
  label = np.frombuffer(record, np.uint8, label_height * label_width, label_at)
  return CachedExample(
    record[_HEADER.size : image_at].decode(),
    image.reshape(height, width, 3),
    label.reshape(label_height, label_width),
  )


def _by(size: Iterable[int]) -> str:
  return 'x'.join(str(n) for n in tuple(size)[:2])
