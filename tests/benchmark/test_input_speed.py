import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.benchmark import input_speed, timing
from dense_aspp_jax.benchmark.input_speed import input_speeds
from dense_aspp_jax.benchmark.modes import device_mesh
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError

EXAMPLES = [
  CachedExample(str(i), np.full((8, 16, 3), i, np.uint8), np.full((8, 16), i, np.uint8)) for i in range(10)
]


@pytest.fixture(autouse=True)
def short_repeats(monkeypatch):
  monkeypatch.setattr(timing, 'REPEAT_SECONDS', 0.01)


def speeds(worker_counts):
  return input_speeds(
    EXAMPLES,
    batch_size=8,
    seed=0,
    sharding=NamedSharding(device_mesh(), P('data')),
    repeats=2,
    worker_counts=worker_counts,
  )


def test_every_placement_and_number_of_workers_is_measured():
  rows = speeds([0, 1])
  assert [(row['on_device'], row['num_workers']) for row in rows] == [(False, 0), (False, 1), (True, 0)]
  assert all(row['images_per_second'] == pytest.approx(8e3 / row['ms_per_step']) for row in rows)


def test_a_split_too_large_for_the_device_is_said_and_left_out(monkeypatch, capsys):
  train_batches = input_speed.train_batches

  def refuse(*args, on_device, **kwargs):
    if on_device:
      raise InputError('the split takes 9 GiB')
    return train_batches(*args, on_device=on_device, **kwargs)

  monkeypatch.setattr(input_speed, 'train_batches', refuse)
  assert [row['on_device'] for row in speeds([0])] == [False]
  assert 'not measured: the split takes 9 GiB' in capsys.readouterr().err
