"""A whole run with every ingredient of the recipe switched on."""

import json

import numpy as np
import pytest
from test_train import assert_equal_bits, lines_of, make_config, state_of

from dense_aspp_jax.errors import Stopped
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.training import stop
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.train import train_and_evaluate

RECIPE = {
  'model.skip_head': True,
  'model.auxiliary_head': True,
  'model.dropout_rate': 0.1,
  'data.held_out': ('1',),  # '1' and '10' to '15', of '0' to '15'
  'data.validation_split': 'held_out',
  'loss.class_weighting': 'enet',
  'loss.ohem_threshold': 0.7,
  'loss.region': 'dice',
  'optimizer.name': 'adamw',
  'optimizer.decay_norms_and_biases': False,
  'optimizer.clip_norm': 1.0,
  'optimizer.schedule': 'poly',
  'optimizer.warmup_steps': 1,
  'training.ema_decay': 0.5,
  'training.num_epochs': 3.6,  # 4 steps of 8 from 9 images
  'evaluation.every_epochs': 1.8,
  'checkpoint.every_epochs': 1.8,
}


pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def run(scene_folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('recipe') / 'work'
  scores = train_and_evaluate(make_config(scene_folder, **RECIPE), workdir)
  return workdir, scores


def test_raw_and_averaged_weights_are_scored_on_the_images_held_out(run):
  workdir, scores = run
  written = json.loads((workdir / 'scores.json').read_text())
  assert (written['split'], written['images'], written['train_images']) == ('held_out', 7, 9)
  assert (written['step'], written['num_steps'], written['weights'], written['bn']) == (
    4,
    4,
    'raw',
    'running',
  )
  for weights, expected in (('raw', written), ('ema', written['ema'])):
    loaded = load_run(workdir, 'latest', weights)
    split = loaded.load_split('held_out')
    assert {example.image_id for example in split} == {'1', *(str(i) for i in range(10, 16))}
    found = evaluate(loaded.predictor, split, loaded.label_set, batch_size=2).scores().to_json()
    assert found == {name: expected[name] for name in found}
  assert scores.to_json() == written['ema']
  assert written['ema'] != {name: written[name] for name in written['ema']}
  assert load_run(workdir).weights == 'ema'


def test_both_scores_are_logged_and_the_best_is_that_of_the_averages(run):
  workdir, _ = run
  of_kind = {
    kind: {line['step']: line['mean_iou_19'] for line in lines_of(workdir) if line['kind'] == kind}
    for kind in ('validation', 'validation_ema')
  }
  assert of_kind['validation'].keys() == of_kind['validation_ema'].keys() == {2, 4}
  with Checkpoints(workdir, keep=1) as checkpoints:
    best, score = checkpoints.best_step, checkpoints.best_score
  assert score == of_kind['validation_ema'][best] == max(of_kind['validation_ema'].values())
  assert score not in of_kind['validation'].values()  # those of the raw weights would be told apart


def test_class_weights_are_those_of_the_images_trained_on(run):
  workdir, _ = run
  (start,) = json.loads((workdir / 'provenance.json').read_text())
  loaded = load_run(workdir)
  labels = [loaded.label_set.encode(e.label, e.image_id) for e in loaded.load_split('train')]
  assert len(labels) == 9
  resized = [label[1::2, 1::2] for label in labels]  # 64x128 -> 32x64 by nearest neighbour
  pixels = np.bincount(np.concatenate([r.ravel() for r in resized]), minlength=256)[:20]
  expected = [0.0 if n == 0 else 1 / np.log(1.02 + n / pixels.sum()) for n in pixels]
  np.testing.assert_allclose(start['class_weights'], expected, rtol=1e-6)


def test_a_resumed_run_is_the_same_to_the_last_bit_averages_and_all(run, scene_folder, tmp_path, monkeypatch):
  workdir, scores = run
  due = stop.StopSignals.due
  monkeypatch.setattr(stop.StopSignals, 'due', lambda self, step: step == 3)
  monkeypatch.setattr(stop.StopSignals, 'stopped', lambda self: Stopped(15))
  with pytest.raises(Stopped):
    train_and_evaluate(make_config(scene_folder, **RECIPE), tmp_path)
  monkeypatch.setattr(stop.StopSignals, 'due', due)
  assert train_and_evaluate(make_config(scene_folder, **RECIPE), tmp_path) == scores
  found = state_of(tmp_path, 4)
  assert found['ema']['params']
  assert_equal_bits(found, state_of(workdir, 4))
