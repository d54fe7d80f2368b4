"""The benchmark's modes: each measures a configuration and returns figures as plain JSON data."""

from __future__ import annotations

import concurrent.futures
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark import device
from dense_aspp_jax.benchmark.peers.compare import Comparison
from dense_aspp_jax.benchmark.steps import compile_cold, compiled_memory, inference_step, training_step
from dense_aspp_jax.benchmark.timing import Timing, measure, seconds
from dense_aspp_jax.benchmark.trace import trace
from dense_aspp_jax.models.fused.gpu_form import gpu_form, traced_gpu

_KERNELS_SHOWN = 20
_PRODUCT = 'matrix product'
_PRODUCT_REPEATS = 3
# Ways to trade time for memory in a training step.
FORMS: dict[str, dict[str, Any]] = {
  'fused': dict(implementation='fused', rematerialize=False),
  'reference': dict(implementation='reference', rematerialize=False),
  'reference + rematerialize': dict(implementation='reference', rematerialize=True),
}


def benchmark_step(
  mode: str,
  config: ConfigDict,
  *,
  repeats: int,
  trace_directory: pathlib.Path | None = None,
  comparison: Comparison | None = None,
) -> dict[str, Any]:
  """Compiles and times a step on all devices.

  Args:
    mode: 'train' or 'inference'.
    config: Checked.
    repeats: See `measure`.
    trace_directory: Gets a profile, if given.
    comparison: Peers to measure it beside, of the same mode and configuration.

  Returns:
    Figures; 'peak_bytes_in_use' and 'share_of_peak_flops' are None where they are not known.

  Raises:
    RunError: A peer computes something else, or failed.
  """
  if mode == 'train':
    step = training_step(config, device.device_mesh())
  else:
    step = inference_step(config, comparison and comparison.variables)
  result = _description(mode, config)
  compiled, compile_seconds = compile_cold(step)
  run = step.start(compiled)
  images, timings = result['batch_size'], _timings(run, repeats, comparison)
  timing = timings['ours']
  peak = device.peak_flops(config.model.compute_dtype, jax.device_count())
  if peak is None and _PRODUCT in timings:
    peak = device.PRODUCT_FLOPS / (timings[_PRODUCT].median / 1e3)

  def of_peak(timing: Timing) -> dict[str, float | None]:
    rate = step.flops / (timing.median / 1e3)
    return {'flops_per_second': rate, 'share_of_peak_flops': peak and rate / peak}

  result |= {
    'lower_seconds': step.lower_seconds,
    'compile_seconds': compile_seconds,
    **timing.to_json(images),
    'memory_per_device': compiled_memory(compiled),
    'peak_bytes_in_use': device.peak_bytes_in_use(),
    'flops_per_step': step.flops,
    **of_peak(timing),
    'peak_flops': peak,
    'bytes_accessed': (compiled.cost_analysis() or {}).get('bytes accessed'),
  }
  if comparison is not None:
    peers = comparison.describe(timings, images)
    result['peers'] = {name: {**peer, **of_peak(timings[name])} for name, peer in peers.items()}
  if trace_directory is not None:
    kernels = trace(run, trace_directory / mode)
    result['kernel_ms'] = sum(kernel.milliseconds for kernel in kernels)
    result['launches'] = sum(kernel.launches for kernel in kernels)
    result['kernels'] = [kernel._asdict() for kernel in kernels[:_KERNELS_SHOWN]]
  return result


def _timings(run: Callable[[], Any], repeats: int, comparison: Comparison | None) -> dict[str, Timing]:
  """Those of 'ours', of the peers, and on a CPU of a matrix product."""
  in_flight = device.steps_in_flight()
  product = device.matrix_product() if jax.default_backend() == 'cpu' else None
  if comparison is None:
    timings = {'ours': measure(run, repeats=repeats, in_flight=in_flight)}
    return timings | ({_PRODUCT: measure(product, repeats=_PRODUCT_REPEATS, in_flight=0)} if product else {})
  comparison.check(jax.block_until_ready(run()))
  others = {_PRODUCT: lambda steps: seconds(product, steps, 0)} if product else {}
  return comparison.measure(lambda steps: seconds(run, steps, in_flight), others, repeats)


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
    'implementation': config.model.implementation,
    'gpu_form': gpu_form(config.model.implementation) if traced_gpu() else None,
    **device.device_description(),
    'threads': len(device.available_cores()) if jax.default_backend() == 'cpu' else None,
  }
