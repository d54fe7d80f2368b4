import contextlib
import copy
import dataclasses
import json
import pathlib

import pytest

from configs import default
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.training import workdir as workdirs

# What a given step computes depends on none of these, or the run is continued with another value.
FREE = {
  'optimizer.learning_rate',
  'optimizer.weight_decay',
  'optimizer.schedule',
  'optimizer.poly_power',
  'optimizer.warmup_steps',
  'data.data_dir',
  'data.cache_dir',
  'data.label_set',  # its content is compared
  'data.num_workers',
  'data.on_device',
  'training.num_epochs',
  'training.log_every_steps',
  'training.max_skipped_steps',
  'data.skip_bad',
  'evaluation.every_epochs',
  'evaluation.batch_size',
  'evaluation.num_pictures',
  'checkpoint.every_epochs',
  'checkpoint.keep',
}


def start(workdir, config):
  with workdirs.begin(workdir, workdirs.to_store(workdir, config), CITYSCAPES_20, {}):
    pass


def check(workdir, config, label_set=CITYSCAPES_20):
  return workdirs.check(workdir, workdirs.to_store(workdir, config), label_set)


def test_a_resume_may_change_these_fields_and_no_other(tmp_path):
  config = default.get_config().to_dict()
  check(tmp_path / 'work', config)
  assert not (tmp_path / 'work').exists()
  start(tmp_path / 'work', config)
  check(tmp_path / 'work', config)
  allowed = set()
  for section, fields in [('', {'seed': 0}), *((s, fields) for s, fields in config.items() if s != 'seed')]:
    for field in fields:
      changed = copy.deepcopy(config)
      (changed[section] if section else changed)[field] = 'changed'
      with contextlib.suppress(InputError):
        check(tmp_path / 'work', changed)
        allowed.add(f'{section}.{field}')
  assert allowed == FREE


def test_another_content_of_the_label_set_is_refused(tmp_path):
  config = default.get_config().to_dict()
  start(tmp_path, config)
  first, *others = CITYSCAPES_20.classes
  other = dataclasses.replace(CITYSCAPES_20, classes=(dataclasses.replace(first, name='street'), *others))
  with pytest.raises(InputError, match="label set 'cityscapes20'"):
    check(tmp_path, config, other)


@pytest.mark.parametrize('name', ['labels.json', 'data.json', 'provenance.json'])
def test_a_start_that_fails_leaves_no_configuration_and_can_be_made_again(tmp_path, name):
  config = default.get_config().to_dict()
  (tmp_path / name).mkdir()  # cannot be written
  with pytest.raises(RunError):
    start(tmp_path, config)
  assert not (tmp_path / 'config.json').exists()
  (tmp_path / name).rmdir()
  (tmp_path / '.config.json.4321.tmp').write_text('{')  # as of a process killed while it wrote
  check(tmp_path, config)
  start(tmp_path, config)
  assert (tmp_path / 'config.json').exists()


def test_what_a_run_is_continued_with_is_told_by_field(tmp_path):
  config = default.get_config()
  config.optimizer.schedule = 'poly'
  assert check(tmp_path, config.to_dict()) == {}
  start(tmp_path, config.to_dict())
  assert check(tmp_path, config.to_dict()) == {}
  config.training.update(num_epochs=61.0, log_every_steps=7)
  config.optimizer.learning_rate = 1e-4
  expected = {'optimizer.learning_rate': [3e-4, 1e-4], 'training.num_epochs': [60.0, 61.0]}
  assert check(tmp_path, config.to_dict()) == expected


def test_relative_paths_are_those_of_the_directory_they_were_given_in():
  config = default.get_config().to_dict()
  config['data'].update(dataset='folder:scenes', data_dir='/data', label_set='scenes/labels.json')
  config['init'].update(extractor_weights='weights', run='runs/a')
  found = workdirs.resolve({'directory': '/home', **config})
  assert found['data']['dataset'] == 'folder:/home/scenes'
  assert found['data']['data_dir'] == '/data'
  assert found['data']['label_set'] == '/home/scenes/labels.json'
  assert found['init'] == {'extractor_weights': '/home/weights', 'run': '/home/runs/a'}
  assert workdirs.resolve({'directory': '/elsewhere', **found}) == workdirs.resolve(found) == found
  assert config['data']['dataset'] == 'folder:scenes'


