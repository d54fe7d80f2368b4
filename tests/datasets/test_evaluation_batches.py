import collections

import numpy as np
import pytest

from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples, padded_batches
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError


def make_examples(shapes):
  """Example i has images full of i + 1 and label ids full of i."""
  return [
    CachedExample(f'image_{i}', np.full((*size, 3), i + 1, np.uint8), np.full(label_size, i, np.uint8))
    for i, (size, label_size) in enumerate(shapes)
  ]


@pytest.mark.parametrize('process_count', [1, 2, 3])
@pytest.mark.parametrize('batch_size', [1, 4, 50])
def test_evaluation_sees_every_example_exactly_once(process_count, batch_size):
  examples = make_examples([((4, 6), (8, 12))] * 10)
  seen = collections.Counter()
  for process in range(process_count):
    share = list(evaluation_examples(examples, process, process_count))
    assert [e.image_id for e in share] == [e.image_id for e in examples[process::process_count]]
    for batch in padded_batches(iter(share), batch_size):
      assert batch.image.shape == (batch_size, 4, 6, 3)
      assert batch.image.dtype == np.uint8
      count = len(batch.image_ids)
      assert len(batch.labels) == count
      for image_id, image, label in zip(batch.image_ids, batch.image, batch.labels, strict=False):
        index = int(image_id.removeprefix('image_'))
        assert (image == index + 1).all()
        assert (label == index).all()
        assert label.shape == (8, 12)
        seen[image_id] += 1
      assert (batch.image[count:] == 0).all()
  assert seen == {example.image_id: 1 for example in examples}


def test_more_processes_than_examples():
  examples = make_examples([((4, 6), (4, 6))] * 2)
  assert list(evaluation_examples(examples, 2, 3)) == []
  assert list(padded_batches([], 4)) == []


def test_a_change_of_image_or_label_size_begins_a_new_batch():
  a, b, c = ((4, 6), (8, 12)), ((4, 6), (9, 12)), ((6, 4), (9, 12))
  examples = make_examples([a, a, a, b, c, c, a])
  batches = list(padded_batches(examples, 2))
  assert [[int(i[6:]) for i in batch.image_ids] for batch in batches] == [[0, 1], [2], [3], [4, 5], [6]]
  assert [batch.image.shape for batch in batches] == [
    (2, *size, 3) for size in ((4, 6),) * 3 + ((6, 4), (4, 6))
  ]
  assert [batch.labels[0].shape for batch in batches] == [(8, 12), (8, 12), (9, 12), (9, 12), (8, 12)]
  filled_up = [batch.image[len(batch.image_ids) :] for batch in batches]
  assert [len(images) for images in filled_up] == [0, 1, 1, 0, 1]
  assert not any(images.any() for images in filled_up)


def test_a_batch_has_room_for_an_example():
  with pytest.raises(InputError, match='batch_size: 0'):
    list(padded_batches(make_examples([((4, 6), (8, 12))]), 0))
