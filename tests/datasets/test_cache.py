import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import pickle
import shutil
import threading
import time
import types

import numpy as np
import pytest

from dense_aspp_jax.datasets import cache as cache_lib
from dense_aspp_jax.datasets.cache import DecodedSplit, open_cache
from dense_aspp_jax.datasets.examples import Example, Pair
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image, resize_label
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.label_sets import CITYSCAPES_19, CITYSCAPES_20
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet

IMAGE_SIZE = (16, 24)


class FakeSource:
  """Examples in memory; image i is of `sizes[i]`."""

  def __init__(self, sizes, fingerprint='f00d', name='fake/train'):
    self.name = name
    self.fingerprint = fingerprint
    self.former_fingerprint = ''
    generator = np.random.default_rng(0)
    self.images = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    self.labels = [generator.integers(0, 34, size, np.uint8) for size in sizes]

  def __len__(self):
    return len(self.images)

  def __getitem__(self, index):
    label = self.encode_label(self.labels[index])
    return Pair.in_memory(Example(f'straße_{index}', encode_png(self.images[index]), label), self.name)

  def encode_label(self, label):
    return encode_png(label)


@pytest.fixture
def source():
  return FakeSource([(32, 48)] * 5)


def decoded_split(
  source, label_set=CITYSCAPES_19, image_size=IMAGE_SIZE, native_labels=False, keep_aspect=True
):
  return DecodedSplit(source, label_set, Preprocessing(image_size, keep_aspect=keep_aspect), native_labels)


def open_fake(source, path, *arguments, skip_bad=0, **options):
  return open_cache(decoded_split(source, *arguments, **options), path, skip_bad)


def check_equal(first, second):
  assert first.image_id == second.image_id
  for a, b in ((first.image, second.image), (first.label, second.label)):
    assert a.dtype == b.dtype == np.uint8
    np.testing.assert_array_equal(a, b)


def test_training_records_hold_resized_images_and_class_indices(source, tmp_path, capsys):
  cache = open_fake(source, tmp_path)
  assert len(cache) == 5
  for index in range(5):
    example = cache[index]
    assert example.image_id == f'straße_{index}'
    np.testing.assert_array_equal(example.image, resize_image(source.images[index], IMAGE_SIZE))
    expected = CITYSCAPES_19.encode(resize_label(source.labels[index], IMAGE_SIZE), '')
    np.testing.assert_array_equal(example.label, expected)
    assert IGNORE_LABEL in example.label
  assert 'caching fake/train: 5/5' in capsys.readouterr().err


def test_evaluation_records_hold_native_label_ids(tmp_path):
  source = FakeSource([(32, 48), (48, 32), (5, 7)])
  cache = open_fake(source, tmp_path, native_labels=True)
  for index, size in enumerate([(16, 24), (24, 16), (16, 24)]):
    example = cache[index]
    np.testing.assert_array_equal(example.image, resize_image(source.images[index], size))
    np.testing.assert_array_equal(example.label, source.labels[index])


def test_stretched_evaluation_examples_have_a_cache_of_their_own(tmp_path):
  source = FakeSource(sizes=((20, 20), (16, 24)))
  kept = open_fake(source, tmp_path, native_labels=True)
  stretched = open_fake(source, tmp_path, native_labels=True, keep_aspect=False)
  assert kept.path.parent != stretched.path.parent
  assert kept[0].image.shape[:2] != IMAGE_SIZE
  for example, original in zip(stretched, kept, strict=True):
    assert example.image.shape[:2] == IMAGE_SIZE
    np.testing.assert_array_equal(example.label, original.label)


@pytest.mark.parametrize('native_labels', [False, True])
def test_cached_and_decoded_examples_are_the_same(native_labels, tmp_path):
  source = FakeSource([(32, 48), (20, 20), (7, 60)])
  cache = open_fake(source, tmp_path, native_labels=native_labels)
  decoded = decoded_split(source, native_labels=native_labels)
  assert len(cache) == len(decoded) == 3
  for index in range(3):
    check_equal(cache[index], decoded[index])


def test_out_of_range_ends_iteration(source, tmp_path):
  cache = open_fake(source, tmp_path)
  assert len(list(cache)) == 5
  with pytest.raises(IndexError):
    cache[-1]


