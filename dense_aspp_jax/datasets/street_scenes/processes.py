"""Drawing on all CPUs: processes that each draw one scene after another.

Drawing holds the GIL, so threads do not help. The processes read from a pipe what to draw, and end with it,
however this process ends. Unlike those of multiprocessing, they need no main guard in a user's script. They
import neither JAX nor tfds.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator

from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.street_scenes.scene import render_scene
from dense_aspp_jax.datasets.threads import available_cpus, map_in_threads

_SCENES_EACH = 32  # that make a process worth its start, which takes as long as five scenes
_MOST_PROCESSES = 64
_LENGTHS = struct.Struct('<II')  # of the two PNGs that follow
_PROGRAM = (
  'import json, sys; sys.path[:] = json.loads(sys.argv[1]); '
  f'from {__name__} import serve; serve()'
)  # fmt: skip

Pngs = tuple[bytes, bytes]


def draw_scenes(seed: int, count: int, size: tuple[int, int]) -> Iterator[Pngs]:
  """Draws the first `count` scenes of a series; yields PNGs of image and label map, in order."""
  num_processes = min(available_cpus(), _MOST_PROCESSES, count // _SCENES_EACH)
  if num_processes < 2:
    yield from (_draw(seed, index, size) for index in range(count))
    return
  idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()

  def draw(index: int) -> Pngs:
    process = idle.get()
    try:
      return process.draw(seed, index, size)
    finally:
      idle.put(process)

  with contextlib.ExitStack() as processes:
    for process in [processes.enter_context(_Process()) for _ in range(num_processes)]:
      idle.put(process)
    with contextlib.closing(map_in_threads(draw, range(count), num_processes)) as scenes:
      yield from scenes


class _Process:
  """One of the processes. This process draws in its place where it cannot be started or was killed."""

  def __init__(self):
    path = [entry for entry in sys.path if isinstance(entry, str)]  # Python ignores others
    command = [sys.executable or '', '-c', _PROGRAM, json.dumps(path)]
    pipes = dict.fromkeys(('stdin', 'stdout'), subprocess.PIPE)
    self._process: subprocess.Popen[bytes] | None = None
    with contextlib.suppress(OSError):  # none can be started
      self._process = subprocess.Popen(command, **pipes, stderr=subprocess.DEVNULL)

  def __enter__(self) -> _Process:
    return self

  def __exit__(self, *exception: object) -> None:
    if self._process is not None:
      self._process.kill()
      with contextlib.suppress(OSError):  # what was asked for last may not have been written
        self._process.stdin.close()
      self._process.stdout.close()
      self._process.wait()

  def draw(self, seed: int, index: int, size: tuple[int, int]) -> Pngs:
    if self._process is not None:
      with contextlib.suppress(OSError, struct.error):
        self._process.stdin.write(f'{json.dumps((seed, index, size))}\n'.encode())
        self._process.stdin.flush()
        lengths = _LENGTHS.unpack(self._process.stdout.read(_LENGTHS.size))
        image, label = (self._process.stdout.read(length) for length in lengths)
        if (len(image), len(label)) == lengths:
          return image, label
    return _draw(seed, index, size)


def serve() -> None:
  """What such a process does until its input ends."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all processes; the first one ends
  for line in sys.stdin.buffer:
    pngs = _draw(*json.loads(line))
    sys.stdout.buffer.write(b''.join((_LENGTHS.pack(*map(len, pngs)), *pngs)))
    sys.stdout.buffer.flush()


def _draw(seed: int, index: int, size: tuple[int, int]) -> Pngs:
  image, label = render_scene(seed, index, size)
  return encode_png(image), encode_png(label)
