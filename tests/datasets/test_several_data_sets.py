"""`Data` of several data sets: what their labels mean, what is trained on and what is scored."""

import dataclasses
import json
import shutil

import layouts
import numpy as np
import pytest

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.joined import JoinedSplit
from dense_aspp_jax.datasets.own_labels import label_set_for
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_mapping import mapped_from
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_19, CITYSCAPES_20, LABEL_SETS
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet


@pytest.fixture
def camvid(tmp_path):
  """A folder with CamVid's ids and a `labels.json` that says so."""
  return camvid_folder(tmp_path / 'camvid', {'train': 5, 'validation': 2})


def camvid_folder(folder, counts):
  layouts.write_labelled_folder(folder, counts, (32, 64), num_ids=12)
  (folder / 'labels.json').write_text(json.dumps(CAMVID_11.to_json()))
  return folder


def make_data(*folders, shares=None, **fields):
  names = tuple(f'folder:{folder}' for folder in folders)
  shares = shares or (1,) * len(names)
  return Data(**dict(dataset=names, shares=shares, label_set='cityscapes20', image_size=(16, 32)) | fields)


@pytest.mark.parametrize(
  ('dataset', 'run', 'mapped'),
  [
    ('cityscapes', 'cityscapes20', None),
    ('cityscapes', 'cityscapes19', None),
    ('cityscapes_coarse', 'cityscapes19', None),
    ('street_scenes', 'cityscapes20', None),
    ('cityscapes', 'cityscapes19_train_ids', 'cityscapes19'),
    ('street_scenes', 'camvid11', 'cityscapes19'),
    ('camvid', 'camvid11', None),
    ('camvid', 'cityscapes20', 'camvid11'),
    ('camvid', 'camvid32_as_11', 'camvid11'),
    ('camvid_full', 'camvid32', None),
    ('camvid_full', 'camvid32_as_11', None),
    ('camvid_full', 'camvid11', 'camvid32_as_11'),
    ('camvid_full', 'cityscapes20', 'camvid32'),
  ],
)
def test_a_published_data_set_is_mapped_where_the_label_set_is_not_made_for_its_ids(dataset, run, mapped):
  for name in (dataset, (dataset,)):
    shares = (1,) if isinstance(name, tuple) else ()
    data = Data(dataset=name, shares=shares, label_set=run, image_size=(8, 16))
    (found,) = data.label_sets(data.load_label_set())
    assert mapped_from(found) == mapped
    assert found.class_names == LABEL_SETS[run].class_names


def test_the_label_set_is_that_of_the_first_unless_one_is_named():
  def label_sets(*names, label_set=None, class_map=()):
    data = Data(dataset=names, shares=(4, 4), label_set=label_set, class_map=class_map, image_size=(8, 16))
    return [found.name for found in data.label_sets(data.load_label_set())]

  assert label_sets('camvid', 'street_scenes') == ['camvid11', 'cityscapes19 as camvid11']
  assert label_sets('street_scenes', 'camvid') == ['cityscapes20', 'camvid11 as cityscapes20']
  assert label_sets('camvid', 'street_scenes', label_set='cityscapes19') == [
    'camvid11 as cityscapes19',
    'cityscapes19',
  ]
  assert label_sets('street_scenes', 'cityscapes') == ['cityscapes20', 'cityscapes20']
  with pytest.raises(InputError, match="no data set whose classes are mapped has a class 'wall'"):
    label_sets('street_scenes', 'camvid', class_map=(('wall', 'ignore'),))


def test_a_label_set_in_a_file_is_read_as_the_ids_of_one_data_set_and_as_the_classes_of_several(tmp_path):
  own = LabelSet('mine', (LabelClass('road', (7,), (1, 1, 1)), LabelClass('CAR', (26,), (2, 2, 2))), (0,))
  pairs = tuple((name, 'ignore') for name in CITYSCAPES_19.class_names if name not in ('road', 'car'))
  assert label_set_for('cityscapes', own, (), by_class=False) is own
  assert mapped_from(label_set_for('cityscapes', own, pairs, by_class=True)) == 'cityscapes19'
  with pytest.raises(
    InputError, match="dataset 'cityscapes': no counterpart in label set 'mine' for the class"
  ):
    label_set_for('cityscapes', own, (), by_class=True)


def test_training_reads_all_data_sets_in_the_classes_of_the_run(scene_folder, camvid, tmp_path):
  data = make_data(scene_folder, camvid, shares=(6, 2), data_dir=str(tmp_path))
  for cached in (True, False):
    split = data.open_train(cached=cached)
    assert isinstance(split, JoinedSplit)
    assert (len(split), split.shares, [len(part) for part in split.parts]) == (21, (6, 2), [16, 5])
    alone = Data(dataset=f'folder:{camvid}', image_size=(16, 32)).open_train(cached=False)
    to_run = np.array([10, 2, 5, 0, 1, 8, IGNORE_LABEL, 4, 13, 11, IGNORE_LABEL, IGNORE_LABEL], np.uint8)
    for i in range(5):
      own = np.where(alone[i].label == IGNORE_LABEL, 11, alone[i].label)
      np.testing.assert_array_equal(split[16 + i].label, to_run[own])
      np.testing.assert_array_equal(split[16 + i].image, alone[i].image)
  cached = data.open_train()
  expected = np.bincount(np.concatenate([cached[i].label.ravel() for i in range(21)]), minlength=256)
  np.testing.assert_array_equal(cached.class_pixels, expected)


