import functools
import itertools
import os
import signal
import types

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dense_aspp_jax.datasets import train_batches
from dense_aspp_jax.datasets.cache import DecodedSplit, open_cache
from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples
from dense_aspp_jax.datasets.examples import CachedExample, Example, Pair, Split
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.label_sets import CITYSCAPES_20

NUM_EXAMPLES = 13
BATCH_SIZE = 8


def make_pair(index):
  generator = np.random.default_rng(index)
  image = generator.integers(0, 256, (6, 8, 3), np.uint8)
  label = generator.integers(0, 34, (6, 8), np.uint8)
  return Pair.in_memory(Example(f'image_{index}', encode_png(image), encode_png(label)), 'fake/train')


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  split = Split('fake/train', 'f00d', list(map(make_pair, range(NUM_EXAMPLES))))
  decoded = DecodedSplit(split, CITYSCAPES_20, Preprocessing((6, 8)), False)
  return open_cache(decoded, tmp_path_factory.mktemp('cache'))


@pytest.fixture
def sharding():
  assert jax.device_count() == 8
  return NamedSharding(Mesh(np.array(jax.devices()), ('data',)), PartitionSpec('data'))


def read_host(
  cache,
  count,
  *,
  batch_size=BATCH_SIZE,
  seed=3,
  start_step=0,
  process_index=0,
  process_count=1,
  num_workers=0,
):
  indices = train_batches.train_indices(len(cache), batch_size, seed)[start_step:]
  rows = train_batches.process_rows(batch_size, process_index, process_count)
  batches = train_batches.host_batches(cache, indices, rows, num_workers)
  try:
    return list(itertools.islice(batches, count))
  finally:
    batches.close()


def read_train(cache, count, sharding, **arguments):
  defaults = {'batch_size': BATCH_SIZE, 'seed': 3, 'start_step': 0, 'on_device': False, 'num_workers': 0}
  batches = train_batches.train_batches(cache, sharding=sharding, **{**defaults, **arguments})
  try:
    return list(itertools.islice(batches, count))
  finally:
    batches.close()


def check_equal(first, second):
  assert len(first) == len(second) > 0
  for a, b in zip(first, second, strict=True):
    assert a.keys() == b.keys() == {'image', 'label'}
    for name in a:
      assert a[name].dtype == b[name].dtype == np.uint8
      np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]))


def test_each_epoch_is_a_fresh_permutation():
  batches = train_batches.train_indices(NUM_EXAMPLES, 4, seed=3)
  stream = np.concatenate([batches[step] for step in range(13)])  # 4 epochs of 13
  epochs = stream.reshape(4, NUM_EXAMPLES)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(NUM_EXAMPLES))
  assert len({tuple(epoch) for epoch in epochs}) == 4
  assert not (epochs[0] == np.arange(NUM_EXAMPLES)).all()


