import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.models.fused.statistics import (
  Affine,
  merged_moments,
  merged_parts,
  moments,
)
from dense_aspp_jax.models.layers import BatchNorm


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


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('momentum', [0.0, 0.25, 0.9])
def test_running_statistics_are_updated_with_the_momentum(fused, momentum):
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      norm = BatchNorm(momentum=momentum, name='norm')
      return norm.affine(4, moments(x) if train else None)(x) if fused else norm(x, train)

  x = jnp.asarray(draw(), jnp.float32)
  variables = Net().init(jax.random.key(0), x, False)
  statistics = {'norm': {'mean': jnp.full(4, 5.0), 'var': jnp.full(4, 7.0)}}
  variables = {**variables, 'batch_stats': statistics}
  found = Net().apply(variables, x, True, mutable=['batch_stats'])[1]['batch_stats']['norm']
  mean, variance = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
  np.testing.assert_allclose(found['mean'], momentum * 5 + (1 - momentum) * mean, rtol=1e-5)
  np.testing.assert_allclose(found['var'], momentum * 7 + (1 - momentum) * variance, rtol=1e-5)


@pytest.mark.parametrize('counts', [8, (8, 8, 3, 0)], ids=['equal', 'unequal'])
def test_merged_parts_are_the_moments_of_all(counts):
  """Means far from 0, whose squares would cancel."""
  numbers = np.broadcast_to(counts, 4)
  rng = np.random.default_rng(0)
  parts = [rng.normal(1e4 + index, 1, (3, n)) for index, n in enumerate(numbers)]
  means = np.stack([part.mean(1) if part.size else np.zeros(3) for part in parts], 1)
  squares = np.stack(
    [n * part.var(1) if n else np.zeros(3) for n, part in zip(numbers, parts, strict=True)], 1
  )
  given = counts if isinstance(counts, int) else jnp.asarray(counts, jnp.float32)
  found = merged_parts(jnp.asarray(means, jnp.float32), jnp.asarray(squares, jnp.float32), given)
  values = np.concatenate(parts, 1)
  np.testing.assert_allclose(found.mean, values.mean(1), rtol=1e-6)
  np.testing.assert_allclose(found.variance, values.var(1), rtol=2e-3)
