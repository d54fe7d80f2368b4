import statistics

import pytest

from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.results.published import MARKS, read_published

ROWS = read_published('camvid')
IDS = [f'{row.model} {row.mean_iou}' for row in ROWS]


def test_only_camvid_has_a_list():
  assert len(ROWS) == 73
  assert read_published('cityscapes') == ()


@pytest.mark.parametrize('row', ROWS, ids=IDS)
def test_a_row_has_a_number_a_source_and_a_mark(row):
  assert row.mark in MARKS
  assert row.source
  numbers = [value for value in (row.mean_iou, row.pixel_accuracy, *row.iou.values()) if value is not None]
  assert numbers
  assert all(1 < value < 100 for value in numbers)  # in %
  protocol = row.protocol
  assert protocol.split in ('test', 'validation')
  assert (protocol.train_split, protocol.train_images) in {
    ('train', 367),
    ('train+validation', 468),
    (None, None),
  }
  assert protocol.image_size in ([360, 480], [720, 960], None)
  assert protocol.bn in ('running', 'batch', None)
  assert (protocol.checkpoint == 'best') == (protocol.selected_on is not None)


def test_no_row_is_there_twice():
  keys = [(row.model, row.mean_iou, row.pixel_accuracy) for row in ROWS]
  assert len(set(keys)) == len(keys)


@pytest.mark.parametrize('row', [row for row in ROWS if row.iou], ids=lambda row: row.model)
def test_the_mean_of_the_classes_is_the_mean(row):
  """To 0.1, for classes and means are rounded to one digit."""
  assert set(row.iou) == set(CAMVID_11.class_names)
  assert row.mean_iou == pytest.approx(statistics.fmean(row.iou.values()), abs=0.1 + 1e-9)


@pytest.mark.parametrize(
  ('model', 'mean_iou', 'expected'),
  [
    ('ENet', 51.3, []),
    ('DenseASPP-121 (TensorFlow)', 58, []),
    ('FC-DenseNet67', 65.8, ['test-time batch statistics']),
    (
      'FC-DenseNet103',
      66.9,
      ['test-time batch statistics of 10', 'checkpoint chosen on the validation split'],
    ),
    ('LETNet', 70.5, ['trained on 468 images (train + validation)']),
    ('HAFormer', 71.1, ['training split unknown']),
    ('PP-LiteSeg-B', 75.85, ['720x960', 'training split unknown', 'flip']),
    (
      'RegSeg',
      80.9,
      [
        '720x960',
        'trained on 468 images (train + validation)',
        'pretrained on Cityscapes',
        'checkpoint chosen on the test split',
      ],
    ),
  ],
)
def test_what_keeps_well_known_scores_from_being_compared(model, mean_iou, expected):
  (row,) = (row for row in ROWS if (row.model, row.mean_iou) == (model, mean_iou))
  assert row.protocol.differences == expected
