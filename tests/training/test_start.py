"""What a run starts from, how it goes on otherwise; whole small runs on one of the fake devices."""

import dataclasses
import json
import shutil

import flax
import jax
import numpy as np
import pytest
from tiny_network import SHALLOW as SHALLOW_WITHOUT_NORM
from tiny_network import draw_variables, tiny_config

from dense_aspp_jax.errors import InputError, Stopped
from dense_aspp_jax.evaluation.batch_norm import precise_bn_statistics
from dense_aspp_jax.files import write_json
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.labels import LabelClass, LabelSet
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.results.runs import read_run
from dense_aspp_jax.training import train
from dense_aspp_jax.training.checkpoints import save_variables
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.start import load_start
from dense_aspp_jax.training.train import train_and_evaluate

SHALLOW = SHALLOW_WITHOUT_NORM | {'final_norm': True}  # statistics that a frozen extractor does not stop

pytestmark = pytest.mark.usefixtures('one_device')

THREE = LabelSet(
  'three',
  tuple(
    LabelClass(name, ids, (0, 0, color))
    for name, ids, color in (
      ('ground', tuple(range(11)), 1),
      ('upright', tuple(range(11, 24)), 2),
      ('moving', tuple(range(24, 34)), 3),
    )
  ),
)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A run on Cityscapes with averages, 20 classes and random weights, its data elsewhere."""
  return make_source(tmp_path_factory.mktemp('source') / 'source', **{'training.ema_decay': 0.5})


def make_source(workdir, **overrides):
  config = tiny_config(model=SHALLOW, **overrides)
  shapes = abstract_variables(create_model(**config.model))
  save_variables(workdir, {**draw_variables(shapes), 'ema': draw_variables(shapes, seed=1)})
  write_json(workdir / 'labels.json', CITYSCAPES_20.to_json())
  write_json(workdir / 'provenance.json', [{'step': 0}])
  write_json(workdir / 'config.json', config.to_dict())
  return workdir


@pytest.fixture
def three(tmp_path):
  """The path of a label set of three classes over the label ids of Cityscapes."""
  write_json(tmp_path / 'three.json', THREE.to_json())
  return str(tmp_path / 'three.json')


def start_of(source, **overrides):
  config = tiny_config(model=SHALLOW, **{'init.run': str(source), **overrides})
  return load_start(parse_config(config), config.model.to_dict())


def initial_variables(**model_fields):
  model = create_model(**{**tiny_config(model=SHALLOW).model, **model_fields})
  return draw_variables(abstract_variables(model), seed=9)


def flat(variables):
  return flax.traverse_util.flatten_dict(variables, sep='/')


def test_a_run_starts_from_all_weights_of_another_with_the_same_classes(source):
  start = start_of(source)
  merged, expected = (flat(v) for v in (start.merge(initial_variables()), load_run(source).variables))
  assert merged.keys() == expected.keys()
  for name in merged:
    np.testing.assert_array_equal(merged[name], expected[name])
  assert (start.origin['init_run']['weights'], start.origin['init_run']['drawn']) == ('ema', [])
  assert 'drawn' not in start.text


def test_with_other_classes_both_heads_are_drawn_and_that_is_said(tmp_path, three):
  source = make_source(
    tmp_path / 'source', **{'model.last_layer': 'transition3', 'model.auxiliary_head': True}
  )
  fields = {'model.last_layer': 'transition3', 'model.auxiliary_head': True, 'model.num_classes': 3}
  start = start_of(source, **fields, **{'data.label_set': three})
  initial = initial_variables(last_layer='transition3', auxiliary_head=True, num_classes=3)
  merged, theirs = flat(start.merge(initial)), flat(load_run(source).variables)
  for name, array in merged.items():
    drawn = name.split('/')[1] in ('head', 'auxiliary_head')
    np.testing.assert_array_equal(array, flat(initial)[name] if drawn else theirs[name])
  assert 'head and auxiliary head drawn anew: 20 classes there (cityscapes20), 3 here (three)' in start.text
  assert start.origin['init_run']['drawn'] == ['head', 'auxiliary_head']


def test_as_many_but_other_classes_have_a_head_of_their_own(source, tmp_path):
  renamed = [dataclasses.replace(c, name=f'{c.name}, seen at night') for c in CITYSCAPES_20.classes]
  path = tmp_path / 'night.json'
  write_json(path, LabelSet('night', tuple(renamed), CITYSCAPES_20.ignore_ids).to_json())
  assert start_of(source, **{'data.label_set': str(path)}).origin['init_run']['drawn'] == ['head']


def test_an_auxiliary_head_that_the_other_run_lacks_is_drawn(tmp_path):
  fields = {'model.last_layer': 'transition3'}
  start = start_of(make_source(tmp_path / 'source', **fields), **fields, **{'model.auxiliary_head': True})
  initial = initial_variables(last_layer='transition3', auxiliary_head=True)
  merged = flat(start.merge(initial))
  kernel = next(name for name in merged if name.startswith('params/auxiliary_head/'))
  np.testing.assert_array_equal(merged[kernel], flat(initial)[kernel])
  assert 'auxiliary head drawn: that run has none' in start.text


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (
      {'model.extractor': 'densenet_small', 'model.dilation_rates': (1, 2)},
      r"another network \(config\.model\.extractor: 'densenet_tiny' there, 'densenet_small' here; "
      r'config\.model\.dilation_rates: \[1\] there, \[1, 2\] here\)',
    ),
    ({'data.std': (0.3, 0.3, 0.3)}, r'the weights need config\.data\.std = \(0\.229, 0\.224, 0\.225\),'),
    ({'init.run': 'gs://bucket/run'}, r'gs://bucket/run: a URL'),
    ({'init.run': 'nowhere'}, r"config\.init\.run = 'nowhere': nowhere: no such run or model file"),
  ],
)
def test_what_does_not_fit_is_named(source, overrides, message):
  with pytest.raises(InputError, match=message):
    start_of(source, **overrides)


def test_a_network_that_was_trained_elsewhere_is_a_start_too(tmp_path):
  """As `dense-aspp convert` writes the authors' networks: few sections, nothing of a training."""
  workdir = make_source(tmp_path / 'source')
  config = json.loads((workdir / 'config.json').read_text())
  stored = {'seed': None, 'model': config['model'], 'data': config['data'], 'evaluation': {'batch_size': 1}}
  write_json(workdir / 'config.json', stored)
  origin = start_of(workdir).origin['init_run']
  assert (origin['config_hash'], origin['weights'], origin['pretraining']) == (None, 'raw', [])


