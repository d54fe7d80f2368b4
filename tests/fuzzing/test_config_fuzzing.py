"""Configurations with any values in their fields: refused by name of the field, or a network comes out."""

import jaxtyping
import ml_collections
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import default
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.training.config import parse_config

SMALL_MODEL = {
  'extractor': 'densenet_tiny',
  'dilation_rates': (1, 2),
  'growth_rate': 4,
  'bottleneck_width': 8,
}
NUM_DEVICES = 2


def fresh_config():
  config = ml_collections.ConfigDict(default.get_config().to_dict(), type_safe=False)
  config.model.update(SMALL_MODEL)
  return config


FIELDS = [('seed',)] + [
  (section, name) for section, fields in fresh_config().items() if section != 'seed' for name in fields
]
scalars = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(),
  st.floats(),
  st.text(max_size=5),
  st.binary(max_size=3),
  st.sampled_from(
    ['mobilenet_v3_small', 'transition3', 'bfloat16', 'plain', 'sgd', 'adamw', 'poly', 'enet', 'lovasz']
  ),
)
numbers = st.one_of(st.integers(0, 64), st.floats(0, 2))
values = st.one_of(
  numbers,
  st.lists(numbers, max_size=3).map(tuple),
  st.recursive(
    scalars,
    lambda inner: st.one_of(
      st.lists(inner, max_size=3),
      st.lists(inner, max_size=3).map(tuple),
      st.dictionaries(st.sampled_from('ab'), inner),
    ),
    max_leaves=4,
  ),
)


@settings(derandomize=True, database=None, max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=2))
def test_any_value_is_refused_by_name_or_works(changes):
  config = fresh_config()
  for path, value in changes.items():
    (config[path[0]] if path[1:] else config)[path[-1]] = value
  message = None
  try:
    # Without the checks of annotations that only tests have: values reach the network's own checks.
    jaxtyping.config.update('jaxtyping_disable', True)
    checked = parse_config(config, NUM_DEVICES)
    checked.optimizer.rate(10)
  except InputError as error:
    message = str(error)
  finally:
    jaxtyping.config.update('jaxtyping_disable', False)
  if message is not None:
    assert any(path[-1] in message for path in changes), message
    assert '\n' not in message
  elif any(path[0] == 'model' for path in changes):
    shapes = abstract_variables(checked.model)
    assert shapes['params']['head']['bias'].shape == (CITYSCAPES_20.num_classes,)
