"""Train ids in ground truth and predictions."""

import numpy as np
import pytest
from label_files import label_file, save

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.score import find_score_input, score_files, train_ids_hint
from dense_aspp_jax.label_sets import CITYSCAPES_19, CITYSCAPES_19_TRAIN_IDS, CITYSCAPES_20
from dense_aspp_jax.labels import LabelClass, LabelSet

A = 'frankfurt_000000_000294'


@pytest.mark.parametrize(
  ('kind', 'ids', 'holds'),
  [
    ('gtFine_labelIds.PNG', [[7, 8, 0]], 'label'),
    ('gtFine_labelTrainIds.png', [[0, 1, 255]], 'train'),
    ('gtCoarse_labelIds.png', [[7, 8, 0]], 'label'),
    ('gtCoarse_labelTrainIds.png', [[0, 1, 255]], 'train'),
  ],
)
def test_other_ground_truth_of_cityscapes(labels, predictions, kind, ids, holds):
  truth = label_file(labels, A, ids, kind)
  guess = save(predictions / f'{A}.PNG', [[7, 7, 7]])
  found = find_score_input(labels, predictions)
  assert (found.pairs, found.label_ids) == ([(truth, guess)], holds)
  assert score_files(found).scores().iou['road'] == 1 / 2
  found = find_score_input(labels, predictions, CITYSCAPES_19)
  assert score_files(found).scores().means['mean_iou_19'] == 1 / 4


def test_train_ids_of_predictions(labels, predictions):
  label_file(labels, A, [[7, 8, 21, 0]])
  save(predictions / f'{A}.png', [[0, 1, 255, 8]])
  with pytest.raises(
    InputError, match=r'results/\S*png: unknown label ids 255 \(1 pixels\).*--ids train'
  ) as error:
    score_files(find_score_input(labels, predictions))
  assert str(error.value).count('train ids') == 1  # one remedy
  for label_set in (CITYSCAPES_20, CITYSCAPES_19):
    scores = score_files(find_score_input(labels, predictions, label_set, ids='train')).scores()
    assert [scores.iou[name] for name in ('road', 'sidewalk', 'vegetation')] == [1.0, 1.0, 0.0]
    assert scores.means['mean_iou_19'] == pytest.approx(2 / 3)
  assert scores == score_files(find_score_input(labels, predictions, CITYSCAPES_19_TRAIN_IDS)).scores()


def test_label_ids_are_no_train_ids(labels, predictions):
  label_file(labels, A)
  save(predictions / f'{A}.png', [[7, 21]])
  with pytest.raises(InputError, match=r'results/\S*png: unknown train ids 21 \(1 pixels\).*0\.\.19 and 255'):
    score_files(find_score_input(labels, predictions, ids='train'))
  with pytest.raises(InputError, match="ids 'class': expected label or train"):
    find_score_input(labels, predictions, ids='class')


def test_class_indices_of_an_own_set(labels, predictions):
  own = LabelSet('own', (LabelClass('a', (40,), (0, 0, 1)), LabelClass('b', (50,), (0, 0, 2))))
  save(labels / 'x.png', [[40, 50, 50]])
  guess = save(predictions / 'x.png', [[0, 1, 0]])
  found = find_score_input(labels, predictions, own, ids='train')
  assert score_files(found).scores().iou == {'a': 1 / 2, 'b': 1 / 2}
  with pytest.raises(InputError, match=r'x\.png: unknown label ids 0 .*If these are train ids: give --ids'):
    score_files(find_score_input(labels, predictions, own))
  save(guess, [[0, 1, 255]])  # nothing is ignored in this set
  with pytest.raises(InputError, match=r'x\.png: unknown train ids 255'):
    score_files(found)


def test_a_hint_only_where_ids_look_like_train_ids(labels, predictions):
  path = label_file(labels, A, [[7, 8, 11, 21, 23, 26]])
  guess = save(predictions / f'{A}.png', [[7, 7, 7, 7, 7, 7]])  # label ids of a poor network

  def hint():
    found = find_score_input(labels, predictions)
    return train_ids_hint(found, score_files(found))

  assert hint() is None
  save(guess, [[0, 0, 0, 0, 0, 0]])  # and train ids of one
  assert '--ids train' in hint()
  save(guess, [[7, 8, 11, 21, 23, 26]])
  assert hint() is None
  save(path, [range(19)])
  save(guess, [range(19)])
  assert hint().startswith('the ground truth has only ids 0..18')


def test_minus_one_in_arrays_of_train_ids(labels, predictions):
  save(labels / 'x' / f'{A}_gtFine_labelTrainIds.png', [[0, 1, 255]])
  np.save(predictions / f'{A}.npy', np.array([[0, 1, -1]], np.int16))
  assert score_files(find_score_input(labels, predictions, ids='train')).scores().means['mean_iou_19'] == 1.0