@pytest.mark.parametrize('entry', [3, {'step': 0, 'init_run': 3}, {'step': 0, 'changed': {'a': 1}}])
def test_a_provenance_that_was_edited_is_named(tmp_path, entry):
  workdir = make_source(tmp_path / 'source')
  write_json(workdir / 'provenance.json', [entry])
  with pytest.raises(InputError, match=r'provenance\.json: not what a training writes about its starts'):
    start_of(workdir)


def test_a_frozen_extractor_needs_weights():
  config = tiny_config(model=SHALLOW, **{'optimizer.extractor_learning_rate_factor': 0.0})
  with pytest.raises(InputError, match=r'weights would be random; set config\.init\.extractor_weights or'):
    load_start(parse_config(config), config.model.to_dict())


def arrays_of(workdir, step):
  run = load_run(workdir, str(step), 'raw')
  return flat(jax.tree.map(np.asarray, run.variables))


def test_fine_tuning_with_other_classes_and_a_frozen_extractor(source, three, scene_folder, tmp_path, capsys):
  moved = shutil.copytree(source, tmp_path / 'source')
  config = tiny_config(
    scene_folder,
    SHALLOW,
    **{
      'model.num_classes': 3,
      'data.label_set': three,
      'init.run': str(moved),
      'optimizer.extractor_learning_rate_factor': 0.0,
      'training.ema_decay': 0.9,
    },
  )
  workdir = tmp_path / 'work'
  train_and_evaluate(config, workdir)
  said = capsys.readouterr().err
  assert '20 classes there (cityscapes20), 3 here (three)' in said
  assert 'the extractor is frozen' in said
  theirs, ours = flat(load_run(source).variables), arrays_of(workdir, 2)
  for name, array in ours.items():
    same = name.split('/')[1] == 'extractor'
    assert same == np.array_equal(array, theirs.get(name)), name
  shutil.rmtree(moved)  # it is not read again
  config.training.num_epochs = 1.5
  train_and_evaluate(config, workdir)
  ours = arrays_of(workdir, 3)
  for name in (name for name in ours if name.split('/')[1] == 'extractor'):
    np.testing.assert_array_equal(ours[name], theirs[name])
  run = load_run(workdir, '3', 'raw')
  split = run.load_train_split()
  again = precise_bn_statistics(run.model, run.variables, split, run.predictor.preprocessing, batch_size=8)
  for name, array in flat({'batch_stats': again}).items():
    assert np.array_equal(array, ours[name]) == (name.split('/')[1] == 'extractor'), name
  first, second = json.loads((workdir / 'provenance.json').read_text())
  origin = first['init_run']
  assert (origin['run'], origin['step'], origin['weights'], origin['dataset']) == (
    'source',
    0,
    'ema',
    'cityscapes',
  )
  assert len(origin['config_hash']) == 12
  assert len(origin['sha256']) == 64
  assert 'init_run' not in second