def test_order_depends_on_the_seed():
  first, again, other = (train_batches.train_indices(100, 50, seed)[0] for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_one_example_fills_a_batch():
  np.testing.assert_array_equal(train_batches.train_indices(1, 3, seed=0)[5], [0, 0, 0])


def test_batches_hold_the_records_of_their_indices(cache):
  indices = train_batches.train_indices(NUM_EXAMPLES, BATCH_SIZE, seed=3)
  for step, batch in enumerate(read_host(cache, 4)):
    assert batch['image'].dtype == batch['label'].dtype == np.uint8
    for row, index in enumerate(indices[step]):
      np.testing.assert_array_equal(batch['image'][row], cache[index].image)
      np.testing.assert_array_equal(batch['label'][row], cache[index].label)


def test_resumes_at_any_step(cache):
  all_batches = read_host(cache, 6)
  for start in (1, 4):
    check_equal(read_host(cache, 6 - start, start_step=start), all_batches[start:])


def test_any_number_of_workers_gives_the_same_batches(cache, sharding):
  check_equal(read_train(cache, 3, sharding, num_workers=2, start_step=2), read_host(cache, 5)[2:])


@pytest.mark.parametrize('process_count', [2, 4])
def test_shares_of_processes_make_up_the_global_batch(cache, process_count):
  shares = [read_host(cache, 3, process_index=p, process_count=process_count) for p in range(process_count)]
  joined = [
    {name: np.concatenate([s[step][name] for s in shares]) for name in shares[0][0]} for step in range(3)
  ]
  check_equal(joined, read_host(cache, 3))


@pytest.mark.parametrize('on_device', [False, True])
def test_both_placements_give_the_same_global_batches(cache, sharding, on_device):
  expected = read_host(cache, 5)
  batches = read_train(cache, 5, sharding, on_device=on_device)
  check_equal(batches, expected)
  check_equal(read_train(cache, 2, sharding, on_device=on_device, start_step=3), expected[3:])
  for array in batches[0].values():
    assert array.sharding.is_equivalent_to(sharding, array.ndim)
    assert len({shard.device for shard in array.addressable_shards}) == 8
    assert all(shard.data.shape[0] == 1 for shard in array.addressable_shards)


def test_a_batch_on_its_way_survives_the_reading_of_others(cache, sharding):
  batches = train_batches.train_batches(
    cache, batch_size=8, seed=3, start_step=0, sharding=sharding, on_device=False, num_workers=0
  )
  first = next(batches)
  before = np.array(first['image'])
  for _ in range(10):
    next(batches)
  batches.close()
  np.testing.assert_array_equal(np.asarray(first['image']), before)


def test_a_split_larger_than_the_device_is_an_error(cache, sharding):
  stats = {'bytes_limit': 10**6 + NUM_EXAMPLES * 6 * 8 * 4 - 1, 'bytes_in_use': 10**6}
  small = types.SimpleNamespace(memory_stats=lambda: stats)
  devices = types.SimpleNamespace(mesh=sharding.mesh, addressable_devices=[small])
  open_batches = functools.partial(
    train_batches.train_batches,
    cache,
    batch_size=BATCH_SIZE,
    seed=3,
    start_step=0,
    sharding=devices,
    on_device=True,
    num_workers=0,
  )
  with pytest.raises(InputError, match=r'data\.on_device: the split takes .* free'):
    open_batches()
  stats['bytes_limit'] += 1
  open_batches()  # now it just fits


class BrokenExamples:
  def __len__(self):
    return 4

  def __getitem__(self, index):
    if index == 2:
      raise InputError('image_2: damaged')
    return CachedExample('image', np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8))


def test_an_error_while_reading_reaches_the_caller_as_it_is():
  share = evaluation_examples(BrokenExamples())
  assert next(share).image_id == 'image'
  with pytest.raises(InputError) as evaluation_error:
    list(share)
  with pytest.raises(InputError) as thread_error:
    read_host(BrokenExamples(), 10, batch_size=2)
  with pytest.raises(InputError) as process_error:
    read_host(BrokenExamples(), 10, batch_size=2, num_workers=1)
  for error in (evaluation_error, thread_error, process_error):
    assert str(error.value) == 'image_2: damaged'


class ShortOfSharedMemory:
  """Reading it leads to what a full /dev/shm does: an error, or a signal."""

  def __init__(self, error):
    self.error, self.trainer = error, os.getpid()

  def __len__(self):
    return 4

  def __getitem__(self, index):
    if os.getpid() == self.trainer:
      return CachedExample('', np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8))
    if isinstance(self.error, OSError):
      raise self.error
    os.kill(os.getpid(), self.error)


@pytest.mark.parametrize(
  ('cause', 'message'),
  [
    (OSError(28, 'No space left on device'), r'too little shared memory, /dev/shm .*data\.num_workers=0'),
    (
      OSError(24, 'Too many open files'),
      r'more open files than the limit of \d+ .*ulimit -n.*data\.num_workers',
    ),
    (signal.SIGBUS, r'too little shared memory, /dev/shm .*data\.num_workers=0'),
  ],
)
def test_readers_without_shared_memory_name_it(sharding, cause, message):
  with pytest.raises(RunError, match=message):
    read_train(ShortOfSharedMemory(cause), 1, sharding, num_workers=1)


def test_shared_memory_for_less_than_a_batch_of_each_reader_is_refused_at_once(sharding, monkeypatch):
  space = os.statvfs('/')
  free = os.statvfs_result((*space[:4], 25, *space[5:]))  # blocks
  monkeypatch.setattr(os, 'statvfs', lambda _: free)
  with pytest.raises(
    RunError, match=r'too little shared memory, /dev/shm \([\d,]+ bytes are free, 2 batches'
  ):
    read_train(LargeExamples(), 1, sharding, num_workers=2)


class LargeExamples:
  """Four of which take 1 MiB."""

  def __len__(self):
    return 4

  def __getitem__(self, index):
    return CachedExample('', np.zeros((256, 256, 3), np.uint8), np.zeros((256, 256), np.uint8))
