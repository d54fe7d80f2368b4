import numpy as np
import pytest

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation import evaluate as evaluate_module
from dense_aspp_jax.evaluation.evaluate import evaluate, predict_split, sum_over_processes
from dense_aspp_jax.evaluation.pictures import comparison, gallery, predictions_gallery
from dense_aspp_jax.label_sets import CAMVID_11


class ColorPredictor:
  """Predicts the class that the red channel names, at the output size by repetition."""

  def __init__(self, takes_padding=True):
    self.takes_padding = takes_padding
    self.given = []  # images of each batch

  def predict_resized(self, images, output_size):
    self.given.append(len(images))
    factor = output_size[0] // images.shape[1]
    return images[..., 0].repeat(factor, 1).repeat(factor, 2)


def make_split(count):
  """Images of 4x6 with labels of 8x12, and one of another shape in the middle."""
  rng = np.random.default_rng(0)
  split = []
  for index in range(count):
    height = 2 if index == 2 else 4
    image = rng.integers(0, 11, (height, 6, 3)).astype(np.uint8)
    label = rng.integers(0, 12, (2 * height, 12)).astype(np.uint8)
    split.append(CachedExample(str(index), image, label))
  return split


@pytest.mark.parametrize('batch_size', [1, 2, 4, 9])
def test_every_pixel_is_counted_once_whatever_the_batch(batch_size):
  split = make_split(7)
  confusion = evaluate(ColorPredictor(), split, CAMVID_11, batch_size=batch_size)
  expected = np.zeros((12, 12), np.int64)
  for example in split:
    prediction = example.image[..., 0].repeat(2, 0).repeat(2, 1)
    np.add.at(expected, (example.label, prediction), 1)  # id 11, void, has the last row
  np.testing.assert_array_equal(confusion.counts, expected)


def test_a_split_that_is_all_void_is_refused_before_anything_is_predicted():
  split = [example._replace(label=np.full_like(example.label, 11)) for example in make_split(3)]
  predictor = ColorPredictor()
  with pytest.raises(InputError, match='all 240 pixels of the ground truth are void'):
    evaluate(predictor, split, CAMVID_11, batch_size=1)
  assert not predictor.given
  evaluate(predictor, [*split, *make_split(1)], CAMVID_11, batch_size=1)
  assert predictor.given == [1] * 4


def test_black_images_fill_a_batch_only_where_the_predictor_takes_them():
  counts = []
  for takes_padding, given in ((True, [3, 3, 3, 3]), (False, [2, 1, 3, 1])):  # example 2 has another shape
    predictor = ColorPredictor(takes_padding)
    counts.append(evaluate(predictor, make_split(7), CAMVID_11, batch_size=3).counts)
    assert predictor.given == given
  np.testing.assert_array_equal(*counts)


def test_a_gallery_has_each_prediction_beside_its_example():
  split = make_split(3)
  found = predictions_gallery(predict_split(ColorPredictor(), split, batch_size=2), CAMVID_11)
  rows = []
  for example in split:
    prediction = example.image[..., 0].repeat(2, 0).repeat(2, 1)
    rows.append(comparison(example.image, CAMVID_11.encode(example.label, ''), prediction, CAMVID_11))
  np.testing.assert_array_equal(found, gallery(rows, CAMVID_11))


def test_counts_above_32_bits_are_summed_over_processes_exactly(monkeypatch):
  first = np.array([[2**40 + 1, 3], [0, 2**33]], np.int64)
  second = np.array([[5, 2**32 - 1], [7, 2**33]], np.int64)

  def allgather(halves):
    assert halves.dtype == np.uint32  # what JAX does not cut down
    return np.stack([halves, second.view(np.uint32)])

  monkeypatch.setattr(evaluate_module.multihost_utils, 'process_allgather', allgather)
  np.testing.assert_array_equal(sum_over_processes(first), first + second)
