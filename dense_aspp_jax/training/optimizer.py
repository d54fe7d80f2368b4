"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from typing import Any

import jax
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
  learning_rate: optax.Schedule,
  *,
  name: str,
  weight_decay: float = 0.0,
  momentum: float = 0.9,
  decay_norms_and_biases: bool = True,
  clip_norm: float = 0.0,
) -> optax.GradientTransformation:
  """The update rule.

  Args:
    learning_rate: From `create_schedule`.
    name: 'adam': weight decay is L2, added to the gradient before the moments, as torch.optim.Adam
      (the slides' Adam with weight decay); 'adamw': decoupled (Loshchilov and Hutter 2019); 'sgd':
      momentum with L2, as torch.optim.SGD.
    weight_decay: See `name`.
    momentum: Of 'sgd'.
    decay_norms_and_biases: Whether weight decay applies to all parameters, as torch's default; or else to the
      kernels of convolutions alone, as in He et al., "Bag of Tricks", CVPR 2019, section 3.1.
    clip_norm: Largest Euclidean norm of all gradients together, in front of weight decay; a larger one is
      scaled down to it (Pascanu et al. 2013). 0: none.

  Raises:
    InputError: Unknown name or negative value.
  """
  if name not in OPTIMIZERS:
    raise InputError(f'optimizer.name = {name!r}: expected one of {", ".join(OPTIMIZERS)}')
  if weight_decay < 0:
    raise InputError(f'optimizer.weight_decay = {weight_decay}: expected at least 0')
  decay = optax.add_decayed_weights(weight_decay, None if decay_norms_and_biases else _kernels)
  direction = optax.trace(decay=momentum) if name == 'sgd' else optax.scale_by_adam()
  rule = (direction, decay) if name == 'adamw' else (decay, direction)
  clip = (optax.clip_by_global_norm(clip_norm),) if clip_norm else ()
  return optax.chain(*clip, *rule, optax.scale_by_learning_rate(learning_rate))


def _kernels(params: Any) -> Any:
  """Which parameters are kernels of convolutions or linear layers."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