def test_each_of_several_data_sets_may_be_a_path_and_may_move(tmp_path, monkeypatch):
  config = default.get_config().to_dict()
  config['data'].update(dataset=('folder:scenes', 'camvid', 'folder:/data/x'), shares=(1, 2, 5))
  found = workdirs.resolve({'directory': '/home', **config})
  assert found['data']['dataset'] == ('folder:/home/scenes', 'camvid', 'folder:/data/x')
  (tmp_path / 'old' / 'scenes').mkdir(parents=True)
  monkeypatch.chdir(tmp_path / 'old')
  start(tmp_path / 'work', config)
  monkeypatch.chdir(tmp_path)
  assert workdirs.to_store(tmp_path / 'work', config)['directory'] == str(tmp_path / 'old')
  read = workdirs.read_config(tmp_path / 'work')['data']
  assert read['dataset'] == (f'folder:{tmp_path}/old/scenes', 'camvid', 'folder:/data/x')
  for name in ('folder:/elsewhere/scenes', 'camvid'):
    config['data']['dataset'] = (name, 'camvid', 'folder:y')
    if name == 'camvid':
      with pytest.raises(InputError, match=r'config\.data\.dataset: '):
        check(tmp_path / 'work', config)
    else:
      check(tmp_path / 'work', config)
  for names in (('folder:scenes', 'camvid'), ('folder:scenes', 'camvid', 'street_scenes'), 'folder:scenes'):
    config['data']['dataset'] = names
    with pytest.raises(InputError, match=r'config\.data\.dataset: '):
      check(tmp_path / 'work', config)


def test_a_url_stays_one():
  config = default.get_config().to_dict()
  config['init']['run'] = 'gs://bucket/run'
  assert workdirs.resolve({'directory': '/home', **config})['init']['run'] == 'gs://bucket/run'


def test_the_name_of_a_packaged_network_stays_one():
  for given, found in (('streets', 'streets'), ('./streets', '/home/streets'), ('runs/x', '/home/runs/x')):
    assert workdirs.resolve({'directory': '/home', 'init': {'run': given}})['init']['run'] == found


def test_the_home_folder_is_resolved(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  config = default.get_config().to_dict()
  config['data']['data_dir'] = '~/data'
  start(tmp_path / 'work', config)
  assert workdirs.read_config(tmp_path / 'work')['data']['data_dir'] == str(tmp_path / 'home' / 'data')


@pytest.mark.parametrize(('old', 'new'), [('fast', 'fused'), ('plain', 'reference')])
def test_a_stored_formulation_is_read_as_the_implementation(tmp_path, old, new):
  config = default.get_config().to_dict()
  del config['model']['implementation']
  stored = {**config, 'model': {**config['model'], 'formulation': old}}
  (tmp_path / 'config.json').write_text(json.dumps(stored))
  assert workdirs.read_config(tmp_path) == {**config, 'model': {**config['model'], 'implementation': new}}


def test_a_moved_project_resumes_with_its_relative_paths(tmp_path, monkeypatch):
  config = default.get_config().to_dict()
  config['data'].update(dataset='folder:scenes', data_dir='data')
  config['init']['extractor_weights'] = 'weights'
  old, new = tmp_path / 'old', tmp_path / 'new'
  for name in ('scenes', 'weights'):
    (old / name).mkdir(parents=True)
  monkeypatch.chdir(old)
  start(pathlib.Path('work'), config)
  old.rename(new)
  monkeypatch.chdir(new)
  (new / 'weights').rmdir()  # not needed any more
  stored = workdirs.to_store(pathlib.Path('work'), config)
  assert workdirs.resolve(stored)['data']['dataset'] == f'folder:{new}/scenes'
  workdirs.check(pathlib.Path('work'), stored, CITYSCAPES_20)


@pytest.mark.parametrize(('kind', 'field'), [('extractor_weights', 'extractor_weights'), ('init_run', 'run')])
def test_a_start_made_again_needs_the_weights_it_began_with(tmp_path, kind, field):
  config = default.get_config().to_dict()
  config['init'][field] = '/a'
  start(tmp_path, config)
  workdirs.record_start(tmp_path, config, 0, {kind: {'sha256': 'ab'}})
  config['init'][field] = '/b'  # no checkpoint was saved: they are read again
  check(tmp_path, config)
  workdirs.record_start(tmp_path, config, 0, {kind: {'sha256': 'ab'}})
  with pytest.raises(InputError, match=rf'other weights than those of config\.init\.{field}.*ab, now cd'):
    workdirs.record_start(tmp_path, config, 0, {kind: {'sha256': 'cd'}})
  config['init'][field] = None
  with pytest.raises(InputError, match=rf"config\.init\.{field}: '/b' there, None given"):
    check(tmp_path, config)
