import numpy as np
import pytest
from color_baseline import fit_color_classifier, predict_color_classifier

from dense_aspp_jax.labels import IGNORE_LABEL

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def test_gives_each_color_its_most_frequent_class():
  image = np.array([[RED, RED, RED, GREEN, GREEN]], np.uint8)
  table = fit_color_classifier([image], [np.array([[2, 2, 0, 1, 1]], np.uint8)], 3)
  np.testing.assert_array_equal(predict_color_classifier(table, image), [[2, 2, 2, 1, 1]])


def test_counts_over_all_images_of_any_size():
  images = [np.array([[RED]], np.uint8), np.array([[RED, RED]], np.uint8)]
  labels = [np.array([[0]], np.uint8), np.array([[1, 1]], np.uint8)]
  assert predict_color_classifier(fit_color_classifier(images, labels, 2), images[0]).tolist() == [[1]]


def test_unseen_colors_get_the_most_frequent_class_overall():
  image = np.array([[RED, RED, GREEN]], np.uint8)
  table = fit_color_classifier([image], [np.array([[3, 3, 1]], np.uint8)], 4)
  assert predict_color_classifier(table, np.array([[BLUE]], np.uint8)).tolist() == [[3]]


def test_ignored_pixels_do_not_count():
  image = np.array([[RED, RED, RED]], np.uint8)
  table = fit_color_classifier([image], [np.array([[IGNORE_LABEL, IGNORE_LABEL, 1]], np.uint8)], 2)
  assert predict_color_classifier(table, image).tolist() == [[1, 1, 1]]


def test_colors_within_sixteen_levels_are_one():
  image = np.array([[(32, 32, 32)]], np.uint8)
  table = fit_color_classifier(
    [image, np.array([[RED, RED]], np.uint8)], [np.array([[1]]), np.array([[0, 0]])], 2
  )
  near, far = np.array([[(47, 47, 47)]], np.uint8), np.array([[(48, 47, 47)]], np.uint8)
  assert predict_color_classifier(table, near).tolist() == [[1]]
  assert predict_color_classifier(table, far).tolist() == [[0]]


def test_matches_a_loop_over_pixels():
  rng = np.random.default_rng(0)
  image = (rng.integers(0, 3, (12, 9, 3)) * 100).astype(np.uint8)
  label = rng.integers(0, 4, (12, 9)).astype(np.uint8)
  predicted = predict_color_classifier(fit_color_classifier([image], [label], 4), image)
  assert predicted.dtype == np.uint8
  for y, x in np.ndindex(label.shape):
    same = (image == image[y, x]).all(-1)
    assert predicted[y, x] == np.bincount(label[same], minlength=4).argmax()


def test_says_what_it_cannot_fit():
  image = np.zeros((2, 2, 3), np.uint8)
  with pytest.raises(ValueError, match='no labelled pixel'):
    fit_color_classifier([image], [np.full((2, 2), IGNORE_LABEL, np.uint8)], 2)
  with pytest.raises(ValueError, match='shorter'):
    fit_color_classifier([image, image], [np.zeros((2, 2), np.uint8)], 2)
