"""Compiles and describes the programs of a configuration: training step, inference, initial values."""

from __future__ import annotations

import collections
import functools
import os
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark.steps import compiled_memory, training_step
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.evaluation.predictor import predict_images
from dense_aspp_jax.models.constants import with_constants
from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.models.segmentation import create_model
from tools.gpu.hlo import read_program
from tools.gpu.kernels import dumped_kernels, kernels_dumped
from tools.gpu.prediction import alike, by_group
from tools.gpu.target import OPTIMIZED, compile_lowered, dumped, lower, thunks
from tools.gpu.traffic import launches_of


def lowered_train_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
  """A step of training on a batch of the configuration."""
  return training_step(config, mesh).lowered


def lowered_inference(config: ConfigDict, mesh: Mesh) -> jax.stages.Lowered:
  """Predicts the classes of a batch of images."""
  model, size = create_model(**config.model), tuple(config.data.image_size)
  preprocessing = Preprocessing(size, config.data.mean, config.data.std)
  predict = functools.partial(predict_images, model, output_size=size, preprocessing=preprocessing)
  variables = jax.eval_shape(lambda: with_constants(model, initial_variables(model, config.seed)))
  images = jax.ShapeDtypeStruct((config.evaluation.batch_size, *size, 3), jnp.uint8)
  return lower(jax.jit(predict), variables, images, mesh=mesh)


PROGRAMS: dict[str, Callable[[ConfigDict, Mesh], jax.stages.Lowered]] = {
  'train': lowered_train_step,
  'inference': lowered_inference,
}


def initial_values_report(config: ConfigDict) -> dict[str, float]:
  """CPU seconds to draw the variables that a training starts from, as where there is a GPU."""
  begin = _cpu_seconds()
  with mock.patch.object(jax, 'default_backend', return_value='gpu'):
    jax.block_until_ready(initial_variables(create_model(**config.model), config.seed))
  return {'cpu_seconds': _cpu_seconds() - begin}


def program_report(name: str, config: ConfigDict, mesh: Mesh, dump: str | None = None) -> dict[str, Any]:
  """Compiles one of `PROGRAMS` and describes it.

  Args:
    name: Of the program.
    config: As configs/default.py, of the batch and image size wanted.
    mesh: Of `target`.
    dump: Empty folder that gets the compiler's output; None: it is not kept.
  """
  with tempfile.TemporaryDirectory() as folder:
    folder = dump or folder
    with kernels_dumped(folder) as options:
      times = [_cpu_seconds()]
      lowered = PROGRAMS[name](config, mesh)
      times.append(_cpu_seconds())
      compiled = compile_lowered(lowered, folder, **options)
      times.append(_cpu_seconds())
    report = dump_report(folder)
  return {
    **report,
    'memory': compiled_memory(compiled),
    'lower_cpu_seconds': times[1] - times[0],
    'compile_cpu_seconds': times[2] - times[1],
  }


def dump_report(dump: str | os.PathLike) -> dict[str, Any]:
  """What a dump says of its program: launches, bytes, operations, kernels of ours, predicted milliseconds."""
  sequence = thunks(dump)
  launches = launches_of(read_program(dumped(dump, OPTIMIZED).read_text()))
  distinct = {(launch.kind, launch.code) for launch in launches if launch.code}
  kernels = dumped_kernels(dump)
  names = collections.Counter(f'{kind} {name.rstrip("_.0123456789")}' for kind, name, _ in sequence)
  groups = by_group(launches)
  return {
    'launches': len(sequence),
    'launches_by_name': dict(names.most_common()),
    'bytes': groups['sum']['bytes'],
    'flops': groups['sum']['flops'],
    'predicted_ms': {card: groups['sum'][f'{card}_ms'] for card in ('h100', 'h200')},
    'kernel_calls': sum(bool(launch.code) for launch in launches),
    'kernel_calls_without_cost': sum(bool(launch.code) and not launch.declared for launch in launches),
    'distinct_kernels': len(distinct),
    'spilled_bytes': sum(kernel.spilled for kernel in kernels),
    'kernels': [kernel._asdict() for kernel in kernels],
    'groups': groups,
    'alike': alike(launches),
  }


def _cpu_seconds() -> float:
  """Of this process, of all its threads and of the processes that it has waited for."""
  return sum(os.times()[:4])
