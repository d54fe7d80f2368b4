"""Colours, overlays and compositions."""

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.evaluation.pictures import (
  colorize,
  comparison,
  gallery,
  legend,
  overlay,
  save_png,
  side_by_side,
)
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_20
from dense_aspp_jax.labels import IGNORE_LABEL

ROAD, SKY, VOID = (CITYSCAPES_20.class_names.index(name) for name in ('road', 'sky', 'void'))


def plain(height, width, value=100):
  return np.full((height, width, 3), value, np.uint8)


def test_colorize():
  labels = np.array([[ROAD, SKY], [VOID, IGNORE_LABEL]], np.uint8)
  expected = np.array([[(128, 64, 128), (70, 130, 180)], [(0, 0, 0), (0, 0, 0)]], np.uint8)
  np.testing.assert_array_equal(colorize(labels, CITYSCAPES_20), expected)


def test_overlay():
  labels = np.array([[ROAD, VOID, IGNORE_LABEL]], np.uint8)
  picture = overlay(plain(1, 3), labels, CITYSCAPES_20, alpha=0.25)
  assert picture.dtype == np.uint8
  assert picture.tolist() == [[[107, 91, 107], [75, 75, 75], [100, 100, 100]]]
  np.testing.assert_array_equal(overlay(plain(1, 3), labels, CITYSCAPES_20, 0.0), plain(1, 3))
  with pytest.raises(ValueError, match='expected equal sizes'):
    overlay(plain(1, 4), labels, CITYSCAPES_20)


def test_comparison_holds_image_ground_truth_and_prediction():
  image = plain(60, 90)
  label, prediction = np.full((60, 90), IGNORE_LABEL, np.uint8), np.full((60, 90), SKY, np.uint8)
  picture = comparison(image, label, prediction, CITYSCAPES_20)
  assert picture.shape == (75, 3 * 90 + 2 * 4, 3)
  for left, color in ((0, (100, 100, 100)), (94, (0, 0, 0)), (188, (70, 130, 180))):
    np.testing.assert_array_equal(picture[15:, left : left + 90], np.broadcast_to(color, (60, 90, 3)))
    assert picture[:15, left : left + 90].min() < 100  # its caption
  assert (picture[15:, 90:94] == 255).all()
  without_label = comparison(image, None, prediction, CITYSCAPES_20)
  assert without_label.shape == (75, 2 * 90 + 4, 3)
  np.testing.assert_array_equal(without_label[15:, 94:], picture[15:, 188:])


def test_side_by_side_needs_one_size():
  with pytest.raises(ValueError, match='expected one size'):
    side_by_side([plain(4, 5), plain(4, 6)], ['a', 'b'])


def test_comparison_resizes_label_maps_to_the_image():
  label = np.array([[ROAD, SKY]], np.uint8)
  prediction = np.repeat(np.repeat(label, 200, axis=0), 100, axis=1)
  picture = comparison(plain(60, 90), label, prediction, CITYSCAPES_20)
  halves = np.repeat(np.uint8([[(128, 64, 128), (70, 130, 180)]]), 45, axis=1)
  for left in (94, 188):
    np.testing.assert_array_equal(picture[15:, left : left + 90], np.broadcast_to(halves, (60, 90, 3)))


def test_gallery_stacks_rows_and_legend():
  picture = gallery([plain(3, 50, 10), plain(2, 150, 20)], CAMVID_11)
  assert (picture[:3, :50] == 10).all()
  assert (picture[7:9] == 20).all()
  assert (picture[:3, 50:] == 255).all()
  assert (picture[3:7] == 255).all()
  np.testing.assert_array_equal(picture[13:], legend(CAMVID_11, 150))


@pytest.mark.parametrize('width', [60, 400, 4000])
@pytest.mark.parametrize('label_set', [CITYSCAPES_20, CAMVID_11], ids=lambda s: s.name)
def test_legend_shows_every_color_within_its_width(label_set, width):
  picture = legend(label_set, width)
  assert picture.shape[1] == width
  assert all((picture == c.color).all(-1).any() for c in label_set.classes)


def test_save_png(tmp_path):
  picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  save_png(tmp_path / 'new' / 'a.png', picture)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'new' / 'a.png')), picture)
  with pytest.raises(TypeError):
    save_png(tmp_path / 'new' / 'b.png', picture.astype(np.int32))
  assert [path.name for path in (tmp_path / 'new').iterdir()] == ['a.png']
