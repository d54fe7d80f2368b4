"""Whole small runs, in process, on two of the fake devices."""

import fcntl
import json
import pathlib
import shutil
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_network import TINY

from configs import default
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.errors import InputError, Stopped
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.training import packing, train
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.train import train_and_evaluate

pytestmark = pytest.mark.usefixtures('two_devices')


def make_config(folder, **overrides):
  """Batches of 8 out of 16 images: two steps an epoch."""
  config = default.get_config()
  with config.unlocked():
    config.model.update(TINY)
    config.data.update(
      dataset=f'folder:{folder}', label_set='cityscapes20', data_dir=str(folder.parent / 'data')
    )
    config.data.image_size = (32, 64)
    config.augmentation.flip_probability = 0.5
    config.training.update(num_epochs=2.0, batch_size=8, log_every_steps=1)
    config.optimizer.learning_rate = 1e-2
  config.update_from_flattened_dict(overrides)
  return config


def lines_of(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def losses_in_events(workdir):
  events = EventAccumulator(str(workdir / 'tensorboard'))
  events.Reload()
  return [(e.step, e.value) for e in events.Scalars('train/loss')]


def state_of(workdir, step):
  path = pathlib.Path(workdir) / 'checkpoints' / 'latest' / str(step)
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Sharding info not provided')  # right: same devices
    return ocp.load_checkpointables(path)


def assert_equal_bits(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope='module')
def finished(scene_folder, tmp_path_factory):
  """A run of four steps."""
  workdir = tmp_path_factory.mktemp('run') / 'work'
  scores = train_and_evaluate(make_config(scene_folder), workdir)
  return workdir, scores


def test_a_run_leaves_all_its_files(finished):
  workdir, scores = finished
  config = json.loads((workdir / 'config.json').read_text())
  assert config['data']['image_size'] == [32, 64]
  assert json.loads((workdir / 'labels.json').read_text())['name'] == 'cityscapes20'
  provenance = json.loads((workdir / 'provenance.json').read_text())
  assert [(start['step'], start['libraries']['jax']) for start in provenance] == [(0, jax.__version__)]
  written = json.loads((workdir / 'scores.json').read_text())
  assert written['mean_iou_19'] == scores.mean_iou
  assert (written['step'], written['images'], written['split']) == (4, 5, 'validation')
  assert written['config'] | {'directory': config['directory']} == config
  assert written['provenance']['libraries'] == provenance[0]['libraries']
  assert {p.name for p in (workdir / 'checkpoints' / 'latest').iterdir()} == {'2', '4'}
  assert len(list((workdir / 'checkpoints' / 'best').iterdir())) == 1
  assert {p.name for p in (workdir / 'pictures').iterdir()} == {
    'validation_step_0000002.png',
    'validation_step_0000004.png',
  }


def test_json_lines_and_events_hold_the_same_figures(finished):
  workdir, scores = finished
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  train = [line for line in lines if line['kind'] == 'train']
  validation = [line for line in lines if line['kind'] == 'validation']
  assert [line['step'] for line in train] == [1, 2, 3, 4]
  assert [line['step'] for line in validation] == [2, 4]
  assert all(line['learning_rate'] == pytest.approx(1e-2) and line['images_per_second'] > 0 for line in train)
  assert validation[-1]['mean_iou_19'] == scores.mean_iou
  assert validation[-1]['iou/road'] == scores.iou['road']
  events = EventAccumulator(str(workdir / 'tensorboard'))
  events.Reload()
  losses = [(e.step, e.value) for e in events.Scalars('train/loss')]
  assert losses == [(line['step'], pytest.approx(line['loss'], rel=1e-6)) for line in train]
  assert [e.step for e in events.Images('validation')] == [2, 4]


def test_four_steps_equal_two_and_a_resume_and_two_bit_for_bit(finished, scene_folder, tmp_path):
  workdir, scores = finished
  train_and_evaluate(make_config(scene_folder, **{'training.num_epochs': 1.0}), tmp_path)
  resumed = train_and_evaluate(make_config(scene_folder), tmp_path)
  starts = json.loads((tmp_path / 'provenance.json').read_text())
  assert [start['step'] for start in starts] == [0, 2]
  assert load_run(tmp_path, '4').config['training']['num_epochs'] == 2.0
  # Step 2 was saved by one run in the middle, while it went on, and by the other at its end.
  assert_equal_bits(state_of(tmp_path, 2), state_of(workdir, 2))
  assert_equal_bits(state_of(tmp_path, 4), state_of(workdir, 4))
  assert resumed == scores
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines if line['kind'] == 'train'] == [1, 2, 3, 4]
  assert losses_in_events(tmp_path) == losses_in_events(workdir)


