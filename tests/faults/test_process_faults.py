"""Several processes as one run, for real: two of them with two devices each, against one with four."""

import signal
import socket
import time

import fault_runs
import numpy as np
import pytest
from fault_runs import copied, digests, latest, train_arguments
from xla_flags import xla_flags

from dense_aspp_jax.evaluation.evaluate import evaluate
from dense_aspp_jax.training.run import load_run

# Three epochs of two steps; then an evaluation and a checkpoint.
FIELDS = dict(
  training__num_epochs=3.0,
  checkpoint__every_epochs=3.0,
  checkpoint__keep=9,
  evaluation__every_epochs=3.0,
  evaluation__batch_size=4,
  evaluation__num_pictures=0,
  optimizer__learning_rate=1e-3,
)
# Each process writes down the counts of each of its evaluations.
KEEP_COUNTS = """
import jax, numpy as np
from dense_aspp_jax.training import train
evaluate = train.evaluate
def kept(*args, **options):
  confusion = evaluate(*args, **options)
  with open(f'{directory}/counts_{{jax.process_index()}}.npy', 'ab') as file:
    np.save(file, confusion.counts)
  return confusion
train.evaluate = kept
"""


def free_address():
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{server.getsockname()[1]}'


def start_two(folder, workdir, *options, **fields):
  """Starts a training on two processes with two devices each."""
  address = free_address()
  return [
    fault_runs.start(
      train_arguments(
        folder,
        workdir,
        f'--coordinator={address}',
        '--processes=2',
        f'--process-id={index}',
        '--heartbeat-timeout=10',
        *options,
        **fields,
      ),
      before=KEEP_COUNTS.format(directory=workdir.parent),
      XLA_FLAGS=xla_flags(2),
    )
    for index in range(2)
  ]


def finish(processes, code=0):
  texts = [process.communicate(timeout=300)[0] for process in processes]
  assert [process.returncode for process in processes] == [code] * len(processes), '\n'.join(texts)
  return texts


@pytest.fixture(scope='module')
def seven(scene_folder, tmp_path_factory):
  """The scenes with seven validation images, which two processes cannot share evenly."""
  folder = copied(scene_folder, tmp_path_factory.mktemp('seven') / 'scenes')
  for kind in ('images', 'labels'):
    for index in (5, 6):
      source = folder / 'train' / kind / f'{index}.png'
      (folder / 'validation' / kind / f'{index}.png').write_bytes(source.read_bytes())
  return folder


@pytest.fixture(scope='module')
def two(seven, tmp_path_factory):
  """Two processes with two devices each, until SIGTERM to the second; what `stop_two` returns."""
  return stop_two(seven, tmp_path_factory.mktemp('two') / 'work', 1)


def stop_two(folder, workdir, signalled):
  """Sends SIGTERM to one of two that train, after their first evaluation.

  Returns:
    The directory of the run, and what the processes said.
  """
  processes = start_two(folder, workdir, **FIELDS | dict(training__num_epochs=5000.0))
  fault_runs.wait_for_step(workdir, 6, processes[0], 'validation')
  processes[signalled].send_signal(signal.SIGTERM)
  return workdir, finish(processes, 143)


def losses(workdir):
  return [line['loss'] for line in fault_runs.log(workdir) if line['kind'] == 'train']


def assert_stopped_as_one(workdir, texts):
  """All said and saved the same step; none is missing in the log."""
  step = latest(workdir)[-1]
  for text in texts:
    assert f'stopped by SIGTERM at step {step} of 10000, which is saved' in text
  assert [line['step'] for line in fault_runs.log(workdir) if line['kind'] == 'train'] == list(
    range(1, step + 1)
  )


def assert_evaluated_as_one(workdir):
  """At step 6 each process has the counts of this one, which evaluates the images one by one."""
  run = load_run(workdir, '6')
  counts = evaluate(run.predictor, run.load_split('validation'), run.label_set, batch_size=1).counts
  assert counts.sum() == 7 * 64 * 128
  for index in range(2):
    with (workdir.parent / f'counts_{index}.npy').open('rb') as file:
      np.testing.assert_array_equal(np.load(file), counts)


