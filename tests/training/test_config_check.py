import ml_collections
import pytest

from configs import default
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.config_check import RULES, check_fields


def test_the_default_configuration_is_right():
  check_fields(default.get_config())


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda c: c.model.update(extra=4), r'unknown field config\.model\.extra'),
    (lambda c: c.update(speed=4), r'unknown field config\.speed'),
    (lambda c: c.__delattr__('loss'), r'missing field config\.loss'),
    (lambda c: c.data.__delattr__('mean'), r'missing field config\.data\.mean'),
    (lambda c: c.__setattr__('loss', 3), r'config\.loss = 3: expected a section'),
    (lambda c: c.data.update(mean=(0.5,)), r'config\.data\.mean = \(0\.5,\): expected three numbers'),
    (lambda c: c.data.update(dataset=''), r"config\.data\.dataset = '': expected a text"),
    (lambda c: c.optimizer.update(momentum=-3.0), r'config\.optimizer\.momentum = -3\.0'),
    (lambda c: c.loss.update(class_weights=(0.0, 0.0)), r'config\.loss\.class_weights = .*not all 0'),
    (lambda c: c.loss.update(class_weights=(1.0, -1.0)), r'config\.loss\.class_weights'),
  ],
)
def test_what_is_wrong_is_named(change, message):
  config = ml_collections.ConfigDict(default.get_config().to_dict(), type_safe=False)
  change(config)
  with pytest.raises(InputError, match=message):
    check_fields(config)


EDGES = {
  'seed': ([0, 2**32 - 1], [-1, 2**32, 1.0, True]),
  'model.extractor': (['x'], ['', None, []]),
  'model.output_stride': ([8], [0, 8.0, '8']),
  'model.last_layer': ([None, 'x'], ['', 1]),
  'model.fourth_transition': ([True, False], [0, None]),
  'model.dilation_rates': ([(1,), [1, 2**16]], [(), 3, (0,), (1.0,), (2**16 + 1,), '12']),
  'model.growth_rate': ([1, 2**16], [0, 2**16 + 1, 1.0, None]),
  'model.bottleneck_width': ([0, 2**16], [-1, 2**16 + 1, 1.0, None]),
  'model.first_norm': ([True, False], [1]),
  'model.final_norm': ([True, False], [1]),
  'model.use_bias': ([True, False], [1]),
  'model.rectify_features': ([True, False], [1]),
  'model.dropout_rate': ([0, 0.9], [1.0, -0.1, '0.1']),
  'model.skip_head': ([True, False], [1]),
  'model.auxiliary_head': ([True, False], [1]),
  'model.num_classes': ([1], [0, 20.0]),
  'model.compute_dtype': (['x'], ['', []]),
  'model.implementation': (['x'], ['', []]),
  'model.rematerialize': ([True, False], [1]),
  'init.extractor_weights': ([None, 'x'], ['', 1]),
  'data.dataset': (['x'], ['', None]),
  'data.data_dir': ([None, 'x'], ['']),
  'data.label_set': (['x'], ['']),
  'data.train_split': (['x'], ['']),
  'data.validation_split': (['x'], ['']),
  'data.held_out': ([(), ('x',), ['x', 'y']], ['x', ('',), (1,), None]),
  'data.image_size': ([(1, 1)], [(0, 1), (1,), (1, 1, 1), (1.0, 1)]),
  'data.keep_aspect': ([True, False], [0]),
  'data.mean': ([(-0.5, 0.0, 0.5)], [(0.5, 0.5), (0.5, 0.5, float('nan'))]),
  'data.std': ([(0.1, 0.1, 0.1)], [(0.0, 0.1, 0.1), (0.1, 0.1)]),
  'data.on_device': ([True], [1]),
  'data.num_workers': ([0], [-1, 0.5]),
  'data.skip_bad': ([0], [-1, 0.5]),
  'loss.class_weighting': (['none', 'enet', 'median_frequency'], ['', 'x', None]),
  'loss.class_weights': ([(), (0.0, 1.0)], [(0.0, 0.0), (1.0, -0.1)]),
  'loss.ignore_label': ([0, 255], [-1, 256]),
  'loss.ohem_threshold': ([0.0, 1], [-0.1, 1.1]),
  'loss.ohem_min_kept': ([0.0, 1], [-0.1, 1.1]),
  'loss.region': (['none', 'dice', 'lovasz'], ['', 'x', None]),
  'loss.region_weight': ([0.0, 7], [-0.1, float('nan')]),
  'loss.auxiliary_weight': ([0.0, 7], [-0.1]),
  'optimizer.name': (['x'], ['']),
  'optimizer.learning_rate': ([1e-9], [0.0, float('inf')]),
  'optimizer.weight_decay': ([0.0], [-1e-9]),
  'optimizer.decay_norms_and_biases': ([True, False], [0]),
  'optimizer.clip_norm': ([0.0, 5], [-1.0]),
  'optimizer.momentum': ([0.0, 0.99], [1.0, -0.1]),
  'optimizer.schedule': (['x'], ['']),
  'optimizer.poly_power': ([0.1], [0.0]),
  'optimizer.warmup_steps': ([0], [-1]),
  'training.num_epochs': ([0.1], [0.0]),
  'training.batch_size': ([1], [0]),
  'training.gradient_accumulation': ([1], [0]),
  'training.ema_decay': ([0.0, 0.999], [1.0, -0.1]),
  'training.max_skipped_steps': ([0], [-1, 0.5]),
  'training.log_every_steps': ([1], [0]),
  'evaluation.every_epochs': ([0.1], [0.0]),
  'evaluation.batch_size': ([1], [0]),
  'evaluation.num_pictures': ([0], [-1]),
  'checkpoint.every_epochs': ([0.1], [0.0]),
  'checkpoint.keep': ([1], [0]),
}


def test_the_edges_of_every_range():
  assert EDGES.keys() == {'seed', *(f'{section}.{name}' for section in RULES for name in RULES[section])}
  for field, (right, wrong) in EDGES.items():
    config = ml_collections.ConfigDict(default.get_config().to_dict(), type_safe=False)
    section, _, name = field.rpartition('.')
    target = config[section] if section else config
    for value in right:
      target[name] = value
      check_fields(config)
    for value in wrong:
      target[name] = value
      with pytest.raises(InputError, match=rf'config\.{field} = '):
        check_fields(config)
