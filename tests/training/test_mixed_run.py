"""Runs on two data sets: one with CamVid's classes, which is scored for those of Cityscapes, and scenes."""

import json
import pathlib
import re
import shutil
import warnings

import jax
import layouts
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from tiny_network import SHALLOW, tiny_config

from dense_aspp_jax.benchmark import timing
from dense_aspp_jax.benchmark.input_speed import benchmark_input
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.label_sets import CAMVID_11, CITYSCAPES_20
from dense_aspp_jax.results.runs import read_run
from dense_aspp_jax.training.config import config_hash, parse_config, plain
from dense_aspp_jax.training.overfit import overfit
from dense_aspp_jax.training.run import load_model, load_run
from dense_aspp_jax.training.start import load_start, pretraining
from dense_aspp_jax.training.train import train_and_evaluate

pytestmark = pytest.mark.usefixtures('one_device')

NETWORK = SHALLOW | {'final_norm': True}


def make_config(camvid, scenes, **overrides):
  """Batches of 2 + 6 out of 8 + 16 images: three steps an epoch."""
  fields = {
    'data.dataset': (f'folder:{camvid}', f'folder:{scenes}'),
    'data.shares': (2, 6),
    'data.label_set': 'cityscapes20',
    'data.data_dir': str(camvid.parent / 'data'),
    'augmentation.flip_probability': 0.5,
    'loss.class_weighting': 'enet',
    'training.batch_size': 8,
    'training.num_epochs': 2.0,
    'evaluation.num_pictures': 1,
  }
  return tiny_config(model=NETWORK, **fields | overrides)


def camvid_folder(folder):
  layouts.write_labelled_folder(folder, {'train': 8, 'validation': 3}, (32, 64), num_ids=12)
  (folder / 'labels.json').write_text(json.dumps(CAMVID_11.to_json()))
  return folder


@pytest.fixture(scope='module')
def camvid(tmp_path_factory):
  return camvid_folder(tmp_path_factory.mktemp('mixed') / 'camvid')


@pytest.fixture(scope='module')
def finished(camvid, scene_folder, tmp_path_factory):
  """A run of six steps; not to be changed."""
  workdir = tmp_path_factory.mktemp('run') / 'work'
  return workdir, train_and_evaluate(make_config(camvid, scene_folder), workdir)


@pytest.fixture
def copied(finished, tmp_path):
  """A copy of it that may be changed."""
  return shutil.copytree(finished[0], tmp_path / 'copied')


def state_of(workdir, step):
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Sharding info not provided')  # right: same devices
    return ocp.load_checkpointables(pathlib.Path(workdir) / 'checkpoints' / 'latest' / str(step))


def read(path):
  return json.loads(path.read_text())


def test_an_interrupted_run_equals_an_uninterrupted_one_bit_for_bit(
  finished, camvid, scene_folder, tmp_path, capsys
):
  workdir, scores = finished
  train_and_evaluate(make_config(camvid, scene_folder, **{'training.num_epochs': 1.0}), tmp_path)
  said = capsys.readouterr().err
  assert '24 training and 3 validation images, 3 steps of 8 images' in said
  assert 'camvid: 8 training images, 2 in each batch, each seen 0.75 times' in said
  assert 'scenes: 16 training images, 6 in each batch, each seen 1.12 times' in said
  resumed = train_and_evaluate(make_config(camvid, scene_folder, **{'data.on_device': True}), tmp_path)
  assert resumed == scores
  found, expected = state_of(tmp_path, 6), state_of(workdir, 6)
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_each_data_set_has_a_record(finished, camvid, scene_folder):
  workdir, _ = finished
  data = read(workdir / 'data.json')
  assert {name: (record['name'], record['examples']) for name, record in data.items()} == {
    'train': (f'{camvid}/train', 8),
    'validation': (f'{camvid}/validation', 3),
    'train of data set 2': (f'{scene_folder}/train', 16),
  }
  mapped = {name: record.get('mapped_from', {}).get('label_set') for name, record in data.items()}
  assert mapped == {'train': 'camvid11', 'validation': 'camvid11', 'train of data set 2': None}
  assert data['train']['mapped_from']['classes']['tree'] == 'vegetation'
  assert read(workdir / 'labels.json')['name'] == 'cityscapes20'
  assert read(workdir / 'config.json')['data']['shares'] == [2, 6]


