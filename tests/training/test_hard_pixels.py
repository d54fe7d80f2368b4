import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.losses import (
  ohem_weights,
  upsampled_cross_entropy,
  upsampled_pixel_losses,
)
from dense_aspp_jax.training.objective import Objective

mined = jax.jit(ohem_weights, static_argnames=('threshold', 'min_kept'))


def reference(losses, weights, threshold, min_kept):
  """With a sort."""
  counted = weights > 0
  kept = np.exp(-losses) < threshold
  number = math.ceil(min_kept * counted.sum())
  if number:
    kept |= losses >= np.sort(losses[counted])[::-1][number - 1]
  return np.where(kept, weights, 0)


def test_hand_computed_case():
  probabilities = np.array([[[0.9, 0.2, 0.6, 0.6, 0.1, 0.95]]])
  losses = jnp.asarray(-np.log(probabilities), jnp.float32)
  weights = jnp.array([[[1.0, 2.0, 1.0, 0.5, 0.0, 3.0]]])  # the fifth, the hardest, is void
  for threshold, min_kept, expected in (
    (0.5, 0.0, [0, 2, 0, 0, 0, 0]),
    (0.7, 0.0, [0, 2, 1, 0.5, 0, 0]),
    (0.0, 0.2, [0, 2, 0, 0, 0, 0]),  # ceil(0.2 x 5) = 1
    (0.0, 0.25, [0, 2, 1, 0.5, 0, 0]),  # 2, and the third is equal to the second
    (0.5, 0.8, [1, 2, 1, 0.5, 0, 0]),
    (0.0, 1.0, [1, 2, 1, 0.5, 0, 3]),
    (0.0, 0.0, [0, 0, 0, 0, 0, 0]),
  ):
    found = mined(losses, weights, threshold=threshold, min_kept=min_kept)
    np.testing.assert_array_equal(found[0, 0], expected)


@pytest.mark.parametrize('threshold', [0.0, 0.3])
@pytest.mark.parametrize('min_kept', [0.0, 0.0625, 0.5, 1.0])
@pytest.mark.parametrize('tied', [False, True])
def test_against_a_sort(threshold, min_kept, tied):
  rng = np.random.default_rng(0)
  losses = rng.exponential(1.0, (3, 8, 16)).astype(np.float32) ** 3  # 1e-8 to 1e3
  if tied:
    losses = np.floor(2 * losses) / 2
  weights = rng.choice(np.array([0.0, 0.5, 2.0], np.float32), losses.shape)
  found = mined(losses, weights, threshold=threshold, min_kept=min_kept)
  np.testing.assert_array_equal(found, reference(losses, weights, threshold, min_kept))


def test_extreme_losses_are_in_order_and_rounding_below_zero_is_zero():
  losses = jnp.array([[[np.inf, 3e38, 1e-40, -1e-7, -0.0, 0.0]]], jnp.float32)
  for min_kept, expected in ((1 / 6, [1, 0, 0, 0, 0, 0]), (2 / 6, [1, 1, 0, 0, 0, 0]), (0.6, [1] * 6)):
    found = mined(losses, jnp.ones((1, 1, 6)), threshold=0.0, min_kept=min_kept)
    np.testing.assert_array_equal(found[0, 0], expected)


def test_all_void_keeps_nothing():
  found = mined(jnp.ones((1, 2, 2)), jnp.zeros((1, 2, 2)), threshold=0.7, min_kept=1.0)
  np.testing.assert_array_equal(found, np.zeros((1, 2, 2)))


def test_eight_devices_keep_what_one_keeps_without_gathering_the_batch():
  rng = np.random.default_rng(1)
  losses = rng.exponential(1.0, (8, 4, 8)).astype(np.float32)
  losses *= np.linspace(0.1, 2, 8, dtype=np.float32)[:, None, None]  # unequal shards
  weights = rng.choice(np.array([0.0, 1.0], np.float32), losses.shape)
  sharding = NamedSharding(Mesh(np.array(jax.devices()), ('data',)), P('data'))
  arrays = [jax.device_put(x, sharding) for x in (losses, weights)]
  compiled = mined.lower(*arrays, threshold=0.2, min_kept=0.1).compile()
  assert 'all-gather' not in compiled.as_text()
  found = compiled(*arrays)
  np.testing.assert_array_equal(found, reference(losses, weights, 0.2, 0.1))
  assert found.sharding.is_equivalent_to(sharding, 3)


def test_mined_loss_and_gradient_are_those_of_the_hard_pixels_alone():
  rng = np.random.default_rng(2)
  logits = jnp.asarray(rng.normal(0, 2, (2, 2, 3, 4)), jnp.float32)
  labels = jnp.asarray(rng.choice(np.array([0, 1, 2, 3, IGNORE_LABEL], np.uint8), (2, 15, 24)))
  weights = Objective((1.0, 2.0, 0.5, 1.0)).weights(labels, 4)

  def loss_and_gradient(weights_of):
    def loss(logits):
      weights = weights_of(logits)
      return upsampled_cross_entropy(logits, labels, weights, 8)[0] / jnp.sum(weights), weights

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(logits)

  def mine(logits):
    losses = upsampled_pixel_losses(logits, labels, 8)
    return ohem_weights(losses, weights, threshold=0.3, min_kept=0.0)

  losses = jax.jit(upsampled_pixel_losses, static_argnums=2)(logits, labels, 8)
  expected_weights = jnp.asarray(np.where(np.exp(-losses) < 0.3, weights, 0))
  assert 0 < np.sum(expected_weights > 0) < np.sum(weights > 0)
  (expected, _), expected_gradient = loss_and_gradient(lambda logits: expected_weights)
  (loss, hard), gradient = loss_and_gradient(mine)
  np.testing.assert_array_equal(hard, expected_weights)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)
