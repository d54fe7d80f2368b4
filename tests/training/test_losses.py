import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from reference_losses import cross_entropy

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.models.upsampling import upsample_bilinear
from dense_aspp_jax.training.losses import upsampled_cross_entropy, upsampled_pixel_losses
from dense_aspp_jax.training.objective import Objective


def pixel_weights(labels, num_classes, *fields):
  return Objective(*fields).weights(labels, num_classes)


def loss_of(logits, labels, weights):
  """At the labels' size."""
  return upsampled_cross_entropy(logits, labels, weights, 1)[0]


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
  loss = loss_of(logits, labels, weights) / weights.sum()
  expected = reference(
    np.asarray(logits), np.asarray(labels), class_weights or [1] * 4, {IGNORE_LABEL, ignore_label}
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_gradient_is_softmax_minus_one_hot_and_zero_where_ignored(sample):
  logits, labels = sample
  weights = pixel_weights(labels, 4)
  gradient = np.asarray(jax.grad(loss_of)(logits, labels, weights))
  one_hot = np.eye(4)[np.minimum(labels, 3)]
  expected = (jax.nn.softmax(logits) - one_hot) * np.asarray(weights)[..., None]
  np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_all_ignored_gives_zero_loss_and_gradient_not_nan():
  logits, labels = jnp.full((1, 2, 2, 3), 100.0), jnp.full((1, 2, 2), IGNORE_LABEL, jnp.uint8)
  weights = pixel_weights(labels, 3)
  loss, gradient = jax.value_and_grad(loss_of)(logits, labels, weights)
  assert loss == 0
  assert not np.asarray(gradient).any()


def test_large_logits_do_not_overflow():
  logits = jnp.array([[[[1e4, -1e4, 0.0]]]])
  labels = jnp.array([[[1]]], jnp.uint8)
  np.testing.assert_allclose(loss_of(logits, labels, pixel_weights(labels, 3)), 2e4)


def plain(logits, labels, weights, factor):
  """What `upsampled_cross_entropy` computes, from the upsampled logits of all classes."""
  upsampled = upsample_bilinear(logits, labels.shape[1:], (float(factor),) * 2)
  correct = jnp.sum((jnp.argmax(upsampled, axis=-1) == labels) & (weights > 0))
  return cross_entropy(upsampled, labels, weights), correct


@functools.partial(jax.jit, static_argnums=(0, 4))
def loss_and_gradient(function, logits, labels, weights, factor):
  """Of half the loss: training divides it by the sum of the weights."""

  def half(logits):
    loss, correct = function(logits, labels, weights, factor)
    return loss / 2, correct

  return jax.value_and_grad(half, has_aux=True)(logits)


def scene(batch, size, label_size, num_classes=5, dtype=np.float64):
  rng = np.random.default_rng(sum(size))
  logits = rng.normal(0, 4, size=(batch, *size, num_classes)).astype(dtype)
  labels = rng.choice(np.array([*range(num_classes), IGNORE_LABEL], np.uint8), size=(batch, *label_size))
  return logits, labels


@pytest.mark.parametrize(
  ('batch', 'size', 'label_size', 'factor'),
  [
    (2, (3, 4), (21, 27), 8),
    (1, (2, 3), (31, 46), 16),
    (1, (1, 5), (8, 39), 8),
    (2, (5, 1), (33, 7), 8),
    (1, (3, 4), (20, 11), 8),  # whole feature-map pixels beyond the labels
  ],
)
@pytest.mark.parametrize('class_weights', [(), (1.0, 0.5, 2.0, 0.0, 1.5)])
def test_upsampled_cross_entropy_and_its_gradient_are_exact(batch, size, label_size, factor, class_weights):
  with jax.enable_x64(True):
    logits, labels = scene(batch, size, label_size)
    weights = pixel_weights(jnp.asarray(labels), 5, class_weights).astype(jnp.float64)
    (loss, correct), gradient = loss_and_gradient(upsampled_cross_entropy, logits, labels, weights, factor)
    (expected, count), expected_gradient = loss_and_gradient(plain, logits, labels, weights, factor)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-10)
    assert correct == count
    assert correct.dtype == jnp.int32


def test_upsampled_cross_entropy_of_many_classes_is_exact_and_compiles_in_little_memory():
  """Those of COCO-Stuff: in one kernel, a CPU's compiler took all the memory of the machine."""
  with jax.enable_x64(True):
    logits, labels = scene(1, (2, 2), (13, 16), num_classes=171)
    weights = (labels != IGNORE_LABEL).astype(np.float64)
    (loss, correct), gradient = loss_and_gradient(upsampled_cross_entropy, logits, labels, weights, 8)
    (expected, count), expected_gradient = loss_and_gradient(plain, logits, labels, weights, 8)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-10)
    assert correct == count


