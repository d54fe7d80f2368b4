"""What is measured, the most important first. Each unit is recorded, and left out by a later process."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from dense_aspp_jax.benchmark.device import device_mesh, peak_bytes_in_use, steps_in_flight
from dense_aspp_jax.benchmark.peers.compare import Comparison
from dense_aspp_jax.benchmark.peers.installed import installed_peers
from dense_aspp_jax.benchmark.steps import compiled_memory, inference_step, resized, training_step
from dense_aspp_jax.benchmark.timing import Timing, measure_in_turn, seconds
from dense_aspp_jax.benchmark.trace import trace
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.fused.gpu_form import forms
from dense_aspp_jax.provenance import provenance
from tools.gpu.layers import LAYERS
from tools.measure_gpu import kernels
from tools.measure_gpu.results import Record, Results, say
from tools.measure_gpu.supervise import NEW_PROCESS

MODES = ('inference', 'train')
PACKAGES = ('jax', 'jaxlib', 'jax-cuda13-plugin', 'flax', 'numpy', 'torch', 'triton', 'nvidia-cudnn-cu13')
KERNELS_SHOWN = 60
# Of the inference step, which compiles quickly.
FLAGS: dict[str, dict[str, Any]] = {
  'default': {},
  'no CUDA graphs': {'xla_gpu_enable_command_buffer': ''},
  'smaller CUDA graphs': {'xla_gpu_graph_min_graph_size': 1},
  'no Triton products': {'xla_gpu_enable_triton_gemm': False},
  'convolution fusion': {'xla_gpu_experimental_enable_conv_fusion': True},
  'fusion autotuner': {'xla_gpu_experimental_enable_fusion_autotuner': True},
}


class CompiledStep(NamedTuple):
  """A step of ours.

  Attributes:
    start: Returns a function that dispatches a step, from the initial state.
    run: One such function.
    figures: Of its compilation, as plain JSON data.
  """

  start: Callable[[], Callable[[], Any]]
  run: Callable[[], Any]
  figures: Record


class Steps:
  """Our compiled steps, each compiled when it is first asked for."""

  def __init__(self, config: ConfigDict, comparisons: Mapping[str, Comparison]):
    self.config, self.comparisons = config, comparisons
    self.get = functools.cache(self._make)

  @property
  def variables(self) -> Any:
    """Those that inference is compared with; None: there is no comparison."""
    return self.comparisons['inference'].variables if 'inference' in self.comparisons else None

  def _make(self, mode: str, implementation: str, batch: int | None) -> CompiledStep:
    config = resized(self.config, batch, None)
    config.model.implementation = implementation
    step = training_step(config, device_mesh()) if mode == 'train' else inference_step(config, self.variables)
    begin = time.perf_counter()
    compiled = step.lowered.compile()
    figures = {
      'lower_seconds': step.lower_seconds,
      'compile_seconds': time.perf_counter() - begin,
      'memory': compiled_memory(compiled),
      'flops': step.flops,
    }
    start = functools.partial(step.start, compiled)
    return CompiledStep(start, start(), figures)


def work(results: Results, config: ConfigDict, args: argparse.Namespace) -> None:
  """Measures what is missing in the results.

  Args:
    results: Gets the figures.
    config: From `comparable`.
    args: `device`, `modes`, `repeats`, and `arguments` for a process that measures memory.

  Raises:
    RunError: There is no GPU, or no form of the operations computes what it should.
  """
  if args.device == 'cuda' and jax.default_backend() != 'gpu':
    raise RunError(f'found no GPU, only {jax.devices()}; expected one: install the extra [cuda]')
  results.measure('environment', 'all', 60, functools.partial(environment, args.device))
  with contextlib.ExitStack() as stack:
    # They compile while we check our kernels and compile our steps.
    comparisons = {
      mode: started(stack, mode, config, 'compile', args.device)
      for mode in args.modes
      if results.get('ratio', mode) is None
    }
    usable = checked_forms(results, args.device)
    implementation = implementation_of(usable[0], args.device)
    say(f'measured with implementation {implementation!r}; usable forms: {", ".join(usable)}')
    steps = Steps(config, {mode: c for mode, c in comparisons.items() if c})
    results.measure('compile', implementation, 240, lambda: compile_steps(steps, args.modes, implementation))
    for mode in args.modes:
      unit = functools.partial(ratio, steps, mode, implementation, comparisons.get(mode), args.repeats)
      results.measure('ratio', mode, 240, unit)
  for mode in args.modes:
    results.measure('memory', mode, 90, functools.partial(memory_in_own_process, mode, implementation, args))
    results.measure('trace', mode, 60, functools.partial(traced, steps, mode, implementation))
  for form in usable:
    for name, layer in kernels.layers_on(args.device, kernels.TIMED).items():
      unit = functools.partial(kernels.time_form, form, name, layer, args.device)
      results.measure('kernels', f'{name}, {form}', 60, unit)
  for form in usable:
    results.measure('forms', form, 200, functools.partial(step_times, steps, args, form))
  for mode in args.modes:
    unit = functools.partial(eager, steps, mode, config, implementation, args)
    results.measure('eager', mode, 90, unit)
  for name, options in FLAGS.items():
    if args.device == 'cuda' or not options:
      results.measure('flags', name, 60, functools.partial(flagged, steps, implementation, options))
  for mode in args.modes:
    unit = functools.partial(larger_batch, steps, mode, implementation, 2 * images_of(config, mode))
    results.measure('larger batch', mode, 150, unit)
  for tiles in kernels.TILES if args.device == 'cuda' else ():
    for value in tiles.values if tiles.form in usable else ():
      unit = functools.partial(kernels.time_tiles, tiles, value, LAYERS['denseblock3'], args.device)
      results.measure('tiles', f'{tiles.operation}, {kernels.label(value)}', 30, unit)


def checked_forms(results: Results, device: str) -> tuple[str, ...]:
  """Checks the forms; returns those that compute what they should, the best first.

  Ends the process behind a form that fails: the device may be unusable for it.
  """
  names = forms() if device == 'cuda' else ('xla',)
  for form in names:
    if results.get('check', form) is None:
      results.measure('check', form, 150, functools.partial(kernels.check, form, device))
      record = results.get('check', form)
      if record is None:
        sys.exit()  # too little time is left
      if device == 'cuda' and 'error' in record:
        sys.exit(NEW_PROCESS)
  checked = results.of('check')
  usable = tuple(form for form in names if checked.get(form, {}).get('passed'))
  if not usable:
    raise RunError(f'{results.path}: no form of the operations computes what it should; see its stage check')
  return usable


def implementation_of(form: str, device: str) -> str:
  """The value of `model.implementation` for a form."""
  return f'fused_{form}' if device == 'cuda' else 'fused'


def environment(device: str) -> Record:
  """Versions, card, driver, clocks."""
  smi = None
  if device == 'cuda':
    query = 'name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu'
    command = ['nvidia-smi', f'--query-gpu={query}', '--format=csv']
    smi = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split('\n')[:2]
  versions = {}
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return {
    'device': jax.devices()[0].device_kind,
    'python': platform.python_version(),
    'versions': versions,
    'nvidia_smi': smi,
    'cores': os.cpu_count(),
    'provenance': provenance(),
  }


def started(
  stack: contextlib.ExitStack, mode: str, config: ConfigDict, peer: str, device: str
) -> Comparison | None:
  """A peer that compiles from now on; None: it is not installed."""
  dtype = config.model.compute_dtype
  if peer not in installed_peers(modes=[mode], device=device, compute_dtype=dtype):
    return None
  return stack.enter_context(Comparison(mode, config, [peer], on_cpu=device == 'cpu', all_required=True))


def compile_steps(steps: Steps, modes: tuple[str, ...], implementation: str) -> Record:
  """Compiles the steps side by side. With files of an earlier process in the cache the times are not cold."""
  cache = pathlib.Path(os.environ.get('JAX_COMPILATION_CACHE_DIR') or os.devnull)
  cached = cache.is_dir() and any(cache.iterdir())
  with concurrent.futures.ThreadPoolExecutor(len(modes)) as pool:
    made = dict(zip(modes, pool.map(lambda mode: steps.get(mode, implementation, None), modes), strict=True))
  return {'cached': cached, 'modes': {mode: step.figures for mode, step in made.items()}}


def ratio(
  steps: Steps, mode: str, implementation: str, comparison: Comparison | None, repeats: int
) -> Record:
  """Our step and the peer's in turn; ours alone where there is none."""
  run = steps.get(mode, implementation, None).start()  # the first losses are compared
  images = images_of(steps.config, mode)
  turn = functools.partial(seconds, run, in_flight=steps_in_flight())
  first = jax.block_until_ready(run())
  if comparison is None:
    return {'ours': timed(turn, repeats).to_json(images), 'peers': {}, 'not installed': 'torch'}
  comparison.check(first)
  timings = comparison.measure(turn, {}, repeats)
  return {'ours': timings['ours'].to_json(images), 'peers': comparison.describe(timings, images)}


