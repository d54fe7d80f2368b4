"""What the compiler makes of each kernel of the dense blocks: registers, spilled bytes, shared memory."""

from __future__ import annotations

import contextlib
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
from tools.gpu.hlo import read_program
from tools.gpu.target import OPTIMIZED, compile_lowered, cuda_folder, dumped, lower, thunks
from tools.gpu.traffic import launches_of

REGISTERS, SHARED_MEMORY, THREADS = 65536, 233472, 2048  # of a multiprocessor
RESERVED_SHARED_MEMORY = 1024  # of each program on it
INSTRUCTIONS = {
  'wgmma': 'wgmma.mma_async',
  'mma': 'mma.sync',
  'cp_async': 'cp.async.c',
  'tma': 'cp.async.bulk.tensor',
  'barriers': 'bar.sync',
  'shuffles': 'shfl',
}
_MOSAIC = 'mosaic'  # folder of a dump


class Layer(NamedTuple):
  """A dense layer: its maps (in space-to-batch layout), the channels of its block and its own."""

  maps: tuple[int, int, int]
  block: int
  channels: int
  bottleneck: int
  growth: int
  dilation: int = 1
  masked: bool = False


class Kernel(NamedTuple):
  """What is known of a compiled kernel; instructions are counted in its PTX.

  Attributes:
    form: 'triton' or 'mosaic'.
    entry: Its name in PTX.
    threads: Of a program.
    registers: Of a thread.
    spilled: Bytes of registers that a thread stores in memory.
    shared_memory: Bytes of a program.
    programs: How many a multiprocessor runs at once.
    wgmma: Products of a warpgroup.
    mma: Products of a warp.
    cp_async: Asynchronous copies by threads.
    tma: Asynchronous copies of tiles.
    barriers: Of a program's threads.
    shuffles: Between the threads of a warp.
  """

  form: str
  entry: str
  threads: int
  registers: int
  spilled: int
  shared_memory: int
  programs: int
  wgmma: int
  mma: int
  cp_async: int
  tma: int
  barriers: int
  shuffles: int


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
    backward = jax.jit(functools.partial(gpu_1x1.bn_relu_dot_backward, start=0), donate_argnums=4)
    yield 'bn_relu_dot_backward', backward, (features, [first], [kernel], [z], features)
  if gpu_3x3.supports(z, conv_kernel):
    backward = jax.jit(functools.partial(gpu_3x3.bn_relu_conv_backward, dilation=layer.dilation))
    yield 'bn_relu_conv_backward', backward, (z, second, conv_kernel, mask, y)


def kernel_reports(layer_name: str, layer: Layer, mesh: Mesh) -> Iterator[dict[str, Any]]:
  """What XLA and CUDA's assembler say of each kernel of a layer, and how often `INSTRUCTIONS` occur in it."""
  for name, function, arguments in kernel_calls(layer):
    with tempfile.TemporaryDirectory() as dump:
      with kernels_dumped(dump) as options:
        compile_lowered(lower(function, *arguments, mesh=mesh), dump, **options)
      (kernel,) = dumped_kernels(dump)
    yield {'kernel': name, 'layer': layer_name, **layer._asdict(), **kernel._asdict()}


@contextlib.contextmanager
def kernels_dumped(dump: str | os.PathLike) -> Iterator[dict[str, str]]:
  """Inside, Mosaic GPU writes its kernels into a folder; the options make XLA write Triton's."""
  folder = pathlib.Path(dump) / _MOSAIC
  folder.mkdir(parents=True, exist_ok=True)
  wanted = {'MOSAIC_GPU_DUMP_TO': str(folder), 'MOSAIC_GPU_DUMP_PTX': '1', 'MOSAIC_GPU_DUMP_PTXAS': '1'}
  before = {name: os.environ.get(name) for name in wanted}
  os.environ.update(wanted)
  try:
    yield {'xla_dump_emitter_re': 'ptx'}
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def dumped_kernels(dump: str | os.PathLike) -> list[Kernel]:
  """The Pallas kernels of a program compiled with `kernels_dumped`, each once."""
  launches = launches_of(read_program(dumped(dump, OPTIMIZED).read_text()))
  triton = {launch.kernel for launch in launches if launch.kind == 'triton'}
  found = []
  shared_memory = {thunk.name: thunk.shared_memory for thunk in thunks(dump)}
  for path in sorted(pathlib.Path(dump).glob('*.ptx')):
    ptx = path.read_text()
    name = (re.search(r'\.entry (\w+)\(', ptx) or ('', ''))[1]
    if re.sub(r'__\d+$', '', name) in triton:
      command = [cuda_folder() / 'bin' / 'ptxas', '-arch=sm_90a', '-v', path, '-o', os.devnull]
      log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
      found.append(_kernel('triton', name, ptx, log, shared_memory[name]))
  for path in sorted((pathlib.Path(dump) / _MOSAIC).glob('*.ptx')):
    ptx, log = path.read_text(), path.with_suffix('.ptxas').read_text()
    resources = path.with_suffix('.resources.txt').read_text()
    scratch = int(re.search(r'smem_scratch_bytes=(\d+)', resources)[1])
    static = int(re.search(r'(\d+) bytes smem', log)[1])
    found.append(_kernel('mosaic', re.search(r'\.entry (\w+)\(', ptx)[1], ptx, log, scratch + static))
  return found


def _kernel(form: str, name: str, ptx: str, log: str, shared_memory: int) -> Kernel:
  threads = int(re.search(r'\.(?:maxntid|reqntid) (\d+)', ptx)[1])
  registers = int(re.search(r'Used (\d+) registers', log)[1])
  return Kernel(
    form=form,
    entry=name,
    threads=threads,
    registers=registers,
    spilled=int(re.search(r'(\d+) bytes spill stores', log)[1]),
    shared_memory=shared_memory,
    programs=programs_per_multiprocessor(registers, shared_memory, threads),
    **{instruction: ptx.count(text) for instruction, text in INSTRUCTIONS.items()},
  )


def programs_per_multiprocessor(registers: int, shared_memory: int, threads: int) -> int:
  """How many programs of a kernel a multiprocessor runs at once; registers are those of a thread."""
  return min(
    REGISTERS // (-(-registers // 8) * 8 * threads),
    SHARED_MEMORY // (shared_memory + RESERVED_SHARED_MEMORY),
    THREADS // threads,
  )
