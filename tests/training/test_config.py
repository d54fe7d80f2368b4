import copy

import ml_collections
import pytest

from configs import default
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.training.config import (
  Checkpoint,
  Evaluation,
  Init,
  Training,
  config_hash,
  migrate,
  parse_config,
  plain,
)
from dense_aspp_jax.training.objective import Objective
from dense_aspp_jax.training.optimizer import Optimizer
from dense_aspp_jax.training.stored_config import differences


def test_the_default_configuration_is_parsed_section_by_section():
  config = parse_config(default.get_config())
  assert (config.seed, config.label_set, config.model.num_classes) == (0, CITYSCAPES_20, 20)
  assert config.optimizer == Optimizer(weight_decay=1e-5)
  assert config.training == Training(num_epochs=60.0, batch_size=8)
  assert (config.loss, config.evaluation, config.checkpoint) == (Objective(), Evaluation(), Checkpoint())
  assert config.data.preprocessing.image_size == (512, 1024)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda c: c.model.update(extra=4), 'unknown field config.model.extra'),
    (lambda c: c.update(speed=4), 'unknown field config.speed'),
    (lambda c: c.update(speed={}), 'unknown field config.speed'),
    (lambda c: c.data.update(speed={}), 'unknown field config.data.speed'),
    (lambda c: c.update(seed={}), 'config.seed = {}: expected an integer, 0 to 4294967295'),
    (lambda c: c.__delattr__('loss'), 'config.loss = None: expected a section with fields. configs/default'),
    (lambda c: c.data.__delattr__('mean'), 'missing field config.data.mean'),
    (lambda c: c.__setattr__('loss', 3), 'config.loss = 3: expected a section with fields. configs/default'),
    (lambda c: c.loss.update(region={'a': 1}), 'config.loss.region'),
    (lambda c: c.model.update(num_classes=19), 'config.model.num_classes = 19'),
    (
      lambda c: c.loss.update(class_weights=(1.0, 2.0)),
      'class_weights has 2 values; expected 20',
    ),
    (
      lambda c: c.init.update(run='a', extractor_weights='b'),
      "config.init.run = 'a', config.init.extractor_weights = 'b': set one of them",
    ),
    (lambda c: c.training.update(batch_size=9), 'config.training.batch_size = 9: expected a multiple of 2'),
    (
      lambda c: c.data.update(dataset=('camvid', 'street_scenes'), label_set='cityscapes20'),
      'config.data.shares = (): expected 2 integers of at least 1',
    ),
    (
      lambda c: c.data.update(dataset=('camvid', 'street_scenes'), label_set='cityscapes20', shares=(2, 7)),
      'config.data.shares = (2, 7): their sum is 9; expected 8, config.training.batch_size',
    ),
    (lambda c: c.data.update(shares=(8,)), 'config.data.shares = (8,): expected ()'),
    (
      lambda c: c.data.update(class_map=(('tree', 'vegetation'),)),
      "config.data.class_map: no data set whose classes are mapped has a class 'tree'",
    ),
  ],
)
def test_what_is_wrong_is_named(change, message):
  config = ml_collections.ConfigDict(default.get_config().to_dict(), type_safe=False)
  change(config)
  with pytest.raises(InputError) as error:
    parse_config(config, num_devices=2)
  assert message in str(error.value)


WRONG = {
  ('loss', Objective): {
    'class_weighting': ['', 'x', None],
    'class_weights': [(0.0, 0.0), (1.0, -0.1), 3],
    'ignore_label': [-1, 256],
    'ohem_threshold': [-0.1, 1.1],
    'ohem_min_kept': [-0.1, 1.1],
    'region': ['', 'iou', None],
    'region_weight': [-0.1, float('nan')],
    'auxiliary_weight': [-0.1],
  },
  ('optimizer', Optimizer): {
    'name': ['', 'lion'],
    'learning_rate': [0.0, float('inf'), '1'],
    'weight_decay': [-1e-9],
    'decay_norms_and_biases': [0],
    'clip_norm': [-1.0],
    'momentum': [1.0, -0.1],
    'schedule': ['', 'step'],
    'poly_power': [0.0],
    'warmup_steps': [-1, 0.5],
    'extractor_learning_rate_factor': [-0.1, float('inf'), None],
  },
  ('training', Training): {
    'num_epochs': [0.0],
    'batch_size': [0, True],
    'gradient_accumulation': [0],
    'ema_decay': [1.0, -0.1],
    'max_skipped_steps': [-1, 0.5],
    'log_every_steps': [0],
  },
  ('evaluation', Evaluation): {'every_epochs': [0.0], 'batch_size': [0], 'num_pictures': [-1]},
  ('checkpoint', Checkpoint): {'every_epochs': [0.0], 'keep': [0]},
  ('init', Init): {'extractor_weights': ['', 1], 'run': ['', 1]},
}


@pytest.mark.parametrize(('section', 'cls'), WRONG)
def test_a_value_out_of_range_is_named(section, cls):
  right = dict(default.get_config()[section])
  for field, values in WRONG[section, cls].items():
    for value in values:
      with pytest.raises(InputError) as error:
        cls(**{**right, field: value})
      assert str(error.value).startswith(f'config.{section}.{field} = ')


