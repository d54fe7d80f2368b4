"""The operations of a traced function, those of all functions it calls included but for kernels.

And a GPU to lower for where there is none.
"""

from collections.abc import Iterator

import jax


def equations(jaxpr) -> Iterator:
  """Every equation, in the order of the trace; a jaxpr may be closed."""
  for equation in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
    yield equation
    if equation.primitive.name == 'pallas_call':
      continue
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
      if _is_jaxpr(value):
        yield from equations(value)


def _is_jaxpr(value) -> bool:
  return hasattr(getattr(value, 'jaxpr', value), 'eqns')


def products(jaxpr) -> list:
  """Convolutions and matrix products."""
  return [e for e in equations(jaxpr) if e.primitive.name in ('conv_general_dilated', 'dot_general')]


def described_gpu():
  """A context to lower functions in for a GPU that is not there; jax 0.12 asks for its description."""
  device = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', 132, 'cuda')
  axis_types = (jax.sharding.AxisType.Auto,)
  mesh = jax.sharding.AbstractMesh((1,), ('data',), axis_types=axis_types, abstract_device=device)
  return jax.sharding.use_abstract_mesh(mesh)
