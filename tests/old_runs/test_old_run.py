"""A run and converted weights of commit 800da57 give the same numbers as then; make_fixture.py wrote them."""

import json
import pathlib
import shutil
import tarfile

import flax
import jax
import numpy as np
import pytest
from PIL import Image
from tiny_network import draw_variables

from configs import default
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.results.runs import read_run
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.start import load_start
from dense_aspp_jax.training.train import train_and_evaluate
from dense_aspp_jax.weights.store import load_extractor_weights

pytestmark = pytest.mark.usefixtures('one_device')

HERE = pathlib.Path(__file__).parent
EXPECTED = json.loads((HERE / 'expected.json').read_text())
STORED_AT = '/data/old_run'  # that commit stored absolute paths; the copy of the test lies elsewhere


@pytest.fixture(scope='module')
def old(tmp_path_factory):
  root = tmp_path_factory.mktemp('old_run')
  with tarfile.open(HERE / 'old_run.tar.xz') as archive:
    archive.extractall(root, filter='data')
  config = root / 'run' / 'config.json'
  config.write_text(config.read_text().replace(STORED_AT, str(root)))
  return root


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('best', ()),
    ('latest raw', ('--checkpoint', 'latest', '--weights', 'raw')),
    ('recalibrated', ('--checkpoint', 'latest', '--bn', 'recalibrated')),
  ],
)
def test_evaluate_gives_the_old_scores(old, tmp_path, name, options):
  output = tmp_path / 'scores.json'
  command = ['evaluate', '--workdir', str(old / 'run'), *options, '--output', str(output)]
  assert main(command) == 0
  scores = json.loads(output.read_text())
  assert scores['step'] == EXPECTED[name]['step']
  for field in ('mean_iou', 'pixel_accuracy', 'iou'):
    assert scores[field] == pytest.approx(EXPECTED[name][field])


def test_predict_gives_the_old_classes(old, tmp_path):
  image = old / 'scenes' / 'validation' / 'images' / 'scene_000.png'
  assert main(['predict', '--workdir', str(old / 'run'), '--output', str(tmp_path), str(image)]) == 0
  with Image.open(tmp_path / 'label_ids' / 'scene_000.png') as prediction:
    classes = np.asarray(prediction)
  assert [''.join(map(str, row)) for row in classes] == EXPECTED['prediction']


def test_the_best_of_the_old_run_is_to_be_exceeded(old):
  with Checkpoints(old / 'run', 1) as checkpoints:
    assert checkpoints.best_step == EXPECTED['best']['step']
    assert checkpoints.best_score == pytest.approx(EXPECTED['best']['mean_iou'])


def test_the_old_run_has_its_old_name_among_results(old):
  assert {row.config_hash for row in read_run(old / 'run')} == {EXPECTED['config_hash']}


def test_the_old_converted_weights_load(old):
  weights = load_extractor_weights(old / 'weights')
  arrays = flax.traverse_util.flatten_dict(weights.variables, sep='/')
  sums = {name: np.sum(array, dtype=np.float64) for name, array in arrays.items()}
  assert sums == pytest.approx(EXPECTED['weights'])


def test_a_new_run_starts_from_the_old_one(old):
  config = default.get_config()
  overrides = {name: tuple(v) if isinstance(v, list) else v for name, v in EXPECTED['overrides'].items()}
  config.update_from_flattened_dict(overrides)
  config.data.label_set = str(old / 'scenes' / 'labels.json')
  config.init.update(extractor_weights=None, run=str(old / 'run'))
  checked = parse_config(config)
  start = load_start(checked, config.model.to_dict())
  merged = start.merge(draw_variables(abstract_variables(checked.model)))
  jax.tree.map(np.testing.assert_array_equal, merged, load_run(old / 'run').variables)
  origin = start.origin['init_run']
  assert origin['config_hash'] == EXPECTED['config_hash']
  assert (origin['step'], origin['pretraining']) == (EXPECTED['best']['step'], ['ImageNet'])


def test_the_old_run_resumes_with_the_same_losses_and_scores(old, tmp_path):
  workdir = shutil.copytree(old / 'run', tmp_path / 'run')
  shutil.rmtree(workdir / 'checkpoints' / 'best')  # it is better than what the resumed steps reach
  config = default.get_config()
  overrides = {name: tuple(v) if isinstance(v, list) else v for name, v in EXPECTED['overrides'].items()}
  config.update_from_flattened_dict(overrides)
  config.data.dataset = f'folder:{old / "scenes"}'
  config.data.label_set = str(old / 'scenes' / 'labels.json')
  config.data.data_dir = str(old / 'cache')
  config.init.extractor_weights = str(old / 'weights')
  config.training.num_epochs = 14.0
  train_and_evaluate(config, workdir)
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  losses = {
    str(line['step']): line['loss'] for line in lines if line['kind'] == 'train' and line['step'] > 24
  }
  assert losses == pytest.approx(EXPECTED['losses'], rel=1e-4)
  scores = json.loads((workdir / 'scores.json').read_text())
  for name in ('step', 'mean_iou', 'iou'):
    assert scores[name] == pytest.approx(EXPECTED['resumed'][name])
  for name in ('mean_iou', 'iou'):
    assert scores['ema'][name] == pytest.approx(EXPECTED['resumed']['ema'][name])
  # Moving averages rank checkpoints where a run has them.
  with Checkpoints(workdir, 1) as checkpoints:
    assert checkpoints.best_score == pytest.approx(EXPECTED['resumed']['ema']['mean_iou'])
