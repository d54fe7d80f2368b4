"""Starts the process that measures, and starts it again where a unit has ended it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from dense_aspp_jax.errors import RunError
from tools.measure_gpu.results import Results, say

NEW_PROCESS = 3  # exit code of a process whose device may be unusable
_POLL_SECONDS = 0.5


def supervise(path: pathlib.Path, settings: dict[str, Any], deadline: float, command: Sequence[str]) -> None:
  """Runs a command until everything is measured or the time is up.

  A kernel that fails can take the process with it, or never end. The unit then counts as failed, and another
  process goes on behind it.

  Args:
    path: File of results.
    settings: See `Results`.
    deadline: Seconds since the epoch, by which all processes have ended.
    command: Measures what is missing; exits with `NEW_PROCESS` if another process should.

  Raises:
    RunError: It ended outside of a unit.
  """
  cache = path.parent / 'cache'
  environment = {
    # a second process, or call, does not compile again
    'JAX_COMPILATION_CACHE_DIR': str(cache / 'xla'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'TORCHINDUCTOR_CACHE_DIR': str(cache / 'inductor'),
    'TRITON_CACHE_DIR': str(cache / 'triton'),
    # PyTorch's processes have memory on the same card
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'TF_CPP_MIN_LOG_LEVEL': '2',
    **({'JAX_PLATFORMS': 'cpu'} if settings['device'] == 'cpu' else {}),
  }
  while time.time() < deadline:
    process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)
    reason = _wait(process, path, settings, deadline)
    results = Results(path, settings, deadline)
    if reason is None and process.returncode == 0:
      return
    if time.time() >= deadline:
      results.end_running(None)
      say('the time is up; the same command goes on')
      return
    running = results.running()
    if running is None and process.returncode != NEW_PROCESS:
      raise RunError(f'the measuring process ended with code {process.returncode} outside of any unit')
    if running:
      reason = reason or f'its process ended with code {process.returncode}'
      say(f'{running[0]} {running[1]}: {reason}')
      results.end_running(reason)


def _wait(
  process: subprocess.Popen, path: pathlib.Path, settings: dict[str, Any], deadline: float
) -> str | None:
  """Waits for the end of a process; returns why it was ended, None: by itself."""
  try:
    while process.poll() is None:
      time.sleep(_POLL_SECONDS)
      if time.time() >= deadline:
        return 'the time is up'
      running = Results(path, settings, deadline).running() if path.exists() else None
      late = running and time.time() > running[2]['started'] + running[2]['limit']
      if late and process.poll() is None:  # one that has ended meanwhile says why by its code
        return f'took longer than {running[2]["limit"]:.0f} s'
  finally:
    _end(process)
  return None


def _end(process: subprocess.Popen) -> None:
  """Ends a process and those that it has started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()
