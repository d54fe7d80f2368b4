import hashlib
import json

import pytest
from results_example import (
  COMMIT,
  add_evaluation,
  make_config,
  make_run,
  make_scores,
  make_start,
  make_test_time,
)

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.results.protocol import ONE_MATRIX, Protocol
from dense_aspp_jax.results.runs import Design, Row, read_run, without_machine_paths
from dense_aspp_jax.training.config import config_hash


def test_a_row_says_what_was_scored_how_and_what_made_it(tmp_path):
  workdir = make_run(tmp_path / 'runs' / 'camvid_s3', 0.5, config=make_config(seed=3))
  (row,) = read_run(workdir)
  params = abstract_variables(create_model(**make_config()['model']))['params']
  leaves = []
  stack = [params]
  while stack:  # every leaf, without jax.tree, which counts them in the package
    node = stack.pop()
    if hasattr(node, 'shape'):
      leaves.append(node)
    else:
      stack += node.values()
  # DenseASPP on 8 channels: two layers BN-1x1(8)-BN-3x3(4), then the head.
  head = [2 * 8, 8 * 8, 2 * 8, 9 * 8 * 4, 2 * 12, 12 * 8, 2 * 8, 9 * 8 * 4, 16 * 11, 11]
  assert row == Row(
    run='camvid_s3',
    seed=3,
    step=4,
    network='densenet_tiny',
    parameters=sum(leaf.size for leaf in leaves),
    weights='raw',
    config_hash=config_hash(make_config(), CAMVID_11, []),
    scores=Scores({'mean_iou': 0.5}, 0.9, make_scores(0.5)['iou']),
    protocol=Protocol(
      dataset='camvid',
      split='validation',
      images=101,
      train_split='train',
      held_out=[],
      train_images=367,
      image_size=[360, 480],
      label_set='camvid11',
      classes=11,
      void_ignored=True,
      metric=ONE_MATRIX,
      test_time=None,
      bn='running',
      bn_batch_size=None,
      checkpoint='last',
      selected_on=None,
      pretraining=[],
    ),
    commands=['train.py --config=configs/camvid.py --workdir=camvid_s3'],
    git_commits=[COMMIT],
    devices=['1 x gpu: NVIDIA H200'],
    hours=(2 * 8 / 40 + 2 * 8 / 20) / 3600,
    design=Design([1, 2], 4, 8, sum(head), 60.0),
  )
  assert Row.from_json(row.to_json()) == row


def test_an_older_run_has_the_default_of_a_field_that_it_lacks(tmp_path):
  config = make_config()
  (default,) = read_run(
    make_run(tmp_path / 'a', config=config | {'model': config['model'] | {'growth_rate': 64}})
  )
  del config['model']['growth_rate']
  (older,) = read_run(make_run(tmp_path / 'b', config=config))
  assert older.design == default.design


def test_the_auxiliary_head_is_not_counted(tmp_path):
  config = make_config()
  (row,) = read_run(make_run(tmp_path / 'a', config=config))
  config['model']['auxiliary_head'] = True
  (with_auxiliary_head,) = read_run(make_run(tmp_path / 'b', config=config))
  assert with_auxiliary_head.parameters == row.parameters


def test_averages_evaluations_and_test_time_are_rows_of_their_own(tmp_path):
  workdir = make_run(tmp_path / 'a', 0.5, ema=make_scores(0.52))
  add_evaluation(workdir, 'b_test', 0.4, weights='ema', test_time=make_test_time(0.45))
  add_evaluation(workdir, 'c_batch', 0.41, bn='batch', bn_batch_size=10)
  add_evaluation(workdir, 'd_best', 0.42, checkpoint='best', step=2)
  add_evaluation(workdir, 'e_step', 0.43, checkpoint='3', step=3)
  add_evaluation(workdir, 'f_last_by_number', 0.44, checkpoint='4', bn='recalibrated')
  # Again what training scored, and what b_test did before it averaged.
  add_evaluation(workdir, 'g_again', 0.99, split='validation', images=101)
  add_evaluation(workdir, 'h_again', 0.99, weights='ema')
  rows = read_run(workdir)
  fields = ('split', 'images', 'bn', 'bn_batch_size', 'checkpoint', 'selected_on', 'test_time')
  averaged = {'flip': True, 'scales': [0.75, 1.0, 1.25], 'window': None}
  assert [
    (row.scores.mean_iou, row.weights, *(getattr(row.protocol, field) for field in fields)) for row in rows
  ] == [
    (0.5, 'raw', 'validation', 101, 'running', None, 'last', None, None),
    (0.52, 'ema', 'validation', 101, 'running', None, 'last', None, None),
    (0.4, 'ema', 'test', 233, 'running', None, 'last', None, None),
    (0.45, 'ema', 'test', 233, 'running', None, 'last', None, averaged),
    (0.41, 'raw', 'test', 233, 'batch', 10, 'last', None, None),
    (0.42, 'raw', 'test', 233, 'running', None, 'best', 'validation', None),
    (0.43, 'raw', 'test', 233, 'running', None, 'step 3', None, None),
    (0.44, 'raw', 'test', 233, 'recalibrated', None, 'last', None, None),
  ]
  assert [row.scores.iou for row in rows] == [make_scores(row.scores.mean_iou)['iou'] for row in rows]
  assert {row.evaluation_command for row in rows[:2]} == {None}
  assert {row.evaluation_command for row in rows[2:]} == {
    'dense-aspp evaluate --workdir=a --split=test --record'
  }


