"""What the compiler makes of each kernel of the dense blocks: registers, spilled bytes, shared memory."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dense_aspp_jax.models.fused import gpu_1x1, gpu_3x3
from dense_aspp_jax.models.fused.statistics import Affine
from tools.gpu.target import compile_lowered, cuda_folder, lower, thunks

REGISTERS, SHARED_MEMORY, THREADS = 65536, 233472, 2048  # of a multiprocessor
RESERVED_SHARED_MEMORY = 1024  # of each program on it
INSTRUCTIONS = {
  'wgmma': 'wgmma.mma_async',
  'mma': 'mma.sync',
  'cp.async': 'cp.async.c',
  'barriers': 'bar.sync',
  'shuffles': 'shfl',
}


class Layer(NamedTuple):
  """A dense layer: its maps (in space-to-batch layout), the channels of its block and its own."""

  maps: tuple[int, int, int]
  block: int
  channels: int
  bottleneck: int
  growth: int
  dilation: int = 1
  masked: bool = False


# The last layers of the blocks of the slides' model #4 for 8 images of 512x1024, and one for 360x480, whose
# feature maps the dilation does not divide.
LAYERS = {
  'denseblock1': Layer((8, 128, 256), 256, 224, 128, 32),
  'denseblock2': Layer((8, 64, 128), 512, 480, 128, 32),
  'denseblock3': Layer((32, 32, 64), 1024, 992, 128, 32),
  'denseblock4': Layer((128, 16, 32), 1024, 992, 128, 32),
  'denseblock3, 360x480': Layer((32, 23, 30), 1024, 992, 128, 32, masked=True),
  'aspp': Layer((8, 64, 128), 1344, 1280, 256, 64, dilation=24),
}


def kernel_calls(layer: Layer) -> Iterator[tuple[str, jax.stages.Wrapped, tuple[Any, ...]]]:
  """Each kernel's name, the function under jit that calls it, and abstract arguments for a layer."""
  bfloat16 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
  float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  first, second = (Affine(*[float32((n,))] * 3) for n in (layer.channels, layer.bottleneck))
  features, z, y = (bfloat16((*layer.maps, n)) for n in (layer.block, layer.bottleneck, layer.growth))
  kernel = bfloat16((layer.channels, layer.bottleneck))
  conv_kernel = bfloat16((3, 3, layer.bottleneck, layer.growth))
  mask = jax.ShapeDtypeStruct(layer.maps, bool) if layer.masked else None

  if gpu_1x1.supports(features, kernel):
    yield 'bn_relu_dot', jax.jit(gpu_1x1.bn_relu_dot), (features, first, kernel, mask)
    yield 'bn_relu_dot_relu', jax.jit(gpu_1x1.bn_relu_dot_relu), (features, first, kernel, second)
    backward = jax.jit(gpu_1x1.bn_relu_dot_backward, donate_argnums=4)
    yield 'bn_relu_dot_backward', backward, (features, first, kernel, z, features)
  if gpu_3x3.supports(z, conv_kernel):
    backward = jax.jit(functools.partial(gpu_3x3.bn_relu_conv_backward, dilation=layer.dilation))
    yield 'bn_relu_conv_backward', backward, (z, second, conv_kernel, mask, y)


def kernel_reports(layer_name: str, layer: Layer, mesh: Mesh) -> Iterator[dict[str, Any]]:
  """What XLA and CUDA's assembler say of each kernel of a layer, and how often `INSTRUCTIONS` occur in it."""
  for name, function, arguments in kernel_calls(layer):
    with tempfile.TemporaryDirectory() as dump:
      compile_lowered(lower(function, *arguments, mesh=mesh), dump, xla_dump_emitter_re='.*')
      (thunk,) = (thunk for thunk in thunks(dump) if thunk.name.startswith('bn_relu'))
      (path,) = (p for p in pathlib.Path(dump).glob('*.ptx') if f'.entry {thunk.name}(' in p.read_text())
      ptx = path.read_text()
      command = [cuda_folder() / 'bin' / 'ptxas', '-arch=sm_90a', '-v', path, '-o', os.devnull]
      log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    threads = int(re.search(r'\.(?:maxntid|reqntid) (\d+)', ptx)[1])
    registers = int(re.search(r'Used (\d+) registers', log)[1])
    yield {
      'kernel': name,
      'layer': layer_name,
      **layer._asdict(),
      'threads': threads,
      'registers': registers,
      'spilled': int(re.search(r'(\d+) bytes spill stores', log)[1]),
      'shared_memory': thunk.shared_memory,
      'programs': programs_per_multiprocessor(registers, thunk.shared_memory, threads),
      **{instruction: ptx.count(text) for instruction, text in INSTRUCTIONS.items()},
    }


def programs_per_multiprocessor(registers: int, shared_memory: int, threads: int) -> int:
  """How many programs of a kernel a multiprocessor runs at once; registers are those of a thread."""
  return min(
    REGISTERS // (-(-registers // 8) * 8 * threads),
    SHARED_MEMORY // (shared_memory + RESERVED_SHARED_MEMORY),
    THREADS // threads,
  )
