"""Initial variables beside an accelerator, which a test pretends to have."""

import jax
import numpy as np
import pytest

from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.models.segmentation import create_model

TINY = dict(extractor='densenet_tiny', num_classes=3, dilation_rates=(1,), growth_rate=4, bottleneck_width=8)


@pytest.fixture(scope='module')
def on_cpu():
  return initial_variables(create_model(**TINY), 1)


def without_a_cpu(*_, backend=None, **__):
  raise RuntimeError(f'Unknown backend {backend}')


@pytest.mark.parametrize('cpu', [True, False])
def test_beside_an_accelerator_they_are_the_same_but_for_last_bits(on_cpu, cpu, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  if not cpu:
    monkeypatch.setattr(jax, 'local_devices', without_a_cpu)
  found = initial_variables(create_model(**TINY), 1)
  assert jax.tree.structure(found) == jax.tree.structure(on_cpu)
  for x, expected in zip(jax.tree.leaves(found), jax.tree.leaves(on_cpu), strict=True):
    assert isinstance(x, jax.Array)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_only_shapes_are_traced():
  shapes = jax.eval_shape(lambda: initial_variables(create_model(**TINY), 1))
  assert shapes['params']['head']['bias'].shape == (3,)


def test_another_seed_draws_others(on_cpu):
  other = initial_variables(create_model(**TINY), 2)
  assert not np.array_equal(other['params']['head']['kernel'], on_cpu['params']['head']['kernel'])