def eager(
  steps: Steps, mode: str, config: ConfigDict, implementation: str, args: argparse.Namespace
) -> Record:
  """Our step and PyTorch's, not compiled, in turn."""
  with contextlib.ExitStack() as stack:
    comparison = started(stack, mode, config, 'eager', args.device)
    return ratio(steps, mode, implementation, comparison, max(2, args.repeats // 2))


def traced(steps: Steps, mode: str, implementation: str) -> Record:
  """The kernels of a step by name."""
  run = steps.get(mode, implementation, None).run
  with tempfile.TemporaryDirectory() as folder:
    found = trace(run, pathlib.Path(folder))
  return {
    'ms': sum(kernel.milliseconds for kernel in found),
    'launches': sum(kernel.launches for kernel in found),
    'kernels': [kernel._asdict() for kernel in found[:KERNELS_SHOWN]],
  }


def step_times(steps: Steps, args: argparse.Namespace, form: str) -> Record:
  """The step of each mode in one form."""
  implementation = implementation_of(form, args.device)
  compile_steps(steps, args.modes, implementation)
  return {mode: our_time(steps, mode, implementation, None) for mode in args.modes}


def larger_batch(steps: Steps, mode: str, implementation: str, batch: int) -> Record:
  """Our step with more images."""
  return our_time(steps, mode, implementation, batch)


def our_time(steps: Steps, mode: str, implementation: str, batch: int | None) -> Record:
  """Time and compilation of a step of ours."""
  step = steps.get(mode, implementation, batch)
  turn = functools.partial(seconds, step.run, in_flight=steps_in_flight())
  images = batch or images_of(steps.config, mode)
  return {'batch': images, **timed(turn, 3).to_json(images), **step.figures}


def flagged(steps: Steps, implementation: str, options: dict[str, Any]) -> Record:
  """The inference step under other options of XLA."""
  config = resized(steps.config, None, None)
  config.model.implementation = implementation
  step = inference_step(config, steps.variables)
  run = step.start(step.lowered.compile(options))
  turn = functools.partial(seconds, run, in_flight=steps_in_flight())
  return timed(turn, 3).to_json(images_of(config, 'inference'))


def memory_in_own_process(mode: str, implementation: str, args: argparse.Namespace) -> Record:
  """The most memory in use since a process started, which nothing else was measured in."""
  command = [sys.executable, '-m', 'tools.measure_gpu', 'memory', *args.arguments, '--mode', mode]
  command.append(f'--config.model.implementation={implementation}')
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise RunError(f'{" ".join(command)} ended with code {done.returncode}: {done.stderr[-400:]}')
  return json.loads(done.stdout.splitlines()[-1])


def memory(config: ConfigDict, mode: str) -> Record:
  """Makes a few steps; the most bytes in use, None where they are not counted, and the compiler's figure."""
  step = Steps(config, {}).get(mode, config.model.implementation, None)
  for _ in range(3):
    jax.block_until_ready(step.run())
  return {'peak_bytes_in_use': peak_bytes_in_use(), 'compiled': step.figures['memory']}


def timed(turn: Any, repeats: int) -> Timing:
  """One step's time, warmed up."""
  turn(3)
  return measure_in_turn({'ours': turn}, repeats=repeats, rest=False)['ours']


def images_of(config: ConfigDict, mode: str) -> int:
  """Of a step."""
  return (config.training if mode == 'train' else config.evaluation).batch_size
