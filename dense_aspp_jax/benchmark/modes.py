"""The benchmark's modes: each measures a configuration and returns figures as plain JSON data."""

from __future__ import annotations

import concurrent.futures
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark import device
from dense_aspp_jax.benchmark.steps import compile_cold, compiled_memory, inference_step, training_step
from dense_aspp_jax.benchmark.timing import measure
from dense_aspp_jax.benchmark.trace import trace

_KERNELS_SHOWN = 20
# Ways to trade time for memory in a training step.
FORMS: dict[str, dict[str, Any]] = {
  'fused': dict(implementation='fused', rematerialize=False),
  'reference': dict(implementation='reference', rematerialize=False),
  'reference + rematerialize': dict(implementation='reference', rematerialize=True),
}


def benchmark_step(
  mode: str, config: ConfigDict, *, repeats: int, trace_directory: pathlib.Path | None = None
) -> dict[str, Any]:
  """Compiles and times a step on all devices.

  Args:
    mode: 'train' or 'inference'.
    config: Checked.
    repeats: See `measure`.
    trace_directory: Gets a profile, if given.

  Returns:
    Figures; 'peak_bytes_in_use' and 'share_of_peak_flops' are None where they are not known.
  """
  step = training_step(config, device.device_mesh()) if mode == 'train' else inference_step(config)
  result = _description(mode, config)
  compiled, compile_seconds = compile_cold(step)
  run = step.start(compiled)
  timing = measure(run, repeats=repeats, in_flight=device.steps_in_flight())
  flops_per_second = step.flops / (timing.median / 1e3)
  peak = device.peak_flops(config.model.compute_dtype, jax.device_count())
  result |= {
    'lower_seconds': step.lower_seconds,
    'compile_seconds': compile_seconds,
    **timing.to_json(result['batch_size']),
    'memory_per_device': compiled_memory(compiled),
    'peak_bytes_in_use': device.peak_bytes_in_use(),
    'flops_per_step': step.flops,
    'flops_per_second': flops_per_second,
    'share_of_peak_flops': peak and flops_per_second / peak,
    'bytes_accessed': (compiled.cost_analysis() or {}).get('bytes accessed'),
  }
  if trace_directory is not None:
    kernels = trace(run, trace_directory / mode)
    result['kernel_ms'] = sum(kernel.milliseconds for kernel in kernels)
    result['launches'] = sum(kernel.launches for kernel in kernels)
    result['kernels'] = [kernel._asdict() for kernel in kernels[:_KERNELS_SHOWN]]
  return result


def benchmark_memory(config: ConfigDict) -> dict[str, Any]:
  """Compiles the training step in the `FORMS` of its model, side by side; runs nothing."""
  steps = []
  for fields in FORMS.values():
    form = config.copy_and_resolve_references()
    form.model.update(fields)
    steps.append(training_step(form, device.device_mesh()))
  with concurrent.futures.ThreadPoolExecutor(len(steps)) as executor:
    compiled = executor.map(lambda step: step.lowered.compile(), steps)
    forms = {name: compiled_memory(c) for name, c in zip(FORMS, compiled, strict=True)}
  return {**_description('memory', config), 'forms': forms}


def _description(mode: str, config: ConfigDict) -> dict[str, Any]:
  section = config.evaluation if mode == 'inference' else config.training
  return {
    'mode': mode,
    'batch_size': section.batch_size,
    'image_size': list(config.data.image_size),
    'compute_dtype': config.model.compute_dtype,
    **device.device_description(),
  }
