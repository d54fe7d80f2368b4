"""The variables that a training starts from, drawn on the host."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_IMAGE = (1, 64, 64, 3)  # the variables do not depend on it
# They are drawn once: LLVM's higher levels would take longer than they save, and change at most last bits.
_ON_CPU = {'xla_backend_optimization_level': 1}
_ON_HOST = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}


def initial_variables(model: nn.Module, seed: int) -> dict[str, Any]:
  """Draws a network's variables from `seed`, float32, on the default device.

  Beside a GPU or TPU the host's CPU draws them: every kernel has a shape of its own, and for a GPU their
  generators took 56 CPU-seconds to compile.
  """

  def draw(**options: Any) -> dict[str, Any]:
    return jax.jit(model.init, **options)(jax.random.key(seed), jnp.zeros(_IMAGE))

  if isinstance(jnp.zeros(()), jax.core.Tracer):  # in a trace, for the shapes
    return draw()
  if jax.default_backend() == 'cpu':
    return draw(compiler_options=_ON_CPU)
  try:
    (host, *_) = jax.local_devices(backend='cpu')
  except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
    return draw()
  with jax.default_device(host):
    variables = jax.device_get(draw(compiler_options=_ON_HOST))
  return jax.tree.map(jnp.asarray, variables)
