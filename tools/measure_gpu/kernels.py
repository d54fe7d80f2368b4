"""The operations with kernels, alone: whether each form computes the same, and how long it takes."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dense_aspp_jax.models.fused import gpu_1x1, gpu_3x3
from dense_aspp_jax.models.fused.gpu_tiles import Tile
from dense_aspp_jax.models.fused.kernel_calls import Call, Layer, calls
from dense_aspp_jax.models.fused.kernel_check import TOLERANCE, compile_calls, differences, drawn, run
from tools.gpu.layers import LAYERS
from tools.measure_gpu.results import Record

CHECKED = ('denseblock1', 'denseblock3', 'denseblock3, 360x480', 'aspp')
TIMED = ('denseblock1', 'denseblock3', 'aspp')
TINY = {'tiny': Layer((2, 8, 16), 64, 32, 16, 16)}  # for a CPU
_REPEATS = 10


class Tiles(NamedTuple):
  """Another size of the tiles of one operation: what a module's constant is replaced with."""

  form: str
  operation: str
  module: ModuleType
  constant: str
  values: tuple[Any, ...]


def _of_widths(*tiles: Tile) -> tuple[dict[int, Tile], ...]:
  return tuple({128: tile, 256: tile} for tile in tiles)


# For 128 output channels; the first of each are those that the package has.
TILES = (
  Tiles(
    *('triton', 'bn_relu_dot', gpu_1x1, 'FORWARD_TILES'),
    _of_widths(Tile(128, 64, 8, 3), Tile(64, 64, 4, 4), Tile(256, 32, 8, 3)),
  ),
  Tiles(
    *('triton', 'bn_relu_dot_backward', gpu_1x1, 'BACKWARD_TILES'),
    _of_widths(Tile(64, 64, 4, 2), Tile(64, 64, 8, 3), Tile(64, 128, 8, 2), Tile(32, 64, 4, 4)),
  ),
  Tiles(
    *('triton', 'bn_relu_conv_backward', gpu_3x3, 'BACKWARD_TILE'),
    (Tile(64, 64, 4, 3), Tile(64, 64, 8, 3), Tile(32, 128, 8, 3), Tile(64, 128, 8, 2)),
  ),
)


def layers_on(device: str, names: tuple[str, ...]) -> dict[str, Layer]:
  """The layers of a stage; on a CPU a tiny one stands for all."""
  return TINY if device == 'cpu' else {name: LAYERS[name] for name in names}


def check(form: str, device: str) -> Record:
  """Compares each operation of a form with XLA's, on drawn arrays, on the device.

  Returns:
    By layer and operation the largest difference over the largest value; and whether all are small.

  Raises:
    Exception: As the compiler or the device raises it.
  """
  found = differences(form, layers_on(device, CHECKED), **_options(device))
  return {'differences': found, 'passed': all(d <= TOLERANCE for d in found.values())}


def time_form(form: str, name: str, layer: Layer, device: str) -> Record:
  """Microseconds of each operation of a layer."""
  return {'operations': _timed(list(calls(layer, form)), layer, device), 'layer': name, 'form': form}


def time_tiles(tiles: Tiles, value: Any, layer: Layer, device: str) -> Record:
  """The same of one operation with other tiles."""
  with _replaced(tiles.module, tiles.constant, value):
    chosen = [call for call in calls(layer, tiles.form) if call.operation == tiles.operation]
    return {'operations': _timed(chosen, layer, device), 'form': tiles.form, 'tiles': label(value)}


def label(tiles: Tile | dict[int, Tile]) -> str:
  """In words; of the first width."""
  tile = next(iter(tiles.values())) if isinstance(tiles, dict) else tiles
  return f'{tile.rows}x{tile.columns}, {tile.warps} warps, {tile.stages} stages'


def _options(device: str) -> dict[str, Any]:
  """For the compiler: profiles show the kernels of a CUDA graph only in some versions."""
  return {'xla_gpu_enable_command_buffer': ''} if device == 'cuda' else {}


def _timed(functions: list[Call], layer: Layer, device: str) -> dict[str, dict[str, float]]:
  """By operation: microseconds, GB/s, TFLOP/s, launches. One profile of all, which marks keep apart."""
  mark, token = jax.jit(jnp.cbrt), jnp.ones(8)
  compiled, runs = compile_calls(functions, **_options(device)), []
  for call, function in zip(functions, compiled, strict=True):
    arguments = list(drawn(call, layer))
    run(call, function, tuple(arguments))
    if call.donated is not None:
      arguments[call.donated] = jnp.copy(arguments[call.donated])
    runs.append((call, function, arguments))
  jax.block_until_ready(mark(token))
  host = {}
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for call, function, arguments in runs:
        jax.block_until_ready(mark(token))
        begin = time.perf_counter()
        for _ in range(_REPEATS):
          out = function(*arguments)
          if call.donated is not None:  # its memory is handed on
            arguments[call.donated] = jax.tree.leaves(out)[0]
        jax.block_until_ready(out)
        host[call.operation] = (time.perf_counter() - begin) / _REPEATS
    events = list(_device_events(pathlib.Path(folder))) if device == 'cuda' else []
  found, groups = {}, _between_marks(events)
  for number, (call, _, _) in enumerate(runs):
    launched = groups[number] if number < len(groups) else []
    seconds = sum(launched) / 1e9 / _REPEATS or host[call.operation]
    found[call.operation] = {
      'us': 1e6 * seconds,
      'host_us': 1e6 * host[call.operation],
      'launches': len(launched) / _REPEATS,
      'GB_per_second': call.num_bytes / seconds / 1e9,
      'TFLOP_per_second': call.flops / seconds / 1e12,
    }
  return found


def _between_marks(events: list[tuple[str, float]]) -> list[list[float]]:
  groups: list[list[float]] = []
  for name, nanoseconds in events:
    if 'cbrt' in name:
      groups.append([])
    elif groups:
      groups[-1].append(nanoseconds)
  return groups


def _device_events(folder: pathlib.Path) -> Iterator[tuple[str, float]]:
  """Name and nanoseconds of what ran on the GPU, in the order of its start."""
  events = []
  for path in folder.rglob('*.xplane.pb'):
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
      if plane.name.startswith('/device:GPU'):
        for line in plane.lines:
          if line.name.startswith('Stream'):
            events += [(event.start_ns, event.name, event.duration_ns) for event in line.events]
  yield from ((name, duration) for _, name, duration in sorted(events))


@contextlib.contextmanager
def _replaced(module: ModuleType, constant: str, value: Any) -> Iterator[None]:
  before = getattr(module, constant)
  setattr(module, constant, value)
  jax.clear_caches()  # a function under jit has the constant of its first trace
  try:
    yield
  finally:
    setattr(module, constant, before)
    jax.clear_caches()
