"""What a split cannot teach or score is found before training; nothing is written for it."""

import json
import shutil

import jax
import layouts
import numpy as np
import pytest
from tiny_network import SHALLOW, tiny_config

from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.errors import InputError, Stopped
from dense_aspp_jax.training import train
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.train import train_and_evaluate

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture
def folder(tmp_path):
  layouts.write_labelled_folder(tmp_path / 'scenes', {'train': 2, 'validation': 2}, (32, 64))
  return tmp_path / 'scenes'


def config_for(folder, num_classes=3, **overrides):
  overrides = {'data.label_set': str(folder / 'labels.json'), 'training.batch_size': 2} | overrides
  return tiny_config(folder, SHALLOW | {'num_classes': num_classes}, **overrides)


def relabel(folder, split, change):
  for i in range(2):
    path = folder / split / 'labels' / f'scene_{i:03d}.png'
    _, ids = layouts.scene(i, (32, 64), 3)
    path.write_bytes(encode_png(change(ids).astype(np.uint8)))


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_a_split_that_is_all_void_is_refused_before_anything_is_written(folder, split, tmp_path, monkeypatch):
  monkeypatch.setattr(train, 'create_state', None)  # nothing is compiled either
  relabel(folder, split, lambda ids: np.full_like(ids, 255))
  for _ in range(2):  # the cache is built, then it is there
    with pytest.raises(InputError, match=f'scenes/{split}: every pixel is ignored'):
      train_and_evaluate(config_for(folder), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_validation_split_that_is_missing_is_found_before_a_cache_is_built(folder, tmp_path):
  shutil.rmtree(folder / 'validation')
  with pytest.raises(InputError, match="no split 'validation'"):
    train_and_evaluate(config_for(folder), tmp_path / 'run')
  assert not (folder.parent / 'data').exists()


def test_without_compilation_nothing_is_read(folder, tmp_path):
  with jax.disable_jit(), pytest.raises(InputError, match='JAX_DISABLE_JIT'):
    train_and_evaluate(config_for(folder), tmp_path / 'run')
  assert not (folder.parent / 'data').exists()


def test_what_only_the_loss_ignores_and_what_is_never_scored_count_as_void(folder, tmp_path):
  relabel(folder, 'train', np.zeros_like)
  with pytest.raises(InputError, match='scenes/train: every pixel is of class class 0, which does not count'):
    train_and_evaluate(config_for(folder, **{'loss.ignore_label': 0}), tmp_path / 'run')
  with pytest.raises(InputError, match='scenes/train: every pixel is of class class 0, which does not count'):
    train_and_evaluate(config_for(folder, **{'loss.class_weights': (0.0, 1.0, 1.0)}), tmp_path / 'run')
  config = config_for(folder, 20, **{'data.label_set': 'cityscapes20'})
  with pytest.raises(
    InputError, match='scenes/validation: every pixel is of class void, which does not count'
  ):
    train_and_evaluate(config, tmp_path / 'run')


def test_a_mask_of_which_one_class_is_ignored_is_said_and_noted(folder, tmp_path, monkeypatch, capsys):
  def stop(*_, **__):
    raise Stopped(15)

  monkeypatch.setattr(train, 'train_batches', stop)
  for split in ('train', 'validation'):
    relabel(folder, split, lambda ids: np.where(ids == 0, 255, 1))
  with pytest.raises(Stopped):
    train_and_evaluate(config_for(folder), tmp_path / 'run')
  said = capsys.readouterr().err
  (start,) = json.loads((tmp_path / 'run' / 'provenance.json').read_text())
  with pytest.raises(Stopped):  # resumed by the label set that the folder has, which is the same
    train_and_evaluate(config_for(folder, **{'data.label_set': None}), tmp_path / 'run')
  absent, single = start['warnings']
  assert f'warning: {folder}/train: {absent}\nwarning: {folder}/train: {single}\n' in said
  assert 'class 0, class 2' in absent
  assert 'all training pixels are of class class 1 or ignored' in single


def test_a_copied_configuration_with_another_number_of_classes_is_told_the_number(folder):
  with pytest.raises(
    InputError, match=r"label set 'generated' has 3 classes; set config\.model\.num_classes = 3"
  ):
    parse_config(tiny_config(folder))