def test_a_state_that_is_packed_for_a_gpu_is_saved_and_resumed_as_it_is(
  finished, scene_folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(packing, 'traced_gpu', lambda: 'a GPU')
  train_and_evaluate(make_config(scene_folder, **{'training.num_epochs': 1.0}), tmp_path)
  scores = train_and_evaluate(make_config(scene_folder), tmp_path)
  found, expected = state_of(tmp_path, 4), state_of(finished[0], 4)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0.02, atol=2e-3)
  assert scores.mean_iou == pytest.approx(finished[1].mean_iou, abs=0.05)


@pytest.mark.parametrize('lost', [('4',), ('2', '4')], ids=['last', 'all'])
def test_lines_of_steps_that_are_made_again_are_not_kept_twice(finished, scene_folder, tmp_path, lost):
  workdir, _ = finished
  interrupted = tmp_path / 'work'
  shutil.copytree(workdir, interrupted)
  for step in lost:  # as if killed after step 4, before it was saved, or before any was
    shutil.rmtree(interrupted / 'checkpoints' / 'latest' / step)
  with (interrupted / 'metrics.jsonl').open('a') as lines:
    lines.write('{"step": 4, "ki')
  train_and_evaluate(make_config(scene_folder), interrupted)
  assert_equal_bits(state_of(interrupted, 4), state_of(workdir, 4))
  lines = [json.loads(line) for line in (interrupted / 'metrics.jsonl').read_text().splitlines()]
  assert [(line['step'], line['kind']) for line in lines] == [
    (1, 'train'), (2, 'train'), (2, 'validation'), (3, 'train'), (4, 'train'), (4, 'validation')
  ]  # fmt: skip
  assert losses_in_events(interrupted) == losses_in_events(workdir)


def test_the_split_on_the_device_and_other_periods_change_no_bit(finished, scene_folder, tmp_path):
  workdir, scores = finished
  config = make_config(
    scene_folder,
    **{
      'data.on_device': True,
      'training.log_every_steps': 3,
      'evaluation.batch_size': 3,
      'evaluation.every_epochs': 1.75,  # 3.5 steps: every third
      'checkpoint.every_epochs': 9.0,
    },
  )
  assert train_and_evaluate(config, tmp_path) == scores
  assert_equal_bits(state_of(tmp_path, 4), state_of(workdir, 4))
  # Scored every third step, saved never; and both at the end.
  assert [line['step'] for line in lines_of(tmp_path) if line['kind'] == 'validation'] == [3, 4]
  assert [p.name for p in (tmp_path / 'checkpoints' / 'latest').iterdir()] == ['4']
  losses = [line['loss'] for line in lines_of(workdir) if line['kind'] == 'train']
  logged = [(line['step'], line['loss']) for line in lines_of(tmp_path) if line['kind'] == 'train']
  assert logged == [(3, pytest.approx(np.mean(losses[:3]), rel=1e-6)), (4, losses[3])]


def test_the_last_scores_are_those_of_the_latest_checkpoint_at_native_size(finished, scene_folder):
  workdir, scores = finished
  run = load_run(workdir, 'latest')
  assert run.step == 4
  data = Data(dataset=f'folder:{scene_folder}', label_set=run.label_set.name, image_size=(32, 64))
  split = data.open('validation', label_set=run.label_set, cached=False)
  confusion = evaluate(run.predictor, split, run.label_set, batch_size=2)
  assert confusion.counts.sum() == 5 * 64 * 128
  assert confusion.scores() == scores


