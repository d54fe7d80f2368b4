"""Lowers and compiles for a card that is not there.

Needs jax 0.11 or later with the packages of the extra [cuda], which install without a GPU. XLA takes the
first algorithm of each convolution and matrix product: comparing them needs a GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_aspp_jax.errors import RunError


class Card(NamedTuple):
  """What tells two cards with the same processor (Hopper) apart; sizes in bytes."""

  name: str
  memory_bandwidth: int  # published, per second
  l2_cache_size: int
  device_memory_size: int


CARDS = {
  'h100': Card('NVIDIA H100 80GB HBM3', 3352320000000, 52428800, 84942979072),
  'h200': Card('NVIDIA H200', 4814000000000, 62914560, 150754820096),
}
# XLA's GpuTargetConfigProto.
_TARGET = """
gpu_device_info {{
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  cuda_compute_capability {{ major: 9 }}
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  memory_bandwidth: {card.memory_bandwidth}  l2_cache_size: {card.l2_cache_size}
  device_memory_size: {card.device_memory_size}
}}
platform_name: "CUDA"  device_description_str: "{card.name}"
dnn_version_info {{ major: 9 minor: 10 }}
"""
OPTIMIZED = 'gpu_after_optimizations.txt'  # a dump's optimized HLO

_CONTAINERS = ('CommandBuffer', 'DynamicSliceFusion')  # of other thunks


class Thunk(NamedTuple):
  """A line of the sequence that an executable runs."""

  kind: str
  name: str
  shared_memory: int


def device_mesh(card: str = 'h100') -> Mesh:
  """A mesh of one card of `CARDS` that can only be compiled for."""
  config = _TARGET.format(card=CARDS[card])
  topology = topologies.get_topology_desc('1x1x1', platform='cuda', target_config=config, topology='1x1x1')
  return Mesh(np.array(topology.devices), ('data',))


@contextlib.contextmanager
def target(card: str) -> Iterator[Mesh]:
  """The mesh of a card; inside, Pallas knows which GPU it is lowered for."""
  mesh = device_mesh(card)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    yield mesh


def cuda_folder() -> pathlib.Path:
  """Where the extra [cuda] has CUDA's compiler.

  Raises:
    RunError: It is not installed.
  """
  try:
    spec = importlib.util.find_spec('nvidia.cu13')
  except ModuleNotFoundError:
    spec = None
  if spec is None:
    raise RunError('found no package nvidia-cuda-nvcc; expected jax[cuda13]: install the extra [cuda]')
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def lower(function: jax.stages.Wrapped, *arguments: Any, mesh: Mesh) -> jax.stages.Lowered:
  """Lowers a function under jit for abstract arguments, which are put on the device of `mesh`."""
  sharding = NamedSharding(mesh, P())
  arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
  return function.lower(*arguments)


def compile_lowered(
  lowered: jax.stages.Lowered, dump: str | os.PathLike, **options: Any
) -> jax.stages.Compiled:
  """Compiles; the compiler writes its output into the folder `dump`."""
  options |= {'xla_gpu_cuda_data_dir': str(cuda_folder()), 'xla_dump_to': str(dump)}
  # Autotuning needs a GPU, and without it Triton's matrix products have no tiles: cuBLAS computes them here.
  return lowered.compile({'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False, **options})


def thunks(dump: str | os.PathLike) -> list[Thunk]:
  """What an executable runs, in order; CUDA graphs and the like count as what they contain."""
  lines = re.findall(
    r'^ *\d+: k(\w+) *(?:\[[^\]]*\] *)?(\S*)(?:.*shared_memory: (\d+))?',
    dumped(dump, 'thunk_sequence.txt', 'thunk_sequence_after_thunk_passes.txt').read_text(),
    re.MULTILINE,
  )
  return [Thunk(kind, name, int(shared or 0)) for kind, name, shared in lines if kind not in _CONTAINERS]


def dumped(dump: str | os.PathLike, *endings: str) -> pathlib.Path:
  """The one file of a dump with the first of these endings that there is; they differ between versions.

  Raises:
    RunError: There is none, or more than one.
  """
  for ending in endings:
    paths = sorted(pathlib.Path(dump).glob(f'*{ending}'))
    if len(paths) == 1:
      return paths[0]
    if paths:
      raise RunError(
        f'{dump}: found {len(paths)} files *{ending}; expected one: compile into an empty folder'
      )
  raise RunError(f'{dump}: found no file *{" or *".join(endings)}; expected what XLA dumps')