def test_is_built_once(source, tmp_path, monkeypatch, capsys):
  first = open_fake(source, tmp_path)
  capsys.readouterr()
  monkeypatch.setattr(FakeSource, '__getitem__', lambda self, index: pytest.fail('read again'))
  check_equal(open_fake(source, tmp_path)[4], first[4])
  assert capsys.readouterr().err == ''


def test_pickles_and_is_read_from_threads(source, tmp_path):
  cache = open_fake(source, tmp_path)
  expected = list(cache)
  copy = pickle.loads(pickle.dumps(cache))
  failures = []

  def read(seed):
    for index in np.random.default_rng(seed).integers(0, 5, 50):
      try:
        check_equal(copy[index], expected[index])
      except Exception as error:
        failures.append(error)

  threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failures


def relabelled():
  """CITYSCAPES_19 by name, with another meaning."""
  road, sidewalk, *others = CITYSCAPES_19.classes
  swapped = (dataclasses.replace(road, ids=sidewalk.ids), dataclasses.replace(sidewalk, ids=road.ids))
  return dataclasses.replace(CITYSCAPES_19, classes=(*swapped, *others))


def data_file(path):
  (found,) = path.glob('*/*.array_record')
  return found


def change_manifest(path, **changes):
  (manifest,) = path.glob('*/manifest.json')
  manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))


def test_changed_data_are_cached_again(source, tmp_path, capsys):
  open_fake(source, tmp_path)
  changed = FakeSource([(32, 48)] * 5, fingerprint='beef')
  changed.images = changed.images[::-1]
  cache = open_fake(changed, tmp_path)
  np.testing.assert_array_equal(cache[0].image, resize_image(source.images[4], IMAGE_SIZE))
  assert 'built again: the stored data have changed\n' in capsys.readouterr().err
  data_file(tmp_path)  # the old one is gone


def test_a_moved_split_finds_its_cache_and_names_its_own_files(source, tmp_path, capsys):
  source.name, source.labels[0] = '/old/fake/train', source.labels[0][:, :47]
  first = open_fake(source, tmp_path, skip_bad=1)
  source.name = '/new/place/train'
  capsys.readouterr()
  moved = open_fake(source, tmp_path, skip_bad=1)
  assert moved.path == first.path
  printed = capsys.readouterr().err
  assert 'caching' not in printed
  assert '/new/place/train' in printed
  assert '/old' not in printed


def test_a_cache_that_is_read_is_left_when_the_data_change(source, tmp_path):
  first = open_fake(source, tmp_path)
  expected = list(first)
  late = pickle.loads(pickle.dumps(first))  # as a reading process that opens the file only when it reads
  changed = FakeSource([(32, 48)] * 5, fingerprint='beef')
  second = open_fake(changed, tmp_path)
  for index in range(5):
    check_equal(late[index], expected[index])
  assert second.path.exists()
  del first
  third = open_fake(FakeSource([(32, 48)] * 5, fingerprint='cafe'), tmp_path)
  assert {path.parent for path in tmp_path.glob('*/*.array_record')} == {
    second.path.parent,
    third.path.parent,
  }


def test_a_cache_that_is_removed_while_its_lock_is_waited_for_is_built_again(source, tmp_path, monkeypatch):
  path = open_fake(source, tmp_path).path
  waited = []

  def flock(lock, operation):
    if not waited:
      waited.append(True)
      path.unlink()

  monkeypatch.setattr('fcntl.flock', flock)
  assert len(list(open_fake(source, tmp_path))) == 5


def test_a_cache_that_is_replaced_while_its_lock_is_waited_for_is_opened(
  source, tmp_path, monkeypatch, capsys
):
  path = open_fake(source, tmp_path).path
  capsys.readouterr()
  flock = fcntl.flock
  locked = []

  def replace_once(lock, operation):
    if not locked:
      shutil.copy(path, path.with_suffix('.copy'))
      os.replace(path.with_suffix('.copy'), path)
    flock(lock, operation)
    locked.append(os.fstat(lock.fileno()).st_ino)

  monkeypatch.setattr('fcntl.flock', replace_once)
  cache = open_fake(source, tmp_path)
  assert len(list(cache)) == 5
  assert 'built again' not in capsys.readouterr().err
  assert locked[-1] == path.stat().st_ino != locked[0]


def test_a_disk_that_fills_at_the_manifest_is_named(source, tmp_path, monkeypatch):
  def replace(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'replace', replace)
  with pytest.raises(RunError, match=r'the cache could not be written \(No space left on device\)'):
    open_fake(source, tmp_path)


