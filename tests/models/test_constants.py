"""What inference computes once for its variables, against what it computes each time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network
from jaxprs import equations
from small_extractors import SMALL_EXTRACTORS

from dense_aspp_jax.models.constants import with_constants
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import create_model

IMAGE = (1, 64, 64, 3)
BASE = dict(
  extractor='densenet_tiny', num_classes=5, dilation_rates=(1, 2), growth_rate=4, bottleneck_width=8
)
PAPER = dict(fourth_transition=True, first_norm=False, use_bias=True, rectify_features=True)
CASES = {
  'slides': {},
  'paper': PAPER,
  'no_bottleneck': dict(bottleneck_width=0),
  'bfloat16': dict(compute_dtype='bfloat16'),
  'reference': dict(implementation='reference'),
}


NETWORKS = {name: create_model(**{**BASE, **fields}) for name, fields in CASES.items()} | {
  name: create_model(**BASE).clone(extractor=module) for name, module in SMALL_EXTRACTORS.items()
}


@pytest.mark.parametrize('name', NETWORKS)
def test_constants_change_no_logit(name):
  model = NETWORKS[name]
  image = jnp.asarray(np.random.default_rng(0).normal(size=IMAGE), jnp.float32)
  variables = reference_network.random_variables(model, jnp.zeros(IMAGE))
  expected = jax.jit(model.apply)(variables, image).main
  complete = jax.jit(lambda v: with_constants(model, v))(variables)
  found = jax.jit(model.apply)(complete, image).main
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_with_constants_a_batch_neither_casts_nor_normalizes_anew():
  model = create_model(**BASE, compute_dtype='bfloat16')
  variables = reference_network.random_variables(model, jnp.zeros(IMAGE))

  def of_weights(variables):
    """Square roots, and conversions of kernels."""
    found = list(equations(jax.make_jaxpr(model.apply)(variables, jnp.zeros(IMAGE))))
    casts = [e for e in found if e.primitive.name == 'convert_element_type' and e.invars[0].aval.ndim == 4]
    roots = [e for e in found if e.primitive.name == 'rsqrt']
    return len(roots), sum(e.invars[0].aval.shape[:2] == (3, 3) for e in casts)

  assert min(of_weights(variables)) > 0
  complete = jax.jit(lambda v: with_constants(model, v))(variables)
  assert of_weights(complete) == (1, 0)  # norm5 has a root of its own


def test_a_dense_block_has_one_constant_and_its_norms_none():
  model = create_model(**BASE)
  shapes = jax.eval_shape(lambda v: with_constants(model, v), abstract_variables(model))
  constants = shapes['constants']['extractor']
  assert set(constants) == {
    'norm0',
    *(f'denseblock{n}' for n in range(1, 5)),
    *(f'transition{n}' for n in (1, 2, 3)),
  }
  assert set(constants['denseblock1']) == {'value'}


def test_training_takes_no_constants():
  model = create_model(**BASE)
  variables = reference_network.random_variables(model, jnp.zeros(IMAGE))
  _, updates = jax.eval_shape(
    lambda v: model.apply(v, jnp.ones(IMAGE), train=True, mutable=['batch_stats']), variables
  )
  assert set(updates) == {'batch_stats'}
