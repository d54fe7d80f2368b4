"""Every field of the objective in a whole train step, against NumPy."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from step_config import MEAN, STD, step_config

from dense_aspp_jax.labels import IGNORE_LABEL
from dense_aspp_jax.models.segmentation import Logits
from dense_aspp_jax.models.upsampling import bilinear_matrix
from dense_aspp_jax.training.objective import Objective
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import create_train_step

CLASS_WEIGHTS = (1.0, 2.0, 0.5)


class TwoHeads(nn.Module):
  """Logits of each second pixel's colour, and, as an auxiliary head's, of each fourth."""

  num_classes: int = 3
  auxiliary_head: bool = False
  stride = 2
  auxiliary_stride = 4

  def setup(self):
    self.head = nn.Conv(self.num_classes, (1, 1))
    self.second = nn.Conv(self.num_classes, (1, 1))

  def __call__(self, image, train=False):
    auxiliary = self.second(image[:, ::4, ::4])
    return Logits(self.head(image[:, ::2, ::2]), auxiliary if self.auxiliary_head else None)


def make_batch(void=0.3):
  rng = np.random.default_rng(0)
  label = rng.integers(0, 3, (4, 8, 12)).astype(np.uint8)
  label[rng.random(label.shape) < void] = IGNORE_LABEL
  return {'image': rng.integers(0, 256, (4, 8, 12, 3)).astype(np.uint8), 'label': label}


def step_with(objective, model=None, **arguments):
  model = model or TwoHeads()
  rate = optax.constant_schedule(0.5)
  step = create_train_step(step_config(model, loss=objective, **arguments), optax.sgd(rate), rate)
  return jax.jit(step), create_state(model, optax.sgd(rate), 0)


def upsampled(state, batch, head, factor):
  """Logits of one head at full size, float64."""
  x = ((batch['image'] / 255 - MEAN) / STD)[:, ::factor, ::factor]
  parameters = state.params[head]
  x = x @ np.asarray(parameters['kernel'], np.float64)[0, 0] + np.asarray(parameters['bias'])
  rows, columns = (bilinear_matrix(n, n * factor, float(factor)) for n in x.shape[1:3])
  return np.einsum('oh,pw,bhwc->bopc', rows, columns, x)


def probabilities(logits):
  exp = np.exp(logits - logits.max(-1, keepdims=True))
  return exp / exp.sum(-1, keepdims=True)


def pixel_losses(logits, label):
  p = probabilities(logits)
  return -np.log(np.take_along_axis(p, np.where(label < 3, label, 0)[..., None].astype(int), -1)[..., 0])


def weights_of(label):
  return np.where(label < 3, np.asarray(CLASS_WEIGHTS)[np.where(label < 3, label, 0)], 0.0)


def mean_cross_entropy(logits, label, weights):
  return (pixel_losses(logits, label) * weights).sum() / weights.sum()


def hard(losses, counted, threshold, min_kept):
  """OHEM by sorting."""
  number = int(np.ceil(min_kept * counted.sum()))
  smallest = np.sort(losses[counted])[::-1][number - 1] if number else np.inf
  return counted & ((np.exp(-losses) < threshold) | (losses >= smallest))


def dice(logits, label):
  p, counted = probabilities(logits), label < 3
  losses = []
  for c in range(3):
    y = label == c
    losses.append(1 - 2 * (p[..., c] * y).sum() / (p[..., c][counted].sum() + y.sum()))
  return np.mean(losses)


def lovasz(logits, label):
  """Berman et al. 2018, algorithm 1, class by class."""
  p, counted = probabilities(logits), label < 3
  losses = []
  for c in range(3):
    y = (label == c)[counted]
    errors = np.where(y, 1 - p[..., c][counted], p[..., c][counted])
    order = np.argsort(-errors)
    y, errors = y[order], errors[order]
    jaccard = 1 - (y.sum() - np.cumsum(y)) / (y.sum() + np.cumsum(~y))
    losses.append(errors @ np.diff(jaccard, prepend=0))
  return np.mean(losses)


@pytest.mark.parametrize(('threshold', 'min_kept'), [(0.3, 0.0), (0.05, 0.5), (0.3, 0.25), (1.0, 0.0)])
def test_ohem_is_the_mean_over_the_hard_pixels(threshold, min_kept):
  batch = make_batch()
  objective = Objective(CLASS_WEIGHTS, ohem_threshold=threshold, ohem_min_kept=min_kept)
  step, state = step_with(objective)
  _, metrics = step(state, batch)
  logits, label = upsampled(state, batch, 'head', 2), batch['label']
  kept = hard(pixel_losses(logits, label), label < 3, threshold, min_kept)
  assert kept.sum() == (label < 3).sum() if threshold == 1 else 0 < kept.sum() < (label < 3).sum()
  expected = mean_cross_entropy(logits, label, weights_of(label) * kept)
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
  accuracy = np.mean((logits.argmax(-1) == label)[label < 3])  # over all counted pixels, the easy ones too
  np.testing.assert_allclose(metrics['pixel_accuracy'], accuracy, rtol=1e-6)


def test_the_update_of_ohem_is_that_of_a_batch_whose_easy_pixels_are_void():
  batch = make_batch()
  ohem, state = step_with(Objective(CLASS_WEIGHTS, ohem_threshold=0.3, ohem_min_kept=0.2))
  plain, _ = step_with(Objective(CLASS_WEIGHTS))
  losses = pixel_losses(upsampled(state, batch, 'head', 2), batch['label'])
  kept = hard(losses, batch['label'] < 3, 0.3, 0.2)
  rest = dict(batch, label=np.where(kept, batch['label'], np.uint8(IGNORE_LABEL)))
  found, expected = ohem(state, batch)[0].params, plain(state, rest)[0].params
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(('region', 'reference'), [('dice', dice), ('lovasz', lovasz)])
def test_a_region_loss_is_added_with_its_weight(region, reference):
  batch = make_batch()
  step, state = step_with(Objective(CLASS_WEIGHTS, region=region, region_weight=0.75))
  _, metrics = step(state, batch)
  logits, label = upsampled(state, batch, 'head', 2), batch['label']
  expected = mean_cross_entropy(logits, label, weights_of(label)) + 0.75 * reference(logits, label)
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)


GROUP_MAP = (('a', 'road|sidewalk'), ('b', 'building|sidewalk'))  # classes 0 and 1, and 1 and 2
GROUPS = ((0, 1), (1, 2))


def grouped_batch():
  """A batch in which some pixels are known as one of two classes alone."""
  batch = make_batch()
  kinds = np.random.default_rng(1).integers(0, 4, batch['label'].shape)
  known, truth = batch['label'] < 3, batch['label']
  label = np.where(known & (kinds == 0) & (truth < 2), 254, truth)
  label = np.where(known & (kinds == 1) & (truth > 0), 253, label)
  return dict(batch, label=label.astype(np.uint8))


@pytest.mark.parametrize('weights', [(), CLASS_WEIGHTS])
def test_a_pixel_of_a_group_adds_minus_log_of_the_probability_of_the_group(weights):
  batch = grouped_batch()
  step, state = step_with(Objective(weights, region='dice'), class_map=GROUP_MAP)
  _, metrics = step(state, batch)
  logits, label = upsampled(state, batch, 'head', 2), batch['label']
  p, table = probabilities(logits), np.asarray(weights or (1.0, 1.0, 1.0))
  known = label < 3
  total = (pixel_losses(logits, label) * np.where(known, table[np.where(known, label, 0)], 0)).sum()
  weight = table[label[known]].sum()
  for value, members in zip((254, 253), GROUPS, strict=True):
    inside, of_group = label == value, table[list(members)].mean()
    assert inside.sum() > 10
    total -= of_group * np.log(p[inside][:, members].sum(-1)).sum()
    weight += of_group * inside.sum()
  np.testing.assert_allclose(metrics['loss'], total / weight + dice(logits, label), rtol=1e-5)
  accuracy = np.mean((logits.argmax(-1) == label)[known])
  np.testing.assert_allclose(metrics['pixel_accuracy'], accuracy, rtol=1e-6)


def test_a_group_is_learned_without_a_preference_for_one_of_its_classes():
  batch = make_batch()
  batch['label'][:] = 254
  step, state = step_with(Objective(), class_map=GROUP_MAP)
  before = probabilities(upsampled(state, batch, 'head', 2))
  for _ in range(20):
    state, metrics = step(state, batch)
  after = probabilities(upsampled(state, batch, 'head', 2))
  assert after[..., 2].mean() < 0.1 < before[..., 2].mean()
  assert metrics['pixel_accuracy'] == 0  # nothing is known
  ratio = [(p[..., 0] / (p[..., 0] + p[..., 1])).mean() for p in (before, after)]
  assert abs(ratio[1] - ratio[0]) < 0.15


def test_the_auxiliary_heads_cross_entropy_is_added_with_its_weight():
  batch = make_batch()
  objective = Objective(CLASS_WEIGHTS, auxiliary_weight=0.4, ohem_threshold=0.3, ohem_min_kept=0.0)
  step, state = step_with(objective, TwoHeads(auxiliary_head=True))
  new_state, metrics = step(state, batch)
  logits, label = upsampled(state, batch, 'head', 2), batch['label']
  kept = hard(pixel_losses(logits, label), label < 3, 0.3, 0.0)
  expected = mean_cross_entropy(logits, label, weights_of(label) * kept)
  second = mean_cross_entropy(upsampled(state, batch, 'second', 4), label, weights_of(label))
  np.testing.assert_allclose(metrics['loss'], expected + 0.4 * second, rtol=1e-5)
  assert np.abs(new_state.params['second']['kernel'] - state.params['second']['kernel']).max() > 1e-3


@pytest.mark.parametrize(
  'fields',
  [
    dict(region='dice'),
    dict(region='lovasz', region_weight=0.5),
    dict(auxiliary_weight=0.4),
  ],
  ids=str,
)
def test_the_update_descends_along_the_loss(fields):
  """Compared with differences of the logged loss along the gradient itself, at a small learning rate."""
  batch = make_batch()
  step, state = step_with(Objective(CLASS_WEIGHTS, **fields), TwoHeads(auxiliary_head=True))
  new, metrics = step(state, batch)
  gradient = jax.tree.map(lambda old, new: (old - new) / 0.5, state.params, new.params)
  square = sum(float((g**2).sum()) for g in jax.tree.leaves(gradient))
  np.testing.assert_allclose(metrics['gradient_norm'], square**0.5, rtol=1e-4)
  moved = [jax.tree.map(lambda p, g, s=s: p + s * g, state.params, gradient) for s in (-2e-3, 2e-3)]
  low, high = (float(step(state.replace(params=params), batch)[1]['loss']) for params in moved)
  np.testing.assert_allclose((high - low) / 4e-3, square, rtol=0.02)


@pytest.mark.parametrize(
  'objective',
  [
    Objective(ohem_threshold=0.3, ohem_min_kept=0.2),
    Objective(region='lovasz'),
    Objective(region='dice'),
    Objective(),
  ],
  ids=str,
)
def test_a_batch_of_void_gives_loss_0_and_changes_nothing(objective):
  batch = make_batch(void=1.0)
  step, state = step_with(objective, TwoHeads(auxiliary_head=True))
  new, metrics = step(state, batch)
  assert metrics['loss'] == 0
  jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


def test_void_pixels_change_nothing():
  objective = Objective(ohem_threshold=0.3, ohem_min_kept=0.2, region='lovasz', ignore_label=2)
  step, state = step_with(objective)
  batch = make_batch()
  other = dict(batch, label=np.where(batch['label'] == 2, np.uint8(IGNORE_LABEL), batch['label']))
  assert (other['label'] != batch['label']).any()
  assert step(state, batch)[1]['loss'] == step(state, other)[1]['loss']


def test_parts_of_a_batch_share_the_loss():
  batch = make_batch()
  fields = dict(ohem_threshold=0.4, ohem_min_kept=0.1, region='dice', auxiliary_weight=0.3)
  step, state = step_with(
    Objective(CLASS_WEIGHTS, **fields), TwoHeads(auxiliary_head=True), gradient_accumulation=2
  )
  _, metrics = step(state, batch)
  label = batch['label']
  expected = 0.3 * mean_cross_entropy(upsampled(state, batch, 'second', 4), label, weights_of(label))
  for part in range(2):
    rows = {name: x[part::2] for name, x in batch.items()}
    logits, label = upsampled(state, rows, 'head', 2), rows['label']
    kept = hard(pixel_losses(logits, label), label < 3, 0.4, 0.1)
    expected += mean_cross_entropy(logits, label, weights_of(label) * kept) / 2 + dice(logits, label) / 2
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)


def test_all_off_is_plain_weighted_cross_entropy():
  batch = make_batch()
  step, state = step_with(Objective(CLASS_WEIGHTS))
  logits, label = upsampled(state, batch, 'head', 2), batch['label']
  expected = mean_cross_entropy(logits, label, weights_of(label))
  np.testing.assert_allclose(step(state, batch)[1]['loss'], expected, rtol=1e-5)
