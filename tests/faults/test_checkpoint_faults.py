"""Checkpoints cut off, damaged, out of place, or not to be written; see docs/reliability.md."""

import random
import subprocess
import sys
import time

import fault_runs
import jax
import numpy as np
import pytest
from fault_runs import copied, data_files, digests, latest, train_arguments, values_file

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.checkpoints import Checkpoints, restore_variables
from dense_aspp_jax.training.train_state import TrainState

SAVE_FOR_EVER = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from faults.test_checkpoint_faults import state_of
from dense_aspp_jax.training.checkpoints import Checkpoints
with Checkpoints(pathlib.Path({workdir!r}), keep=2) as checkpoints:
  step = checkpoints.latest_step or 0
  while True:
    step += 1
    checkpoints.save_latest(state_of(step))
    print(step, flush=True)
"""


def state_of(step):
  """A state of 2 MB that says which step it is of."""
  values = np.random.default_rng(step).standard_normal(2**17).astype(np.float32)
  return TrainState(np.array(step, np.int32), {'w': values}, {'m': values[:9]}, {'t': values + 1})


def assert_is_step(state, step):
  jax.tree.map(np.testing.assert_array_equal, state, state_of(step))


@pytest.mark.parametrize('kills', [2, pytest.param(20, marks=pytest.mark.slow)])
def test_scenario_01_kill_9_during_a_save(tmp_path, kills):
  """Every other kill strikes while a save is under way, for certain; the others at any moment."""
  series = tmp_path / 'checkpoints' / 'latest'
  moments = random.Random(0)
  code = SAVE_FOR_EVER.format(tests=str(fault_runs.ROOT / 'tests'), workdir=str(tmp_path))
  saved = 0
  for kill in range(kills):
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    saved = max(saved, int(process.stdout.readline()) - 1)
    time.sleep(moments.uniform(0, 0.5))
    if kill % 2:
      process.kill()
    else:
      fault_runs.kill_when(lambda: list(series.glob('*.orbax-checkpoint-tmp*')), process)
    begun = [int(line) for line in process.communicate()[0].splitlines()]
    saved = max([saved, *(step - 1 for step in begun)])  # a save begins when the one before is on disk
    with Checkpoints(tmp_path, keep=2) as checkpoints:
      state = checkpoints.restore_latest(state_of(0), strict=True)
    assert int(state.step) >= saved
    assert_is_step(state, int(state.step))
    names = {p.name for p in series.iterdir()}
    assert names == {str(step) for step in latest(tmp_path)}  # nothing unfinished is left
  assert not (tmp_path / 'checkpoints' / 'set_aside').exists()


def truncate(checkpoint):
  """Halves all data files: what one loses may be out of use, where parameters are as small as here."""
  for path in data_files(checkpoint):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_byte(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def test_scenario_02_the_latest_checkpoint_is_truncated(finished, scene_folder, tmp_path):
  """Refused, then resumed, by a process of its own: Orbax leaves coroutines behind."""
  workdir = copied(finished, tmp_path / 'work')
  series = workdir / 'checkpoints' / 'latest'
  truncate(series / '4')
  arguments = train_arguments(scene_folder, workdir)
  strict = f"""
