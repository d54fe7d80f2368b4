"""Scenes drawn by several processes, any of which may be killed."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dense_aspp_jax.datasets.images import decode_image, decode_label
from dense_aspp_jax.datasets.street_scenes import processes
from dense_aspp_jax.datasets.street_scenes.scene import render_scene

SIZE = (64, 96)


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
  """The processes that are started from now on, by this one on two CPUs."""
  found = []

  class Recorded(subprocess.Popen):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      found.append(self)

  monkeypatch.setattr(subprocess, 'Popen', Recorded)
  monkeypatch.setattr(processes, 'available_cpus', lambda: 2)
  return found


def check_scene(pngs: tuple[bytes, bytes], index: int) -> None:
  image, label = render_scene(5, index, SIZE)
  np.testing.assert_array_equal(decode_image(pngs[0], ''), image)
  np.testing.assert_array_equal(decode_label(pngs[1], ''), label)


def test_the_scenes_are_the_same_even_if_a_process_is_killed(started):
  for index, pngs in enumerate(processes.draw_scenes(5, 64, SIZE)):
    if index % 7 == 0:
      check_scene(pngs, index)
    if index == 20:
      started[0].kill()
  assert index == 63
  assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_where_no_process_can_be_started_this_one_draws(monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'executable', str(tmp_path / 'missing'))
  monkeypatch.setattr(processes, 'available_cpus', lambda: 2)
  check_scene(next(processes.draw_scenes(5, 64, SIZE)), 0)


def test_the_processes_end_with_the_loop(started):
  scenes = processes.draw_scenes(5, 64, SIZE)
  check_scene(next(scenes), 0)
  assert [process.poll() for process in started] == [None, None]
  scenes.close()
  assert None not in [process.returncode for process in started]


def test_one_cpu_or_few_scenes_need_no_process(started, monkeypatch):
  assert len(list(processes.draw_scenes(5, 3, SIZE))) == 3
  monkeypatch.setattr(processes, 'available_cpus', lambda: 1)
  next(processes.draw_scenes(5, 64, SIZE))
  assert not started


_SCRIPT = """
import os, subprocess, sys, time
from dense_aspp_jax.datasets.street_scenes import processes
processes.available_cpus = lambda: 2
start = subprocess.Popen.__init__
def reporting(self, *args, **kwargs):
  start(self, *args, **kwargs)
  print(self.pid, flush=True)
subprocess.Popen.__init__ = reporting
scenes = processes.draw_scenes(5, 64, (64, 96))
next(scenes)
print('drawn', flush=True)
time.sleep(60)
"""  # without `if __name__ == '__main__'`


@pytest.mark.skipif(not pathlib.Path('/proc/self/stat').exists(), reason='reads /proc')
def test_the_processes_end_with_a_script_that_is_killed():
  script = subprocess.Popen([sys.executable, '-c', _SCRIPT], stdout=subprocess.PIPE, text=True)
  pids = [int(script.stdout.readline()) for _ in range(2)]
  assert script.stdout.readline() == 'drawn\n'
  assert all(map(_runs, pids))
  os.kill(script.pid, signal.SIGKILL)
  script.wait()
  script.stdout.close()
  deadline = time.monotonic() + 20
  while any(map(_runs, pids)) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
  except FileNotFoundError:
    return False
