"""Pairing of ground truth and predictions by their names."""

import unicodedata

import numpy as np
import pytest
from label_files import label_file, save

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.label_pairs import find_pairs

A, B = 'frankfurt_000000_000294', 'lindau_000001_000019'


def test_cityscapes_files_are_paired_by_their_core_name(labels, predictions):
  truth = [label_file(labels, A), label_file(labels, B)]
  save(labels / 'frankfurt' / f'{A}_gtFine_color.png', np.zeros((1, 2, 3)))  # lies beside the ids officially
  guess = [
    save(predictions / 'x' / f'{A}_leftImg8bit.png', [[7, 8]]),
    save(predictions / f'{B}.png', [[7, 8]]),
  ]
  save(predictions / 'ulm_000000_000019.png', [[7, 8]])  # without ground truth: left out
  found = find_pairs(labels.parent, predictions)
  assert found.pairs == list(zip(truth, guess, strict=True))
  assert found.is_cityscapes
  assert found.left == [f'{predictions}/ulm_000000_000019.png: without ground truth']


def test_a_frame_is_not_taken_for_one_whose_number_begins_alike(labels, predictions):
  label_file(labels, 'own_0_1')
  save(predictions / 'own_0_10.png', [[7, 8]])
  guess = save(predictions / 'own_0_1_x.png', [[7, 8]])
  assert [pair[1] for pair in find_pairs(labels, predictions).pairs] == [guess]


def test_fine_label_ids_are_the_first_choice(labels, predictions):
  truth = label_file(labels, A)
  label_file(labels, A, [[0, 1]], 'gtFine_labelTrainIds.png')
  label_file(labels, A, kind='gtCoarse_labelIds.png')
  other = label_file(labels, B, kind='gtCoarse_labelIds.png')
  guess = save(predictions / f'{A}.png', [[7, 8]])
  found = find_pairs(labels, predictions)
  assert (found.pairs, found.left) == ([(truth, guess)], [f'{other}: .png'])


def test_missing_predictions_are_named(labels, predictions):
  for index in range(6):
    label_file(labels, f'ulm_000000_00000{index}')
  save(predictions / 'ulm_000000_000004.png', [[7, 8]])
  message = (
    r'results: no prediction for 5 of 6 ground truths, expected ulm_000000_000000\*\.png, ulm_000000_000001\*'
  )
  with pytest.raises(InputError, match=message):
    find_pairs(labels, predictions)


def test_several_predictions_are_named(labels, predictions):
  label_file(labels, A)
  save(predictions / f'{A}_leftImg8bit.png', [[7, 8]])
  save(predictions / 'color' / f'{A}_color.png', [[7, 8]])
  with pytest.raises(
    InputError, match=rf'{A}_gtFine_labelIds\.png: 2 predictions fit .*{A}_color\.png, .*_left'
  ):
    find_pairs(labels, predictions)


@pytest.mark.parametrize('names', [('a.tif', 'a.bmp'), ('a.png', 'a.PNG'), (f'x/{A}_gtFine_labelIds.png',)])
def test_a_prediction_is_not_scored_twice(labels, predictions, names):
  for name in names:
    save(labels / name, [[1]])
  if len(names) == 1:
    (labels / 'link').symlink_to(labels / 'x')  # links are followed
  save(predictions / (f'{A}.png' if len(names) == 1 else 'a.png'), [[1]])
  with pytest.raises(InputError, match=r'would be scored twice, against .* and '):
    find_pairs(labels, predictions)


def test_a_name_that_is_none_of_cityscapes_is_an_error(labels, predictions):
  label_file(labels, 'frankfurt_000294')
  with pytest.raises(InputError, match='not a Cityscapes name'):
    find_pairs(labels, predictions)


def test_other_layouts_are_paired_by_relative_name(tmp_path, predictions):
  labels = tmp_path / 'testannot'
  truth = [save(labels / 'day' / 'x.1.PNG', [[1]]), save(labels / 'x.png', [[1]])]
  guess = [save(predictions / 'day' / 'x.1.png', [[1]]), save(predictions / 'x.png', [[1]])]
  save(labels / '._x.png', [[1]])  # hidden
  found = find_pairs(labels, predictions)
  assert (found.pairs, found.is_cityscapes) == (list(zip(truth, guess, strict=True)), False)
  guess[1].unlink()
  with pytest.raises(InputError, match=r'1 of 2 ground truths, expected x\.png'):
    find_pairs(labels, predictions)


@pytest.mark.parametrize(
  ('truth', 'guesses'),
  [
    (['a_mask', 'd/b_mask'], ['a', 'd/b', 'c']),
    (['a', 'd/b'], ['a_leftImg8bit', 'd/b_leftImg8bit', 'c_leftImg8bit']),
    (['a', 'b'], ['a.jpg', 'b.jpg']),
    (['a_mask'], ['a']),
  ],
)
def test_names_of_one_folder_may_go_on_with_a_suffix(labels, predictions, truth, guesses, capsys):
  truth = [save(labels / f'{name}.png', [[1]]) for name in truth]
  guesses = [save(predictions / f'{name}.png', [[1]]) for name in guesses]
  pairs = find_pairs(labels, predictions).pairs
  assert pairs == list(zip(truth, guesses, strict=False))
  assert 'is paired with predictions whose names ' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('truth', 'guesses', 'nearest'),
  [
    (['a_mask', 'b_mask'], ['a_mask', 'b'], None),  # the rule is equality
    (['a_mask', 'b_label'], ['a', 'b'], None),
    (['x10', 'x20'], ['x1', 'x2'], 'x1'),  # other images
    (['x10_mask'], ['x1'], None),
    (['x1'], ['x10_a'], 'x10_a'),
    (['a_b', 'a_b_c'], ['a'], None),
    (['scene1_left'], ['scene1_right'], 'scene1_right'),
    (['a'], ['a_x', 'a_y'], 'a_x'),
  ],
)
def test_names_without_one_rule_are_not_paired(labels, predictions, truth, guesses, nearest):
  for folder, names in ((labels, truth), (predictions, guesses)):
    for name in names:
      save(folder / f'{name}.png', [[1]])
  with pytest.raises(InputError, match='no prediction for') as error:
    find_pairs(labels, predictions)
  if nearest:
    assert f'nearest name is {nearest[:-1]}' in str(error.value)


def test_names_spelled_differently_in_unicode_are_equal(tmp_path, predictions):
  truth = save(tmp_path / 'labels' / (unicodedata.normalize('NFD', 'zürich') + '.png'), [[1]])
  guess = save(predictions / (unicodedata.normalize('NFC', 'zürich') + '.png'), [[1]])
  assert find_pairs(tmp_path / 'labels', predictions).pairs == [(truth, guess)]
