"""Runs that are asked to end: what is done is saved, and the resumed run is the same bit for bit."""

import os
import pty
import select
import signal
import subprocess
import sys

import fault_runs
import pytest
from fault_runs import digests, latest, train, train_arguments

from dense_aspp_jax.training import checkpoint_series
from dense_aspp_jax.training import train as train_module


def send(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


def assert_resumes_to(finished, scene_folder, workdir):
  assert train(scene_folder, workdir) == 0
  assert latest(workdir)[-1] == 4
  assert digests(workdir, 4) == digests(finished, 4)
  assert fault_runs.scores(workdir) == fault_runs.scores(finished)
  steps = [line['step'] for line in fault_runs.log(workdir) if line['kind'] == 'validation']
  assert steps == [4]
  assert not list((workdir / 'checkpoints').rglob('*.orbax-checkpoint-tmp*'))


# The third step takes as long as a signal needs to arrive.
SLOW_STEP = """
import time
from dense_aspp_jax.training.monitor import StepMonitor
add = StepMonitor.add
def slow(self, step, metrics):
  add(self, step, metrics)
  time.sleep(3 * (step == 3))
StepMonitor.add = slow
"""


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_scenario_06_a_signal_to_a_process_of_its_own(finished, scene_folder, tmp_path, number, code):
  """Between two checkpoints; the rest of the run is made by this process."""
  arguments = train_arguments(scene_folder, tmp_path, checkpoint__every_epochs=100.0)
  process = fault_runs.start(arguments, before=SLOW_STEP)
  fault_runs.wait_for_step(tmp_path, 1, process)  # it is logged two steps later
  process.send_signal(number)
  text = process.communicate(timeout=60)[0]
  assert process.returncode == code, text
  assert 'Traceback' not in text
  assert f'dense-aspp train: stopped by {number.name} at step 3 of 4, which is saved' in text
  assert latest(tmp_path) == [3]
  assert [line['step'] for line in fault_runs.log(tmp_path)] == [1, 2, 3]
  assert_resumes_to(finished, scene_folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('nohup', [False, True])
def test_a_terminal_that_is_closed_ends_a_training_saved_unless_nohup(scene_folder, tmp_path, nohup):
  """It gets SIGHUP in its third step, and from then on can print nothing."""
  ours, terminal = pty.openpty()
  workdir = tmp_path / 'work'
  arguments = train_arguments(scene_folder, workdir, checkpoint__every_epochs=100.0)
  on_terminal = f"""
import fcntl, os, signal, termios
fcntl.ioctl({terminal}, termios.TIOCSCTTY, 0)  # it is the terminal of this session
for descriptor in (0, 1, 2):
  os.dup2({terminal}, descriptor)
os.close({terminal})
signal.signal(signal.SIGHUP, signal.SIG_IGN if {nohup} else signal.SIG_DFL)
if {nohup}:  # it also leads the standard output elsewhere
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
"""
  code = on_terminal + fault_runs.ON_ONE_DEVICE + SLOW_STEP + fault_runs.WITHOUT_REPORT
  command = [sys.executable, '-c', code, *map(str, arguments)]
  process = subprocess.Popen(command, cwd=fault_runs.ROOT, start_new_session=True, pass_fds=[terminal])
  os.close(terminal)
  printed = b''
  while not fault_runs.log(workdir):  # the first step is logged two steps later
    assert process.poll() is None, printed.decode()
    if select.select([ours], [], [], 0.02)[0]:
      printed += os.read(ours, 2**16)
  os.close(ours)
  assert process.wait(100) == (0 if nohup else 129), printed.decode()
  assert latest(workdir) == [4 if nohup else 3]
  digests(workdir, latest(workdir)[0])


def test_scenario_07_a_signal_in_the_evaluation(finished, scene_folder, tmp_path, monkeypatch, capsys):
  evaluate = train_module.evaluate

  def interrupted(*args, **arguments):
    send()
    scores = evaluate(*args, **arguments)
    pytest.fail(f'the evaluation went on to its end: {scores}')

  monkeypatch.setattr(train_module, 'evaluate', interrupted)
  assert train(scene_folder, tmp_path, checkpoint__every_epochs=100.0) == 143
  monkeypatch.undo()
  assert 'stopped by SIGTERM at step 4 of 4, which is saved' in capsys.readouterr().err
  assert latest(tmp_path) == [4]
  assert not (tmp_path / 'scores.json').exists()
  assert_resumes_to(finished, scene_folder, tmp_path)
  assert 'the evaluation of step 4 was cut off and is made again' in capsys.readouterr().err


def test_scenario_07_signals_during_a_save(finished, scene_folder, tmp_path, monkeypatch):
  """Of step 2, which is being written when the first arrives, and of the last save, for the others."""
  save = checkpoint_series.start_saving

  def interrupted(path, *args):
    response = save(path, *args)
    if path.name in ('2', '3'):
      for _ in range(3):
        send()
    return response

  monkeypatch.setattr(checkpoint_series, 'start_saving', interrupted)
  assert train(scene_folder, tmp_path) == 143
  monkeypatch.undo()
  assert latest(tmp_path) == [1, 2]
  assert_resumes_to(finished, scene_folder, tmp_path)


def test_scenario_07_a_signal_while_the_last_checkpoint_is_written(
  finished, scene_folder, tmp_path, monkeypatch, capsys
):
  wait = checkpoint_series.CheckpointSeries.wait

  def interrupted(self):
    if self.directory.name == 'latest' and self.steps[-1:] == [4]:
      send()
    wait(self)

  monkeypatch.setattr(checkpoint_series.CheckpointSeries, 'wait', interrupted)
  assert train(scene_folder, tmp_path) == 143
  monkeypatch.undo()
  assert 'the run was at its end and is complete' in capsys.readouterr().err
  assert digests(tmp_path, 4) == digests(finished, 4)
