"""Batches from several data sets: their shares and their order; one data set is read as ever."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.joined import JoinedSplit, parts_of
from dense_aspp_jax.datasets.train_batches import (
  batch_indices,
  host_batches,
  process_rows,
  train_batches,
  train_indices,
)
from dense_aspp_jax.training.objective import Objective

LENGTHS, SHARES, BATCH_SIZE = (7, 3, 30), (2, 1, 5), 8


class Part:
  """A split whose images say which example they are of which part."""

  def __init__(self, number, length):
    self.name, self.number, self.length = f'set {number}', number, length
    self.class_pixels = np.bincount([number] * 4 * length, minlength=256)

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    assert 0 <= index < self.length
    image = np.full((2, 2, 3), (self.number, index, 0), np.uint8)
    return CachedExample(f'{self.number}/{index}', image, np.full((2, 2), self.number, np.uint8))


def joined(lengths=LENGTHS, shares=SHARES):
  return JoinedSplit(tuple(Part(number, length) for number, length in enumerate(lengths)), tuple(shares))


def places(batch):
  """(number of the part, index in it) of each image of a batch."""
  return np.asarray(batch['image'])[:, 0, 0, :2].tolist()


def read(split, count, start_step=0, **options):
  sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), ('data',)), PartitionSpec('data'))
  options = {'batch_size': BATCH_SIZE, 'seed': 3, 'on_device': False, 'num_workers': 0} | options
  batches = train_batches(split, start_step=start_step, sharding=sharding, **options)
  try:
    return [places(batch) for batch in itertools.islice(batches, count)]
  finally:
    batches.close()


def test_the_examples_of_all_parts_follow_each_other():
  split = joined()
  assert len(split) == 40
  assert [split[i].image_id for i in (0, 6, 7, 9, 10, 39)] == ['0/0', '0/6', '1/0', '1/2', '2/0', '2/29']
  for index in (-1, 40):
    with pytest.raises(IndexError, match=r'set 0 \+ set 1 \+ set 2: example'):
      split[index]
  assert split.class_pixels[:4].tolist() == [28, 12, 120, 0]
  assert parts_of(split) == split.parts
  assert parts_of(split.parts[0]) == (split.parts[0],)


def test_every_batch_has_the_shares_in_order_and_each_part_its_own_epochs():
  batches = read(joined(), 21)
  for batch in batches:
    assert [number for number, _ in batch] == [0, 0, 1, 2, 2, 2, 2, 2]
  for number, length in enumerate(LENGTHS):
    seen = [index for batch in batches for n, index in batch if n == number]
    for epoch in range(len(seen) // length):  # a permutation each
      assert sorted(seen[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_the_first_follows_the_seed_and_others_seeds_of_their_own():
  indices = batch_indices(joined(), BATCH_SIZE, seed=3)
  first = train_indices(7, 2, seed=3)
  others = [
    train_indices(length, share, int(np.random.SeedSequence([3, i]).generate_state(1)[0]))
    for i, length, share in ((1, 3, 1), (2, 30, 5))
  ]
  for step in (0, 1, 50):
    expected = [first[step], others[0][step] + 7, others[1][step] + 10]
    np.testing.assert_array_equal(indices[step], np.concatenate(expected))


def test_equal_parts_are_not_read_in_step():
  batches = read(joined((30, 30), (4, 4)), 3)
  assert all([i for n, i in batch if n == 0] != [i for n, i in batch if n == 1] for batch in batches)


def test_one_data_set_is_read_as_ever():
  alone = Part(0, 13)
  expected = train_indices(13, BATCH_SIZE, seed=3)
  for split in (alone, JoinedSplit((alone,), (BATCH_SIZE,))):
    indices = batch_indices(split, BATCH_SIZE, seed=3)
    for step in (0, 1, 2, 77):
      np.testing.assert_array_equal(indices[step], expected[step])


@pytest.mark.parametrize('options', [{'num_workers': 2}, {'on_device': True}], ids=lambda o: next(iter(o)))
def test_workers_and_the_device_give_the_same_batches_from_any_step(options):
  assert read(joined(), 4, start_step=2, **options) == read(joined(), 6)[2:]


def test_shares_of_processes_make_up_the_global_batch():
  indices = batch_indices(joined(), BATCH_SIZE, seed=3)
  found = []
  for process in range(4):
    batches = host_batches(joined(), indices, process_rows(BATCH_SIZE, process, 4))
    found += places(next(batches))
    batches.close()
  assert found == read(joined(), 1)[0]


@pytest.mark.parametrize('rule', ['enet', 'median_frequency'])
def test_class_weights_count_what_batches_have(rule):
  """As if every example were there as often as batches have it."""
  split = joined((2, 4), (1, 6))  # an example of the second is in 3 times as many batches
  alike = [split[i] for i in (0, 1, *(i for i in (2, 3, 4, 5) for _ in range(3)))]
  found, expected = (Objective(class_weighting=rule).counted(s, 3).class_weights for s in (split, alike))
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  np.testing.assert_allclose(split.image_weights, [1 / 2] * 2 + [3 / 2] * 4, rtol=1e-12)