def test_two_data_sets_of_one_name_keep_their_caches(source, tmp_path, capsys):
  other = FakeSource([(32, 48)] * 5, fingerprint='beef', name='/b/fake/train')
  source.name = '/a/fake/train'
  for _ in range(2):
    open_fake(source, tmp_path)
    open_fake(other, tmp_path)
  assert capsys.readouterr().err.count(': 5/5') == 2


def test_a_place_that_cannot_be_written_is_replaced_by_the_fallback(source, tmp_path, capsys):
  (tmp_path / 'file').write_text('')  # nothing can be made below it, not even by root
  fallback = tmp_path / 'user' / 'cache'
  first = open_cache(decoded_split(source), tmp_path / 'file', fallback=fallback)
  assert first.path.is_relative_to(fallback)
  assert f'caches are kept in {fallback} (config.data.cache_dir)' in capsys.readouterr().err
  assert open_cache(decoded_split(source), tmp_path / 'file', fallback=fallback).path == first.path
  assert capsys.readouterr().err == ''


def test_a_cache_in_a_place_that_cannot_be_written_is_read(source, tmp_path, monkeypatch):
  first = open_fake(source, tmp_path / 'shared')
  monkeypatch.setattr(cache_lib, '_make_folder', lambda *_: pytest.fail('built again'))
  found = open_cache(decoded_split(source), tmp_path / 'shared', fallback=tmp_path / 'user')
  check_equal(found[4], first[4])


def test_a_cache_of_another_user_that_may_not_be_read_is_made_anew(source, tmp_path, monkeypatch):
  first, opened = open_fake(source, tmp_path / 'shared'), pathlib.Path.open

  def open_own(path, *arguments, **options):
    if path == first.path:
      raise PermissionError(errno.EACCES, 'Permission denied', str(path))
    return opened(path, *arguments, **options)

  monkeypatch.setattr(pathlib.Path, 'open', open_own)
  monkeypatch.setattr(cache_lib, '_make_folder', lambda name, places: places[-1] / name)
  (tmp_path / 'user' / first.path.parent.name).mkdir(parents=True)
  found = open_cache(decoded_split(source), tmp_path / 'shared', fallback=tmp_path / 'user')
  assert found.path.is_relative_to(tmp_path / 'user')
  check_equal(found[4], first[4])


def test_without_locks_nothing_that_may_be_read_is_removed(source, tmp_path, monkeypatch):
  def without_locks(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', without_locks)
  open_fake(source, tmp_path)
  open_fake(FakeSource([(32, 48)] * 5, fingerprint='beef'), tmp_path)
  assert len(list(tmp_path.glob('*/*.array_record'))) == 2


def test_changed_meaning_of_labels_is_cached_again(source, tmp_path, capsys):
  open_fake(source, tmp_path)
  cache = open_fake(source, tmp_path, relabelled())
  expected = relabelled().encode(resize_label(source.labels[0], IMAGE_SIZE), '')
  np.testing.assert_array_equal(cache[0].label, expected)
  assert 'built again: label_set was ' in capsys.readouterr().err


def test_colours_do_not_matter(source, tmp_path, capsys):
  open_fake(source, tmp_path)
  capsys.readouterr()
  classes = tuple(dataclasses.replace(c, color=(1, 2, 3)) for c in CITYSCAPES_19.classes)
  open_fake(source, tmp_path, dataclasses.replace(CITYSCAPES_19, classes=classes))
  assert capsys.readouterr().err == ''


def test_sizes_label_sets_and_purposes_are_kept_apart(source, tmp_path, capsys):
  opened = [
    open_fake(source, tmp_path),
    open_fake(source, tmp_path, image_size=(8, 12)),
    open_fake(source, tmp_path, CITYSCAPES_20),
    open_fake(source, tmp_path, native_labels=True),
    open_fake(FakeSource([(32, 48)], 'beef', name='fake/validation'), tmp_path),
  ]
  assert len({cache.path for cache in opened}) == 5
  assert opened[1][0].image.shape == (8, 12, 3)
  capsys.readouterr()
  check_equal(open_fake(source, tmp_path)[0], opened[0][0])
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  ('damage', 'reason'),
  [
    pytest.param(
      lambda p: change_manifest(p, image_size=[8, 12]), 'image_size was [8, 12], is [16, 24]', id='size'
    ),
    pytest.param(lambda p: change_manifest(p, count=4), 'count was 4, is 5', id='count'),
    pytest.param(lambda p: change_manifest(p, format_version=1), 'format_version was 1, is 3', id='format'),
    pytest.param(lambda p: change_manifest(p, native_labels=True), 'native_labels was True', id='purpose'),
    pytest.param(
      lambda p: change_manifest(p, label_interpolation='x'), 'label_interpolation was x', id='label'
    ),
    pytest.param(lambda p: os.truncate(data_file(p), 1000), 'has 1000 bytes, expected', id='truncated'),
    pytest.param(lambda p: data_file(p).unlink(), '.array_record is missing', id='missing'),
    pytest.param(
      lambda p: next(p.glob('*/manifest.json')).write_text('{'), 'manifest.json cannot be read', id='manifest'
    ),
  ],
)
def test_stale_and_incomplete_caches_are_built_again_and_say_why(damage, reason, source, tmp_path, capsys):
  expected = list(open_fake(source, tmp_path))
  damage(tmp_path)
  capsys.readouterr()
  cache = open_fake(source, tmp_path)
  (line,) = [line for line in capsys.readouterr().err.splitlines() if 'built again' in line]
  assert reason in line
  for index in range(5):
    check_equal(cache[index], expected[index])
  capsys.readouterr()
  open_fake(source, tmp_path)
  assert capsys.readouterr().err == ''


