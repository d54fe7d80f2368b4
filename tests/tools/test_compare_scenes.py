import json
import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets.street_scenes.scene import render_scene
from tools import compare_scenes as tool


@pytest.fixture
def ran(monkeypatch):
  """The commands that were run; each evaluation leaves a score, higher than the one before."""
  commands = []

  def run(command, check):
    commands.append(command[3:])
    if command[3] == 'evaluate':
      output = next(a.partition('=')[2] for a in command if a.startswith('--output='))
      iou = {'road': len(commands) / 100, 'sky': 0.5, 'train': None}
      tool.write_json(pathlib.Path(output), {'mean_iou_19': 0.4, 'iou': iou})
    return subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(subprocess, 'run', run)
  monkeypatch.setattr(tool, 'SIZE', (64, 64))
  return commands


def test_a_network_is_trained_without_each_group_and_scored_on_photographs(ran, tmp_path, capsys):
  assert tool.main(['--output', str(tmp_path), '--weights', 'w', '--scenes', '2', '--config.seed=3']) == 0
  scenes = {}
  for path in (tmp_path / 'data').iterdir():
    assert len(list((path / 'train' / 'labels').iterdir())) == 2
    with Image.open(path / 'train' / 'images' / '00001.png') as image:
      scenes[path.name] = np.asarray(image)
  assert set(scenes) == {'all', 'none', 'no_textures', 'no_light', 'no_camera', 'no_objects'}
  np.testing.assert_array_equal(scenes['all'], render_scene(0, 1, (64, 64))[0])
  assert all((image != scenes['all']).any() for name, image in scenes.items() if name != 'all')
  trained = [command for command in ran if command[0] == 'train']
  assert [any('augmentation.blur=0.0' in a for a in command) for command in trained] == [False] * 6 + [True]
  assert all({'--config.init.extractor_weights=w', '--config.seed=3'} <= set(c) for c in trained)
  assert [c[2:5] for c in ran if c[0] == 'evaluate'] == [
    ['--checkpoint=latest', '--dataset=camvid', '--split=train']
  ] * 7
  header, _, first, *_, last = capsys.readouterr().out.splitlines()
  assert header.split('|')[1:-1] == [
    f' {title} ' for title in ('scenes                          ', 'mean IoU  ', 'road  ', 'sky  ')
  ]
  assert [cell.strip() for cell in first.split('|')[1:-1]] == ['all', '40.0', '2.0', '50.0']
  assert [cell.strip() for cell in last.split('|')[1:-1]] == [tool.NOT_AUGMENTED, '40.0', '14.0', '50.0']


def test_what_is_left_out_is_a_field_of_the_configuration():
  from configs import pretrained_streets

  augmentation = pretrained_streets.get_config().augmentation
  assert all(augmentation[field] > 0 for field in tool.PHOTOMETRIC)


def test_scenes_that_were_drawn_are_kept(ran, tmp_path):
  (tmp_path / 'kept').mkdir()
  (tmp_path / 'kept' / 'labels.json').write_text(json.dumps({}))
  tool.write_scenes(tmp_path / 'kept', tool.PLAIN, 2)
  assert not (tmp_path / 'kept' / 'train').exists()
