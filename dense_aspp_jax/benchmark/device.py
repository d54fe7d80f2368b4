"""The devices: their number and kind, peak FLOPs and memory in use."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

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


def peak_bytes_in_use() -> int | None:
  """Most memory that was in use on a device since this process started; None where it is not counted."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max((s['peak_bytes_in_use'] for s in stats if 'peak_bytes_in_use' in s), default=None)


def steps_in_flight() -> int:
  """For `timing.measure`: 2 as in training; none on a CPU, where two steps at once would share its cores."""
  return 0 if jax.default_backend() == 'cpu' else 2