def learning_rates(workdir):
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return {line['step']: line['learning_rate'] for line in lines if line['kind'] == 'train'}


@pytest.mark.parametrize('schedule', ['poly', pytest.param('cosine', marks=pytest.mark.slow)])
def test_a_finished_run_is_continued_by_the_schedule_of_its_new_length(
  schedule, scene_folder, tmp_path, capsys
):
  fields = {'optimizer.schedule': schedule, 'optimizer.warmup_steps': 1, 'evaluation.num_pictures': 0}
  config = tiny_config(scene_folder, SHALLOW, **fields)
  train_and_evaluate(config, tmp_path)
  config.training.num_epochs = 2.0
  config.optimizer.update(learning_rate=1e-3, weight_decay=0.1)
  train_and_evaluate(config, tmp_path)
  rate = parse_config(config).optimizer.rate(4)
  found = learning_rates(tmp_path)
  assert [found[step] for step in (3, 4)] == pytest.approx([float(rate(step)) for step in (2, 3)])
  (line,) = [line for line in capsys.readouterr().err.splitlines() if 'continued with' in line]
  assert 'config.training.num_epochs 1.0 -> 2.0' in line
  assert f'2 -> 4 steps, learning rate of the next step 0 -> {float(rate(2)):.3g}' in line
  starts = json.loads((tmp_path / 'provenance.json').read_text())
  assert [start.get('changed') for start in starts] == [
    None,
    {
      'optimizer.learning_rate': [3e-4, 1e-3],
      'optimizer.weight_decay': [1e-5, 0.1],
      'training.num_epochs': [1.0, 2.0],
    },
  ]
  assert [start['num_steps'] for start in starts] == [2, 4]
  config.training.num_epochs = 1.0
  assert train_and_evaluate(config, tmp_path) is None
  assert 'finished, at step 4 of 2; nothing was trained' in capsys.readouterr().err
  assert len(json.loads((tmp_path / 'provenance.json').read_text())) == 2


def test_a_continuation_that_made_no_update_can_be_taken_back(scene_folder, tmp_path, monkeypatch):
  config = tiny_config(scene_folder, SHALLOW, **{'evaluation.num_pictures': 0})
  train_and_evaluate(config, tmp_path)
  (before,) = read_run(tmp_path)
  with monkeypatch.context() as patched:
    patched.setattr(train, 'train_batches', None)  # so that it ends before its first update
    config.training.num_epochs = 2.0
    with pytest.raises(TypeError):
      train_and_evaluate(config, tmp_path)
  config.training.num_epochs = 1.0
  assert train_and_evaluate(config, tmp_path) is None
  (after,) = read_run(tmp_path)
  assert after.config_hash == before.config_hash


def test_a_change_before_the_first_checkpoint_is_no_continuation(scene_folder, tmp_path, monkeypatch, capsys):
  def stop_now(*_, **__):
    raise Stopped(15)

  monkeypatch.setattr(train, 'train_batches', stop_now)
  config = tiny_config(scene_folder, SHALLOW)
  for rate in (1e-3, 1e-4):
    config.optimizer.learning_rate = rate
    with pytest.raises(Stopped):
      train_and_evaluate(config, tmp_path)
  starts = json.loads((tmp_path / 'provenance.json').read_text())
  assert [start.get('changed') for start in starts] == [None, None]
  said = capsys.readouterr().err
  assert 'continued' not in said
  assert said.count('no checkpoint to resume from; training starts at step 0') == 1
