"""`dense-aspp convert` as a user calls it, and training from what it writes."""

import json
import os
import pathlib
import shlex
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_weights import draw_classifier, draw_weights, source_shapes
from tiny_network import SHALLOW, tiny_config
from torch_files import write_pth

from dense_aspp_jax.commands import convert
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models import segmentation
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.train import train_and_evaluate
from dense_aspp_jax.weights import parity, torch_reference
from dense_aspp_jax.weights.name_maps import dense_aspp_source

REFERENCES = pathlib.Path(__file__).parents[1] / 'golden' / 'references'


def run(*arguments):
  return main(['convert', *(str(a) for a in arguments)])


@pytest.fixture(scope='module')
def tensors():
  return draw_classifier()


@pytest.fixture
def file(tensors, tmp_path):
  write_pth(tmp_path / 'tiny.pth', tensors)
  return tmp_path / 'tiny.pth'


@pytest.fixture
def converted(file, tmp_path):
  assert run('--architecture', 'densenet_tiny', '--input', file, '--output', tmp_path / 'weights') == 0
  return tmp_path / 'weights'


def test_convert_says_how_to_train_with_what_it_wrote(file, tmp_path, capsys):
  output = tmp_path / 'out [1]'
  assert run('--architecture', 'densenet_tiny', '--input', file, '--output', output) == 0
  printed = capsys.readouterr().out
  assert f'--config.init.extractor_weights={output}' in shlex.split(printed)
  assert "--config.data.mean='(0.485, 0.456, 0.406)'" in printed
  assert json.loads((output / 'weights.json').read_text())['file'] == 'tiny.pth'


def test_a_file_is_converted_where_nothing_temporary_can_be_written(file, tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'missing'))
  assert run('--architecture', 'densenet_tiny', '--input', file, '--output', tmp_path / 'out') == 0


def test_check_prints_the_difference_of_every_stage_from_the_stored_reference(file, capsys, monkeypatch):
  monkeypatch.setattr(parity, 'REFERENCES', REFERENCES)
  assert run('--architecture', 'densenet_tiny', '--input', file, '--check') == 0
  lines = capsys.readouterr().out.splitlines()
  assert any('stored reference densenet_tiny.drawn' in line for line in lines)
  stages = [line.split()[0] for line in lines if line.startswith('  ')]
  assert len(stages) == 4 * 9  # denseblock1 ... norm5, logits; two sizes, two strides
  assert any(line.startswith('all stages agree within 0.0001') for line in lines)


@pytest.mark.parametrize('error', [0.1, np.nan])
def test_check_fails_where_a_stage_differs_and_nothing_is_written(file, tmp_path, capsys, monkeypatch, error):
  monkeypatch.setattr(parity, 'REFERENCES', REFERENCES)
  stage_activations = parity.stage_activations

  def wrong(classifier, variables, case):
    activations = stage_activations(classifier, variables, case)
    return {**activations, 'transition2': activations['transition2'] + error}

  monkeypatch.setattr(parity, 'stage_activations', wrong)
  output = tmp_path / 'out'
  assert run('--architecture', 'densenet_tiny', '--input', file, '--check', '--output', output) == 1
  assert not output.exists()
  captured = capsys.readouterr()
  assert sum('differs' in line for line in captured.out.splitlines()) == 4
  assert 'a stage differs by' in captured.err


def test_check_without_anything_to_compare_with_says_so_and_fails(tensors, tmp_path, capsys, monkeypatch):
  for name in ('torch', 'torchvision', 'timm'):
    monkeypatch.setitem(sys.modules, name, None)
  write_pth(tmp_path / 'other.pth', {k: v + 0.01 for k, v in tensors.items()})
  assert run('--architecture', 'densenet_tiny', '--input', tmp_path / 'other.pth', '--check') == 1
  error = capsys.readouterr().err
  assert 'no stored reference for these weights' in error
  assert "pip install 'dense_aspp_jax[torch]'" in error


def test_the_source_module_is_given_what_was_converted(tensors, tmp_path, monkeypatch):
  given, other = {}, {k: v + np.float32(0.01) for k, v in tensors.items()}
  monkeypatch.setattr(torch_reference, 'source_module', lambda *_: None)
  monkeypatch.setattr(torch_reference, 'load_tensors', lambda _, state: given.update(state))
  monkeypatch.setattr(torch_reference, 'torch_activations', lambda *_: {'logits': np.zeros((1, 1000))})
  write_pth(tmp_path / 'wrapped.pth', {f'_orig_mod.{k}': v for k, v in other.items()})
  assert run('--architecture', 'densenet_tiny', '--input', tmp_path / 'wrapped.pth', '--check') == 1
  assert given.keys() == other.keys()
  assert all((given[k] == v).all() for k, v in other.items())


def test_bad_input_ends_with_2_and_writes_nothing(file, tmp_path, capsys):
  output = ('--output', tmp_path / 'out')
  (tmp_path / 'text.pth').write_text('no weights')
  assert run('--architecture', 'densenet_small', '--input', file, *output) == 2
  assert 'mismatched' in capsys.readouterr().err
  assert run('--architecture', 'densenet_tiny', '--input', tmp_path / 'text.pth', *output) == 2
  assert 'text.pth' in capsys.readouterr().err
  assert run('--architecture', 'densenet_tiny', '--input', tmp_path / 'none.pth', *output) == 2
  os.mkfifo(tmp_path / 'pipe')
  assert run('--architecture', 'densenet_tiny', '--input', tmp_path / 'pipe', *output) == 2
  assert 'pipe: not a file' in capsys.readouterr().err
  assert run('--architecture', 'vgg16', '--input', file, *output) == 2
  assert 'expected one of' in capsys.readouterr().err
  assert run('--architecture', 'densenet_tiny', '--input', file) == 2
  assert '--output DIR, --check, or both' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_download_fetches_the_official_file(file, tmp_path, monkeypatch):
  monkeypatch.setitem(convert.WEIGHT_URLS, 'densenet_tiny', file.as_uri())
  assert run('--architecture', 'densenet_tiny', '--download', '--output', tmp_path / 'out') == 0
  assert json.loads((tmp_path / 'out' / 'weights.json').read_text())['file'] == 'tiny.pth'