def test_scores_are_those_of_the_first_data_set_in_the_classes_of_the_run(finished, camvid, scene_folder):
  workdir, scores = finished
  result, names = read(workdir / 'scores.json'), [f'folder:{camvid}', f'folder:{scene_folder}']
  assert (result['dataset'], result['images'], result['train_images']) == (names, 3, 8)
  assert result['also_trained_on'] == [{'dataset': names[1], 'images': 16}]
  assert result['mapped_from'] == 'camvid11'
  assert "label set 'camvid11', mapped to these classes" in result['protocol']
  assert {name for name, iou in scores.iou.items() if iou is not None} <= {
    'road', 'sidewalk', 'building', 'fence', 'pole', 'vegetation', 'sky', 'person', 'car'
  }  # fmt: skip
  run = load_run(workdir, 'latest')
  assert run.describe()['dataset'] == names
  assert run.label_set == CITYSCAPES_20
  split = run.load_split('validation')
  assert evaluate(run.predictor, split, split.label_set, batch_size=2).scores() == scores
  assert len(run.load_train_split()) == 8


def test_a_result_names_what_else_was_trained_on(finished):
  workdir, scores = finished
  (row,) = read_run(workdir)
  assert row.scores.mean_iou == scores.mean_iou
  protocol = row.protocol
  assert (protocol.dataset, protocol.train_images, protocol.mapped_from) == ('folder:camvid', 8, 'camvid11')
  assert protocol.also_trained_on == [{'dataset': 'folder:scenes', 'images': 16}]
  assert protocol.void_ignored
  assert row.to_json() == json.loads(json.dumps(row.to_json()))


def test_commands_read_the_first_data_set(copied, tmp_path, capsys):
  output = tmp_path / 'out.json'
  assert (
    main(['evaluate', f'--workdir={copied}', '--checkpoint=latest', f'--output={output}', '--record']) == 0
  )
  evaluated, scored = read(output), read(copied / 'scores.json')
  assert {name: evaluated[name] for name in ('iou', 'images', 'dataset', 'mapped_from', 'protocol')} == {
    name: scored[name] for name in ('iou', 'images', 'dataset', 'mapped_from', 'protocol')
  }
  assert len(read_run(copied)) == 1  # the same evaluation again
  assert main(['recalibrate', f'--workdir={copied}', '--checkpoint=latest']) == 0
  assert '8 images in batches of 8' in capsys.readouterr().out


def test_another_data_set_is_scored_in_the_classes_of_the_network(copied, camvid, scene_folder, tmp_path):
  output, other = tmp_path / 'out.json', f'folder:{scene_folder}'
  options = ('--checkpoint=latest', f'--dataset={other}', f'--output={output}', '--record')
  assert main(['evaluate', f'--model={copied}', *options]) == 0
  scored = read(output)
  assert (scored['dataset'], scored['images'], scored['mapped_from']) == (other, 5, None)
  run = load_run(copied, 'latest')
  split = run.load_split('validation', dataset=other)
  assert (
    evaluate(run.predictor, split, split.label_set, batch_size=2).scores().to_json()['iou'] == scored['iou']
  )
  own, recorded = (row.protocol for row in read_run(copied))
  assert (own.dataset, own.trained_on) == ('folder:camvid', None)
  assert (recorded.dataset, recorded.trained_on) == ('folder:scenes', 'folder:camvid')
  assert recorded.training_words == '8 images of folder camvid (train)'
  assert run.load_split('validation', dataset=f'folder:{camvid}').label_set.own.name == 'camvid11'


def test_a_finished_run_is_packed_with_its_scores(copied, camvid, tmp_path, capsys):
  path = tmp_path / 'mixed.safetensors'
  assert main(['pack', f'--workdir={copied}', '--checkpoint=latest', f'--output={path}']) == 0
  (row,), record = read_run(copied), load_model(path).record
  assert record.scores == [row.to_json()]
  assert list(record.terms) == ['folder:camvid', 'folder:scenes']
  first = capsys.readouterr().out.splitlines()[0]
  assert first.startswith(f'mean IoU, 19 classes {100 * row.scores.mean_iou:.1f} %')
  assert first.endswith(': folder:camvid, validation split, 3 images, single scale; in float32')
  assert main(['recalibrate', f'--workdir={copied}', '--checkpoint=latest']) == 0
  assert (
    main(['pack', f'--workdir={copied}', '--checkpoint=latest', '--bn=recalibrated', f'--output={path}']) == 0
  )
  assert load_model(path).record.scores == []  # those that there are were taken with other statistics


def test_a_report_names_the_data_set_that_is_scored(copied, scene_folder, tmp_path):
  output = tmp_path / 'report.html'
  options = ('--checkpoint=latest', '--images=1', '--pictures=1', f'--output={output}')
  assert main(['report', f'--model={copied}', f'--dataset=folder:{scene_folder}', *options]) == 0
  assert re.search(rf'5 images of the validation split\s+of folder:{scene_folder}', output.read_text())