def test_the_extremes_of_the_ranges_are_allowed():
  Objective(ignore_label=0, ohem_threshold=1, ohem_min_kept=0.0, region='lovasz', region_weight=0)
  Optimizer(name='sgd', momentum=0.0, weight_decay=0, clip_norm=0, warmup_steps=0)
  Training(num_epochs=0.1, batch_size=1, ema_decay=0.999)


def test_the_hash_is_of_what_decides_the_network_and_of_no_path():
  config = plain(default.get_config())

  def changed(section, **values):
    other = copy.deepcopy(config)
    other[section].update(values)
    return config_hash(other, CITYSCAPES_20, [])

  first = config_hash(config, CITYSCAPES_20, [])
  assert config_hash({**config, 'seed': 1}, CITYSCAPES_20, []) == first
  assert changed('data', data_dir='/x', num_workers=2, on_device=True) == first
  assert changed('evaluation', batch_size=1) == changed('checkpoint', keep=1) == first
  assert changed('data', skip_bad=1) != first
  assert changed('optimizer', learning_rate=1e-3) != first
  folder = changed('data', dataset='folder:/home/a/my data')
  assert folder == changed('data', dataset='folder:my data') != changed('data', dataset='folder:/home/a')


def test_an_older_configuration_is_migrated_and_has_the_same_hash():
  config = plain(default.get_config())
  model = dict(config['model'])
  assert model.pop('implementation') == 'fused'
  old = {**config, 'model': {**model, 'formulation': 'fast'}}
  assert migrate(old) == migrate(config) == config
  assert config_hash(old, CITYSCAPES_20, []) == config_hash(config, CITYSCAPES_20, [])


def test_a_configuration_without_the_fields_of_later_versions_means_their_defaults():
  """A file of one's own that lists all fields of an earlier version, and the config.json of its runs."""
  config = plain(default.get_config())
  old = copy.deepcopy(config)
  assert old['init'].pop('run', ...) is None
  assert old['optimizer'].pop('extractor_learning_rate_factor') == 1
  assert (old['data'].pop('shares'), old['data'].pop('class_map')) == ([], [])
  added = ('gamma', 'white_balance', 'grayscale_probability', 'rotation', 'blur', 'noise')
  assert [old['augmentation'].pop(name) for name in added] == [0] * 6
  assert parse_config(old) == parse_config(config)
  assert migrate(old) == config
  assert differences(migrate(old), config) == []
  assert config_hash(old, CITYSCAPES_20, []) == config_hash(config, CITYSCAPES_20, []) == '5c91cce6748a'
  frozen = copy.deepcopy(config)
  frozen['optimizer']['extractor_learning_rate_factor'] = 0.5
  blurred = copy.deepcopy(config)
  blurred['augmentation']['blur'] = 0.5
  assert len({config_hash(c, CITYSCAPES_20, []) for c in (config, frozen, blurred)}) == 3


def test_the_hash_knows_the_weights_that_a_run_starts_from_by_their_digest():
  def digest(path, sha256):
    config = plain(default.get_config())
    config['init']['run'] = path
    return config_hash(config, CITYSCAPES_20, [{'step': 0, 'init_run': {'sha256': sha256}}, {'step': 5}])

  assert digest('/home/a', '00') == digest('/mnt/b', '00') != digest('/home/a', '01')


def test_a_continued_run_is_another_experiment():
  config = plain(default.get_config())
  config['optimizer']['schedule'] = 'poly'

  def digest(*starts):
    return config_hash(config, CITYSCAPES_20, [{'step': 0}, *starts])

  epochs = {'training.num_epochs': [40.0, 60.0]}
  straight, continued = digest({'step': 3}), digest({'step': 10, 'changed': epochs})
  assert len({straight, continued, digest({'step': 11, 'changed': epochs})}) == 3
  assert continued == digest({'step': 10, 'changed': epochs}, {'step': 15})
  # It fell back to an older checkpoint: the first updates with the new fields are those after step 8.
  assert continued != digest({'step': 10, 'changed': epochs}, {'step': 8})
  assert digest({'step': 10, 'changed': epochs}, {'step': 8}) == digest({'step': 8, 'changed': epochs})
  assert digest({'step': 10, 'changed': {'optimizer.learning_rate': [1e-3, 3e-4]}}) != straight
  # Killed before it saved anything: no update was made with the fields of that start.
  there, back = ({'step': 10, 'changed': {'training.num_epochs': n}} for n in ([60.0, 80.0], [80.0, 60.0]))
  assert digest(there, back) == straight
  first = {'step': 10, 'changed': {'training.num_epochs': [40.0, 80.0]}}
  assert digest(first, back) == continued


def test_more_epochs_at_a_constant_rate_are_the_same_experiment_as_all_at_once():
  config = plain(default.get_config())
  assert config['optimizer']['schedule'] == 'constant'
  more = {'step': 10, 'changed': {'training.num_epochs': [40.0, 60.0]}}
  assert config_hash(config, CITYSCAPES_20, [{'step': 0}, more]) == config_hash(config, CITYSCAPES_20, [])
  other = {
    'step': 10,
    'changed': {'training.num_epochs': [40.0, 60.0], 'optimizer.schedule': ['poly', 'constant']},
  }
  assert config_hash(config, CITYSCAPES_20, [other]) != config_hash(config, CITYSCAPES_20, [])
