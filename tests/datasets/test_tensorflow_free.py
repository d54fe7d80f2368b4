"""The place of TensorFlow in tfds is filled inside the block, and given back."""

import pathlib

import numpy as np
import pytest
from tensorflow_datasets.core import shuffle

from dense_aspp_jax.datasets import tensorflow_free
from dense_aspp_jax.datasets.tensorflow_free import without_tensorflow


def shuffled(folder: pathlib.Path, items: list[tuple[str, bytes]]) -> list[tuple[int, bytes]]:
  shuffler = shuffle.Shuffler(folder, 'salt')
  for key, data in items:
    shuffler.add(key, data)
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


def fail_inside() -> None:
  with without_tensorflow():
    assert shuffle.tf is tensorflow_free._TENSORFLOW
    raise KeyError


def test_everything_is_restored_after_an_error():
  before = shuffle.tf
  with pytest.raises(KeyError):
    fail_inside()
  assert shuffle.tf is before
  assert before is not tensorflow_free._TENSORFLOW  # earlier tests gave it back too