def test_a_data_set_whose_classes_have_no_counterpart_is_refused(copied, tmp_path, capsys):
  for name in ('images', 'labels'):
    (tmp_path / 'val' / name).mkdir(parents=True)
  (tmp_path / 'labels.json').write_text('{"classes": ["road", "unicorn"]}')
  assert main(['evaluate', f'--model={copied}', f'--dataset=folder:{tmp_path}']) == 2
  assert 'no counterpart in label set' in (error := capsys.readouterr().err)
  assert 'unicorn' in error


def test_a_few_images_of_both_are_overfitted(camvid, scene_folder):
  found = overfit(make_config(camvid, scene_folder), num_images=3, target=0.99, max_steps=1)
  assert found.steps == 1


def test_the_input_of_both_is_measured(camvid, scene_folder, monkeypatch):
  monkeypatch.setattr(timing, 'REPEAT_SECONDS', 0.01)
  monkeypatch.setattr('os.cpu_count', lambda: 0)  # no process is started
  result = benchmark_input(make_config(camvid, scene_folder), repeats=1, generate=False)
  assert (result['dataset'], result['records']) == ([f'folder:{camvid}', f'folder:{scene_folder}'], 24)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'data.shares': (4, 4)}, r'config\.data\.shares: \[2, 6\] there, \[4, 4\] given'),
    ({'data.class_map': (('bicyclist', 'rider'),)}, r'config\.data\.class_map: \[\] there'),
    ({'data.dataset': 1, 'data.shares': ()}, r'config\.data\.dataset: \[.*scenes.* there'),
  ],
)
def test_a_run_is_not_resumed_with_another_mixture(copied, camvid, scene_folder, change, message):
  if 'data.dataset' in change:
    change['data.dataset'] = f'folder:{camvid}'
  with pytest.raises(InputError, match=message):
    train_and_evaluate(make_config(camvid, scene_folder, **change), copied)


def test_data_that_moved_are_the_same_and_changed_ones_are_not(copied, camvid, scene_folder, tmp_path):
  moved = shutil.copytree(scene_folder, tmp_path / 'moved')
  assert train_and_evaluate(make_config(camvid, moved), copied) is None  # finished: nothing is trained
  assert read(copied / 'data.json')['train of data set 2']['name'] == f'{moved}/train'
  (moved / 'train' / 'labels' / '3.png').write_bytes(encode_png(np.full((64, 128), 7, np.uint8)))
  with pytest.raises(
    InputError,
    match=r"the data of split 'train of data set 2' have changed since this run began \(16 examples of",
  ):
    train_and_evaluate(make_config(camvid, moved), copied)


def test_another_meaning_of_the_label_ids_is_noticed(copied, scene_folder, tmp_path):
  other = camvid_folder(tmp_path / 'other')
  assert train_and_evaluate(make_config(other, scene_folder), copied) is None
  labels = read(other / 'labels.json')
  labels['classes'][3]['ids'], labels['classes'][4]['ids'] = [4], [3]  # road and pavement
  (other / 'labels.json').write_text(json.dumps(labels))
  with pytest.raises(InputError, match=r"labels of split 'train' \(.*other/train\) mean other classes"):
    train_and_evaluate(make_config(other, scene_folder), copied)


def test_a_run_that_starts_from_it_was_pretrained_on_both(finished):
  config = tiny_config(model=NETWORK, **{'init.run': str(finished[0])})
  origin = load_start(parse_config(config), config.model.to_dict()).origin
  assert origin['init_run']['dataset'] == ['camvid', 'scenes']
  assert pretraining(config.to_dict(), [origin]) == ['camvid', 'scenes']


def test_the_hash_knows_data_sets_and_shares_but_no_path():
  def digest(*names, shares=(2, 6), **fields):
    config = plain(tiny_config(**{'data.dataset': names, 'data.shares': shares, **fields}))
    return config_hash(config, CITYSCAPES_20, [])

  base = digest('folder:/home/a/camvid', 'street_scenes')
  assert base == digest('folder:camvid', 'street_scenes')
  assert len({
    base,
    digest('folder:/home/a/other', 'street_scenes'),
    digest('street_scenes', 'folder:camvid'),
    digest('folder:camvid', 'street_scenes', shares=(4, 4)),
    digest('folder:camvid', 'street_scenes', **{'data.class_map': (('tree', 'ignore'),)}),
  }) == 5  # fmt: skip
