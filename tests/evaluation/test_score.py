"""Pairing of files and scoring of folders."""

import json
import os
import pathlib

import numpy as np
import pytest
from label_files import label_file, save
from PIL import Image

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.score import find_score_input, score_files
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_19, CITYSCAPES_20
from dense_aspp_jax.labels import LabelClass, LabelSet

A, B = 'frankfurt_000000_000294', 'lindau_000001_000019'


def test_folders_that_are_links(labels, predictions, tmp_path):
  label_file(tmp_path / 'elsewhere', A)
  guess = save(tmp_path / 'guess.png', [[7, 8]])
  labels.mkdir(parents=True)
  (labels / 'frankfurt').symlink_to(tmp_path / 'elsewhere' / 'frankfurt')
  (predictions / f'{A}.png').symlink_to(guess)
  os.mkfifo(predictions / f'{B}.png')
  found = find_score_input(labels, predictions)
  assert score_files(found).scores().pixel_accuracy == 1.0
  assert found.left == [f'{predictions}/{B}.png: pipe']


def test_missing_folder_and_empty_folder(labels, predictions):
  with pytest.raises(InputError, match=r'val: not a folder'):
    find_score_input(labels, predictions)
  labels.mkdir(parents=True)
  with pytest.raises(InputError, match='no label maps'):
    find_score_input(labels, predictions)
  with pytest.raises(InputError, match='nowhere: not a folder'):
    find_score_input(labels, predictions / 'nowhere')


class TestLabelSet:
  """Which label set is used."""

  @pytest.fixture
  def predicted(self, labels, tmp_path):
    """What `dense-aspp predict` writes."""
    label_file(labels, A)
    for kind in ('label_ids', 'color', 'overlay'):
      save(tmp_path / 'predicted' / kind / f'{A}_leftImg8bit.png', [[7, 8]])
    self.note(tmp_path / 'predicted', {'label_set': CITYSCAPES_19.to_json(), 'num_classes': 19})
    return tmp_path / 'predicted'

  def note(self, folder, data):
    (folder / 'predictions.json').write_text(json.dumps(data))

  @pytest.mark.parametrize('folder', ['.', 'label_ids'])
  def test_is_that_of_the_predictions(self, labels, predicted, folder):
    found = find_score_input(labels, predicted / folder)
    assert found.label_set == CITYSCAPES_19
    assert found.pairs[0][1] == predicted / 'label_ids' / f'{A}_leftImg8bit.png'

  def test_pictures_to_look_at_are_told_from_predictions(self, labels, predicted):
    for kind in ('color', 'overlay'):
      with pytest.raises(InputError, match=rf'{kind}: pictures to look at; give \S+predicted'):
        find_score_input(labels, predicted / kind, CITYSCAPES_20)

  def test_is_found_from_within_the_folder(self, labels, predicted, monkeypatch):
    monkeypatch.chdir(predicted / 'label_ids')
    assert find_score_input(labels, pathlib.Path('.')).label_set == CITYSCAPES_19

  def test_given_goes_first(self, labels, predicted):
    assert find_score_input(labels, predicted, CITYSCAPES_20).label_set == CITYSCAPES_20

  def test_own_set_is_read_whole(self, labels, predicted):
    own = LabelSet('own', (LabelClass('thing', (7, 8), (1, 2, 3)),), (0,))
    self.note(predicted, {'label_set': own.to_json()})
    found = find_score_input(labels, predicted)
    assert found.label_set == own
    assert score_files(found).scores().iou == {'thing': 1.0}

  @pytest.mark.parametrize(('text', 'message'), [('{', 'cannot be read as JSON'), ('{}', 'has no label_set')])
  def test_broken_note_is_an_error(self, labels, predicted, text, message):
    (predicted / 'predictions.json').write_text(text)
    with pytest.raises(InputError, match=rf'predictions\.json: {message}.*--label-set'):
      find_score_input(labels, predicted)

  def test_unknown_is_an_error(self, tmp_path, predictions):
    save(tmp_path / 'labels' / 'x.png', [[1]])
    save(predictions / 'x.png', [[1]])
    with pytest.raises(InputError, match='--label-set'):
      find_score_input(tmp_path / 'labels', predictions)