def test_a_run_killed_before_its_last_checkpoint_makes_its_last_evaluation_again(
  finished, scene_folder, tmp_path
):
  workdir, scores = finished
  killed = tmp_path / 'work'
  shutil.copytree(workdir, killed)
  shutil.rmtree(killed / 'checkpoints' / 'latest' / '4')
  (killed / 'scores.json').unlink()
  train_and_evaluate(make_config(scene_folder), killed)
  assert json.loads((killed / 'scores.json').read_text())['mean_iou_19'] == scores.mean_iou
  best = [next((d / 'checkpoints' / 'best').iterdir()).name for d in (workdir, killed)]
  assert best[0] == best[1]


def test_changed_data_are_noticed_on_resume(scene_folder, tmp_path):
  folder = tmp_path / 'scenes'
  shutil.copytree(scene_folder, folder)
  config = make_config(folder, **{'training.num_epochs': 0.5})
  train_and_evaluate(config, tmp_path / 'work')
  for path in (folder / 'train' / 'images').iterdir():
    path.touch()  # as copied without times
  train_and_evaluate(config, tmp_path / 'work')
  changed = np.array(Image.open(path))
  changed[3, 5] ^= 1
  save_png(path, changed)
  with pytest.raises(
    InputError, match=r"the data of split 'train' have changed since this run began \(16 examples"
  ):
    train_and_evaluate(config, tmp_path / 'work')


def test_a_second_training_in_the_same_directory_is_refused(finished, scene_folder):
  workdir, _ = finished
  with (workdir / '.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(InputError, match='another process is training there'):
      train_and_evaluate(make_config(scene_folder), workdir)


def test_the_same_command_resumes_from_another_directory_and_paths_are_stored_as_given(
  finished, scene_folder, tmp_path, monkeypatch
):
  monkeypatch.chdir(scene_folder.parent)
  config = make_config(scene_folder, **{'data.dataset': 'folder:scenes', 'data.data_dir': 'data'})
  config.data.label_set = 'scenes/labels.json'
  workdir = tmp_path / 'work'
  monkeypatch.setattr(train, 'train_batches', stop_now)
  with pytest.raises(Stopped):
    train_and_evaluate(config, workdir)
  stored = json.loads((workdir / 'config.json').read_text())
  assert stored['data']['dataset'] == 'folder:scenes'
  assert stored['directory'] == str(scene_folder.parent)
  monkeypatch.chdir(tmp_path)
  data = workdirs.read_config(workdir)['data']
  assert data['dataset'] == f'folder:{scene_folder}'
  assert data['data_dir'] == str(scene_folder.parent / 'data')
  assert data['label_set'] == str(scene_folder / 'labels.json')
  with pytest.raises(Stopped):
    train_and_evaluate(config, workdir)
  assert workdirs.read_config(workdir)['data'] == data


def stop_now(*_, **__):
  raise Stopped(15)


def test_a_workdir_of_an_older_version_with_absolute_paths_is_resumed(scene_folder, tmp_path, monkeypatch):
  monkeypatch.chdir(scene_folder.parent)
  monkeypatch.setattr(train, 'train_batches', stop_now)
  config = make_config(scene_folder)
  with pytest.raises(Stopped):
    train_and_evaluate(config, tmp_path)
  stored = json.loads((tmp_path / 'config.json').read_text())
  del stored['directory']
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  config.data.update(dataset='folder:scenes', data_dir='data')
  with pytest.raises(Stopped):
    train_and_evaluate(config, tmp_path)


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    ('missing item', '4: this checkpoint cannot be read, or is not of the configured network'),
    ('truncated', '4: this checkpoint cannot be read, or is not of the configured network'),
    ('other network', 'model.growth_rate: 5 in the configuration, 4 in the checkpoint'),
  ],
)
def test_a_checkpoint_that_cannot_be_read_is_one_message(finished, scene_folder, tmp_path, damage, message):
  workdir = tmp_path / 'work'
  shutil.copytree(finished[0], workdir)
  step = workdir / 'checkpoints' / 'latest' / '4'
  if damage == 'missing item':
    shutil.rmtree(step / 'batch_stats')
  elif damage == 'truncated':
    for path in (step / 'params' / 'd').iterdir():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  else:
    config = json.loads((workdir / 'config.json').read_text())
    config['model']['growth_rate'] = 5
    (workdir / 'config.json').write_text(json.dumps(config))
  # In a process of its own: Orbax leaves threads and coroutines behind that would disturb other tests.
  command = [sys.executable, '-m', 'dense_aspp_jax.commands.main', 'predict', f'--workdir={workdir}']
  command += ['--checkpoint=4', f'--output={tmp_path / "out"}', str(scene_folder)]
  process = subprocess.run(command, capture_output=True, text=True, check=False)
  assert process.returncode == 2
  (line,) = (line for line in process.stderr.splitlines() if line.startswith('dense-aspp predict: '))
  assert message in line


