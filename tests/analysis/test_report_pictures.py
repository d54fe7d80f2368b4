import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_example import THREE, example, png

from dense_aspp_jax.analysis.report_pictures import (
  Example,
  analysis_photo,
  analysis_plot,
  error_picture,
  label_map,
  photo,
  predict_examples,
)
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.evaluation.pictures import colorize, overlay
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.labels import IGNORE_LABEL


def decoded(picture, media_type):
  start = f'data:{media_type};base64,'
  assert picture.uri.startswith(start)
  with Image.open(io.BytesIO(base64.b64decode(picture.uri.removeprefix(start)))) as image:
    array = np.asarray(image.convert('RGB'))
  assert array.shape == (picture.height, picture.width, 3)
  return array


def test_errors_are_red_over_grey_and_ignored_pixels_blue():
  image = np.full((1, 4, 3), (30, 60, 90), np.uint8)
  label = np.array([[1, 1, IGNORE_LABEL, 2]], np.uint8)
  prediction = np.array([[1, 2, 1, 1]], np.uint8)
  grey = 0.6 * 60 + 80
  wrong = [round(0.25 * grey + 0.75 * c) for c in (226, 52, 30)]
  expected = [[[116, 116, 116], wrong, [86, 116, 178], wrong]]
  assert error_picture(image, label, prediction).tolist() == expected


def test_label_maps_are_exact_in_the_colours_of_the_classes():
  labels = np.array([[0, 1, 2], [IGNORE_LABEL, 1, 0]], np.uint8)
  picture = label_map(labels, THREE, 'text')
  np.testing.assert_array_equal(decoded(picture, 'image/png'), colorize(labels, THREE))
  assert picture.alt == 'text'


def test_panels_have_the_size_of_the_ground_truth():
  item = example(size=(8, 16))
  small = Example('x', item.image[::2, ::2], item.label, item.prediction)
  panels = small.panels(THREE)
  assert list(panels) == ['Image', 'Ground truth', 'Prediction', 'Errors']
  assert {(p.width, p.height) for p in panels.values()} == {(16, 8)}
  truth = decoded(panels['Ground truth'], 'image/png')
  np.testing.assert_array_equal(truth, colorize(item.label, THREE))
  prediction = decoded(panels['Prediction'], 'image/png')
  np.testing.assert_array_equal(prediction, colorize(item.prediction, THREE))


def test_wide_examples_are_made_smaller():
  panels = example(size=(100, 1536)).panels(THREE)
  assert {(p.width, p.height) for p in panels.values()} == {(768, 50)}


def test_the_overlay_is_that_of_the_prediction():
  item = example(size=(32, 64))
  smooth = Example('x', np.full((32, 64, 3), 100, np.uint8), item.label, item.prediction)
  picture = decoded(smooth.overlay(THREE), 'image/jpeg')
  np.testing.assert_allclose(
    picture.astype(int), overlay(smooth.image, smooth.prediction, THREE, 0.6), atol=4
  )


def test_photos_keep_sharp_colours():
  image = np.zeros((16, 16, 3), np.uint8)
  image[:, 7:] = (226, 52, 30)
  difference = decoded(photo(image, 'x'), 'image/jpeg').astype(int) - image
  assert np.abs(difference).mean() < 3  # with colours at half resolution it is 4.8


def test_plots_of_analyses_stay_as_they_are():
  data = png(20)
  assert analysis_plot(data, 'x').uri == 'data:image/png;base64,' + base64.b64encode(data).decode()


def test_pictures_of_analyses_become_the_smaller_file():
  noise = analysis_photo(png(2000), 'x')
  assert decoded(noise, 'image/jpeg').shape == (24, 1600, 3)
  flat = analysis_photo(encode_png(np.zeros((30, 400, 3), np.uint8)), 'x')
  assert decoded(flat, 'image/png').shape == (30, 400, 3)


def test_pixel_accuracy_counts_what_is_not_ignored():
  assert example().pixel_accuracy(THREE) == pytest.approx(8 / 15)
  item = example()
  item.label[:] = IGNORE_LABEL
  assert item.pixel_accuracy(THREE) is None


def test_void_ground_truth_does_not_count_for_cityscapes():
  item = example()
  item.label[:, 8:] = 19
  item.label[0, 0] = 1
  assert item.pixel_accuracy(CITYSCAPES_20) == pytest.approx(63 / 64)


class Predictor:
  """Says the red of the first pixel, everywhere; remembers the shapes of its batches."""

  takes_padding = True

  def __init__(self):
    self.shapes = []

  def predict_resized(self, images, output_size):
    self.shapes.append((images.shape, output_size))
    return np.broadcast_to(images[:, :1, :1, 0], (len(images), *output_size)).astype(np.uint8)


def split_of(count):
  return [
    CachedExample(
      f'image {i}', np.full((4, 8, 3), i, np.uint8), np.full((2, 4), 255 if i % 2 else 1, np.uint8)
    )
    for i in range(count)
  ]


@pytest.mark.parametrize(
  ('count', 'images', 'chosen'),
  [(3, 12, [2, 6, 10]), (1, 5, [2]), (5, 5, [0, 1, 2, 3, 4]), (9, 4, [0, 1, 2, 3])],
)
def test_examples_are_spread_over_the_split_and_predicted_in_batches_of_one_shape(count, images, chosen):
  predictor = Predictor()
  examples = predict_examples(predictor, split_of(images), THREE, count, batch_size=2)
  assert [e.image_id for e in examples] == [f'image {i}' for i in chosen]
  for found, index in zip(examples, chosen, strict=True):
    assert (found.image == index).all()
    assert (found.label == (255 if index % 2 else 1)).all()
    assert found.prediction.tolist() == [[index] * 4] * 2
  assert set(predictor.shapes) == {((2, 4, 8, 3), (2, 4))}
