"""What an inference network computes from its variables alone: once, and not for every batch.

These constants are a collection of variables beside the parameters. A network that is applied without the
collection computes them as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = 'constants'
_NAME = 'value'
_IMAGE = (1, 64, 64, 3)  # constants do not depend on it


def constant(module: nn.Module, compute: Callable[[], Any]) -> Any:
  """What `compute` returns for the variables of `module`; one for each module."""
  if module.has_variable(COLLECTION, _NAME):
    return module.get_variable(COLLECTION, _NAME)
  value = compute()
  if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
    module.put_variable(COLLECTION, _NAME, value)
  return value


def with_constants(model: nn.Module, variables: Mapping[str, Any]) -> dict[str, Any]:
  """The variables and the constants of inference; under jit, the network itself is not computed.

  Args:
    model: The network.
    variables: Its parameters and running statistics.
  """
  _, constants = model.apply(variables, jnp.zeros(_IMAGE), mutable=[COLLECTION])
  return {**variables, **jax.lax.stop_gradient(constants)}
