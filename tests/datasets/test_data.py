"""`Data`: the checks of its fields, and the splits that it opens."""

import dataclasses
import functools
import json
import pwd
import shutil

import jax
import layouts
import ml_collections
import numpy as np
import pytest

from configs import default
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.prepare import DATASETS
from dense_aspp_jax.datasets.street_scenes.builder import STREET_SCENES, generate
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CITYSCAPES_20, USUAL_LABEL_SETS

DATA = default.get_config().data


def test_the_fields_are_those_of_the_configuration():
  data = Data(**DATA)
  assert {field.name for field in dataclasses.fields(Data)} == set(DATA)
  assert dataclasses.asdict(data) == DATA.to_dict()
  assert Data(**json.loads(json.dumps(DATA.to_dict()))) == data  # as a run stores it
  old = {name: value for name, value in DATA.items() if name not in ('held_out', 'skip_bad')}
  assert Data(**old) == data
  assert data.preprocessing.image_size == (512, 1024)


@pytest.mark.parametrize(
  ('field', 'right', 'wrong'),
  [
    ('dataset', ['x'], ['', None, 1, (), ('x', ''), ('x', 1), ('x', 'x')]),
    ('shares', [(), []], [(8,), 8, None]),
    (
      'class_map',
      [(), (('a', 'b'),), [['a', 'ignore']]],
      ['ab', ('a', 'b'), (('a',),), (('a', 1),), (('a', 'b'), ('A', 'c')), None],
    ),
    ('data_dir', [None, 'x'], ['', 1]),
    ('cache_dir', [None, 'x'], ['', 1]),
    ('label_set', [None, 'x'], ['', 1]),
    ('train_split', ['x'], ['']),
    ('validation_split', ['x'], ['']),
    ('held_out', [(), ('x',), ['x', 'y']], ['x', ('',), (1,), None]),
    ('image_size', [(1, 1), [2, 3]], [(0, 1), (1,), (1, 1, 1), (1.0, 1), None]),
    ('keep_aspect', [True, False], [0]),
    ('mean', [(-0.5, 0.0, 0.5)], [(0.5, 0.5), (0.5, 0.5, float('nan')), 'abc']),
    ('std', [(0.1, 0.1, 0.1)], [(0.0, 0.1, 0.1), (0.1, 0.1)]),
    ('on_device', [True], [1]),
    ('num_workers', [0, 3], [-1, 0.5, True]),
    ('skip_bad', [0, 3], [-1, 0.5]),
  ],
)
def test_a_wrong_value_is_named(field, right, wrong):
  for value in right:
    Data(**{**DATA, field: value})
  for value in wrong:
    with pytest.raises(InputError, match=f'config.data.{field} = '):
      Data(**{**ml_collections.ConfigDict(DATA), field: value})


def test_published_data_have_the_label_set_that_they_are_prepared_with():
  assert {name: published.label_set for name, published in DATASETS.items()} == USUAL_LABEL_SETS
  for name, label_set in USUAL_LABEL_SETS.items():
    assert Data(dataset=name, image_size=(8, 16)).load_label_set() == label_set


def test_the_label_set_of_a_folder_is_its_own_unless_another_is_named(tmp_path, capsys):
  layouts.write_labelled_folder(tmp_path, {'train': 1})

  def load(**fields):
    return Data(dataset=f'folder:{tmp_path}', image_size=(8, 16), **fields).load_label_set()

  own = load()
  assert (own.name, own.num_classes) == ('generated', 3)
  other = tmp_path / 'other.json'
  other.write_text(json.dumps({**own.to_json(), 'name': 'other'}))
  assert load(label_set=str(other)).name == 'other'  # another name for the same
  assert capsys.readouterr().err == ''
  assert load(label_set='cityscapes20') == CITYSCAPES_20
  said = capsys.readouterr().err
  assert "warning: config.data.label_set = 'cityscapes20' (20 classes) is used" in said
  assert f'{tmp_path}/labels.json is another label set (3 classes)' in said
  (tmp_path / 'labels.json').write_text('[]')  # of another program
  assert load(label_set='cityscapes20') == CITYSCAPES_20
  assert capsys.readouterr().err == ''
  with pytest.raises(InputError, match=r'labels\.json: not a label set'):
    load()
  (tmp_path / 'labels.json').unlink()
  with pytest.raises(InputError, match=r'label_set = None, but dataset .* has no labels\.json'):
    load()


