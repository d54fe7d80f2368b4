import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.models.fused.statistics import (
  Affine,
  merged_moments,
  moments,
  running_statistics_momentum,
)
from dense_aspp_jax.models.layer_variables import NormVariables
from dense_aspp_jax.models.layers import batch_norm


def draw(mean=3.0):
  return np.random.default_rng(0).normal(mean, 2, (8, 5, 7, 4))


def test_moments_are_mean_and_biased_variance():
  x = draw().astype(np.float32)
  found = moments(jnp.asarray(x))
  np.testing.assert_allclose(found.mean, x.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(found.variance, x.var((0, 1, 2)), rtol=1e-5)


def test_a_mean_far_above_the_deviation_does_not_cancel():
  x = draw(1e4).astype(np.float32)
  found, exact = moments(jnp.asarray(x)), x.astype(np.float64)
  np.testing.assert_allclose(found.variance, exact.var((0, 1, 2)), rtol=1e-4)
  normalized = Affine(found.mean, 1 / jnp.sqrt(found.variance), jnp.zeros(4))(jnp.asarray(x))
  expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
  np.testing.assert_allclose(normalized, expected, atol=5e-3)  # a float32 at 1e4 is that coarse


def test_masked_positions_do_not_count():
  x = draw()
  mask = np.random.default_rng(1).random(x.shape[:3]) > 0.3
  found = moments(jnp.asarray(np.where(mask[..., None], x, np.nan), jnp.float32), jnp.asarray(mask))
  np.testing.assert_allclose(found.mean, x[mask].mean(0), rtol=1e-5)
  np.testing.assert_allclose(found.variance, x[mask].var(0), rtol=1e-5)


def test_moments_of_devices_merge_to_those_of_all_in_float64():
  with jax.enable_x64(True):
    x = draw() * np.arange(1, 9)[:, None, None, None]  # each device has others
    mesh = Mesh(np.array(jax.devices()), ('data',))
    merge = jax.shard_map(
      lambda x: merged_moments(moments(x), ('data',)),
      mesh=mesh,
      in_specs=P('data'),
      out_specs=P(),
      check_vma=False,
    )
    found = jax.jit(merge)(x)
    np.testing.assert_allclose(found.mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.variance, x.var((0, 1, 2)), rtol=1e-12)


def updated_by_flax(statistics, x):
  norm = batch_norm(True, name='norm', dtype=jnp.float32)
  variables = norm.init(jax.random.key(0), x)
  return norm.apply({**variables, 'batch_stats': statistics}, x, mutable=['batch_stats'])[1]['batch_stats']


def updated_by_the_fast_formulation(statistics, x):
  norm = NormVariables(x.shape[-1])
  variables = norm.init(jax.random.key(0), x, None)
  variables = {**variables, 'batch_stats': statistics}
  return norm.apply(variables, x, moments(x), mutable=['batch_stats'])[1]['batch_stats']


@pytest.mark.parametrize('updated', [updated_by_flax, updated_by_the_fast_formulation])
@pytest.mark.parametrize('momentum', [0.0, 0.25])
def test_running_statistics_take_the_momentum_in_force(updated, momentum):
  x = jnp.asarray(draw(), jnp.float32)
  statistics = {'mean': jnp.full(4, 5.0), 'var': jnp.full(4, 7.0)}
  mean, variance = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
  with running_statistics_momentum(momentum):
    found = updated(statistics, x)
  np.testing.assert_allclose(found['mean'], momentum * 5 + (1 - momentum) * mean, rtol=1e-5)
  np.testing.assert_allclose(found['var'], momentum * 7 + (1 - momentum) * variance, rtol=1e-5)
  found = updated(statistics, x)  # outside: the layer's own
  np.testing.assert_allclose(found['mean'], 0.9 * 5 + 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(found['var'], 0.9 * 7 + 0.1 * variance, rtol=1e-5)
