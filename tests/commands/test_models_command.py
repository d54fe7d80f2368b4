"""`dense-aspp models`, and the names that it lists where other commands take a run."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from dense_aspp_jax.pretrained import DEFAULT, pretrained_models
from dense_aspp_jax.results.runs import Row
from dense_aspp_jax.training.run import load_model

MODELS = pretrained_models()


def test_the_list_has_a_line_for_each_network_with_its_scores(capsys):
  assert main(['models']) == 0
  lines = capsys.readouterr().out.splitlines()
  for name, model in MODELS.items():
    line = next(line for line in lines if line.startswith(f'{name} '))
    assert line.split()[1] == str(len(model.classes))
    assert f'{100 * Row.from_json(model.scores[0]).scores.mean_iou:.1f} %' in line
    assert line.endswith(model.about)
  assert re.search(r'^streets .* % of 9 classes, camvid, validation split', '\n'.join(lines), re.MULTILINE)
  assert re.search(r' % of 19 classes, street_scenes_large, validation split', '\n'.join(lines))


def test_a_name_prints_its_card(capsys):
  assert main(['models', DEFAULT]) == 0
  assert capsys.readouterr().out == MODELS[DEFAULT].card.read_text(encoding='utf-8')


def test_another_name_is_refused(capsys):
  assert main(['models', 'strets']) == 2
  assert capsys.readouterr().err == f'dense-aspp models: strets: expected one of {", ".join(MODELS)}\n'


def test_a_photograph_is_predicted_with_nothing_else_given(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  image, _ = render_scene(3, 0, (192, 256))
  Image.fromarray(image).save('photo.png')
  assert main(['predict', 'photo.png', '--output', 'out']) == 0
  assert '1 images predicted: out' in capsys.readouterr().out
  network = load_model(DEFAULT)
  with Image.open('out/label_ids/photo.png') as found:
    np.testing.assert_array_equal(found, network.label_set.decode(network.predict(image)))
  assert json.loads((tmp_path / 'out' / 'predictions.json').read_text())['workdir'] == DEFAULT


@pytest.mark.parametrize(
  'arguments',
  [('similarity',), ('remove-layers',), ('receptive-field',), ('report',), ('evaluate', '--record')],
)
def test_what_would_be_written_beside_a_run_needs_a_place(arguments, capsys):
  command, *options = arguments
  assert main([command, '--model', DEFAULT, *options]) == 2
  error = capsys.readouterr().err
  assert error.startswith(f'dense-aspp {command}: {DEFAULT}: ')
  assert '--output' in error


def test_predictions_are_scored_by_its_label_set(tmp_path, scene_folder, capsys):
  labels = scene_folder / 'validation' / 'labels'
  assert main(['score', '--labels', str(labels), '--predictions', str(labels), '--model', DEFAULT]) == 0
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert report['label_set'] == load_model(DEFAULT).label_set.name


def test_a_name_that_is_none_is_one_line(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert main(['evaluate', '--model', 'strets']) == 2
  names = ', '.join(MODELS)
  assert capsys.readouterr().err == (
    'dense-aspp evaluate: strets: no such run or model file, nor one of the networks that come with the '
    f'package: {names}\n'
  )
