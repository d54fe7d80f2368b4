import ml_collections
import pytest

from configs import default
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.config_check import check_fields


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