def test_two_processes_train_as_one(seven, two, tmp_path):
  """One process has four devices."""
  assert fault_runs.train(seven, tmp_path, devices=4, **FIELDS) == 0
  assert len(losses(tmp_path)) == 6
  np.testing.assert_allclose(losses(two[0])[:6], losses(tmp_path), rtol=1e-6)


def test_scenario_27_evaluation_is_the_same_for_any_batch_and_number_of_processes(two):
  """Seven images; batches of 1 in one process and of 4 in each of two."""
  assert_evaluated_as_one(two[0])


def test_scenario_08_sigterm_to_one_of_two(two):
  assert_stopped_as_one(*two)


@pytest.mark.slow
def test_scenario_08_sigterm_to_the_first_of_two(seven, tmp_path):
  workdir, texts = stop_two(seven, tmp_path / 'work', 0)
  assert_stopped_as_one(workdir, texts)
  assert_evaluated_as_one(workdir)


@pytest.mark.slow
def test_scenario_08_the_resumed_run_is_the_unbroken_one(seven, two, tmp_path):
  """By two processes bit for bit; resumed by one, to rounding."""
  stopped, _ = two
  step = latest(stopped)[-1]
  fields = FIELDS | dict(training__num_epochs=step / 2 + 1)
  resumed = copied(stopped, tmp_path / 'resumed')
  finish(start_two(seven, resumed, **fields))
  assert latest(resumed)[-1] == step + 2
  steps = [line['step'] for line in fault_runs.log(resumed) if line['kind'] == 'train']
  assert steps == list(range(1, step + 3))
  finish(start_two(seven, tmp_path / 'unbroken', **fields))
  assert digests(resumed, step + 2) == digests(tmp_path / 'unbroken', step + 2)
  alone = copied(stopped, tmp_path / 'alone')
  arguments = train_arguments(seven, alone, **fields)
  (text,) = finish([fault_runs.start(arguments, XLA_FLAGS=xla_flags(4))])
  assert f'resuming at step {step} of {step + 2}' in text
  np.testing.assert_allclose(losses(alone)[-2:], losses(resumed)[-2:], rtol=1e-5)


@pytest.mark.slow
def test_scenario_09_kill_9_of_one_of_two(seven, tmp_path):
  fields = FIELDS | dict(training__num_epochs=5000.0, checkpoint__every_epochs=1.0)
  pair = start_two(seven, tmp_path, **fields)
  fault_runs.wait_for_step(tmp_path, 5, pair[0])
  pair[1].kill()
  killed = time.monotonic()
  texts = [process.communicate(timeout=60)[0] for process in pair]
  assert time.monotonic() - killed < 40  # heartbeat of 10 s
  assert pair[0].returncode not in (0, None), texts[0]
  assert 'stopped sending heartbeats' in texts[0]
  step = latest(tmp_path)[-1]
  assert step >= 2
  arguments = train_arguments(seven, tmp_path, **fields | dict(training__num_epochs=step / 2 + 1))
  (resumed,) = finish([fault_runs.start(arguments, XLA_FLAGS=xla_flags(4))])
  assert f'resuming at step {step} of {step + 2}' in resumed


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--processes=2'], '--coordinator, --processes and --process-id: expected all three'),
    (['--coordinator=host:1', '--processes=2', '--process-id=2'], 'expected 0 <= process id < processes'),
    (['--coordinator=host', '--processes=2', '--process-id=0'], '--coordinator host: expected HOST:PORT'),
    (['--distributed', '--heartbeat-timeout=0'], '--heartbeat-timeout 0: expected at least 1 second'),
  ],
)
def test_processes_are_given_whole_or_not_at_all(scene_folder, tmp_path, capsys, options, message):
  assert fault_runs.train(scene_folder, tmp_path / 'work', *options) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'work').exists()


def test_where_there_is_no_cluster_that_is_said(scene_folder, tmp_path):
  process = fault_runs.start(train_arguments(scene_folder, tmp_path / 'work', '--distributed'))
  text = process.communicate()[0]
  assert process.returncode == 2, text
  assert 'dense-aspp train: this is no cluster that JAX knows' in text
  assert not (tmp_path / 'work').exists()
