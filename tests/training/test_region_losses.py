import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.training.region_losses import REGION_LOSSES

value_and_gradient = jax.jit(
  jax.value_and_grad(lambda name, *x: REGION_LOSSES[name](*x), 1), static_argnums=0
)


def softmax(logits):
  exponentials = np.exp(logits - logits.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def dice(logits, labels):
  """Of lists of counted pixels, class by class."""
  probabilities = softmax(logits)
  losses = []
  for index in set(labels.tolist()):
    p, y = probabilities[:, index], labels == index
    losses.append(1 - 2 * (p * y).sum() / (p.sum() + y.sum()))
  return np.mean(losses)


def lovasz(logits, labels):
  """The extension of the Jaccard loss by its definition: sets of the i largest errors, one by one."""
  probabilities = softmax(logits)
  losses = []
  for index in set(labels.tolist()):
    truth = labels == index
    errors = np.where(truth, 1 - probabilities[:, index], probabilities[:, index])
    loss, before = 0.0, 0.0
    wrong = np.zeros(len(labels), bool)
    for pixel in np.argsort(-errors):
      wrong[pixel] = True
      predicted = truth ^ wrong
      jaccard = 1 - (truth & predicted).sum() / (truth | predicted).sum()
      loss += errors[pixel] * (jaccard - before)
      before = jaccard
    losses.append(loss)
  return np.mean(losses)


REFERENCES = {'dice': dice, 'lovasz': lovasz}


def sample(dtype=np.float64, batch=2, num_classes=5, present=(0, 1, 3)):
  """Logits, labels of which two classes are absent and a fifth is void, and what is counted."""
  rng = np.random.default_rng(0)
  labels = rng.choice(np.array([*present, IGNORE_LABEL], np.uint8), size=(batch, 4, 6))
  logits = rng.normal(0, 2, size=(*labels.shape, num_classes))
  logits += 2 * (labels[..., None] == np.arange(num_classes))  # right more often than not
  return logits.astype(dtype), labels, labels != IGNORE_LABEL


@pytest.mark.parametrize('name', REGION_LOSSES)
def test_loss_and_gradient_in_float64(name):
  logits, labels, counted = sample()
  with jax.enable_x64(True):
    loss, gradient = map(np.asarray, value_and_gradient(name, logits, labels, counted))

  def reference(logits):
    return REFERENCES[name](logits[counted], labels[counted])

  np.testing.assert_allclose(loss, reference(logits), rtol=1e-12)
  for place in np.random.default_rng(1).choice(list(np.ndindex(logits.shape)), 40, replace=False):
    step = np.zeros_like(logits)
    step[tuple(place)] = 1e-6
    numeric = (reference(logits + step) - reference(logits - step)) / 2e-6
    np.testing.assert_allclose(gradient[tuple(place)], numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('name', REGION_LOSSES)
def test_void_pixels_count_nowhere(name):
  logits, labels, counted = sample(np.float32)
  loss, gradient = value_and_gradient(name, logits, labels, counted)
  other = np.where(counted[..., None], logits, np.array([1e30, -5, np.inf, np.nan, 0], np.float32))
  loss_of_other, gradient_of_other = value_and_gradient(name, other, np.where(counted, labels, 1), counted)
  assert loss == loss_of_other
  np.testing.assert_array_equal(gradient, gradient_of_other)
  assert not np.asarray(gradient)[~counted].any()
  assert np.asarray(gradient)[counted].any(-1).all()


@pytest.mark.parametrize('name', REGION_LOSSES)
def test_a_batch_without_counted_pixels_has_loss_and_gradient_zero(name):
  logits, labels, counted = sample(np.float32)
  loss, gradient = value_and_gradient(name, logits, labels, np.zeros_like(counted))
  assert loss == 0
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('name', REGION_LOSSES)
def test_perfect_and_wholly_wrong_predictions(name):
  labels = np.array([[[0, 1, 2, 0, 1, 1]]], np.uint8)
  counted = np.ones(labels.shape, bool)
  for predicted, expected in ((labels, 0.0), ((labels + 1) % 3, 1.0)):
    logits = 200 * np.eye(4, dtype=np.float32)[predicted]  # a probability of 0 elsewhere
    loss, gradient = value_and_gradient(name, logits, labels, counted)
    np.testing.assert_allclose(loss, expected, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_hard_predictions_of_four_pixels_by_hand():
  """Labels 0 0 1 1, void behind; predicted 0 1 1 1."""
  labels = np.array([[[0, 0, 1, 1, IGNORE_LABEL]]], np.uint8)
  logits = 200 * np.eye(3, dtype=np.float32)[[[[0, 1, 1, 1, 2]]]]
  for name, expected in (
    ('lovasz', (1 / 2 + 1 / 3) / 2),  # IoU: class 0 1/2, class 1 2/3; class 2 is absent
    ('dice', (1 / 3 + 1 / 5) / 2),  # Dice: class 0 2 x 1 / (1 + 2), class 1 2 x 2 / (3 + 2)
  ):
    loss, _ = value_and_gradient(name, logits, labels, labels != IGNORE_LABEL)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize('name', REGION_LOSSES)
def test_eight_devices_compute_what_one_computes(name):
  arrays = sample(np.float32, batch=8)
  expected, expected_gradient = value_and_gradient(name, *arrays)
  sharding = NamedSharding(Mesh(np.array(jax.devices()), ('data',)), P('data'))
  loss, gradient = value_and_gradient(name, *(jax.device_put(x, sharding) for x in arrays))
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-9)


def test_lovasz_slopes_are_exact_for_many_pixels():
  """Differences of Jaccard losses in float32 would be off by tenths here."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 2, (1, 512, 1024), np.uint8)
  logits = rng.normal(0, 1, (*labels.shape, 2))
  _, gradient = value_and_gradient('lovasz', logits.astype(np.float32), labels, np.ones(labels.shape, bool))
  probabilities = softmax(logits.astype(np.float32).astype(np.float64))[0].reshape(-1, 2)
  expected = np.zeros_like(probabilities)
  for index in range(2):
    truth = labels.ravel() == index
    errors = np.where(truth, 1 - probabilities[:, index], probabilities[:, index])
    order = np.argsort(-errors)
    seen = np.cumsum(truth[order])
    jaccard = 1 - (seen[-1] - seen) / (seen[-1] + np.cumsum(~truth[order]))
    slope = np.empty_like(errors)
    slope[order] = np.diff(jaccard, prepend=0)
    change = np.where(truth, -slope, slope) * probabilities[:, 0] * probabilities[:, 1]
    expected += np.stack([change, -change], -1) * (1 if index == 0 else -1) / 2
  error = np.abs(np.asarray(gradient).reshape(-1, 2) - expected)
  assert np.quantile(error / np.abs(expected), 0.999) < 1e-3
