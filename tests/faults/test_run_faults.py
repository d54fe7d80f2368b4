"""Trainings that go wrong by themselves, or are started wrongly."""

import itertools
import os
import pathlib
import re
import shutil
import signal
import time

import fault_runs
import jax.numpy as jnp
import numpy as np
import pytest
from fault_runs import copied, digests, latest, train, train_arguments
from PIL import Image

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.preprocessing import Preprocessing


def contents(workdir):
  """All files of a run but its lock, as bytes."""
  return {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file() and p.name != '.lock'}


@pytest.fixture
def white_image_is_infinite(scene_folder, tmp_path, monkeypatch):
  """A folder whose image 0 is white, and a network whose input is infinite for such an image."""
  folder = copied(scene_folder, tmp_path / 'scenes')
  Image.new('RGB', (128, 64), (255, 255, 255)).save(folder / 'train' / 'images' / '0.png')
  normalize = Preprocessing.normalize

  def broken(self, image):
    white = jnp.all(image == 255, axis=(1, 2, 3), keepdims=True)
    return jnp.where(white, jnp.inf, normalize(self, image))

  monkeypatch.setattr(Preprocessing, 'normalize', broken)
  return folder


def test_scenario_10_one_batch_is_not_finite_and_left_out(white_image_is_infinite, tmp_path, capsys):
  workdir = tmp_path / 'work'
  assert train(white_image_is_infinite, workdir, training__max_skipped_steps=2, checkpoint__keep=99) == 0
  lines = [line for line in fault_runs.log(workdir) if line['kind'] == 'train']
  skipped = [line['step'] for line in lines if 'skipped_steps' in line]
  assert len(skipped) == 2  # once an epoch
  assert all('loss' not in line for line in lines if line['step'] in skipped)
  assert all(np.isfinite(line['loss']) for line in lines if line['step'] not in skipped)
  assert f'step {skipped[0]}: the update is not finite' in capsys.readouterr().err
  states = [digests(workdir, step) for step in range(1, 5)]
  for step, (before, after) in enumerate(itertools.pairwise(states), 2):
    changed = {name for name in after if after[name] != before[name]}
    assert (changed == {'optimizer/step'}) == (step in skipped), step


def test_scenario_10_one_batch_is_not_finite_and_stops_the_run(white_image_is_infinite, tmp_path, capsys):
  assert train(white_image_is_infinite, tmp_path / 'work') == 1
  text = capsys.readouterr().err
  bad = int(re.search(r'step (\d): (loss|gradient_norm) is nan', text)[1])
  assert 'no checkpoint of this or a later step is written' in text
  assert latest(tmp_path / 'work') == list(range(1, bad))
  assert not (tmp_path / 'work' / 'checkpoints' / 'best').exists()


def test_scenario_11_too_many_in_a_row(white_image_is_infinite, tmp_path, capsys):
  images = white_image_is_infinite / 'train' / 'images'
  for index in range(1, 16):
    shutil.copy(images / '0.png', images / f'{index}.png')
  workdir = tmp_path / 'work'
  assert train(white_image_is_infinite, workdir, training__max_skipped_steps=2, checkpoint__keep=99) == 1
  text = capsys.readouterr().err
  assert 'steps 1 to 3: 3 updates in a row are not finite' in text
  assert 'more than training.max_skipped_steps = 2' in text
  states = [digests(workdir, step) for step in latest(workdir)]
  assert len(states) == 2
  for name, digest in states[0].items():
    assert name == 'optimizer/step' or states[1][name] == digest  # the initial values
  assert not (workdir / 'scores.json').exists()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      dict(model__num_classes=19, data__label_set='cityscapes19'),
      "config.data.label_set: 'cityscapes20' there, 'cityscapes19' given; "
      'config.model.num_classes: 20 there, 19 given',
    ),
    (
      dict(model__extractor='densenet_small'),
      "config.model.extractor: 'densenet_tiny' there, 'densenet_small' given",
    ),
  ],
)
def test_scenario_12_resume_with_another_network(finished, scene_folder, capsys, fields, message):
  before = contents(finished)
  assert train(scene_folder, finished, **fields) == 2
  assert message in capsys.readouterr().err
  assert contents(finished) == before


def test_scenario_12_files_of_another_run(finished, tmp_path, capsys):
  """The configuration says 19 classes; labels and checkpoint have 20."""
  workdir = copied(finished, tmp_path / 'work')
  config = workdir / 'config.json'
  config.write_text(config.read_text().replace('"num_classes": 20', '"num_classes": 19'))
  assert main(['evaluate', '--workdir', str(workdir)]) == 2
  assert 'labels.json has 20 classes, config.json says model.num_classes = 19' in capsys.readouterr().err


def test_scenario_13_a_finished_run_is_started_again(finished, scene_folder, capsys):
  before = contents(finished)
  assert train(scene_folder, finished) == 0
  assert 'this run is finished, at step 4 of 4; nothing was trained' in capsys.readouterr().err
  assert contents(finished) == before


def test_scenario_13_another_run_in_a_used_directory(finished, scene_folder, capsys):
  before = contents(finished)
  assert train(scene_folder, finished, seed=5) == 2
  assert 'holds a run of another configuration (config.seed: 0 there, 5 given)' in capsys.readouterr().err
  assert contents(finished) == before


def readers_of(process):
  """Processes that a process reads data with."""
  tasks = pathlib.Path(f'/proc/{process.pid}/task').iterdir()
  children = [int(pid) for task in tasks for pid in (task / 'children').read_text().split()]
  return [pid for pid in children if b'spawn_main' in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()]


