import dataclasses

import pytest

from dense_aspp_jax.results.protocol import STANDARDS, Protocol

STANDARD = STANDARDS['camvid']


def test_the_standard_differs_from_itself_in_nothing():
  assert STANDARD.differences == []


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({'split': 'validation', 'images': 101}, ['validation split']),
    ({'split': 'train', 'images': 367}, ['training split', 'scored on images it was trained on']),
    (
      {'split': 'validation', 'images': 101, 'train_images': 468, 'train_split': 'train+validation'},
      [
        'validation split',
        'trained on 468 images (train + validation)',
        'scored on images it was trained on',
      ],
    ),
    (
      {'split': 'held_out', 'images': 62, 'train_images': 305, 'held_out': ['0001TP']},
      ['training images held out (0001TP)', 'trained on 305 images (train without 0001TP)'],
    ),
    ({'split': None}, ['split unknown']),
    ({'images': 232}, ['scored on 232 images, not 233']),
    (
      {'train_images': 468, 'train_split': 'train+validation'},
      ['trained on 468 images (train + validation)'],
    ),
    ({'train_images': 366}, ['trained on 366 images (train)']),
    ({'train_images': None, 'train_split': None}, ['training split unknown']),
    ({'image_size': [720, 960]}, ['720x960']),
    ({'image_size': None}, ['input size unknown']),
    ({'classes': 12}, ['12 classes']),
    ({'void_ignored': False}, ['void counted']),
    (
      {'test_time': {'flip': True, 'scales': [0.75, 1.0, 1.25], 'window': None}},
      ['flip and scales 0.75, 1, 1.25'],
    ),
    ({'test_time': {'flip': True, 'scales': [1.0], 'window': None}}, ['flip']),
    ({'test_time': {'flip': False, 'scales': [1.0], 'window': [360, 480]}}, ['sliding window of 360x480']),
    ({'test_time': {'flip': True, 'scales': None, 'window': None}}, ['flip and several scales']),
    ({'bn': 'batch', 'bn_batch_size': 10}, ['test-time batch statistics of 10']),
    ({'bn': 'batch'}, ['test-time batch statistics']),
    ({'bn': 'recalibrated'}, ['statistics re-estimated after training']),
    ({'checkpoint': 'best', 'selected_on': 'test'}, ['checkpoint chosen on the test split']),
    ({'checkpoint': 'step 500'}, ['checkpoint of step 500, not the last']),
    ({'pretraining': ['ImageNet']}, []),
    ({'pretraining': None}, ['pretraining unknown']),
    ({'pretraining': ['ImageNet', 'Mapillary', 'Cityscapes']}, ['pretrained on Mapillary and Cityscapes']),
    ({'pretraining': ['unstated']}, ['pretrained, on what is not stated']),
    ({'pretraining': ['mixed']}, ['pretrained on several data sets']),
    ({'pretraining': ['ImageNet', 'video']}, ['takes unlabelled video']),
    ({'dataset': 'folder:camvid'}, ['data: folder camvid, not camvid']),
    (
      {
        'also_trained_on': [{'dataset': 'street_scenes', 'images': 512}, {'dataset': 'folder:x', 'images': 3}]
      },
      ['trained also on 512 images of street_scenes and 3 images of folder x'],
    ),
    (
      {'label_set': 'cityscapes20', 'classes': 20, 'mapped_from': 'camvid11'},
      ['20 classes', 'classes mapped from camvid11'],
    ),
    # What a source does not say of these is taken for standard.
    ({'bn': None, 'checkpoint': None, 'images': None, 'void_ignored': None, 'metric': None}, []),
  ],
)
def test_each_difference_is_said_in_words(changes, expected):
  assert dataclasses.replace(STANDARD, **changes).differences == expected


def test_all_differences_of_a_score_are_listed():
  protocol = dataclasses.replace(
    STANDARD,
    split='validation',
    image_size=[720, 960],
    train_images=468,
    train_split='train+validation',
    pretraining=['Cityscapes'],
    bn='batch',
    checkpoint='best',
    selected_on='validation',
  )
  assert protocol.differences == [
    'validation split',
    '720x960',
    'trained on 468 images (train + validation)',
    'pretrained on Cityscapes',
    'scored on images it was trained on',
    'test-time batch statistics',
    'checkpoint chosen on the validation split',
  ]


def test_other_data_have_no_standard():
  assert Protocol(dataset='cityscapes', label_set='cityscapes20').differences is None
  assert Protocol(dataset='folder:x', label_set='camvid11').standard is STANDARD


@pytest.mark.parametrize(
  ('pretraining', 'words'),
  [(None, '?'), ([], 'none'), (['unstated'], 'yes'), (['ImageNet', 'Cityscapes'], 'ImageNet + Cityscapes')],
)
def test_pretraining_is_a_column_of_its_own(pretraining, words):
  assert Protocol(dataset='camvid', pretraining=pretraining).pretraining_words == words


def test_words_for_what_is_ordinary():
  assert STANDARD.averaging_words == 'single scale'
  assert STANDARD.bn_words == 'running statistics'
  assert Protocol(dataset='camvid').bn_words == '?'