@pytest.mark.parametrize('train', [False, True])
def test_a_cache_is_built_in_the_data_directory_and_holds_what_is_decoded(scene_folder, tmp_path, train):
  data = Data(
    dataset=f'folder:{scene_folder}',
    data_dir=str(tmp_path),
    label_set='cityscapes20',
    train_split='validation',
    image_size=(32, 64),
  )

  def open_validation(cached):
    return data.open_train(cached=cached) if train else data.open('validation', cached=cached)

  decoded = open_validation(cached=False)
  assert not (tmp_path / 'cache').exists()
  cached = open_validation(cached=True)
  assert list((tmp_path / 'cache').iterdir())
  assert len(decoded) == len(cached) == 5
  assert decoded[3].image.shape == (32, 64, 3)
  assert decoded[3].label.shape == ((32, 64) if train else (64, 128))
  jax.tree.map(np.testing.assert_array_equal, decoded[3], cached[3])


def test_generated_data_alone_are_prepared_at_first_use(tmp_path, monkeypatch):
  tiny = dataclasses.replace(
    STREET_SCENES, counts={'train': 2}, generate=functools.partial(generate, size=(64, 128))
  )
  monkeypatch.setitem(DATASETS, 'street_scenes', tiny)
  fields = dict(data_dir=str(tmp_path), label_set='cityscapes20', image_size=(8, 16))
  assert len(Data(dataset='street_scenes', **fields).open_train(cached=False)) == 2
  with pytest.raises(InputError, match='is not prepared'):
    Data(dataset='camvid', **fields).open('train')


def scenes(folder, **fields):
  return Data(dataset=f'folder:{folder}', label_set='cityscapes20', image_size=(8, 16), **fields)


def test_a_cache_goes_where_it_is_told(scene_folder, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  scenes(scene_folder, data_dir='/nowhere', cache_dir='~/mine').open('validation')
  assert len(list((tmp_path / 'mine').iterdir())) == 1
  scenes(scene_folder, data_dir='~/data').open('validation')
  assert len(list((tmp_path / 'data' / 'cache').iterdir())) == 1


def test_where_the_data_cannot_be_written_the_cache_goes_to_the_user(
  scene_folder, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'user'))
  shared = tmp_path / 'shared'
  shared.mkdir()
  (shared / 'cache').write_text('')  # cannot be made, not even by root
  data = scenes(scene_folder, data_dir=str(shared))
  assert data.open('validation').path.is_relative_to(tmp_path / 'user')
  assert data.open_train().path.is_relative_to(tmp_path / 'user')
  said = [line for line in capsys.readouterr().err.splitlines() if 'cannot be written' in line]
  assert len(said) == 1
  assert 'config.data.cache_dir' in said[0]
  told = scenes(scene_folder, cache_dir=str(shared / 'cache'))
  with pytest.raises(InputError, match=r'cannot be written .*config\.data\.cache_dir'):
    told.open('validation')


def test_without_a_home_directory_the_cache_is_temporary(scene_folder, tmp_path, monkeypatch):
  for name in ('HOME', 'XDG_CACHE_HOME', 'TFDS_DATA_DIR'):
    monkeypatch.delenv(name, raising=False)

  def unknown(_):
    raise KeyError

  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  monkeypatch.setattr('tensorflow_datasets.core.constants.DATA_DIR', '~/tensorflow_datasets')
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  assert scenes(scene_folder, data_dir=None).open('validation').path.is_relative_to(tmp_path)


def test_a_folder_that_moved_is_read_where_it_is_now(scene_folder, tmp_path, capsys):
  moved = shutil.copytree(scene_folder, tmp_path / 'moved')
  data = scenes('/gone')
  assert data.moved(str(moved)).dataset == f'folder:{moved}'
  assert len(data.moved(str(moved)).open('validation', cached=False)) == 5
  with pytest.raises(InputError, match=r'/gone: no such folder.*give it anew'):
    data.check_place('give it anew')
  (moved / 'train').rename(moved / 'training')  # a synonym, alone
  shutil.rmtree(moved / 'validation')
  (moved / 'labels.json').unlink(missing_ok=True)
  assert scenes(scene_folder).moved(str(moved)).dataset == f'folder:{moved}'
  there = scenes(scene_folder).moved(str(tmp_path / 'data'))  # no labelled folder: for caches, as ever
  assert (there.dataset, there.data_dir) == (f'folder:{scene_folder}', str(tmp_path / 'data'))
  assert f'the images are read from {scene_folder}' in capsys.readouterr().err
