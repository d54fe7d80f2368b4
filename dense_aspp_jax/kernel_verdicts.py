"""Whether the GPU kernels compute what they should on this machine.

They are checked once for each GPU and version, in a process of its own: a kernel that goes wrong may end the
process, make the GPU unusable for it, or never return. The verdict is kept in the user's cache directory.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import jax
import jaxlib

from dense_aspp_jax.errors import RunError
from dense_aspp_jax.files import shown, write_json
from dense_aspp_jax.paths import user_cache
from dense_aspp_jax.progress import say

_CHECK = 'dense_aspp_jax.models.fused.kernel_check'
_KERNELS = pathlib.Path(__file__).parent / 'models' / 'fused'
_SECONDS = 300  # until a check counts as one that never ends
_FILE = 'gpu_kernels.json'


@functools.cache
def passes(form: str) -> bool:
  """Whether a form of the kernels passes its check on the GPU of this process; says so if it does not.

  Args:
    form: Of `models.fused.gpu_form`.

  Raises:
    RunError: It does not, in a run of several processes: all have to run the same form.
  """
  path, key = user_cache() / _FILE, _key(form)
  verdicts = _read(path)
  if key not in verdicts:
    device = jax.devices()[0].device_kind
    say(f"checking the '{form}' kernels on this {device}, once; it may take a minute")
    verdicts = {**_read(path), key: {'failure': _failure(form), 'checked': f'{datetime.date.today()}'}}
    with contextlib.suppress(RunError):  # then the next process checks again
      write_json(path, verdicts)
  failure = verdicts[key]['failure']
  if failure is None:
    return True
  found = f'the {key} failed their check of {verdicts[key]["checked"]} ({failure})'
  if jax.process_count() > 1:
    other = 'fused_triton' if form == 'mosaic' else 'fused_xla'
    raise RunError(f'{found}; set config.model.implementation = {other!r} in all processes of the run')
  say(f'{found}; the next best form runs, more slowly. To have them checked again, delete {shown(path)}')
  return False


def _key(form: str) -> str:
  """What a verdict depends on."""
  sources = hashlib.sha256(b''.join(path.read_bytes() for path in sorted(_KERNELS.glob('*.py'))))
  device = jax.devices()[0]
  platform = ' '.join(device.client.platform_version.split())
  versions = f'jax {jax.__version__}, jaxlib {jaxlib.__version__}, {platform}'
  return f"'{form}' kernels {sources.hexdigest()[:12]} on {device.device_kind} with {versions}"


def _read(path: pathlib.Path) -> dict[str, Any]:
  with contextlib.suppress(OSError, ValueError):
    verdicts = json.loads(path.read_text())
    if isinstance(verdicts, dict):
      return verdicts
  return {}


def _failure(form: str) -> str | None:
  """Runs the check; why it failed, None: it passed."""
  command = [sys.executable, '-m', _CHECK, form, jax.default_backend()]
  # This process may have most of the GPU's memory already; the check takes what it needs and no more.
  environment = {
    **os.environ,
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
  }
  try:
    done = subprocess.run(
      command,
      env=environment,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      errors='replace',
      timeout=_SECONDS,
      check=False,
    )
  except subprocess.TimeoutExpired:
    return f'they did not end within {_SECONDS} s'
  except OSError as error:
    return f'{command[0]!r} could not be started: {error.strerror}'
  if done.returncode == 0:
    return None
  if done.returncode < 0:
    return f'their process was ended by {signal.Signals(-done.returncode).name}'
  last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), 'no message')
  return last if done.returncode == 1 else f'exit code {done.returncode}: {last}'
