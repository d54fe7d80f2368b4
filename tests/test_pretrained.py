"""The networks that come with the package: what is said of them is so, and they predict."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.pretrained import DEFAULT, FOLDER, model_path, pretrained_models, shown_model
from dense_aspp_jax.training.model_file import read_model_file
from dense_aspp_jax.training.run import load_model, model_label_set

MODELS = pretrained_models()
models = pytest.mark.parametrize('model', MODELS.values(), ids=list(MODELS))


def test_every_file_is_in_the_index():
  assert DEFAULT in MODELS
  assert sorted(path.stem for path in FOLDER.glob('*.safetensors')) == sorted(MODELS)
  assert len(MODELS) <= 3


@models
def test_the_index_says_what_the_file_is(model):
  content = model.path.read_bytes()
  assert (model.bytes, model.sha256) == (len(content), hashlib.sha256(content).hexdigest())
  assert model.bytes <= 9 * 2**20
  record, variables = read_model_file(model.path)
  assert record.label_set.class_names == model.classes
  assert json.loads(json.dumps(record.config)) == model.config
  assert (record.weights, record.step) == (model.weights, model.step)
  assert model_label_set(model.name) == record.label_set
  assert variables['params']['head']['kernel'].shape[-1] == len(model.classes)
  assert '/home/' not in str(record)
  assert '/root/' not in str(record)
  assert set(model.licences) == {'weights', *record.terms}


def test_it_predicts_scenes_that_it_has_not_seen():
  network, right, pixels = load_model(DEFAULT), 0, 0
  for index in range(2):
    image, label_ids = render_scene(987, index, (192, 256))
    truth = CITYSCAPES_20.encode(label_ids, 'scene')
    right += np.sum(network.predict(image) == truth)
    pixels += truth.size
  assert right > 0.75 * pixels
  assert network.describe()['workdir'] == DEFAULT


def test_a_name_is_a_network_of_the_package_and_a_path_is_not(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / DEFAULT).mkdir()
  assert model_path(DEFAULT) == MODELS[DEFAULT].path
  assert model_path(f'./{DEFAULT}') == model_path(pathlib.Path(DEFAULT)) == pathlib.Path(DEFAULT)
  assert model_path('runs/none') == pathlib.Path('runs/none')
  assert shown_model(MODELS[DEFAULT].path) == DEFAULT
  assert shown_model(pathlib.Path('runs/none')) == 'runs/none'


def test_another_name_is_answered_with_those_there_are(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=f'strets: no such run or model file, .*: {", ".join(MODELS)}'):
    load_model('strets')


def test_a_network_of_the_package_has_one_set_of_weights():
  other = {'raw': 'ema', 'ema': 'raw'}[MODELS[DEFAULT].weights]
  with pytest.raises(
    InputError, match=f'^{DEFAULT}: a model file with weights {MODELS[DEFAULT].weights} alone'
  ):
    load_model(DEFAULT, weights=other)
