"""Which form of the dense blocks' operations an NVIDIA GPU runs.

'mosaic': kernels of Pallas Mosaic GPU, for Hopper (H100, H200) with jax 0.11 or later.
'triton': kernels of Pallas' Triton backend, which jax has deprecated.
'xla': XLA's operations.

Each runs the next one where it does not support a shape or type. Kernels that nobody forces have to pass a
check on the GPU first, see `kernel_verdicts`.
"""

from __future__ import annotations

import re

import jax

from dense_aspp_jax import kernel_verdicts
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.fused import gpu_tiles, mosaic_tiles

# Value of `model.implementation` -> the form that it forces.
FORCED = {'fused_mosaic': 'mosaic', 'fused_triton': 'triton', 'fused_xla': 'xla'}

_HOPPER = re.compile(r'\bG?H(20|100|200|800)\b')


def forms() -> tuple[str, ...]:
  """The forms that this version of jax has, the best first."""
  available = {'mosaic': mosaic_tiles.available(), 'triton': gpu_tiles.triton is not None, 'xla': True}
  return tuple(form for form, here in available.items() if here)


def gpu_form(implementation: str) -> str:
  """The form that `implementation` forces, or else the best one for the GPU that is traced for.

  Without a GPU none is forced: a network that was trained with one can be used anywhere.

  Raises:
    InputError: The forced form is not in this version of jax.
    RunError: The kernels do not pass their check, in a run of several processes.
  """
  gpu = traced_gpu()
  form = FORCED.get(implementation)
  if form is None or gpu is None:
    hopper = _HOPPER.search(gpu or '')
    return next(form for form in forms() if (form != 'mosaic' or hopper) and _usable(form, gpu))
  if form not in forms():
    needed = {'mosaic': 'jax 0.11 or later', 'triton': "a jax with Pallas' Triton backend"}[form]
    raise InputError(
      f'config.model.implementation = {implementation!r} with jax {jax.__version__}; expected {needed}: '
      "install it, or set 'fused'"
    )
  return form


def _usable(form: str, gpu: str | None) -> bool:
  """Whether a form can be chosen; a GPU that is only described cannot run a check."""
  return form == 'xla' or gpu is None or _described() is not None or kernel_verdicts.passes(form)


def traced_gpu() -> str | None:
  """The name of the GPU that is traced for: one that is described by the mesh, or the default device."""
  described = _described()
  if described is not None:
    return described.device_kind if described.platform in ('cuda', 'gpu') else None
  return jax.devices()[0].device_kind if jax.default_backend() == 'gpu' else None


def _described() -> jax.sharding.AbstractDevice | None:
  return jax.sharding.get_abstract_mesh().abstract_device
