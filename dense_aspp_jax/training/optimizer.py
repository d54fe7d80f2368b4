"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import optax

from dense_aspp_jax import fields

OPTIMIZERS = ('adam', 'adamw', 'sgd')
SCHEDULES = ('constant', 'poly', 'cosine')


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How parameters are updated: `Optimizer(**config.optimizer)`.

  Attributes:
    name: 'adam': weight decay is L2, added to the gradient before the moments, as torch.optim.Adam
      (the slides' Adam with weight decay); 'adamw': decoupled (Loshchilov and Hutter 2019); 'sgd':
      momentum with L2, as torch.optim.SGD.
    learning_rate: Highest rate.
    weight_decay: See `name`.
    decay_norms_and_biases: Whether weight decay applies to all parameters, as torch's default; or else to the
      kernels of convolutions alone, as in He et al., "Bag of Tricks", CVPR 2019, section 3.1.
    clip_norm: Largest Euclidean norm of all gradients together, in front of weight decay; a larger one is
      scaled down to it (Pascanu et al. 2013). 0: none.
    momentum: Of 'sgd'.
    schedule: 'constant'; 'poly': learning_rate x (1 - t / T) ** poly_power, as DeepLab; 'cosine':
      learning_rate x (1 + cos(pi t / T)) / 2. t counts from the end of the warm-up, T is what remains.
    poly_power: Exponent of 'poly'.
    warmup_steps: Steps over which the rate grows linearly: step i has (i + 1) / (warmup_steps + 1) of it.
    extractor_learning_rate_factor: The extractor's learning rate is the rate times this factor, as in a
      parameter group of torch.optim. 0 freezes the extractor: its parameters are neither updated nor decayed,
      and its BN normalizes by the running statistics, which stay.
  """

  name: str = 'adam'
  learning_rate: float = 3e-4
  weight_decay: float = 0.0
  decay_norms_and_biases: bool = True
  clip_norm: float = 0.0
  momentum: float = 0.9
  schedule: str = 'constant'
  poly_power: float = 0.9
  warmup_steps: int = 0
  extractor_learning_rate_factor: float = 1.0

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    fields.check_choice('optimizer.name', self.name, OPTIMIZERS)
    fields.check_number('optimizer.learning_rate', self.learning_rate, above=0)
    fields.check_number('optimizer.weight_decay', self.weight_decay, at_least=0)
    fields.check_bool('optimizer.decay_norms_and_biases', self.decay_norms_and_biases)
    fields.check_number('optimizer.clip_norm', self.clip_norm, at_least=0)
    fields.check_number('optimizer.momentum', self.momentum, at_least=0, below=1)
    fields.check_choice('optimizer.schedule', self.schedule, SCHEDULES)
    fields.check_number('optimizer.poly_power', self.poly_power, above=0)
    fields.check_integer('optimizer.warmup_steps', self.warmup_steps, 0)
    name = 'optimizer.extractor_learning_rate_factor'
    fields.check_number(name, self.extractor_learning_rate_factor, at_least=0)

  @property
  def freezes_extractor(self) -> bool:
    """Whether the extractor stays as it is."""
    return self.extractor_learning_rate_factor == 0

  def rate(self, num_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step, in a run of `num_steps`.

    Raises:
      InputError: The warm-up is as long as the run.
    """
    expected = f'0 to {num_steps - 1}, less than the steps of the run'
    fields.check('optimizer.warmup_steps', self.warmup_steps, self.warmup_steps < max(num_steps, 1), expected)
    decay_steps = max(num_steps - self.warmup_steps, 1)
    after_warmup = {
      'constant': optax.constant_schedule(self.learning_rate),
      'poly': optax.polynomial_schedule(self.learning_rate, 0.0, self.poly_power, decay_steps),
      'cosine': optax.cosine_decay_schedule(self.learning_rate, decay_steps),
    }[self.schedule]
    if not self.warmup_steps:
      return after_warmup
    first_rate = self.learning_rate / (self.warmup_steps + 1)
    warmup = optax.linear_schedule(first_rate, self.learning_rate, self.warmup_steps)
    return optax.join_schedules([warmup, after_warmup], [self.warmup_steps])

  def create(self, rate: optax.Schedule) -> optax.GradientTransformation:
    """The update rule at a learning rate from `rate`, of the parameters that are trained."""
    decay = optax.add_decayed_weights(self.weight_decay, None if self.decay_norms_and_biases else _kernels)
    direction = optax.trace(decay=self.momentum) if self.name == 'sgd' else optax.scale_by_adam()
    rule = (direction, decay) if self.name == 'adamw' else (decay, direction)
    clip = (optax.clip_by_global_norm(self.clip_norm),) if self.clip_norm else ()
    factor = self.extractor_learning_rate_factor
    scaled = () if factor in (0, 1) else (optax.stateless(functools.partial(_scale_extractor, factor)),)
    return optax.chain(*clip, *rule, optax.scale_by_learning_rate(rate), *scaled)


def _scale_extractor(factor: float, updates: Any, _: Any) -> Any:
  return {
    part: jax.tree.map(lambda x: factor * x, tree) if part == 'extractor' else tree
    for part, tree in updates.items()
  }


def _kernels(params: Any) -> Any:
  """Which parameters are kernels of convolutions or linear layers."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)