def test_a_best_checkpoint_stays_one_where_it_is_the_last(tmp_path):
  """Seeds differ in when they were best; they make one group nevertheless."""
  workdir = make_run(tmp_path / 'a')
  add_evaluation(workdir, 'best', 0.4, checkpoint='best', step=4)
  assert [row.protocol.checkpoint for row in read_run(workdir)] == ['last', 'best']


def test_what_training_saw_is_in_the_protocol(tmp_path):
  config = make_config(**{'data.dataset': 'folder:/data/camvid', 'data.train_split': 'train+validation'})
  config['data']['held_out'] = ['0006R0', '0001TP']
  config['init']['extractor_weights'] = '/home/somebody/weights/lite0'
  start = make_start(extractor_weights={'source': 'torchvision', 'sha256': 'f00'})
  label_set = LabelSet('eleven', CAMVID_11.classes)  # no void
  (row,) = read_run(make_run(tmp_path / 'a', config=config, starts=[start], label_set=label_set))
  protocol = row.protocol
  assert (protocol.dataset, protocol.train_split) == ('folder:camvid', 'train+validation')
  assert (protocol.held_out, protocol.pretraining) == (['0006R0', '0001TP'], ['ImageNet'])
  assert (protocol.label_set, protocol.void_ignored) == ('eleven', False)


def test_a_run_that_started_from_another_was_pretrained_on_what_that_one_saw(tmp_path):
  config = make_config(**{'init.run': '/home/somebody/runs/b'})
  starts = [make_start(init_run={'sha256': 'f00', 'dataset': 'cityscapes', 'pretraining': ['ImageNet']})]
  (row,) = read_run(make_run(tmp_path / 'a', config=config, starts=[*starts, make_start(2)]))
  assert row.protocol.pretraining == ['ImageNet', 'cityscapes']
  assert 'pretrained on cityscapes' in row.protocol.differences


def test_the_scores_of_a_run_that_is_being_continued_are_not_those_of_its_end(tmp_path):
  workdir = make_run(tmp_path / 'a', starts=[make_start(num_steps=4), make_start(4, num_steps=8)])
  with pytest.raises(InputError, match=r'not finished, its scores\.json is of step 4 of 8'):
    read_run(workdir)


def test_every_start_of_a_resumed_run_is_named_once(tmp_path):
  starts = [
    make_start(),
    make_start(2, devices=['gpu: NVIDIA H200'] * 2, git_commit=COMMIT + '+changes'),
    make_start(3, git_commit=None, command='train.py --workdir=b'),
  ]
  (row,) = read_run(make_run(tmp_path / 'a', starts=starts))
  assert row.git_commits == [COMMIT, COMMIT + '+changes', None]
  assert row.devices == ['1 x gpu: NVIDIA H200', '2 x gpu: NVIDIA H200']
  assert row.commands == ['train.py --config=configs/camvid.py --workdir=a', 'train.py --workdir=b']


@pytest.mark.parametrize(
  ('log', 'seconds'),
  [
    (((4, 16.0),), 4 * 8 / 16),
    # Resumed at step 3, after lines for 2 and 3: the steps of each line are those since the line before.
    (((2, 16.0), (3, 4.0), (5, 32.0)), 2 * 8 / 16 + 1 * 8 / 4 + 2 * 8 / 32),
  ],
)
def test_hours_are_the_images_of_each_interval_by_its_rate(log, seconds, tmp_path):
  (row,) = read_run(make_run(tmp_path / 'a', log=log))
  assert row.hours == pytest.approx(seconds / 3600, rel=1e-12)


def test_without_a_log_the_hours_are_unknown(tmp_path):
  workdir = make_run(tmp_path / 'a')
  (workdir / 'metrics.jsonl').unlink()
  assert read_run(workdir)[0].hours is None