def test_a_build_that_fails_leaves_nothing(source, tmp_path):
  source.labels[3][2, 1:4] = 77
  with pytest.raises(InputError, match=r'^fake/train straße_3 \(label\): unknown label ids 77 \(3 pixels\)'):
    open_fake(source, tmp_path)
  assert list(tmp_path.iterdir()) == []
  source.labels[3][:] = 7
  assert (open_fake(source, tmp_path)[3].label == 0).all()


def test_bad_pairs_are_left_out_named_and_counted_each_time(source, tmp_path, capsys):
  source.labels[0][2, 1:4] = 77  # also the first, whose size the space is reckoned by
  source.labels[3] = source.labels[3][:, :47]
  cache = open_fake(source, tmp_path, skip_bad=2)
  first = capsys.readouterr().err
  assert [example.image_id for example in cache] == ['straße_1', 'straße_2', 'straße_4']
  assert len(cache) == 3
  for index, example in zip((1, 2, 4), cache, strict=True):
    np.testing.assert_array_equal(example.image, resize_image(source.images[index], IMAGE_SIZE))
  (manifest,) = tmp_path.glob('*/manifest.json')
  left_out = json.loads(manifest.read_text())['left_out']
  assert [message.partition(':')[0] for message in left_out] == [
    'fake/train straße_0 (label)',
    'fake/train straße_3 (label)',
  ]
  again = open_fake(source, tmp_path, skip_bad=5)
  second = capsys.readouterr().err
  assert 'caching' not in second
  warning = 'warning: fake/train: 2 of 5 pairs left out, which cannot be used:\n  ' + '\n  '.join(left_out)
  assert warning in first
  assert second == warning + '\n'
  assert [example.image_id for example in again] == [example.image_id for example in cache]


def test_a_cache_that_leaves_out_more_than_is_permitted_now_is_not_used(source, tmp_path, capsys):
  source.labels[0][:] = 77
  open_fake(source, tmp_path, skip_bad=1)
  with pytest.raises(InputError, match=r'straße_0 \(label\): unknown label ids 77'):
    open_fake(source, tmp_path)
  assert 'it leaves out 1 pairs, but now at most 0 may be left out' in capsys.readouterr().err
  assert len(open_fake(source, tmp_path, skip_bad=1)) == 4


def test_nothing_left_is_an_error(source, tmp_path):
  for label in source.labels:
    label[:] = 77
  with pytest.raises(InputError, match='fake/train: none of 5 pairs can be used'):
    open_fake(source, tmp_path, skip_bad=9)
  assert list(tmp_path.glob('*/*')) == []


def test_colours_matter_where_labels_are_drawn_in_them(tmp_path, capsys):
  class ColoredSource(FakeSource):
    def encode_label(self, label):
      return encode_png(np.array([[10, 20, 30], [40, 50, 60]], np.uint8)[label % 2])

  source = ColoredSource([IMAGE_SIZE])
  for a, b in ((0, 1), (1, 0)):
    colors = [(10, 20, 30), (40, 50, 60)]
    classes = (LabelClass('a', (5,), colors[a]), LabelClass('b', (6,), colors[b]))
    label_set = LabelSet('colored', classes, label_colors=True)
    (example,) = open_fake(source, tmp_path, label_set)
    np.testing.assert_array_equal(example.label, source.labels[0] % 2 ^ a)
    (example,) = open_fake(source, tmp_path, label_set, native_labels=True)
    np.testing.assert_array_equal(example.label, 5 + (source.labels[0] % 2 ^ a))  # ids, as for any other set
  assert 'built again: label_set was ' in capsys.readouterr().err


