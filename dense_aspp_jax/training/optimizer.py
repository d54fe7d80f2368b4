"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import optax

from dense_aspp_jax.errors import InputError

OPTIMIZERS = ('adam', 'adamw', 'sgd')
SCHEDULES = ('constant', 'poly', 'cosine')


def create_schedule(
  *, schedule: str, learning_rate: float, num_steps: int, warmup_steps: int = 0, poly_power: float = 0.9
) -> optax.Schedule:
  """Learning rate as a function of the step.

  Args:
    schedule: 'constant'; 'poly': learning_rate x (1 - t / T) ** poly_power, as DeepLab; 'cosine':
      learning_rate x (1 + cos(pi t / T)) / 2. t counts from the end of the warm-up, T is what remains.
    learning_rate: Highest rate.
    num_steps: Steps of the whole run.
    warmup_steps: Steps over which the rate grows linearly: step i has (i + 1) / (warmup_steps + 1) of it.
    poly_power: Exponent of 'poly'.

  Raises:
    InputError: Unknown name, or a warm-up as long as the run.
  """
  if schedule not in SCHEDULES:
    raise InputError(f'optimizer.schedule = {schedule!r}: expected one of {", ".join(SCHEDULES)}')
  if not 0 <= warmup_steps < max(num_steps, 1):
    raise InputError(
      f'optimizer.warmup_steps = {warmup_steps}: expected 0 to {num_steps - 1}, less than the run'
    )
  decay_steps = max(num_steps - warmup_steps, 1)
  after_warmup = {
    'constant': optax.constant_schedule(learning_rate),
    'poly': optax.polynomial_schedule(learning_rate, 0.0, poly_power, decay_steps),
    'cosine': optax.cosine_decay_schedule(learning_rate, decay_steps),
  }[schedule]
  if not warmup_steps:
    return after_warmup
  warmup = optax.linear_schedule(learning_rate / (warmup_steps + 1), learning_rate, warmup_steps)
  return optax.join_schedules([warmup, after_warmup], [warmup_steps])


def create_optimizer(
  learning_rate: optax.Schedule, *, name: str, weight_decay: float = 0.0, momentum: float = 0.9
) -> optax.GradientTransformation:
  """The update rule.

  Args:
    learning_rate: From `create_schedule`.
    name: 'adam': weight decay is L2, added to the gradient before the moments, as torch.optim.Adam
      (the slides' Adam with weight decay); 'adamw': decoupled (Loshchilov and Hutter 2019); 'sgd':
      momentum with L2, as torch.optim.SGD.
    weight_decay: Applies to all parameters, BN and biases included, as torch's default.
    momentum: Of 'sgd'.

  Raises:
    InputError: Unknown name or negative value.
  """
  if name not in OPTIMIZERS:
    raise InputError(f'optimizer.name = {name!r}: expected one of {", ".join(OPTIMIZERS)}')
  if weight_decay < 0:
    raise InputError(f'optimizer.weight_decay = {weight_decay}: expected at least 0')
  if name == 'adamw':
    return optax.adamw(learning_rate, weight_decay=weight_decay)
  direction = optax.scale_by_adam() if name == 'adam' else optax.trace(decay=momentum)
  return optax.chain(
    optax.add_decayed_weights(weight_decay), direction, optax.scale_by_learning_rate(learning_rate)
  )
