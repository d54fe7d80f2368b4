"""Data, weights, label sets and workdirs that lie elsewhere than before or go away while a training runs."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from fault_runs import copied, digests, latest, train
from PIL import Image

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.hold import hold
from dense_aspp_jax.training.monitor import StepMonitor

GONE = '/gone/with/the/machine'


@pytest.fixture
def moved(finished, scene_folder, tmp_path):
  """The run and its data in other places, copied without times; nothing is left where they were."""
  folder = tmp_path / 'elsewhere' / 'my data'
  for path in (p for p in scene_folder.rglob('*') if p.is_file()):
    target = folder / path.relative_to(scene_folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
  workdir = copied(finished, tmp_path / 'moved run')
  config = json.loads((workdir / 'config.json').read_text())
  config['data'] |= {'dataset': f'folder:{GONE}/scenes', 'data_dir': f'{GONE}/data'}
  config['init']['extractor_weights'] = f'{GONE}/weights'
  (workdir / 'config.json').write_text(json.dumps(config))
  return folder, workdir


def resume(folder, workdir, **fields):
  return train(folder, workdir, init__extractor_weights='/not/read', **fields)


def test_a_moved_run_resumes_with_the_same_bits(moved, finished, capsys):
  folder, workdir = moved
  for step in (3, 4):
    shutil.rmtree(workdir / 'checkpoints' / 'latest' / str(step))
  assert resume(folder, workdir, data__label_set=folder / 'labels.json', checkpoint__keep=9) == 0
  assert 'resuming at step 2 of 4' in capsys.readouterr().err
  assert digests(workdir, 4) == digests(finished, 4)
  config = json.loads((workdir / 'config.json').read_text())
  assert config['data']['dataset'] == f'folder:{folder}'


def test_a_resume_without_the_data_says_how_to_name_their_place(moved, tmp_path, capsys):
  assert resume(tmp_path / 'none', moved[1]) == 2
  error = capsys.readouterr().err
  assert f'{tmp_path}/none: no such folder' in error
  assert '--config.data.dataset=folder:PATH' in error


def test_changed_content_in_the_new_place_is_noticed(moved, capsys):
  folder, workdir = moved
  path = folder / 'train' / 'labels' / '3.png'
  label = np.array(Image.open(path))
  label[1, 2] = 7 if label[1, 2] != 7 else 8
  save_png(path, label)
  assert resume(folder, workdir) == 2
  assert "the data of split 'train' have changed since this run began" in capsys.readouterr().err


def test_a_moved_run_is_evaluated_and_recalibrated(moved, finished, scene_folder, tmp_path, capsys):
  folder, workdir = moved
  evaluate = ['evaluate', f'--workdir={workdir}', '--checkpoint=4', f'--output={tmp_path}/a.json']
  assert main(evaluate) == 2
  error = capsys.readouterr().err
  assert f'{GONE}/scenes: no such folder' in error
  assert '--data-dir' in error
  assert main([*evaluate, f'--data-dir={folder}']) == 0
  iou = json.loads((tmp_path / 'a.json').read_text())['iou']
  assert iou == json.loads((finished / 'scores.json').read_text())['iou']
  options = [f'--data-dir={folder}', f'--cache-dir={tmp_path}/cache']
  assert main(['recalibrate', f'--workdir={workdir}', '--checkpoint=4', *options]) == 0
  assert list((tmp_path / 'cache').glob('*/*.array_record'))
  capsys.readouterr()
  assert main([*evaluate, f'--data-dir={tmp_path}/none']) == 2
  assert f'{tmp_path}/none: no such folder' in capsys.readouterr().err


def remove(workdir):
  shutil.rmtree(workdir)


def rename(workdir):
  workdir.rename(workdir.with_name('renamed'))


def replace(workdir):
  rename(workdir)
  shutil.copytree(workdir.with_name('renamed'), workdir)
  (workdir / '.lock').write_text('another')


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (remove, 'removed while the run trained'),
    (rename, 'renamed to {parent}/renamed'),
    (replace, 'renamed to {parent}/renamed'),
  ],
)
def test_a_workdir_that_goes_while_a_training_runs_is_noticed(
  change, said, scene_folder, tmp_path, monkeypatch, capsys
):
  workdir, add, save_latest = tmp_path / 'runs' / 'work', StepMonitor.add, Checkpoints.save_latest
  content: dict[pathlib.Path, bytes] = {}

  def files():
    return {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file() and 'tensorboard' not in p.parts}

  def change_and_add(self, step, metrics):
    if step == 3:
      change(workdir)
      content.update(files())
    add(self, step, metrics)

  def save_and_wait(self, state):  # else it may still be on its way when the directory goes
    save_latest(self, state)
    self.close()

  monkeypatch.setattr(StepMonitor, 'add', change_and_add)
  monkeypatch.setattr(Checkpoints, 'save_latest', save_and_wait)
  assert train(scene_folder, workdir, checkpoint__every_epochs=1.0) == 1
  error = capsys.readouterr().err
  assert f'{workdir}: {said.format(parent=workdir.parent)}' in error
  assert 'Traceback' not in error
  if change in (remove, rename):
    assert not workdir.exists()
  elif change is replace:
    assert files() == content
  place = workdir.with_name('renamed') if change in (rename, replace) else workdir
  if change is not remove:
    assert latest(place) == [2]


def test_a_lock_file_that_alone_was_removed_ends_nothing(tmp_path):
  with hold(tmp_path) as verify:
    (tmp_path / '.lock').unlink()
    verify()
    assert (tmp_path / '.lock').exists()
    verify()
