"""The devices: their number and kind, cores of a CPU, peak FLOPs and memory in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dense_aspp_jax.errors import InputError

# Dense matrix products a second x 2, by `device_kind` and compute type, for 'float32' as tensor-float-32,
# which XLA's convolutions use there. NVIDIA's data sheets of H100, H200, A100 and L4 (where they give
# figures with sparsity: half); for TPUs the pages of cloud.google.com/tpu/docs.
_H100_SXM = {'bfloat16': 989.4e12, 'float32': 494.7e12}
_A100 = {'bfloat16': 312e12, 'float32': 156e12}
PEAK_FLOPS: dict[str, dict[str, float]] = {
  'NVIDIA H100 80GB HBM3': _H100_SXM,
  'NVIDIA H100 PCIe': {'bfloat16': 756e12, 'float32': 378e12},
  'NVIDIA H200': _H100_SXM,
  'NVIDIA A100-SXM4-40GB': _A100,
  'NVIDIA A100-SXM4-80GB': _A100,
  'NVIDIA A100-PCIE-40GB': _A100,
  'NVIDIA A100 80GB PCIe': _A100,
  'NVIDIA L4': {'bfloat16': 121e12, 'float32': 60e12},
  'TPU v4': {'bfloat16': 275e12},
  'TPU v5 lite': {'bfloat16': 197e12},
  'TPU v5': {'bfloat16': 459e12},
  'TPU v6 lite': {'bfloat16': 918e12},
}


_PRODUCT_SIDE = 2048
PRODUCT_FLOPS = 2 * _PRODUCT_SIDE**3  # of `matrix_product`


def device_mesh() -> Mesh:
  """All devices along one axis, 'data'."""
  return Mesh(np.array(jax.devices()), ('data',))


def device_description() -> dict[str, Any]:
  """Kind and number of the devices."""
  return {'device': jax.devices()[0].device_kind, 'num_devices': jax.device_count()}


def peak_flops(compute_dtype: str, num_devices: int) -> float | None:
  """Floating-point operations a second that so many devices can do at most; None if unknown."""
  peak = PEAK_FLOPS.get(jax.devices()[0].device_kind, {}).get(compute_dtype)
  return peak and peak * num_devices


def matrix_product() -> Callable[[], jax.Array]:
  """A float32 matrix product of `PRODUCT_FLOPS`, whose rate is the highest that a CPU reaches."""
  a, b = (jax.random.normal(key, (_PRODUCT_SIDE,) * 2) for key in jax.random.split(jax.random.key(0)))
  product = jax.jit(jnp.matmul)
  return lambda: product(a, b)


def available_cores() -> tuple[int, ...]:
  """The cores that this process may run on."""
  if hasattr(os, 'sched_getaffinity'):
    return tuple(sorted(os.sched_getaffinity(0)))
  return tuple(range(os.cpu_count() or 1))


def limit_threads(number: int) -> None:
  """Lets this process run on so many cores, and JAX have as many threads; before JAX has started them.

  Raises:
    InputError: There are fewer, or the system cannot.
  """
  cores = available_cores()
  if not 1 <= number <= len(cores):
    raise InputError(f'--threads {number}: expected 1 to {len(cores)}, the cores of this machine')
  if number == len(cores):
    return
  if not hasattr(os, 'sched_setaffinity'):
    raise InputError(f'--threads {number}: only Linux can keep a process to some cores; leave it out')
  os.sched_setaffinity(0, cores[:number])


def peak_bytes_in_use() -> int | None:
  """Most memory that was in use on a device since this process started; None where it is not counted."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max((s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s), default=None)


def steps_in_flight() -> int:
  """For `timing.measure`: 2 as in training; none on a CPU, where two steps at once would share its cores."""
  return 0 if jax.default_backend() == 'cpu' else 2
