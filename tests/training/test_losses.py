import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.losses import cross_entropy, pixel_weights


def reference(logits, labels, weights, ignore):
  """torch.nn.functional.cross_entropy(weight=weights, ignore_index=ignore), pixel by pixel."""
  total, weight_sum = 0.0, 0.0
  for vector, label in zip(logits.reshape(-1, logits.shape[-1]), labels.ravel(), strict=True):
    if label in ignore:
      continue
    log_probability = vector[label] - np.log(np.exp(vector - vector.max()).sum()) - vector.max()
    total -= weights[label] * log_probability
    weight_sum += weights[label]
  return total / weight_sum


@pytest.fixture
def sample():
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 4, size=(2, 3, 5, 4)).astype(np.float32)
  labels = rng.choice(np.array([0, 1, 2, 3, IGNORE_LABEL], np.uint8), size=(2, 3, 5))
  return jnp.asarray(logits), jnp.asarray(labels)


@pytest.mark.parametrize('class_weights', [(), (1.0, 0.5, 2.0, 0.0)])
@pytest.mark.parametrize('ignore_label', [IGNORE_LABEL, 3])
def test_cross_entropy_against_numpy(sample, class_weights, ignore_label):
  logits, labels = sample
  weights = pixel_weights(labels, 4, class_weights, ignore_label)
  loss = cross_entropy(logits, labels, weights) / weights.sum()
  expected = reference(
    np.asarray(logits), np.asarray(labels), class_weights or [1] * 4, {IGNORE_LABEL, ignore_label}
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_gradient_is_softmax_minus_one_hot_and_zero_where_ignored(sample):
  logits, labels = sample
  weights = pixel_weights(labels, 4)
  gradient = np.asarray(jax.grad(cross_entropy)(logits, labels, weights))
  one_hot = np.eye(4)[np.minimum(labels, 3)]
  expected = (jax.nn.softmax(logits) - one_hot) * np.asarray(weights)[..., None]
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_all_ignored_gives_zero_loss_and_gradient_not_nan():
  logits, labels = jnp.full((1, 2, 2, 3), 100.0), jnp.full((1, 2, 2), IGNORE_LABEL, jnp.uint8)
  weights = pixel_weights(labels, 3)
  loss, gradient = jax.value_and_grad(cross_entropy)(logits, labels, weights)
  assert loss == 0
  assert not np.asarray(gradient).any()


def test_large_logits_do_not_overflow():
  logits = jnp.array([[[[1e4, -1e4, 0.0]]]])
  labels = jnp.array([[[1]]], jnp.uint8)
  np.testing.assert_allclose(cross_entropy(logits, labels, pixel_weights(labels, 3)), 2e4)
