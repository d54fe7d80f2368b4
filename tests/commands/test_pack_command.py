"""`dense-aspp pack`, and the file it writes in place of a run's directory."""

import json

import numpy as np
import pytest
from tiny_network import tiny_config

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.run import load_model, load_run
from dense_aspp_jax.training.start import load_start


def run(*arguments):
  return main([str(a) for a in arguments])


@pytest.fixture
def model(scene_run, tmp_path):
  """A file of `scene_run` in float32, with nothing of the run left."""
  path = tmp_path / 'scene.safetensors'
  assert run('pack', '--workdir', scene_run, '--output', path, '--dtype', 'float32') == 0
  return path


def test_a_run_is_packed_and_its_file_says_what_it_scores(scene_run, tmp_path, capsys):
  path = tmp_path / 'models' / 'scene.safetensors'
  assert run('pack', '--workdir', scene_run, '--output', path) == 0
  assert capsys.readouterr().out == f'20 classes, {path.stat().st_size / 1e6:.1f} MB: {path}\n'
  assert load_model(path).record.step == 0


def test_the_file_is_evaluated_and_predicts_as_the_run(scene_run, scene_folder, model, tmp_path, capsys):
  image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
  save_png(tmp_path / 'photo.png', image)
  results, pixels = [], []
  for number, name in enumerate((scene_run, model)):
    output = tmp_path / f'{number}.json'
    options = ('--data-dir', scene_folder, '--output', output)
    assert run('evaluate', '--model', name, *options) == 0
    results.append(json.loads(output.read_text()))
    assert run('predict', '--model', name, '--output', tmp_path / f'p{number}', tmp_path / 'photo.png') == 0
    pixels.append((tmp_path / f'p{number}' / 'label_ids' / 'photo.png').read_bytes())
  there, here = results
  different = {key for key in there if there[key] != here[key]}
  assert different <= {'workdir', 'dataset', 'config', 'provenance'}
  assert (here['workdir'], here['checkpoint'], here['bn']) == (str(model), 'best', 'running')
  assert pixels[0] == pixels[1]
  labels = scene_folder / 'validation' / 'labels'
  assert run('score', '--labels', labels, '--predictions', labels, '--model', model) == 0
  assert json.loads(capsys.readouterr().out.splitlines()[-1])['label_set'] == 'cityscapes20'


def test_analyses_of_a_file_go_where_they_are_told(model, scene_folder, tmp_path, capsys):
  for command in ('similarity', 'remove-layers', 'report', 'receptive-field'):
    assert run(command, '--model', model) == 2
    assert capsys.readouterr().err.startswith(f'dense-aspp {command}: {model}: a model file, so --output ')
  output = tmp_path / 'similarity'
  assert run('similarity', '--model', model, '--data-dir', scene_folder, '--output', output) == 0
  assert (output / 'similarity.json').is_file()
  output = tmp_path / 'field'
  assert run('receptive-field', '--model', model, '--images', 1, '--output', output) == 0
  assert json.loads((output / 'receptive_field.json').read_text())['workdir'] == str(model)


def test_a_report_of_a_file_has_everything_but_the_curves(model, scene_folder, tmp_path):
  output = tmp_path / 'report.html'
  options = ('--data-dir', scene_folder, '--images', 2, '--pictures', 1, '--output', output)
  assert run('report', '--model', model, *options) == 0
  text = output.read_text()
  assert '5 images' in text
  assert 'so there are no curves to show' in text


def test_a_training_starts_from_a_file(model, scene_run, scene_folder):
  config = tiny_config(scene_folder, **{'init.run': str(model)})
  start = load_start(parse_config(config), config.model.to_dict())
  loaded = load_run(scene_run)
  merged = start.merge(loaded.variables)
  np.testing.assert_array_equal(
    merged['params']['head']['kernel'], loaded.variables['params']['head']['kernel']
  )
  assert start.origin['init_run']['run'] == 'scene.safetensors'
  assert start.origin['init_run']['dataset'] == 'scenes'


@pytest.mark.parametrize(
  ('arguments', 'named'),
  [
    (('pack', '--output', 'x.pth'), 'expected a name that ends in .safetensors'),
    (('pack', '--output', '.'), 'a folder; --output expects the name of a model file'),
    (('pack', '--output', 'x.safetensors', '--checkpoint', '7'), "no checkpoint '7'"),
  ],
)
def test_what_cannot_be_packed_is_one_line(scene_run, tmp_path, monkeypatch, capsys, arguments, named):
  monkeypatch.chdir(tmp_path)
  assert run(*arguments, '--workdir', scene_run) == 2
  assert named in capsys.readouterr().err
  assert not (tmp_path / 'x.safetensors').exists()


def test_scores_of_a_file_are_not_kept_in_a_directory_that_it_has_not(model, capsys):
  assert run('evaluate', '--model', model, '--record') == 2
  assert '--record keeps scores in the directory of a run; use --output' in capsys.readouterr().err