def test_a_foreign_directory_is_refused_and_untouched(scene_folder, tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(InputError, match=r'holds thesis\.tex but no config\.json'):
    train_and_evaluate(make_config(scene_folder), tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('training.batch_size', 7, r'training\.batch_size = 7: expected a multiple of 2 \(2 devices'),
    ('model.num_classes', 19, r"model\.num_classes = 19, but label set 'cityscapes20' has 20 classes"),
    ('training.log_every_steps', 0, r'training\.log_every_steps = 0: expected an integer of at least 1'),
    ('checkpoint.every_epochs', -1.0, r'checkpoint\.every_epochs = -1\.0: expected a number above 0'),
    ('optimizer.learning_rate', float('nan'), r'optimizer\.learning_rate = nan: expected a number above 0'),
    ('training.num_epochs', 1e300, r'training\.num_epochs = 1e\+300: expected fewer than 2147483647 steps'),
    ('training.num_epochs', float('inf'), r'training\.num_epochs = inf: expected a number above 0'),
    ('data.std', (0.5, 0.0, 0.5), r'data\.std = .*: expected three numbers above 0'),
    ('data.num_workers', -1, r'data\.num_workers = -1: expected an integer of at least 0'),
    ('loss.ignore_label', 300, r'loss\.ignore_label = 300: expected an integer, 0 to 255'),
    ('seed', -1, r'config\.seed = -1: expected an integer'),
    ('data.image_size', (32,), r'data\.image_size = \(32,\): expected \(height, width\)'),
    ('loss.class_weights', (1.0, 2.0), r'loss\.class_weights has 2 values; expected 20'),
    ('model.extractor', 'vgg', r"model\.extractor = 'vgg'"),
    ('augmentation.flip_probability', 2.0, r'augmentation\.flip_probability'),
    ('optimizer.name', 'lion', r"optimizer\.name = 'lion'"),
    ('data.dataset', 'imagenet', 'imagenet'),
  ],
)
def test_bad_configuration_is_refused_by_field_before_anything_is_written(
  scene_folder, tmp_path, field, value, message
):
  with pytest.raises(InputError, match=message):
    train_and_evaluate(make_config(scene_folder, **{field: value}), tmp_path / 'work')
  assert not (tmp_path / 'work').exists()


def test_a_field_with_the_name_of_the_stored_directory_is_unknown(scene_folder, tmp_path):
  config = make_config(scene_folder)
  with config.unlocked():
    config.directory = str(tmp_path)
  with pytest.raises(InputError, match=r'unknown field config\.directory'):
    train_and_evaluate(config, tmp_path / 'work')


def test_the_best_checkpoint_has_the_highest_validation_score(finished):
  workdir, _ = finished
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  scores = {line['step']: line['mean_iou_19'] for line in lines if line['kind'] == 'validation'}
  assert load_run(workdir, 'best').step == max(scores, key=scores.get)
  with Checkpoints(workdir, keep=2) as checkpoints:
    assert checkpoints.best_score == max(scores.values())


def test_a_loaded_run_predicts_an_array_of_any_size(finished):
  run = load_run(finished[0], '4')
  assert run.step == 4
  image = np.random.default_rng(0).integers(0, 256, (50, 90, 3)).astype(np.uint8)
  prediction = run.predictor.predict(image)
  assert prediction.shape == (50, 90)
  assert prediction.dtype == np.uint8
  assert prediction.max() < run.label_set.num_classes


def test_a_missing_checkpoint_lists_those_that_exist(finished):
  with pytest.raises(InputError, match=r"no checkpoint '7'; existing: latest: \[2, 4\]; best: \[[24]\]"):
    load_run(finished[0], '7')


def test_a_directory_of_no_run_is_refused(tmp_path):
  with pytest.raises(InputError, match=r'no config\.json there'):
    load_run(tmp_path)