def test_evaluation_checks_label_ids_too(source, tmp_path):
  source.labels[0][:] = 200
  with pytest.raises(InputError, match=r'straße_0 \(label\): unknown label ids 200'):
    open_fake(source, tmp_path, native_labels=True)


def test_a_killed_build_is_cleared_up_later(source, tmp_path):
  cache = open_fake(source, tmp_path)
  folder = cache.path.parent
  shutil.rmtree(folder)
  for name, age in (('.building-dead', 7200), ('.building-alive', 0)):
    (folder / name).mkdir(parents=True)
    (folder / name / 'x.array_record').write_bytes(b'part')
    for path in (folder / name / 'x.array_record', folder / name):
      os.utime(path, (time.time() - age,) * 2)
  open_fake(source, tmp_path)
  assert sorted(p.name for p in folder.iterdir()) == [
    '.building-alive',
    cache.path.name,
    'manifest.json',
  ]


def test_two_builds_at_once_end_well(source, tmp_path):
  opened = []
  threads = [threading.Thread(target=lambda: opened.append(open_fake(source, tmp_path))) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(opened) == 3
  decoded = decoded_split(source)
  for cache in (*opened, open_fake(source, tmp_path)):
    check_equal(cache[4], decoded[4])
  assert len(list(opened[0].path.parent.iterdir())) == 2


def test_sizes_that_differ_are_an_error(source, tmp_path):
  source.labels[2] = source.labels[2][:, :47]
  with pytest.raises(InputError, match=r'straße_2 \(label\): .*32x47 .*32x48 '):
    open_fake(source, tmp_path)


def test_a_full_disk_is_said_before_building(source, tmp_path, monkeypatch):
  usage = types.SimpleNamespace(free=5 * 16 * 24 * 4)  # without room for headers
  monkeypatch.setattr(cache_lib.shutil, 'disk_usage', lambda path: usage)
  with pytest.raises(InputError, match='GiB are free'):
    open_fake(source, tmp_path)
  assert list(tmp_path.glob('*/*')) == []


def test_a_write_that_fails_is_an_error_and_leaves_nothing(source, tmp_path, monkeypatch):
  def full(path, options):
    def write(record):
      raise RuntimeError('No space left on device')

    return types.SimpleNamespace(write=write, close=lambda: None)

  monkeypatch.setattr(cache_lib, 'ArrayRecordWriter', full)
  with pytest.raises(RunError, match=r'cityscapes19-[0-9a-f]{16}: .*No space left'):
    open_fake(source, tmp_path)
  assert list(tmp_path.glob('*/*')) == []


def test_a_folder_that_cannot_be_made_is_named(source, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(
    InputError, match=r'file/fake_train-16x24-cityscapes19-\w+: cannot be written.*cache_dir'
  ):
    open_fake(source, tmp_path / 'file')


def test_damage_inside_a_record_is_an_error(source, tmp_path):
  cache = open_fake(source, tmp_path)
  data = bytearray(cache.path.read_bytes())
  image = cache[2].image.tobytes()
  data[data.index(image) + 5] ^= 255
  cache.path.write_bytes(data)
  with pytest.raises(RunError, match=r'record: record 2 .* remove '):
    list(open_fake(source, tmp_path))


@pytest.mark.parametrize('native_labels', [True, False])
def test_the_pixels_of_each_class_are_known(source, native_labels, tmp_path):
  cache = open_fake(source, tmp_path, native_labels=native_labels)
  expected = np.zeros(256, np.int64)
  for index in range(5):
    label = cache[index].label
    expected += np.bincount(
      (CITYSCAPES_19.encode(label, '') if native_labels else label).ravel(), minlength=256
    )
  assert expected[IGNORE_LABEL]
  np.testing.assert_array_equal(cache.class_pixels, expected)  # of a cache that was just built
  again = open_fake(source, tmp_path, native_labels=native_labels)
  np.testing.assert_array_equal(again.class_pixels, expected)