class TestScoreFiles:
  def test_sums_over_the_split(self, labels, predictions):
    label_file(labels, A, [[7, 7], [8, 0]])
    save(predictions / f'{A}.png', [[7, 8], [8, 8]])
    label_file(labels, B, [[0, 1, 2]])  # a single void image, of another size
    save(predictions / f'{B}.png', [[7, 7, 7]])
    scores = score_files(find_score_input(labels, predictions)).scores()
    assert (scores.iou['road'], scores.iou['sidewalk'], scores.iou['void']) == (1 / 2, 1 / 2, 0.0)
    assert scores.means == {'mean_iou_19': 1 / 2, 'mean_iou_20': (1 / 5 + 1 / 3 + 0) / 3}

  def test_palette_images_hold_ids(self, labels, predictions):
    label_file(labels, A)
    image = Image.new('P', (2, 1))
    image.putpalette([value for i in range(256) for value in (255 - i, i, 99)])
    image.putdata([7, 8])
    image.save(predictions / f'{A}.png')
    assert score_files(find_score_input(labels, predictions)).scores().pixel_accuracy == 1.0

  @pytest.mark.parametrize(
    ('prediction', 'message'),
    [
      ([[7, 34]], r'results/frankfurt\S*png: unknown label ids 34 \(1 pixels\)'),
      ([[7, 8, 8]], r'results/frankfurt\S*png: 1x3 pixels .* labelIds\.png has 1x2'),
      ([[[7, 7, 7], [8, 8, 9]]], r'results/frankfurt\S*png: .*RGB'),
    ],
    ids=['id', 'size', 'channels'],
  )
  def test_bad_prediction_is_named(self, labels, predictions, prediction, message):
    label_file(labels, A)
    save(predictions / f'{A}.png', prediction)
    with pytest.raises(InputError, match=message.replace('labelIds', r'\S*labelIds')):
      score_files(find_score_input(labels, predictions))

  def test_bad_ground_truth_is_named(self, labels, predictions):
    label_file(labels, A, [[7, 255]])
    save(predictions / f'{A}.png', [[7, 8]])
    with pytest.raises(InputError, match=r'val/frankfurt/\S*labelIds\.png: unknown label ids 255'):
      score_files(find_score_input(labels, predictions))


def test_ground_truth_drawn_in_declared_colours(labels, predictions):
  classes = (LabelClass('road', (7,), (128, 64, 128)), LabelClass('sky', (3,), (0, 0, 255)))
  drawn = LabelSet('drawn', classes, label_colors=True)
  save(labels / 'a.png', [[(128, 64, 128), (0, 0, 255), (0, 0, 255)]])
  save(predictions / 'a.png', [[7, 3, 7]])
  confusion = score_files(find_score_input(labels, predictions, drawn))
  assert confusion.scores().iou == {'road': 1 / 2, 'sky': 1 / 2}


def test_predictions_drawn_in_declared_colours(labels, predictions):
  classes = (LabelClass('road', (7,), (255, 255, 255)), LabelClass('sky', (3,), (0, 0, 255)))
  drawn = LabelSet('drawn', classes, label_colors=True)
  save(labels / 'a.png', [[(255, 255, 255), (0, 0, 255), (0, 0, 255)]])
  picture = [[(255, 255, 255), (0, 0, 255), (255, 255, 255)]]
  guess, copy = save(predictions / 'a.png', picture), save(labels.parent / 'copy.png', picture)
  found = find_score_input(labels, predictions, drawn)
  assert score_files(found).scores().iou == {'road': 1 / 2, 'sky': 1 / 2}
  save(guess, [[7, 3, 7]])
  assert score_files(found).scores().iou == {'road': 1 / 2, 'sky': 1 / 2}
  Image.open(copy).quantize().save(guess)  # by its palette's colours, not its indices
  assert score_files(found).scores().iou == {'road': 1 / 2, 'sky': 1 / 2}
  save(guess, [[(255, 255, 255), (0, 0, 255), (255, 0, 0)]])
  with pytest.raises(InputError, match=r'results/a\.png: colours of no class'):
    score_files(found)


def test_names_that_are_not_utf8(labels, predictions):
  name = os.fsdecode(b'a\xff.png')
  save(labels / name, [[1]])
  guess = save(predictions / name, [[1]])
  found = find_score_input(labels, predictions, CAMVID_11)
  assert score_files(found).scores().pixel_accuracy == 1.0
  guess.write_bytes(b'')
  with pytest.raises(InputError) as error:
    score_files(found)
  str(error.value).encode('utf-8')  # can be printed
  guess.unlink()
  with pytest.raises(InputError, match=r'expected a\\xff\.png'):
    find_score_input(labels, predictions, CAMVID_11)


@pytest.mark.parametrize('suffix', ['tif', 'bmp', 'npy', 'RGB.png'])
def test_other_formats_of_label_maps(labels, predictions, suffix):
  truth, guess = np.array([[0, 3, 3]], np.uint8), np.array([[0, 0, 3]], np.uint8)
  for folder, ids in ((labels, truth), (predictions, guess)):
    if suffix == 'npy':
      folder.mkdir(parents=True, exist_ok=True)
      np.save(folder / 'a.npy', ids.astype(np.int64))
    else:
      save(folder / f'a.{suffix}', np.dstack([ids] * 3) if 'RGB' in suffix else ids)
  found = find_score_input(labels, predictions, CAMVID_11)
  scores = score_files(found).scores()
  assert (scores.iou['sky'], scores.iou['road']) == (1 / 2, 1 / 2)
  save(predictions / 'a.png', guess)  # goes first where there are several formats
  save(labels / 'a.png', truth)
  assert [path.name for path in find_score_input(labels, predictions, CAMVID_11).pairs[0]] == ['a.png'] * 2
