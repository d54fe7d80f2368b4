"""Confusion matrix and scores against naive loops and against the official Cityscapes script."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import (
  ConfusionMatrix,
  Scores,
  class_scores,
  confusion_matrix,
  format_table,
  protocol,
  score_confusion,
)
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_19, CITYSCAPES_20
from dense_aspp_jax.labels import LabelClass, LabelSet

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / 'tests/golden/cityscapes_scores.json').read_text(encoding='utf-8'))['cases']
OWN = LabelSet(
  'own',
  (LabelClass('a', (3, 4), (1, 2, 3)), LabelClass('b', (200,), (4, 5, 6)), LabelClass('c', (9,), (7, 8, 9))),
  (0,),
)


def load_golden_tool():
  spec = importlib.util.spec_from_file_location('make_scores', ROOT / 'tests/golden/make_scores.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


golden_tool = load_golden_tool()


def scores_of(images, label_set) -> Scores:
  confusion = ConfusionMatrix(label_set)
  for label, prediction in images:
    confusion.add(label, prediction, 'label')
  return confusion.scores()


def naive_iou(images, classes) -> list[float | None]:
  """IoU pixel by pixel; `classes` maps an id to a class, None for ids ignored in ground truth."""
  result = []
  for c in sorted({v for v in classes.values() if v is not None}):
    both = either = 0
    for label, prediction in images:
      for truth, guess in zip(label.flat, prediction.flat, strict=True):
        if classes[truth] is not None:
          both += classes[truth] == c and classes[guess] == c
          either += classes[truth] == c or classes[guess] == c
    result.append(both / either if either else None)
  return result


def mean(values) -> float:
  return float(np.mean([v for v in values if v is not None]))


def ids(*values) -> np.ndarray:
  return np.array([values], np.uint8)


class TestConfusionMatrix:
  @pytest.mark.parametrize('size', [2, 34, 256])
  def test_equals_counting_pixel_by_pixel(self, size):
    random = np.random.RandomState(size)
    label, prediction = random.randint(size, size=(2, 23, 31)).astype(np.uint8)
    label[0, 0] = prediction[0, 0] = size - 1
    expected = np.zeros((size, size), np.int64)
    for truth, guess in zip(label.flat, prediction.flat, strict=True):
      expected[truth, guess] += 1
    counts = confusion_matrix(label, prediction, size)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)

  def test_refuses_values_beyond_its_size(self):
    with pytest.raises(ValueError, match='label holds 34; expected values below 34'):
      confusion_matrix(ids(0, 34), ids(0, 0), 34)
    with pytest.raises(ValueError, match='prediction holds 255'):
      confusion_matrix(ids(0, 0), ids(0, 255), 34)

  def test_refuses_different_shapes(self):
    with pytest.raises(ValueError, match='expected equal ones'):
      confusion_matrix(ids(0, 1), ids(0, 1).T, 34)

  def test_every_pixel_of_every_image_is_counted(self):
    images = golden_tool.draw_case('ordinary')
    whole = ConfusionMatrix(CITYSCAPES_20)
    for label, prediction in images:
      whole.add(label, prediction, 'x')
    assert whole.counts.sum() == sum(label.size for label, _ in images)

  def test_does_not_overflow_32_bits(self):
    confusion = ConfusionMatrix(CITYSCAPES_19)
    confusion.add(ids(7, 7, 8), ids(7, 8, 8), 'x')
    counts = confusion.counts * 2**31
    assert score_confusion(counts, CITYSCAPES_19) == confusion.scores()

  @pytest.mark.parametrize('label_set', [CITYSCAPES_20, CAMVID_11])
  def test_errors_name_the_file_and_count_nothing(self, label_set):
    confusion = ConfusionMatrix(label_set)
    with pytest.raises(InputError, match=r'truth\.png: unknown label ids 77 \(2 pixels\)'):
      confusion.add(ids(7, 77, 77), ids(7, 7, 7), 'truth.png', 'guess.png')
    with pytest.raises(InputError, match=r'guess\.png: unknown label ids 34 \(1 pixels\)'):
      confusion.add(ids(7, 7, 7), ids(7, 34, 7), 'truth.png', 'guess.png')
    with pytest.raises(InputError, match=r'prediction for truth\.png: unknown'):
      confusion.add(ids(7, 7, 7), ids(7, 34, 7), 'truth.png')
    with pytest.raises(InputError, match=r'guess\.png: 1x2 pixels .* truth\.png has 1x3'):
      confusion.add(ids(7, 7, 7), ids(7, 7), 'truth.png', 'guess.png')
    with pytest.raises(InputError, match='int64; expected uint8'):
      confusion.add(ids(7, 7).astype(np.int64), ids(7, 7), 'truth.png')
    assert not confusion.counts.any()


class TestCityscapes:
  @pytest.mark.parametrize('label_set', [CITYSCAPES_19, CITYSCAPES_20], ids=lambda s: s.name)
  @pytest.mark.parametrize('case', [name for name in GOLDEN if name != 'all_images_void'])
  def test_equals_the_official_script_bit_for_bit(self, case, label_set):
    scores = scores_of(golden_tool.draw_case(case), label_set)
    official = {name: scores.iou[name] for name in CITYSCAPES_19.class_names}
    assert official == GOLDEN[case]['iou']
    assert scores.means['mean_iou_19'] == scores.mean_iou == GOLDEN[case]['mean_iou_19']

  def test_golden_cases_are_what_they_are_called(self):
    assert set(GOLDEN) == set(golden_tool.CASES)
    assert GOLDEN['classes_absent']['iou']['wall'] is None
    assert GOLDEN['classes_only_predicted']['iou']['train'] == 0.0
    assert GOLDEN['classes_only_predicted_on_ignored']['iou']['train'] is None
    assert GOLDEN['all_images_void']['mean_iou_19'] is None
    assert GOLDEN['nothing_right']['mean_iou_19'] == 0.0
    assert len({v['mean_iou_19'] for v in GOLDEN.values()}) == len(GOLDEN)

  @pytest.mark.parametrize('label_set', [CITYSCAPES_19, CITYSCAPES_20], ids=lambda s: s.name)
  def test_a_split_of_void_is_an_error(self, label_set):
    with pytest.raises(InputError, match='all 1920 pixels of the ground truth are void'):
      scores_of(golden_tool.draw_case('all_images_void'), label_set)

  def test_an_empty_split_is_an_error(self):
    with pytest.raises(InputError, match='nothing can be scored'):
      ConfusionMatrix(CITYSCAPES_20).scores()

  @pytest.mark.parametrize('case', ['ignored_ids_predicted', 'classes_absent', 'one_image_void'])
  def test_mean_iou_20_counts_void_as_a_class(self, case):
    images = golden_tool.draw_case(case)
    classes = {i: index for index, c in enumerate(CITYSCAPES_20.classes) for i in c.ids}
    expected = naive_iou(images, classes)
    scores = scores_of(images, CITYSCAPES_20)
    assert scores.iou['void'] == expected[19]
    assert scores.means['mean_iou_20'] == pytest.approx(mean(expected), abs=1e-15)
    assert scores.means['mean_iou_20'] != scores.means['mean_iou_19']

  def test_void_absent_everywhere_is_no_class(self):
    scores = scores_of([(ids(7, 7, 8), ids(7, 8, 8))], CITYSCAPES_20)
    assert scores.iou['void'] is None
    assert scores.means == {'mean_iou_19': 0.5, 'mean_iou_20': 0.5}

  def test_19_classes_have_no_mean_iou_20(self):
    images = golden_tool.draw_case('ordinary')
    scores, scores_20 = scores_of(images, CITYSCAPES_19), scores_of(images, CITYSCAPES_20)
    assert scores.to_json() == {
      'mean_iou_19': scores_20.means['mean_iou_19'],
      'mean_iou_20': None,
      'pixel_accuracy': scores_20.pixel_accuracy,
      'iou': {name: value for name, value in scores_20.iou.items() if name != 'void'},
    }

  def test_pixel_accuracy_leaves_ignored_ground_truth_out(self):
    # 4 pixels count: right, wrong, predicted as void (wrong), right; 2 are ignored.
    scores = scores_of([(ids(7, 8, 11, 26, 0, 3), ids(7, 7, 0, 26, 0, 7))], CITYSCAPES_20)
    assert scores.pixel_accuracy == 0.5

  def test_a_label_set_of_the_same_name_is_not_cityscapes(self):
    mine = LabelSet('cityscapes20', OWN.classes, OWN.ignore_ids)
    assert list(scores_of([(ids(3, 9), ids(3, 9))], mine).means) == ['mean_iou']

  def test_a_label_set_read_back_from_json_is_cityscapes(self):
    read = LabelSet.from_json(json.loads(json.dumps(CITYSCAPES_19.to_json())), 'x')
    assert 'mean_iou_19' in scores_of([(ids(7), ids(7))], read).means


class TestOtherLabelSets:
  @pytest.mark.parametrize('label_set', [CAMVID_11, OWN], ids=lambda s: s.name)
  def test_equals_counting_pixel_by_pixel(self, label_set):
    random = np.random.RandomState(5)
    known = [i for c in label_set.classes for i in c.ids] + list(label_set.ignore_ids)
    images = [np.array(known, np.uint8)[random.randint(len(known), size=(2, 17, 13))] for _ in range(2)]
    for label, prediction in images:
      prediction[:9] = label[:9]
    classes = dict.fromkeys(label_set.ignore_ids) | {
      i: index for index, c in enumerate(label_set.classes) for i in c.ids
    }
    scores = scores_of(images, label_set)
    expected = naive_iou(images, classes)
    assert scores.iou == dict(zip(label_set.class_names, expected, strict=True))
    assert scores.mean_iou == pytest.approx(mean(expected), abs=1e-15)
    valid = [(classes[t], classes[p]) for a, b in images for t, p in zip(a.flat, b.flat, strict=True)]
    valid = [(t, p) for t, p in valid if t is not None]
    assert scores.pixel_accuracy == sum(t == p for t, p in valid) / len(valid)
    assert list(scores.to_json()) == ['mean_iou', 'pixel_accuracy', 'iou']

  def test_absent_class_is_null_and_predicted_only_class_is_zero(self):
    scores = scores_of([(ids(3, 3, 4, 0), ids(3, 4, 200, 9))], OWN)
    assert scores.iou == {'a': 2 / 3, 'b': 0.0, 'c': None}
    assert scores.mean_iou == pytest.approx(1 / 3, abs=1e-15)

  def test_all_ignored_is_an_error(self):
    with pytest.raises(InputError, match='all 2 pixels'):
      scores_of([(ids(11, 11), ids(1, 2))], CAMVID_11)

  def test_255_classes_fit(self):
    full = LabelSet('full', tuple(LabelClass(str(i), (i,), (0, 0, 0)) for i in range(255)), (255,))
    scores = scores_of([(ids(254, 0, 255, 254), ids(254, 254, 254, 255))], full)
    assert scores.iou['254'] == 1 / 3
    assert scores.pixel_accuracy == 1 / 3


def test_means_are_summed_in_order_without_compensation():
  # 0.1 + 0.2 + 0.3 in plain floating point is not the correctly rounded 0.6.
  confusion = np.zeros((4, 4), np.int64)
  confusion[:3, :3] = np.diag([1, 2, 3])
  confusion[:3, 3] = [9, 8, 7]
  assert score_confusion(confusion, OWN).mean_iou == (0.1 + 0.2 + 0.3) / 3 != 0.6 / 3


def test_table():
  scores = Scores({'mean_iou_19': 0.5, 'mean_iou_20': None}, 1.0, {'road': 0.12346, 'traffic light': None})
  rows = [line.split('  ') for line in format_table(scores).splitlines() if not line.startswith('-')]
  assert [(row[0], row[-1].strip()) for row in rows] == [
    ('class', 'IoU in %'),
    ('road', '12.35'),
    ('traffic light', '-'),
    ('mean_iou_19', '50.00'),
    ('mean_iou_20', '-'),
    ('pixel_accuracy', '100.00'),
  ]


def test_protocol_names_the_scores():
  assert 'mean_iou_19' in protocol(CITYSCAPES_19)
  assert 'mean_iou_19' not in protocol(CAMVID_11)


def test_scores_of_classes_by_hand():
  labels = np.array([[0, 0, 1, 1, 2, 4, 4]], np.uint8)  # 4 is ignored, and nothing is 3
  predictions = np.array([[0, 1, 1, 1, 0, 2, 3]], np.uint8)
  scores = class_scores(confusion_matrix(labels, predictions, 5), range(4), 'abcd')
  assert scores.iou == {'a': 1 / 3, 'b': 2 / 3, 'c': 0.0, 'd': None}
  assert scores.mean_iou == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
  assert scores.pixel_accuracy == 3 / 5
