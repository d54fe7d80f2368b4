import json
import subprocess
import types

import numpy as np
import pytest

from dense_aspp_jax.label_sets import CAMVID_11
from tools import compare_fine_tuning as tool


class Camvid:
  """Ten numbered images a split, in place of the prepared data set."""

  def __init__(self, **fields):
    assert fields['dataset'] == 'camvid'

  def open(self, split, cached):
    return [
      types.SimpleNamespace(
        image_id=f'{split}_{i}',
        image=np.full((8, 8, 3), i, np.uint8),
        label=np.full((8, 8), i % 11, np.uint8),
      )
      for i in range(10)
    ]


@pytest.fixture
def trained(monkeypatch):
  """The commands that were run; each leaves a score."""
  commands = []

  def run(command, check):
    commands.append(command[3:])
    workdir = next(a.partition('=')[2] for a in command if a.startswith('--workdir='))
    tool.write_json(tool.pathlib.Path(workdir) / 'scores.json', {'mean_iou': len(commands) / 10})
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(tool, 'Data', Camvid)
  monkeypatch.setattr(subprocess, 'run', run)
  return commands


def test_each_start_is_trained_as_long_on_the_same_images(trained, tmp_path, capsys):
  (tmp_path / 'lite0').mkdir()
  (tmp_path / 'lite0' / 'weights.json').touch()
  starts = ['scratch', f'imagenet={tmp_path / "lite0"}', 'streets=streets']
  options = ['--images', '2', '5', '--steps', '10', '--config.seed=1']
  assert tool.main(['--output', str(tmp_path / 'out'), '--starts', *starts, *options]) == 0
  folder = tmp_path / 'out' / 'data' / '2'
  assert json.loads((folder / 'labels.json').read_text()) == CAMVID_11.to_json()
  assert [path.stem for path in sorted((folder / 'train' / 'images').iterdir())] == ['train_0', 'train_5']
  assert len(list((folder / 'validation' / 'labels').iterdir())) == 10
  assert len(trained) == 6
  scratch, imagenet, streets = trained[:3]
  assert '--config.training.num_epochs=20.0' in scratch
  assert '--config.training.num_epochs=8.0' in trained[3]
  assert not any('config.init' in argument for argument in scratch)
  assert f'--config.init.extractor_weights={tmp_path / "lite0"}' in imagenet
  assert '--config.init.run=streets' in streets
  assert all('--config.seed=1' in command for command in trained)
  assert capsys.readouterr().out.splitlines()[2:] == [
    '| scratch  | 10.0       | 40.0       |',
    '| imagenet | 20.0       | 50.0       |',
    '| streets  | 30.0       | 60.0       |',
  ]


def test_a_failure_ends_it(trained, tmp_path, monkeypatch):
  monkeypatch.setattr(subprocess, 'run', lambda command, check: subprocess.CompletedProcess(command, 2))
  assert tool.main(['--output', str(tmp_path / 'out'), '--starts', 'scratch', '--images', '2']) == 2
  assert not (tmp_path / 'out' / 'table.md').exists()
