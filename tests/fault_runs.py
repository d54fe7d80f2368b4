"""Small real runs for the fault tests: commands, states, and what a checkpoint holds."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
from fake_devices import first_devices
from tiny_network import SHALLOW

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.training.checkpoint_series import steps_in
from dense_aspp_jax.training.run import load_run

ROOT = pathlib.Path(__file__).parents[1]
STARTED: list[subprocess.Popen] = []
WITHOUT_REPORT = """
import signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background process
sys.modules['dense_aspp_jax.commands.report'] = types.SimpleNamespace(report_run=lambda *_, **__: 'none')
from dense_aspp_jax.commands.main import main
sys.exit(main())
"""
# Not by XLA's flag: of two devices, each has half of the threads, and the bits are others.
ON_ONE_DEVICE = """
import jax
devices, local_devices = jax.devices, jax.local_devices
jax.devices, jax.local_devices = lambda: devices()[:1], lambda: local_devices()[:1]
"""
# Two steps an epoch, a checkpoint after each step, one evaluation at the end.
RECIPE = {
  'data.image_size': (32, 64),
  'augmentation.flip_probability': 0.5,
  'optimizer.learning_rate': 1e-2,
  'training.batch_size': 8,
  'training.num_epochs': 2.0,
  'checkpoint.every_epochs': 0.5,
  'checkpoint.keep': 3,
  'evaluation.every_epochs': 100.0,
}


def train_arguments(folder, workdir, *options, **fields):
  """Arguments of a training on a folder of scenes; `fields` with `__` for the dot."""
  fields = {
    **{f'model.{name}': value for name, value in SHALLOW.items()},
    **RECIPE,
    'data.dataset': f'folder:{folder}',
    'data.data_dir': folder.parent / 'data',
    **{name.replace('__', '.'): value for name, value in fields.items()},
  }
  overrides = [f'--config.{name}={value}' for name, value in fields.items()]
  return ['train', f'--config={ROOT}/configs/default.py', f'--workdir={workdir}', *options, *overrides]


def train(folder, workdir, *options, devices=1, **fields):
  """Trains in this process, on the first devices, without the report; the exit code."""
  with first_devices(devices), pytest.MonkeyPatch.context() as patch:
    stub = types.SimpleNamespace(report_run=lambda *_, **__: 'none')
    patch.setitem(sys.modules, 'dense_aspp_jax.commands.report', stub)
    return main(train_arguments(folder, workdir, *options, **fields))


def start(arguments, prefix=(), before='', **environment):
  """Starts a command as a process of its own, which makes no report.

  Args:
    arguments: Of `dense-aspp`.
    prefix: A command that runs the process.
    before: Code that the process runs first.
    **environment: Variables; without XLA_FLAGS the process has one device.
  """
  code = before + WITHOUT_REPORT if 'XLA_FLAGS' in environment else ON_ONE_DEVICE + before + WITHOUT_REPORT
  command = [*prefix, sys.executable, '-c', code, *map(str, arguments)]
  process = subprocess.Popen(
    command,
    cwd=ROOT,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  STARTED.append(process)
  return process


def end_started():
  """Ends all that `start` started, with the processes that these started."""
  while STARTED:
    process = STARTED.pop()
    with contextlib.suppress(ProcessLookupError):  # where none is left
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def wait_for_step(workdir, step, process, kind='train', seconds=120):
  """Returns when the log of a run has reached a step; fails if its process ends before."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()[0]
    if any(line['step'] >= step and line['kind'] == kind for line in log(workdir)):
      return
    time.sleep(0.02)
  raise AssertionError(f'step {step} was not reached')


def kill_when(condition, process, seconds=120):
  """Ends a process by SIGKILL at a moment when a condition holds; it stands still while that is found out."""
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    process.send_signal(signal.SIGSTOP)
    status = os.waitpid(process.pid, os.WUNTRACED)[1]
    assert os.WIFSTOPPED(status), process.communicate()[0]  # it ended before
    if condition():
      process.kill()
      return
    process.send_signal(signal.SIGCONT)
    time.sleep(0.005)
  process.kill()
  raise AssertionError(f'the condition did not hold within {seconds} s')


def latest(workdir):
  """Steps of the checkpoints to resume from."""
  return steps_in(workdir / 'checkpoints' / 'latest')


def digests(workdir, step):
  """The digests of the whole state at a step: equal ones are equal bits."""
  load_run(workdir, str(step))  # what is there is what the digests say
  return read_metadata(workdir, step)['sha256']


def read_metadata(workdir, step):
  """What a checkpoint says of itself, raw."""
  path = workdir / 'checkpoints' / 'latest' / str(step) / '_CHECKPOINT_METADATA'
  return json.loads(path.read_text())['custom_metadata']


def data_files(checkpoint):
  """The files of the parameters' values and of the index in use; some parts are of indices that are not."""
  params = checkpoint / 'params'  # large arrays lie in the process's own folder
  return [*(params / 'd').iterdir(), *(params / 'ocdbt.process_0' / 'd').iterdir()]


def values_file(checkpoint):
  """The file with the values of large parameters."""
  return max(data_files(checkpoint), key=lambda p: p.stat().st_size)


def copied(workdir, path):
  """A copy of a run, to be damaged."""
  shutil.copytree(workdir, path)
  return path


def can_mount():
  """Whether a file system may be mounted here, in a namespace of its own."""
  if not shutil.which('unshare'):
    return False
  probe = ['unshare', '-rm', 'sh', '-c', 'mount -t tmpfs -o size=1m none /mnt']
  return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def scores(workdir):
  """What the last evaluation found."""
  found = json.loads((workdir / 'scores.json').read_text())
  return {
    name: found[name] for name in ('step', 'images', 'mean_iou_19', 'mean_iou_20', 'pixel_accuracy', 'iou')
  }


def log(workdir):
  """The whole lines of metrics.jsonl, which may be in the writing."""
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith('\n')]