def is_alive(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
  except FileNotFoundError:
    return False


@pytest.mark.skipif(not pathlib.Path('/proc/self/stat').exists(), reason='looks for processes in /proc')
@pytest.mark.parametrize('killed', ['reader', pytest.param('parent', marks=pytest.mark.slow)])
def test_scenario_14_a_reading_process_is_killed(scene_folder, tmp_path, killed):
  fields = dict(data__num_workers=2, training__num_epochs=5000.0, checkpoint__every_epochs=5000.0)
  process = fault_runs.start(train_arguments(scene_folder, tmp_path, **fields))
  fault_runs.wait_for_step(tmp_path, 2, process)
  readers = readers_of(process)
  assert len(readers) == 2
  if killed == 'reader':
    os.kill(readers[0], signal.SIGKILL)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 1, text
    assert 'dense-aspp train: a process that reads the data was killed (' in text
    assert 'Traceback' not in text
  else:
    process.kill()
    process.wait()  # not for its output, which the readers hold open
    process.stdout.close()
  deadline = time.monotonic() + 20
  while any(is_alive(pid) for pid in readers) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not any(is_alive(pid) for pid in readers)


@pytest.mark.slow
@pytest.mark.skipif(not fault_runs.can_mount(), reason='no mount allowed; see test_readers_without_shared')
@pytest.mark.parametrize('size', ['40k', '300k'])
def test_a_small_dev_shm_is_named(scene_folder, tmp_path, size):
  """Too small for semaphores, or for batches."""
  script = f'mount -t tmpfs -o size={size} none /dev/shm; exec "$@"'
  arguments = train_arguments(scene_folder, tmp_path, data__num_workers=2)
  process = fault_runs.start(arguments, prefix=['unshare', '-rm', 'sh', '-c', script, 'sh'])
  text = process.communicate(timeout=100)[0]
  assert process.returncode == 1, text
  assert 'too little shared memory, /dev/shm (' in text
  assert 'data.num_workers=0' in text
  assert 'Traceback' not in text


FULL_EVENTS = """
from tensorboardX import record_writer
record_writer.open_file = lambda path: open('/dev/full', 'wb')
"""


@pytest.mark.slow
def test_full_events_neither_hang_a_training_nor_keep_it_from_ending(scene_folder, tmp_path):
  fields = dict(training__num_epochs=5000.0, checkpoint__every_epochs=5000.0)
  process = fault_runs.start(train_arguments(scene_folder, tmp_path, **fields), before=FULL_EVENTS)
  fault_runs.wait_for_step(tmp_path, 500, process)  # thousands of events
  process.send_signal(signal.SIGTERM)
  text = process.communicate(timeout=60)[0]
  assert process.returncode == 143, text
  assert text.count('no more events for TensorBoard') == 1
  assert 'Traceback' not in text
  digests(tmp_path, latest(tmp_path)[-1])


FULL_LINES = """
import pathlib
open_path = pathlib.Path.open
def open_full(self, mode='r', *args, **options):
  full = self.name == 'metrics.jsonl' and 'a' in mode
  return open_path(pathlib.Path('/dev/full') if full else self, mode, *args, **options)
pathlib.Path.open = open_full
"""


@pytest.mark.slow
def test_a_full_disk_in_the_lines_ends_a_training_with_reading_processes_in_one_line(scene_folder, tmp_path):
  arguments = train_arguments(scene_folder, tmp_path, data__num_workers=2)
  process = fault_runs.start(arguments, before=FULL_LINES)
  text = process.communicate(timeout=100)[0]
  assert process.returncode == 1, text
  assert text.count('metrics.jsonl: cannot be written (No space left on device)') == 1
  assert 'Traceback' not in text


def test_scenario_15_too_little_memory(scene_folder, tmp_path):
  """Crops that take 93 GB, in a process that may have 12 of address space."""
  arguments = train_arguments(
    scene_folder, tmp_path, augmentation__crop_size=(8000, 8000), training__num_epochs=0.5
  )
  limit = ['sh', '-c', 'ulimit -v 12000000; exec "$@"', 'sh']
  process = fault_runs.start(arguments, prefix=limit)
  text = process.communicate(timeout=300)[0]
  assert process.returncode == 1, text
  assert 'dense-aspp train: the device has too little memory (' in text
  assert 'Choose a smaller training.batch_size' in text
  assert 'Traceback' not in text


def test_scenario_30_paths_are_checked_before_anything_is_compiled(scene_folder, tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  for folder, workdir, message in (
    (scene_folder, tmp_path / 'file' / 'work', 'is not a directory that can be written'),
    (tmp_path / 'nothing', tmp_path / 'work', f'{tmp_path}/nothing: no such folder'),
  ):
    assert train(folder, workdir, data__label_set='cityscapes20') == 2
    text = capsys.readouterr().err
    assert message in text
    assert len(text.strip().splitlines()) == 1
  assert [p.name for p in tmp_path.iterdir()] == ['file']


@pytest.mark.skipif(not fault_runs.can_mount(), reason='no mount allowed; the path below a file is tested')
def test_scenario_30_a_read_only_directory(scene_folder, tmp_path):
  (tmp_path / 'here').mkdir()
  script = f'mount -t tmpfs -o ro none {tmp_path}/here; exec "$@"'
  arguments = train_arguments(scene_folder, tmp_path / 'here' / 'work')
  process = fault_runs.start(arguments, prefix=['unshare', '-rm', 'sh', '-c', script, 'sh'])
  text = process.communicate()[0]
  assert process.returncode == 2, text
  assert f'{tmp_path}/here is not a directory that can be written' in text
  assert 'compiling' not in text