def test_the_hash_knows_the_experiment_alone():
  def digest(seed=0, **overrides):
    return config_hash(make_config(seed, **overrides), CAMVID_11, [])

  base = digest()
  same = {
    'data.data_dir': '/elsewhere',
    'data.num_workers': 4,
    'data.on_device': True,
    'training.log_every_steps': 10,
    'evaluation.every_epochs': 3.0,
    'evaluation.batch_size': 2,
    'checkpoint.keep': 5,
  }
  assert {digest(7), *(digest(**{name: value}) for name, value in same.items())} == {base}
  other = {
    'data.image_size': (720, 960),
    'data.train_split': 'train+validation',
    'data.dataset': 'folder:/data/camvid',
    'training.num_epochs': 61.0,
    'training.batch_size': 4,
    'optimizer.learning_rate': 1e-3,
    'model.growth_rate': 5,
    'init.extractor_weights': 'weights/lite0',
  }
  assert len({base, *(digest(**{name: value}) for name, value in other.items())}) == 1 + len(other)


def test_the_hash_is_that_of_a_text_anyone_can_write():
  config = {
    'seed': 5,
    'data': {'label_set': 'camvid11', 'image_size': (360, 480), 'data_dir': None, 'num_workers': 0},
    'init': {'extractor_weights': None},
    'training': {'num_epochs': 60.0, 'log_every_steps': 1},
    'evaluation': {'batch_size': 8},
    'checkpoint': {'keep': 2},
  }
  text = (
    '{"data":{"image_size":[360,480],"label_set":"camvid11"},"init":{"extractor_weights":null},'
    '"training":{"num_epochs":60.0}}'
  )
  assert config_hash(config, CAMVID_11, []) == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_in_the_hash_paths_stand_for_what_they_lead_to():
  def digest(path, label_set=CAMVID_11, sha256='f00'):
    overrides = {
      'data.dataset': f'folder:{path}/camvid',
      'data.label_set': f'{path}/labels.json',
      'init.extractor_weights': f'{path}/lite0',
    }
    starts = [make_start(extractor_weights={'sha256': sha256}), make_start(2)]
    return config_hash(make_config(**overrides), label_set, starts)

  assert digest('/home/a') == digest('/mnt/b c')
  assert digest('/home/a') != digest('/home/a', LabelSet('camvid11', CAMVID_11.classes[::-1]))
  assert digest('/home/a') != digest('/home/a', sha256='f01')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'step': 3}, r'a: this run is not finished, its scores\.json is of step 3 of 4; finish'),
    ({'weights': ...}, r"not what this version writes for a run \(KeyError: 'weights'"),
  ],
)
def test_a_run_that_is_not_finished_or_of_another_version_is_refused(change, message, tmp_path):
  workdir = make_run(tmp_path / 'a')
  scores = json.loads((workdir / 'scores.json').read_text())
  scores = {name: value for name, value in {**scores, **change}.items() if value is not ...}
  (workdir / 'scores.json').write_text(json.dumps(scores))
  with pytest.raises(InputError, match=message):
    read_run(workdir)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('config.json', None, r'no config\.json there, so it is not the directory of a run'),
    ('scores.json', None, r'scores\.json: no such file; finish the run'),
    ('scores.json', '{', r'scores\.json: cannot be read as JSON'),
    ('scores.json', '{"step": 4}', r"scores\.json: not what this version writes .*'num_steps'"),
    ('provenance.json', None, r'provenance\.json: no such file'),
    ('metrics.jsonl', '{"step": 1', r'not what this version writes'),
    ('evaluations/x.json', '{"step": 4}', r"x\.json: not what this version writes .*'checkpoint'"),
  ],
)
def test_a_file_that_is_missing_or_damaged_is_named(name, content, message, tmp_path):
  workdir = make_run(tmp_path / 'a')
  if content is None:
    (workdir / name).unlink()
  else:
    (workdir / name).parent.mkdir(exist_ok=True)
    (workdir / name).write_text(content)
  with pytest.raises(InputError, match=message):
    read_run(workdir)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('/home/some body/runs/a', 'a'),
    ('/home/x/runs/a/', 'a'),
    ('folder:/data/my camvid', 'folder:my camvid'),
    ('train.py --config=/home/x/c.py --workdir=/tmp/runs/a --config.seed=1', None),
    ("--config.data.data_dir='/data/tfds' (/opt/b, /opt/c)", "--config.data.data_dir='tfds' (b, c)"),
    ('file:///home/x/a', 'a'),
    # What is no absolute path.
    ('https://github.com/a/b', 'https://github.com/a/b'),
    ('runs/camvid ~/x ../y ./z a/b', 'runs/camvid ~/x ../y ./z a/b'),
    ('IoU = TP / (TP + FP + FN), images/s, 1/2', 'IoU = TP / (TP + FP + FN), images/s, 1/2'),
  ],
)
def test_of_an_absolute_path_the_last_part_stays(text, expected):
  expected = expected or 'train.py --config=c.py --workdir=a --config.seed=1'
  assert without_machine_paths(text) == expected


def test_json_is_walked():
  data = {'a': ['/x/y', 1, None, {'b': ('/z', 2.5, True)}]}
  assert without_machine_paths(data) == {'a': ['y', 1, None, {'b': ['z', 2.5, True]}]}
