"""Whether the operations with kernels compute what XLA's operations do, on the GPU that is here.

  python -m dense_aspp_jax.models.fused.kernel_check mosaic gpu

ends with code 0 if they do, and with 1 and a reason on stderr if not. `kernel_verdicts` runs it in a process
of its own: a kernel that goes wrong on a GPU may end the process or never return.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dense_aspp_jax.models.fused.kernel_calls import Call, Layer, calls

# Few channels, many positions: each program of a kernel works on several tiles.
CHECKED = {
  'block': Layer((8, 96, 192), 256, 224, 128, 32),
  'cascade with a mask': Layer((32, 23, 30), 320, 256, 256, 64, dilation=6, masked=True),
}
# Of the largest value. A bfloat16 has 8 bits; sums of many differ by their order.
TOLERANCE = 2e-2
# Where ReLU's input is 0 but for its rounding, the gradient may be passed on or not.
_EXCEPT = 1e-6  # of an array's values, that many may differ by more
_DRAWN = 1_000_003  # values; a prime, so that rows of maps differ
_COMPILERS = 8


def differences(form: str, layers: Mapping[str, Layer], **options: Any) -> dict[str, float]:
  """Compares each operation of a form of `gpu_form` with XLA's, on drawn arrays, on the default device.

  Args:
    form: The form.
    layers: By name.
    options: For the compiler.

  Returns:
    By layer and operation the largest difference over the largest value; of large arrays, one value in a
    million is left out.

  Raises:
    Exception: As the compiler or the device raises it.
  """
  found = {}
  for name, layer in layers.items():
    pairs = [
      (call, reference)
      for call, reference in itertools.product(calls(layer, form), calls(layer, 'xla'))
      if call.operation == reference.operation
    ]
    compiled = compile_calls([call for pair in pairs for call in pair], **options)
    for (call, _), ours, theirs in zip(pairs, compiled[::2], compiled[1::2], strict=True):
      arguments = drawn(call, layer)
      results = [jax.tree.leaves(run(call, function, arguments)) for function in (ours, theirs)]
      found[f'{name} {call.operation}'] = max(
        _difference(a, b, arguments, layer) for a, b in zip(*results, strict=True)
      )
  return found


def compile_calls(functions: list[Call], **options: Any) -> list[jax.stages.Compiled]:
  """Compiles calls side by side, with options for the compiler."""
  lowered = [call.function.lower(*call.arguments) for call in functions]
  with concurrent.futures.ThreadPoolExecutor(min(_COMPILERS, os.cpu_count() or 1)) as pool:
    return list(pool.map(lambda x: x.compile(options or None), lowered))


def drawn(call: Call, layer: Layer) -> tuple[Any, ...]:
  """Random arrays for a call; what a mask leaves out of maps is 0."""
  numbers = itertools.count()
  maps = layer.maps if layer.masked else None
  return jax.tree.map(lambda x: _array(x.shape, x.dtype, next(numbers), maps), call.arguments)


def run(call: Call, compiled: jax.stages.Compiled, arguments: tuple[Any, ...]) -> Any:
  """Runs a call once; the arguments stay as they are."""
  arguments = list(arguments)
  if call.donated is not None:
    arguments[call.donated] = jnp.copy(arguments[call.donated])
  return jax.block_until_ready(compiled(*arguments))


@functools.lru_cache(maxsize=32)
def _array(shape: tuple[int, ...], dtype: np.dtype, number: int, masked: tuple[int, ...] | None) -> jax.Array:
  """Drawn on the host, where it needs no compilation, and repeated to the size that is needed."""
  inside = None if masked is None else np.random.default_rng(0).random(masked) < 0.8
  if np.issubdtype(dtype, np.bool_):
    return jnp.asarray(inside)
  values = np.random.default_rng(number).normal(size=_DRAWN).astype(dtype)
  values = np.resize(values, shape)
  if inside is not None and shape[:3] == masked:
    values = np.where(inside[..., None], values, np.zeros((), dtype))
  return jnp.asarray(values)


def _difference(a: jax.Array, b: jax.Array, arguments: tuple[Any, ...], layer: Layer) -> float:
  a, b = (np.asarray(x, np.float32) for x in (a, b))
  if layer.masked and a.shape[:3] == layer.maps:  # unspecified where the mask does not hold
    mask = next((x for x in jax.tree.leaves(arguments) if x.dtype == bool), None)
    inside = 1 if mask is None else np.asarray(mask)[..., None]
    a, b = a * inside, b * inside
  difference = np.abs(a - b)
  if not np.isfinite(difference).all():
    return float('1e9')
  counted = a.size - 1 - int(_EXCEPT * a.size)
  return float(np.partition(difference, counted, axis=None)[counted] / max(np.abs(b).max(), 1e-9))


def failure(form: str, backend: str, layers: Mapping[str, Layer] = CHECKED) -> str | None:
  """Why a form cannot be used on the default device; None: it can.

  Args:
    form: Of `gpu_form`.
    backend: The one that the check is for, as `jax.default_backend()` names it.
    layers: What is compared.
  """
  if jax.default_backend() != backend:  # such as where another process has the GPU for itself
    return f'found the backend {jax.default_backend()!r} in a second process, expected {backend!r}'
  wrong = {name: d for name, d in differences(form, layers).items() if not d <= TOLERANCE}
  worst = [f'{name} differs by {d:.1e} of its largest value' for name, d in wrong.items()]
  return '; '.join(worst) or None


if __name__ == '__main__':
  sys.exit(failure(*sys.argv[1:3]))
