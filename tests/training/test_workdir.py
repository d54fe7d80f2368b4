import contextlib
import copy
import dataclasses
import json
import pathlib

import pytest

from configs import default
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import CITYSCAPES_20
from dense_aspp_jax.training import workdir as workdirs

HERE = pathlib.Path('/')
# What a given step computes depends on none of these.
FREE = {
  'data.data_dir',
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
  with workdirs.begin(workdir, config, HERE, CITYSCAPES_20, {}):
    pass


def test_a_resume_may_change_these_fields_and_no_other(tmp_path):
  config = default.get_config().to_dict()
  workdirs.check(tmp_path / 'work', config, HERE, CITYSCAPES_20)
  assert not (tmp_path / 'work').exists()
  start(tmp_path / 'work', config)
  workdirs.check(tmp_path / 'work', config, HERE, CITYSCAPES_20)
  allowed = set()
  for section, fields in [('', {'seed': 0}), *((s, fields) for s, fields in config.items() if s != 'seed')]:
    for field in fields:
      changed = copy.deepcopy(config)
      (changed[section] if section else changed)[field] = 'changed'
      with contextlib.suppress(InputError):
        workdirs.check(tmp_path / 'work', changed, HERE, CITYSCAPES_20)
        allowed.add(f'{section}.{field}')
  assert allowed == FREE


def test_another_content_of_the_label_set_is_refused(tmp_path):
  config = default.get_config().to_dict()
  start(tmp_path, config)
  first, *others = CITYSCAPES_20.classes
  other = dataclasses.replace(CITYSCAPES_20, classes=(dataclasses.replace(first, name='street'), *others))
  with pytest.raises(InputError, match="the content of label set 'cityscapes20'"):
    workdirs.check(tmp_path, config, HERE, other)


def test_a_start_cut_off_before_the_configuration_can_be_made_again(tmp_path, monkeypatch):
  config = default.get_config().to_dict()
  with monkeypatch.context() as patch:

    def fail(*_):
      raise RuntimeError

    patch.setattr(workdirs, 'write_json', fail)
    with pytest.raises(RuntimeError):
      start(tmp_path, config)
  assert not (tmp_path / 'config.json').exists()
  (tmp_path / '.config.json.4321.tmp').write_text('{')  # as of a process killed while it wrote
  workdirs.check(tmp_path, config, HERE, CITYSCAPES_20)
  start(tmp_path, config)
  assert (tmp_path / 'config.json').exists()


def test_the_files_of_a_new_run_are_written_with_the_configuration_last(tmp_path, monkeypatch):
  written = []
  monkeypatch.setattr(workdirs, 'write_json', lambda path, data: written.append(path.name))
  start(tmp_path, default.get_config().to_dict())
  assert written == ['labels.json', 'data.json', 'provenance.json', 'config.json']


@pytest.mark.parametrize(('schedule', 'allowed'), [('constant', True), ('poly', False), ('cosine', False)])
def test_more_epochs_are_allowed_where_the_schedule_does_not_end_with_the_run(tmp_path, schedule, allowed):
  config = default.get_config()
  config.optimizer.schedule = schedule
  start(tmp_path, config.to_dict())
  config.training.num_epochs += 1
  if allowed:
    workdirs.check(tmp_path, config.to_dict(), HERE, CITYSCAPES_20)
  else:
    with pytest.raises(InputError, match=r'config\.training\.num_epochs: 60\.0 there, 61\.0 given'):
      workdirs.check(tmp_path, config.to_dict(), HERE, CITYSCAPES_20)


def test_the_home_folder_is_resolved(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  config = default.get_config().to_dict()
  config['data']['data_dir'] = '~/data'
  start(tmp_path / 'work', config)
  assert workdirs.read_config(tmp_path / 'work')['data']['data_dir'] == str(tmp_path / 'home' / 'data')


@pytest.mark.parametrize(('old', 'new'), [('fast', 'fused'), ('plain', 'reference')])
def test_a_stored_formulation_is_read_as_the_implementation(tmp_path, old, new):
  (tmp_path / 'config.json').write_text(json.dumps({'model': {'formulation': old, 'num_classes': 3}}))
  assert workdirs.read_config(tmp_path) == {'model': {'implementation': new, 'num_classes': 3}}
