"""Compiles for an H100 on a machine without a GPU, and reports what the compiler makes of it.

  python tools/compile_for_h100.py
  python tools/compile_for_h100.py --config configs/default.py --batch 8 --mode train

Without --config it compiles each kernel of the dense blocks at layers of the slides' model #4, and prints the
registers, spilled bytes and shared memory of a program, how many programs fit on a multiprocessor, and how
often the important instructions occur. With --config it compiles a whole step, and prints its launches by
name and its memory. This finds what interpreting the kernels on a CPU does not: operations that Triton lacks,
too much shared memory, registers that spill. Only a GPU tells how long they take.

Needs jax 0.11 or later with the packages of the extra [cuda], which install without a GPU. XLA takes the
first algorithm of each convolution and matrix product: comparing them needs a GPU.
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

os.environ['JAX_PLATFORMS'] = 'cpu'  # where constants are computed

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tabulate import tabulate

from dense_aspp_jax.benchmark.steps import compiled_memory, resized, training_step
from dense_aspp_jax.commands.config_file import read_config_file
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.evaluation.predictor import predict_images
from dense_aspp_jax.files import write_json
from dense_aspp_jax.models.fused import gpu_1x1, gpu_3x3
from dense_aspp_jax.models.fused.statistics import Affine
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.provenance import provenance

# The card, as XLA's GpuTargetConfigProto.
H100 = """
gpu_device_info {
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  device_memory_size: 84942979072
}
platform_name: "CUDA"  device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
"""
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


class Launch(NamedTuple):
  """A line of the sequence that an executable runs."""

  kind: str
  name: str
  shared_memory: int


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


def main() -> None:
  """Compiles, prints a table, and writes it as JSON if requested."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config', help='compile the step of this configuration instead of the kernels')
  parser.add_argument('--batch', type=int, help='images a step; default: those of the configuration')
  parser.add_argument('--mode', choices=('train', 'inference'), default='train')
  parser.add_argument('--output', type=pathlib.Path, help='JSON file')
  args, args.config_arguments = parser.parse_known_args()
  mesh = device_mesh()
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # tells Pallas which GPU it is lowered for
    if args.config:
      result = step_report(lowered_step(args, mesh))
    else:
      result = [report for name, layer in LAYERS.items() for report in kernel_reports(name, layer, mesh)]
  if args.config:
    print(*(f'{count:6d}  {name}' for name, count in result['launches'].items()), sep='\n')
    print(f'{sum(result["launches"].values()):6d}  launches')
    for name in ('temporaries', 'arguments', 'outputs', 'aliased'):
      print(f'{result[name] / 2**30:6.2f}  GiB {name}')
  else:
    columns = [name for name in result[0] if name not in Layer._fields]
    print(tabulate([[report[c] for c in columns] for report in result], columns, tablefmt='plain'))
  if args.output:
    target_device = 'NVIDIA H100 80GB HBM3'  # provenance names the machine that compiled
    write_json(args.output, {'target': target_device, 'provenance': provenance(), 'result': result})


def device_mesh() -> Mesh:
  """A mesh of one H100 that can only be compiled for."""
  topology = topologies.get_topology_desc('1x1x1', platform='cuda', target_config=H100, topology='1x1x1')
  return Mesh(np.array(topology.devices), ('data',))


def cuda_folder() -> pathlib.Path:
  """Where the extra [cuda] has CUDA's compiler."""
  spec = importlib.util.find_spec('nvidia.cu13')
  if spec is None:
    sys.exit('no package nvidia-cuda-nvcc; expected jax[cuda13]: install the extra [cuda]')
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def lower(function: jax.stages.Wrapped, *arguments: Any, mesh: Mesh) -> jax.stages.Lowered:
  """Lowers a function under jit for abstract arguments, which are put on the device of `mesh`."""
  sharding = NamedSharding(mesh, P())
  arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
  return function.lower(*arguments)


def compile_lowered(lowered: jax.stages.Lowered, dump: str, **options: Any) -> jax.stages.Compiled:
  """Compiles; the compiler writes its output into the folder `dump`."""
  options |= {'xla_gpu_cuda_data_dir': str(cuda_folder()), 'xla_dump_to': dump}
  # Autotuning needs a GPU, and without it Triton's matrix products have no tiles: cuBLAS computes them here.
  return lowered.compile({'xla_gpu_autotune_level': 0, 'xla_gpu_enable_triton_gemm': False, **options})


def launches(dump: str) -> list[Launch]:
  """What an executable runs, in order."""
  (path,) = pathlib.Path(dump).glob('*.thunk_sequence.txt')
  lines = re.findall(
    r'^\d+: k(\w+)\s+(?:\[[^\]]*\]\s*)?(\S*)(?:.*shared_memory: (\d+))?', path.read_text(), re.MULTILINE
  )
  return [Launch(kind, name, int(shared or 0)) for kind, name, shared in lines]


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
      (launch,) = (launch for launch in launches(dump) if launch.name.startswith('bn_relu'))
      (path,) = (p for p in pathlib.Path(dump).glob('*.ptx') if f'.entry {launch.name}(' in p.read_text())
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
      'shared_memory': launch.shared_memory,
      'programs': min(
        REGISTERS // (-(-registers // 8) * 8 * threads),
        SHARED_MEMORY // (launch.shared_memory + RESERVED_SHARED_MEMORY),
        THREADS // threads,
      ),
      **{instruction: ptx.count(text) for instruction, text in INSTRUCTIONS.items()},
    }


def lowered_step(args: argparse.Namespace, mesh: Mesh) -> jax.stages.Lowered:
  """The train or inference step of `--config`, lowered."""
  config = resized(read_config_file(args), args.batch, None)
  if args.mode == 'train':
    return training_step(config, mesh).lowered
  model, size = create_model(**config.model), tuple(config.data.image_size)
  preprocessing = Preprocessing(size, config.data.mean, config.data.std)
  predict = functools.partial(predict_images, model, output_size=size, preprocessing=preprocessing)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  images = jax.ShapeDtypeStruct((config.evaluation.batch_size, *size, 3), jnp.uint8)
  return lower(jax.jit(predict), variables, images, mesh=mesh)


def step_report(lowered: jax.stages.Lowered) -> dict[str, Any]:
  """Launches by name, without their numbers, and bytes of memory."""
  with tempfile.TemporaryDirectory() as dump:
    memory = compiled_memory(compile_lowered(lowered, dump))
    names = collections.Counter(f'{kind} {name.rstrip("_.0123456789")}' for kind, name, _ in launches(dump))
  return {'launches': dict(names.most_common()), **memory}


if __name__ == '__main__':
  main()
