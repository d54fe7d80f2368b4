"""Writes tests/golden/gpu_program.json: figures of what a GPU runs, which tests let only fall.

  PYTHONPATH=.:tests JAX_PLATFORMS=cpu python tests/golden/make_gpu_program.py

'lowered' describes the training step of a small network as XLA gets it. 'compiled' describes the training
step and inference of configs/default.py, 8 images of 512x1024, compiled for an H200, by jax's version: XLA's
fusions differ. It needs jax 0.11 or later with the packages of the extra [cuda] and takes two minutes.
Without them, and for other versions, what is in the file stays.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxprs import described_gpu

from configs import default
from dense_aspp_jax.benchmark.steps import resized
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import make_train_step
from tools.gpu.step import program_report
from tools.gpu.target import cuda_folder, device_mesh, target

GOLDEN = pathlib.Path(__file__).with_name('gpu_program.json')
# The structure of the default network, in widths that its kernels take.
SMALL = dict(extractor='densenet_small', growth_rate=16, bottleneck_width=64, implementation='fused_triton')
SIZE, BATCH = (32, 64), 2
FIGURES = (
  *('launches', 'bytes', 'temporaries', 'distinct_kernels'),
  *('spilled_bytes', 'kernel_calls_without_cost'),
)
_KERNEL = re.compile(r'custom_call @"?(?:__gpu\$xla\.gpu\.triton|mosaic_gpu\w*)"?.*?(backend_config.*)')


def lowered_figures() -> dict[str, int]:
  """Of the training step of a small network, lowered for a GPU: its kernels, and operations that compute."""
  config = default.get_config()
  config.model.update(SMALL)
  checked = parse_config(resized(config, BATCH, SIZE))
  optimizer, step = make_train_step(checked, 10, Mesh(np.array(jax.devices()[:1]), ('data',)))
  state = jax.eval_shape(lambda: create_state(checked.model, optimizer, 0))
  batch = {
    'image': jax.ShapeDtypeStruct((BATCH, *SIZE, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((BATCH, *SIZE), jnp.uint8),
  }
  with described_gpu():
    text = step.trace(state, batch).lower(lowering_platforms=('cuda',)).as_text()
  kernels = _KERNEL.findall(text)
  operations = re.findall(r'stablehlo\.(?!constant|broadcast_in_dim|reshape|return|case|mesh)\w+', text)
  return {
    'kernel_calls': len(kernels),
    'distinct_kernels': len(set(kernels)),
    'operations': len(operations),
  }


def missing_for_compilation() -> str | None:
  """Why nothing can be compiled for a GPU here; None: it can."""
  if jax.__version_info__ < (0, 11):
    return f'compiling for a GPU that is not there needs jax 0.11 or later; found {jax.__version__}'
  try:
    cuda_folder()
    device_mesh()
  except (RunError, RuntimeError, ValueError) as error:
    return f'compiling for a GPU needs the extra [cuda]: {error}'
  return None


def compiled_figures() -> dict[str, dict[str, int]]:
  """Of the training step and of inference with configs/default.py."""
  config = resized(default.get_config(), 8, (512, 1024))
  with target('h200') as mesh:
    return {mode: _figures(program_report(mode, config, mesh)) for mode in ('train', 'inference')}


def _figures(report: dict[str, Any]) -> dict[str, int]:
  return {name: (report | report['memory'])[name] for name in FIGURES}


def main() -> None:
  """Writes the file, or prints why a part of it stays."""
  golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {'compiled': {}}
  golden['lowered'] = lowered_figures()
  if reason := missing_for_compilation():
    print(f"'compiled' stays: {reason}")
  else:
    golden['compiled'][jax.__version__] = compiled_figures()
  GOLDEN.write_text(json.dumps(golden, indent=2) + '\n')
  print(GOLDEN.read_text())


if __name__ == '__main__':
  main()
