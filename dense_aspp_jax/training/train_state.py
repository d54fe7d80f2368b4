"""The state of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.models.segmentation import SegmentationModel


@flax.struct.dataclass
class TrainState:
  """Everything that changes from step to step.

  Attributes:
    step: Updates made so far, int32 scalar.
    params: Parameters, float32.
    batch_stats: Running BN statistics, float32.
    opt_state: The optimizer's state, of the parameters that are trained.
    ema: Exponential moving averages {'params': ..., 'batch_stats': ...}; None where there are none.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any = None

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def trained(model: SegmentationModel, params: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters that training changes: all but those of a frozen extractor."""
  frozen = getattr(model, 'frozen_extractor', False)
  return {part: tree for part, tree in params.items() if not (frozen and part == 'extractor')}


def create_state(
  model: SegmentationModel,
  optimizer: optax.GradientTransformation,
  seed: int,
  start: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
  ema: bool = False,
) -> TrainState:
  """Draws the initial parameters from `seed`; they do not depend on the image size.

  Args:
    model: The network.
    optimizer: The update rule.
    seed: Of the parameters.
    start: Puts the weights that a run starts from into the initial variables.
    ema: Whether the state has moving averages; they start as the initial variables.

  Raises:
    InputError: These weights do not fit the network.
  """
  variables = initial_variables(model, seed)
  if start is not None:
    variables = start(variables)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables['params'],
    batch_stats=variables.get('batch_stats', {}),
    opt_state=optimizer.init(trained(model, variables['params'])),
  )
  # Copies: a step takes the state's memory, each array's once.
  return state.replace(ema=jax.tree.map(jnp.copy, state.variables)) if ema else state