def test_the_first_is_scored_with_the_label_ids_of_its_own(scene_folder, camvid, tmp_path):
  data = make_data(camvid, scene_folder, data_dir=str(tmp_path))
  for cached in (True, False):
    split = data.open('validation', cached=cached)
    assert (len(split), split.label_set.name) == (2, 'camvid11 as cityscapes20')
    assert split.label_set.of_predictions == CITYSCAPES_20
    assert split[0].label.shape == (32, 64)
    assert split[0].label.max() <= 11
  assert make_data(scene_folder, camvid).open('validation', cached=False).label_set == CITYSCAPES_20


def test_images_are_held_out_of_the_first_alone(scene_folder, camvid):
  data = make_data(camvid, scene_folder, held_out=('scene_000', 'scene_001'))
  assert [len(part) for part in data.open_train(cached=False).parts] == [3, 16]
  assert len(data.open('held_out', cached=False)) == 2


def test_a_split_that_another_data_set_lacks_is_named_before_a_cache_is_built(scene_folder, tmp_path):
  other = camvid_folder(tmp_path / 'other', {'train': 2})
  data = make_data(scene_folder, other, train_split='validation', data_dir=str(tmp_path / 'data'))
  with pytest.raises(InputError) as error:
    data.open_train()
  assert str(error.value).startswith(
    f"split 'validation' of 'folder:{other}' (config.data.train_split is of each data set): {other}"
  )
  assert not (tmp_path / 'data').exists()


def test_a_folder_is_mapped_alone_if_there_are_pairs(camvid, capsys):
  fields = dict(dataset=f'folder:{camvid}', label_set='cityscapes20', image_size=(16, 32))
  assert Data(**fields).open('validation', cached=False).label_set == CITYSCAPES_20
  assert 'warning: ' in capsys.readouterr().err
  split = Data(**fields, class_map=(('bicyclist', 'rider'),)).open('validation', cached=False)
  assert split.label_set.encode(np.array([10], np.uint8), '') == CITYSCAPES_20.class_names.index('rider')
  assert capsys.readouterr().err == ''


def test_training_knows_pixels_that_are_of_one_of_several_classes_and_scores_do_not(
  scene_folder, camvid, tmp_path
):
  plain = make_data(camvid, scene_folder, data_dir=str(tmp_path))
  pairs = (('sign symbol', 'traffic light|traffic sign'), ('bicyclist', 'rider|bicycle'))
  data = dataclasses.replace(plain, class_map=pairs)
  groups = data.label_groups(CITYSCAPES_20)
  assert [[CITYSCAPES_20.class_names[i] for i in group] for group in groups] == [
    ['traffic light', 'traffic sign'], ['rider', 'bicycle']
  ]  # fmt: skip
  own = Data(dataset=f'folder:{camvid}', image_size=plain.image_size).open_train(cached=False)
  for cached in (False, True):
    found, before = data.open_train(cached=cached), plain.open_train(cached=cached)
    for i in range(len(own)):
      expected = np.where(own[i].label == 6, 254, np.where(own[i].label == 10, 253, before[i].label))
      np.testing.assert_array_equal(found[i].label, expected)
    assert any((found[i].label == 253).any() for i in range(len(own)))
  split = data.open('validation')
  np.testing.assert_array_equal(split.label_set.encode(np.array([6, 10, 3], np.uint8), ''), [255, 255, 0])
  assert split.path == plain.open('validation').path  # a cache of stored ids serves both


def test_a_folder_without_labels_has_the_ids_of_the_label_set_that_is_named(scene_folder, camvid):
  (camvid / 'labels.json').unlink()
  data = make_data(scene_folder, camvid)
  assert data.label_sets(CITYSCAPES_20) == (CITYSCAPES_20, CITYSCAPES_20)
  for folders in ((camvid, scene_folder), (scene_folder, camvid)):
    with pytest.raises(InputError, match=r'label_set = None, but dataset .*camvid.* has no labels\.json'):
      make_data(*folders, label_set=None).load_label_set()


def test_moved_data_are_those_of_the_first(scene_folder, camvid, tmp_path):
  data = make_data(scene_folder, camvid)
  data.check_place('x')
  moved = shutil.copytree(camvid, tmp_path / 'moved')
  found = make_data(camvid, scene_folder, shares=(2, 6)).moved(str(moved))
  assert (found.dataset, found.shares) == ((f'folder:{moved}',), (2,))
  assert found.open('validation', cached=False).label_set.name == 'camvid11 as cityscapes20'
  shutil.rmtree(camvid)
  with pytest.raises(InputError, match=r'camvid: no such folder\. If the data were moved, x'):
    data.check_place('x')
  published = Data(dataset=('camvid', 'street_scenes'), shares=(1, 1), image_size=(8, 16))
  assert published.moved(str(tmp_path)).data_dir == str(tmp_path)
  with pytest.raises(InputError, match="'camvid' is not prepared in"):
    published.moved(str(tmp_path)).check_place('x')