def test_download_without_a_network_says_what_to_do(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(convert.WEIGHT_URLS, 'densenet_tiny', 'file:///nowhere/tiny.pth')
  assert run('--architecture', 'densenet_tiny', '--download', '--output', tmp_path / 'out') == 1
  assert 'where there is a network, get that file' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
  assert run('--architecture', 'densenet_small', '--download', '--output', tmp_path / 'out') == 2
  assert 'no official file' in capsys.readouterr().err
  (tmp_path / 'out' / 'something').mkdir(parents=True)  # found before anything is fetched
  assert run('--architecture', 'densenet_tiny', '--download', '--output', tmp_path / 'out') == 2
  assert 'a new or an empty folder' in capsys.readouterr().err


def test_training_starts_from_converted_weights(converted, tensors, scene_folder, tmp_path, capsys):
  config = tiny_config(scene_folder, model=SHALLOW)
  config.init.extractor_weights = str(converted)
  config.optimizer.learning_rate = 1e-12  # so that the checkpoint still shows what it started from
  train_and_evaluate(config, tmp_path / 'run')
  assert 'extractor weights: torchvision, tiny.pth' in capsys.readouterr().err
  params = load_run(tmp_path / 'run', 'latest').variables['params']
  np.testing.assert_allclose(
    params['extractor']['conv0']['kernel'], tensors['features.conv0.weight'].transpose(2, 3, 1, 0), atol=1e-9
  )
  (start,) = json.loads((tmp_path / 'run' / 'provenance.json').read_text())
  assert start['extractor_weights']['sha256']
  # A resume reads its own checkpoint: the weights may be gone by then.
  (converted / 'weights.json').unlink()
  config.training.num_epochs = 2.0
  train_and_evaluate(config, tmp_path / 'run')
  assert load_run(tmp_path / 'run', 'latest').step == 4


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda c: c.model.update(extractor='densenet_small'),
      r'densenet_tiny.*config\.model\.extractor',
    ),
    (lambda c: c.data.update(mean=(0.5, 0.5, 0.5)), r'need config\.data\.mean = \(0\.485, 0\.456, 0\.406\)'),
    (lambda c: c.data.update(std=(0.5, 0.5, 0.5)), r'need config\.data\.std = '),
    (lambda c: c.init.update(extractor_weights='nowhere'), 'nowhere: not converted weights'),
  ],
)
def test_weights_that_do_not_go_with_the_configuration_are_refused(
  converted, scene_folder, tmp_path, change, message
):
  config = tiny_config(scene_folder)
  config.init.extractor_weights = str(converted)
  change(config)
  with pytest.raises(InputError, match=message):
    train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_published_network_becomes_a_run_that_predicts(tmp_path, monkeypatch, capsys):
  fields = {**segmentation.PAPER_MODELS['denseaspp121'], 'extractor': 'densenet_tiny', 'growth_rate': 4}
  fields['bottleneck_width'] = 6
  monkeypatch.setitem(segmentation.PAPER_MODELS, 'denseaspp121', fields)
  model = segmentation.create_model(**fields)
  tensors = draw_weights(source_shapes(model, dense_aspp_source((3, 6, 12, 18, 24))))
  write_pth(tmp_path / 'authors.pth', {f'module.{k}': v for k, v in tensors.items()})
  arguments = ('--architecture', 'denseaspp121', '--input', tmp_path / 'authors.pth')
  assert run(*arguments, '--output', tmp_path / 'run') == 0
  loaded = load_run(tmp_path / 'run')
  assert (loaded.step, loaded.label_set.name) == (0, 'cityscapes19')
  stored = flax.traverse_util.flatten_dict(loaded.variables)
  image = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
  logits = jax.jit(model.apply)(loaded.variables, image).main
  assert logits.shape == (1, 4, 4, 19)
  np.testing.assert_array_equal(stored['params', 'head', 'bias'], tensors['classification.1.bias'])
  assert jnp.unique(jnp.argmax(logits, -1)).size > 1
  (start,) = json.loads((tmp_path / 'run' / 'provenance.json').read_text())
  assert start['converted']['file'] == 'authors.pth'
  assert loaded.config['model']['dilation_rates'] == (3, 6, 12, 18, 24)  # all fields: defaults may change
  assert run(*arguments, '--check', '--output', tmp_path / 'other') == 1
  assert 'nothing to compare with' in capsys.readouterr().err
  assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('change', ['no head', 'other classes', 'more'])
def test_check_is_refused_for_what_is_no_imagenet_classifier(change, tensors, tmp_path, capsys):
  changed = {
    'no head': {k: v for k, v in tensors.items() if k.startswith('features.')},
    'other classes': {**tensors, **{k: v[:7] for k, v in tensors.items() if k.startswith('classifier.')}},
    'more': {**tensors, 'fc.weight': np.ones(3, np.float32)},
  }[change]
  write_pth(tmp_path / 'other.pth', changed)
  assert run('--architecture', 'densenet_tiny', '--input', tmp_path / 'other.pth', '--check') == 2
  assert 'convert without --check' in capsys.readouterr().err
