"""Opening prepared datasets: examples, fingerprints, and messages for what cannot be opened."""

import multiprocessing
import os
import pathlib
import pickle
import shutil

import layouts
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from dense_aspp_jax.datasets.examples import Split
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.prepare import DATASETS, prepare
from dense_aspp_jax.datasets.tfds_store import without_tensorflow
from dense_aspp_jax.errors import InputError

FOLDER = 'camvid/1.0.0'


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp('source')
  layouts.write_camvid(path / 'CamVid', {'train': 5, 'validation': 3})
  prepare('camvid', path / 'CamVid', str(path / 'data'), allow_partial=True)
  return str(path / 'data')


def first_image_id(split: Split) -> str:
  return split[0].image_id


def test_sequence(data_dir: str):
  split = open_split('camvid', 'train', data_dir)
  assert (split.name, len(split)) == ('camvid/train', 5)
  assert {pair.image_id for pair in split} == {f'0001TP_{6690 + 30 * i:06d}' for i in range(5)}
  for index in (-1, 5):
    with pytest.raises(IndexError):
      split[index]


def test_can_be_sent_to_a_spawned_worker(data_dir: str):
  split = open_split('camvid', 'train', data_dir)
  copy = pickle.loads(pickle.dumps(split))
  assert (copy.name, copy.fingerprint) == (split.name, split.fingerprint)
  assert layouts.read_pair(copy[4]) == layouts.read_pair(split[4])
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    assert pool.apply(first_image_id, (split,)) == split[0].image_id


def test_fingerprint_tells_splits_and_contents_apart_but_not_places(data_dir: str, tmp_path: pathlib.Path):
  train = open_split('camvid', 'train', data_dir).fingerprint
  assert open_split('camvid', 'train', data_dir).fingerprint == train
  assert open_split('camvid', 'validation', data_dir).fingerprint != train
  shutil.copytree(data_dir, tmp_path / 'copy')
  assert open_split('camvid', 'train', str(tmp_path / 'copy')).fingerprint == train
  layouts.write_camvid(tmp_path / 'CamVid', {'train': 4, 'validation': 3})
  prepare('camvid', tmp_path / 'CamVid', str(tmp_path / 'other'), allow_partial=True)
  assert open_split('camvid', 'train', str(tmp_path / 'other')).fingerprint != train


def test_unknown_dataset():
  with pytest.raises(InputError, match=r"'kitti'.*cityscapes, .*camvid, .*street_scenes"):
    open_split('kitti', 'train')


@pytest.mark.parametrize('dataset', DATASETS)
def test_not_prepared(dataset: str, tmp_path: pathlib.Path):
  with pytest.raises(InputError, match=f'dense-aspp prepare {dataset} --data-dir {tmp_path}'):
    open_split(dataset, 'train', str(tmp_path))


def test_unknown_split(data_dir: str):
  with pytest.raises(InputError, match=r"no split 'test'.*train, validation"):
    open_split('camvid', 'test', data_dir)


def test_prepared_as_tfrecord(data_dir: str, tmp_path: pathlib.Path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  info = tmp_path / FOLDER / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(InputError, match=r'1\.0\.0: .*tfrecord.*--data-dir'):
    open_split('camvid', 'train', str(tmp_path))
  with pytest.raises(InputError, match='tfrecord'):  # nor is it prepared over
    prepare('camvid', None, str(tmp_path), download=True)


def test_missing_records(data_dir: str, tmp_path: pathlib.Path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  (tmp_path / FOLDER / 'camvid-train.array_record-00000-of-00001').unlink()
  with pytest.raises(InputError, match=r'00000-of-00001: missing; remove .*1\.0\.0'):
    open_split('camvid', 'train', str(tmp_path))


@pytest.mark.parametrize(
  ('name', 'keep', 'message'),
  [
    ('dataset_info.json', -60, r'camvid: what tfds stored there cannot be read .*prepare the dataset again'),
    ('camvid-train.array_record-00000-of-00001', -60, r'camvid/train: record \d in .*1\.0\.0 cannot be read'),
    ('camvid-train.array_record-00000-of-00001', 0, r'camvid/train: record \d in .*1\.0\.0 cannot be read'),
  ],
)
def test_damaged_files_are_named(name: str, keep: int, message: str, data_dir: str, tmp_path: pathlib.Path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  path = tmp_path / FOLDER / name
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(InputError, match=message):
    list(open_split('camvid', 'train', str(tmp_path)))


def test_empty_split(data_dir: str, tmp_path: pathlib.Path):
  shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
  info = tmp_path / FOLDER / 'dataset_info.json'
  info.write_text(info.read_text().replace('"5"', '"0"'))
  with pytest.raises(InputError, match="split 'train' has no examples"):
    open_split('camvid', 'train', str(tmp_path))


def test_home_directory_is_expanded(data_dir: str, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv('HOME', str(pathlib.Path(data_dir).parent))
  assert len(open_split('camvid', 'train', '~/data')) == 5


def test_a_data_directory_that_is_not_utf_8_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(InputError, match=r'd\\xe9: not UTF-8, which tfds needs'):
    open_split('camvid', 'train', str(tmp_path / os.fsdecode(b'd\xe9')))


def test_default_directory_is_the_one_of_tfds():
  with pytest.raises(InputError) as error:
    open_split('camvid', 'train', None)
  assert f'not prepared in {pathlib.Path(tfds.core.constants.DATA_DIR).expanduser()}/' in str(error.value)
  assert str(error.value).endswith('dense-aspp prepare camvid')


def shuffled(folder: pathlib.Path, items: list[tuple[str, bytes]]) -> list[tuple[int, bytes]]:
  shuffler = shuffle.Shuffler(folder, 'salt')
  for key, data in items:
    shuffler.add(key, data)
  on_disk = sum(len(data) for _, data in items) > shuffle.MAX_MEM_BUFFER_SIZE
  assert (len(shuffler.bucket_lengths) > 1) == on_disk
  return list(shuffler)


@pytest.mark.parametrize('limit', [0, 500, 10**6])
def test_sorting_through_files_equals_sorting_in_memory(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, limit: int
):
  random = np.random.default_rng(0)
  items = [(f'key {i}', random.bytes(int(random.integers(0, 90)))) for i in range(50)]
  in_memory = shuffled(tmp_path, items)
  monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', limit)
  with without_tensorflow():
    assert shuffled(tmp_path, items) == in_memory
  assert not list(tmp_path.iterdir())


def test_more_buckets_than_open_files_are_allowed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  resource = pytest.importorskip('resource')  # not on Windows
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 0)
  items = [(f'key {i}', bytes([i % 256])) for i in range(400)]
  resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
  try:
    with without_tensorflow():
      result = shuffled(tmp_path, items)
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
  assert sorted(data for _, data in result) == sorted(data for _, data in items)
  assert len({key for key, _ in result}) == 400


def fail_inside(tensorflow) -> None:
  with without_tensorflow():
    assert shuffle.tf is not tensorflow
    raise KeyError


def test_tensorflow_is_restored_after_an_error():
  before = shuffle.tf
  with pytest.raises(KeyError):
    fail_inside(before)
  assert shuffle.tf is before
