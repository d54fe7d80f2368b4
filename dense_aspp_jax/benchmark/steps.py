"""The steps that are measured: those of training and of evaluation, on random images in device memory."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from dense_aspp_jax.compilation_cache import without_compilation_cache
from dense_aspp_jax.evaluation.predictor import Predictor, over_devices, predict_images
from dense_aspp_jax.models.counts import multiply_adds
from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.packing import StatePacking
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import make_train_step


@dataclasses.dataclass
class Lowered:
  """A step ready to be compiled.

  Attributes:
    lowered: What XLA compiles.
    lower_seconds: The time for tracing and lowering.
    start: Takes the compiled step and returns a function that dispatches one step and returns arrays that
      are ready when it is done.
    flops: Floating-point operations of the convolutions of a step, two per multiply-add. Training counts as
      three passes (backward there are the gradients of kernel and input), whatever is computed twice.
  """

  lowered: jax.stages.Lowered
  lower_seconds: float
  start: Callable[[jax.stages.Compiled], Callable[[], Any]]
  flops: int


def resized(config: ConfigDict, batch_size: int | None, image_size: tuple[int, int] | None) -> ConfigDict:
  """A copy of a configuration with another batch and image size, in training and evaluation alike.

  Args:
    config: As configs/default.py.
    batch_size: None: as configured.
    image_size: Height and width, also of the crop if there is one; None: as configured.
  """
  config = config.copy_and_resolve_references()
  if batch_size is not None:
    config.training.batch_size = config.evaluation.batch_size = batch_size
  if image_size is not None:
    config.data.image_size = image_size
    if config.augmentation.crop_size:
      config.augmentation.crop_size = image_size
  return config


def random_batch(config: ConfigDict, batch_size: int) -> dict[str, np.ndarray]:
  """Noise of the configured size, the same for the same `config.seed`: 'image' and 'label', uint8."""
  draw = np.random.default_rng(config.seed)
  shape = (batch_size, *config.data.image_size)
  return {
    'image': draw.integers(256, size=(*shape, 3), dtype=np.uint8),
    'label': draw.integers(config.model.num_classes, size=shape, dtype=np.uint8),
  }


def training_step(config: ConfigDict, mesh: Mesh) -> Lowered:
  """The step of `training.train`, its state donated, its batch spread over the mesh.

  Args:
    config: As configs/default.py.
    mesh: One axis, 'data', over all devices.
  """
  checked = parse_config(config, mesh.size)
  model = checked.model
  num_steps = 10_000 + checked.optimizer.warmup_steps  # only the schedule depends on it
  packing = StatePacking(model)
  optimizer, train_step = make_train_step(checked, num_steps, mesh, packing)
  batch_size, size = checked.training.batch_size, checked.data.image_size
  replicated, sharded = NamedSharding(mesh, P()), NamedSharding(mesh, P('data'))
  shapes = {
    'image': jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8, sharding=sharded),
    'label': jax.ShapeDtypeStruct((batch_size, *size), jnp.uint8, sharding=sharded),
  }
  begin = time.perf_counter()
  state = jax.eval_shape(lambda: packing.pack(create_state(model, optimizer, config.seed), jnp))
  lowered = train_step.lower(state, shapes)
  lower_seconds = time.perf_counter() - begin

  def start(compiled: jax.stages.Compiled) -> Callable[[], Any]:
    batch = jax.device_put(random_batch(config, batch_size), sharded)
    state = jax.device_put(packing.pack(create_state(model, optimizer, config.seed)), replicated)

    def run() -> Any:
      nonlocal state
      state, metrics = compiled(state, batch)
      return metrics

    return run

  flops = 3 * 2 * batch_size * multiply_adds(model, tuple(checked.augmentation.crop_size or size))
  return Lowered(lowered, lower_seconds, start, flops)


def inference_step(config: ConfigDict, variables: Any = None) -> Lowered:
  """What `Predictor` computes on all devices of this process, as one step: images to classes of their size.

  Args:
    config: Checked; gives model, `evaluation.batch_size`, image size and seed.
    variables: Of the model; None: those that training starts from.
  """
  checked = parse_config(config)
  model, batch_size, size = checked.model, checked.evaluation.batch_size, checked.data.image_size
  if variables is None:
    variables = initial_variables(model, config.seed)
  predictor = Predictor(model, variables, checked.data.preprocessing)
  images = predictor.place(random_batch(config, batch_size)['image'])
  predict = functools.partial(
    predict_images, model, output_size=size, preprocessing=checked.data.preprocessing
  )
  step = jax.jit(over_devices(predict, predictor.mesh, predictor.together))
  begin = time.perf_counter()
  lowered = step.lower(predictor.inputs, images)
  lower_seconds = time.perf_counter() - begin

  def start(compiled: jax.stages.Compiled) -> Callable[[], Any]:
    return lambda: compiled(predictor.inputs, images)

  return Lowered(lowered, lower_seconds, start, 2 * batch_size * multiply_adds(model, size))


def compile_cold(step: Lowered) -> tuple[jax.stages.Compiled, float]:
  """Compiles without the cache on disk; returns also the seconds it took."""
  with without_compilation_cache():
    begin = time.perf_counter()
    compiled = step.lowered.compile()
    return compiled, time.perf_counter() - begin


def compiled_memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes of a compiled step on each device.

  'aliased' are outputs that take the place of arguments; 'total' counts these once.
  """
  stats = compiled.memory_analysis()
  sizes = {
    'arguments': stats.argument_size_in_bytes,
    'temporaries': stats.temp_size_in_bytes,
    'outputs': stats.output_size_in_bytes,
    'aliased': stats.alias_size_in_bytes,
  }
  return {**sizes, 'total': sum(sizes.values()) - 2 * sizes['aliased']}