@pytest.mark.parametrize(
  ('batch', 'size', 'label_size', 'factor'), [(2, (3, 4), (21, 27), 8), (1, (3, 4), (20, 11), 8)]
)
def test_upsampled_pixel_losses_against_numpy_and_without_gradient(batch, size, label_size, factor):
  logits, labels = scene(batch, size, label_size, dtype=np.float32)

  @jax.jit
  def losses_and_gradient(logits, labels):
    losses, pullback = jax.vjp(lambda x: upsampled_pixel_losses(x, labels, factor), logits)
    return (
      losses,
      *pullback(jnp.ones_like(losses)),
      upsample_bilinear(logits, label_size, (float(factor),) * 2),
    )

  losses, gradient, upsampled = map(np.asarray, losses_and_gradient(logits, labels))
  normalizer = np.log(np.exp(upsampled.astype(np.float64)).sum(-1))
  picked = np.take_along_axis(upsampled, np.minimum(labels, 4)[..., None].astype(int), -1)[..., 0]
  assert losses.shape == labels.shape
  assert losses.dtype == np.float32
  assert np.isfinite(losses).all()
  counted = labels != IGNORE_LABEL
  np.testing.assert_allclose(losses[counted], (normalizer - picked)[counted], rtol=1e-5, atol=1e-5)
  assert not gradient.any()


def test_upsampled_cross_entropy_of_equal_classes_counts_the_first_as_the_prediction():
  logits = jnp.zeros((1, 2, 2, 3))
  labels = jnp.concatenate([jnp.zeros((1, 8, 16), jnp.uint8), jnp.ones((1, 8, 16), jnp.uint8)], axis=1)
  loss, correct = upsampled_cross_entropy(logits, labels, jnp.ones((1, 16, 16)), 8)
  assert correct == 8 * 16
  np.testing.assert_allclose(loss, 16 * 16 * np.log(3), rtol=1e-6)


def test_upsampled_cross_entropy_all_ignored_and_large_logits_give_no_nan():
  logits = jnp.array([[[[1e4, -1e4, 0.0]]]])
  for label, loss in ((IGNORE_LABEL, 0.0), (1, 32 * 2e4)):
    labels = jnp.full((1, 8, 8), label, jnp.uint8)
    (value, correct), gradient = loss_and_gradient(
      upsampled_cross_entropy, logits, labels, pixel_weights(labels, 3), 8
    )
    np.testing.assert_allclose(value, loss)
    assert correct == 0
    np.testing.assert_allclose(gradient[0, 0, 0], [0.0, 0.0, 0.0] if loss == 0 else [32.0, -32.0, 0.0])


def test_upsampled_cross_entropy_with_the_batch_sharded_is_that_of_the_whole_batch():
  logits, labels = scene(8, (2, 3), (15, 24), dtype=np.float32)
  weights = np.asarray(pixel_weights(jnp.asarray(labels), 5))
  sharding = NamedSharding(Mesh(np.array(jax.devices()), ('data',)), P('data'))
  arrays = [jax.device_put(x, sharding) for x in (logits, labels, weights)]
  compiled = loss_and_gradient.lower(upsampled_cross_entropy, *arrays, 8).compile()
  assert 'all-gather' not in compiled.as_text()
  (loss, correct), gradient = compiled(*arrays)
  (expected, count), expected_gradient = loss_and_gradient(plain, logits, labels, weights, 8)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
  assert correct == count
  assert gradient.sharding.is_equivalent_to(sharding, 4)


def test_upsampled_cross_entropy_holds_no_class_axis_at_full_size():
  """No such float32 array between the compiled program's operations, and well under the plain form's memory.

  Not much less: a CPU's compiler, unlike a GPU's, holds one full-size map for each class in the forward pass.
  """
  batch, height, width, classes = 2, 64, 96, 12
  arrays = [
    jax.ShapeDtypeStruct((batch, height // 8, width // 8, classes), jnp.float32),
    jax.ShapeDtypeStruct((batch, height, width), jnp.uint8),
    jax.ShapeDtypeStruct((batch, height, width), jnp.float32),
  ]
  full, counts, temporaries = batch * height * width * classes, [], []
  for function in (upsampled_cross_entropy, plain):
    compiled = loss_and_gradient.lower(function, *arrays, 8).compile()
    shapes = re.findall(r' = f32\[([\d,]+)\]', compiled.as_text().split('ENTRY')[1])
    counts.append(sum(np.prod([int(n) for n in shape.split(',')]) >= full for shape in shapes))
    temporaries.append(compiled.memory_analysis().temp_size_in_bytes)
  assert counts[0] == 0
  assert counts[1] > 0
  assert temporaries[0] < 0.6 * temporaries[1]
