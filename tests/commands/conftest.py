import json
import shutil

import pytest


@pytest.fixture(scope='module', autouse=True)
def _commands_on_one_device(one_device):
  pass


@pytest.fixture
def scene_run(tiny_run, scene_folder, tmp_path):
  """A copy of `tiny_run` with the data of `scene_folder`, to be written into."""
  workdir = shutil.copytree(tiny_run, tmp_path / 'work')
  config = json.loads((workdir / 'config.json').read_text())
  config['data'].update(dataset=f'folder:{scene_folder}', data_dir=str(scene_folder.parent / 'data'))
  (workdir / 'config.json').write_text(json.dumps(config))
  return workdir