import pathlib
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.training.checkpoint_series import steps_in
code = main({[*map(str, arguments), '--strict-resume']})
print('strict:', code, steps_in(pathlib.Path({str(series)!r})))
"""
  process = fault_runs.start(arguments, before=strict)
  text = process.communicate()[0]
  assert process.returncode == 0, text
  refusal, _, text = text.partition('strict: 2 [2, 3, 4]')
  assert f'dense-aspp train: {series}/4: this checkpoint cannot be read' in refusal
  assert f'warning: {series}/4: this checkpoint cannot be read' in text
  assert 'the run falls back to its checkpoint of step 3' in text
  assert 'resuming at step 3 of 4' in text
  assert latest(workdir) == [2, 3, 4]
  assert digests(workdir, 4) == digests(finished, 4)  # made again
  assert [p.name for p in (workdir / 'checkpoints' / 'set_aside').iterdir()] == ['latest-4-0']


@pytest.mark.parametrize('place', [0.1, 0.3, 0.5, 0.7, 0.9])
def test_scenario_03_a_flip_anywhere_in_the_values_is_noticed(tmp_path, place):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save_latest(state_of(1))
    checkpoints.save_latest(state_of(2))
  path = values_file(tmp_path / 'checkpoints' / 'latest' / '2')
  data = bytearray(path.read_bytes())
  data[int(place * len(data))] ^= 1 << 3
  path.write_bytes(data)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    with pytest.raises(InputError, match=r'latest/2: this checkpoint is damaged: 1 of 4 arrays'):
      checkpoints.restore_latest(state_of(0), strict=True)
    assert_is_step(checkpoints.restore_latest(state_of(0)), 1)


def test_scenario_03_what_evaluates_takes_an_older_one_too_unless_a_step_is_asked_for(tmp_path, capsys):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save_latest(state_of(1))
    checkpoints.save_latest(state_of(2))
  flip_byte(values_file(tmp_path / 'checkpoints' / 'latest' / '2'))
  step, variables = restore_variables(tmp_path, 'latest', state_of(0).variables)
  assert step == 1
  jax.tree.map(np.testing.assert_array_equal, variables, state_of(1).variables)
  text = capsys.readouterr().err
  assert f'warning: {tmp_path}/checkpoints/latest/2: this checkpoint is damaged: 1 of 2 arrays' in text
  assert 'step 1 is taken' in text
  with pytest.raises(InputError, match=r'latest/2: this checkpoint is damaged'):
    restore_variables(tmp_path, '2', state_of(0).variables)


def test_scenario_03_a_damaged_best_checkpoint_gives_way(tmp_path, capsys):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save_best(state_of(2), 0.5)
  best = tmp_path / 'checkpoints' / 'best'
  flip_byte(values_file(best / '2'))
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.best_score == 0.5
    checkpoints.verify_best(state_of(0))
    assert 'best/2: this checkpoint is damaged: 1 of 2 arrays' in capsys.readouterr().err
    checkpoints.save_best(state_of(4), 0.4)
  assert [p.name for p in best.iterdir()] == ['4']
  assert (tmp_path / 'checkpoints' / 'set_aside' / 'best-2-0').is_dir()


def test_scenario_04_stray_directories(tmp_path, capsys):
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    checkpoints.save_latest(state_of(1))
  series = tmp_path / 'checkpoints' / 'latest'
  for name in ('999', '2', '1.orbax-checkpoint-tmp-3', 'notes'):
    (series / name).mkdir()
  (series / 'notes' / 'read.me').write_text('mine')
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    assert_is_step(checkpoints.restore_latest(state_of(0), strict=True), 1)
    text = capsys.readouterr().err
    assert f'{series}/999: ignored; it is not a checkpoint' in text
    assert f'{series}/1.orbax-checkpoint-tmp-3: removed' in text
    checkpoints.save_latest(state_of(2))
  assert latest(tmp_path) == [1, 2]
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    assert_is_step(checkpoints.restore_latest(state_of(0), strict=True), 2)
  assert (series / 'notes' / 'read.me').read_text() == 'mine'


@pytest.mark.skipif(not fault_runs.can_mount(), reason='no mount allowed; see test_a_save_that_fails')
def test_scenario_05_the_disk_is_full(scene_folder, tmp_path):
  """A file system of 512 KiB that holds all of a few checkpoints."""
  workdir, kept = tmp_path / 'work', tmp_path / 'kept'
  workdir.mkdir()
  arguments = train_arguments(
    scene_folder, workdir, checkpoint__keep=100, training__num_epochs=50.0, evaluation__num_pictures=0
  )
  script = (
    f'mount -t tmpfs -o size=512k none {workdir}; "$@"; code=$?; '
    f'umask 0; cp -r {workdir} {kept}; df {workdir} | tail -1; exit $code'
  )
  process = fault_runs.start(arguments, prefix=['unshare', '-rm', 'sh', '-c', script, 'sh'])
  text = process.communicate()[0]
  assert process.returncode == 1, text
  assert 'Traceback' not in text
  assert 'could not be written' in text
  assert 'No space left on device' in text
  assert 'the older checkpoints are intact; is the disk full?' in text
  steps = latest(kept)
  assert steps
  for step in steps:
    digests(kept, step)  # raises where one is damaged
  names = {p.name for p in (kept / 'checkpoints' / 'latest').iterdir()}
  assert names == {str(step) for step in steps}  # what failed does not fill the disk


def test_scenario_29_a_process_that_resumes_a_killed_one_saves_the_same_bits_before_it_exits(
  finished, scene_folder, tmp_path
):
  workdir = tmp_path / 'lr*' / 'exp[1]'  # as no pattern either
  arguments = train_arguments(scene_folder, workdir)
  killed = fault_runs.start(arguments)
  fault_runs.kill_when(lambda: latest(workdir), killed)  # at its first checkpoint
  resumed = fault_runs.start(arguments)
  text = resumed.communicate()[0]
  assert resumed.returncode == 0, text
  assert 'resuming at step' in text
  assert digests(workdir, 4) == digests(finished, 4)
