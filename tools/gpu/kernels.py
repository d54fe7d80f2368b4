"""What the compiler makes of each kernel of the dense blocks: registers, spilled bytes, shared memory."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.sharding import Mesh

from dense_aspp_jax.models.fused.kernel_calls import Layer, calls
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


class Kernel(NamedTuple):
  """What is known of a compiled kernel; instructions are counted in its PTX.

  Attributes:
    form: 'triton' or 'mosaic'.
    entry: Its name in PTX.
    threads: Of a program.
    registers: Of a thread.
    spilled: Bytes of registers that a thread stores in memory.
    fixed: Whether the assembler ignores that the kernel gives registers of one warpgroup to another
      (setmaxnreg). jax 0.12.0.1 links Mosaic's kernels with nvJitLink, which does; 0.11.2 calls ptxas.
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
  fixed: bool
  shared_memory: int
  programs: int
  wgmma: int
  mma: int
  cp_async: int
  tma: int
  barriers: int
  shuffles: int


def kernel_reports(layer_name: str, layer: Layer, form: str, mesh: Mesh) -> Iterator[dict[str, Any]]:
  """What XLA and CUDA's assembler say of each kernel of a form, and how often `INSTRUCTIONS` occur in it."""
  for call in calls(layer, form):
    with tempfile.TemporaryDirectory() as dump:
      with kernels_dumped(dump) as options:
        compile_lowered(lower(call.function, *call.arguments, mesh=mesh), dump, **options)
      for kernel in dumped_kernels(dump):
        if kernel.form == form:  # not one that stands in for it
          yield {'operation': call.operation, 'layer': layer_name, **layer._asdict(), **kernel._asdict()}


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
  """The Pallas kernels of a program compiled with `kernels_dumped`, each once.

  Mosaic GPU compiles a kernel once in a process: one that an earlier program had too is missing.
  """
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
    name = re.search(r'\.entry (\w+)\(', ptx)[1]
    found.append(_kernel('mosaic', name, ptx, log, _dynamic_shared_memory(path)))
  return found


def _dynamic_shared_memory(ptx: pathlib.Path) -> int:
  """Of a Mosaic kernel, from the log beside its PTX, which is long."""
  with ptx.with_suffix('.mlir-passes.log').open() as lines:
    sizes = (re.search(r'dynamic_shared_memory_size %c(\d+)', line) for line in lines)
    return next((int(size[1]) for size in sizes if size), 0)


def _kernel(form: str, name: str, ptx: str, log: str, shared_memory: int) -> Kernel:
  threads = int(re.search(r'\.(?:maxntid|reqntid) (\d+)', ptx)[1])
  registers = int(re.search(r'Used (\d+) registers', log)[1])
  return Kernel(
    form=form,
    entry=name,
    threads=threads,
    registers=registers,
    spilled=int(re.search(r'(\d+) bytes spill stores', log)[1]),
    fixed="'setmaxnreg' ignored" in log,
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
