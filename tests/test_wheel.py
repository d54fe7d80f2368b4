"""The wheel of this checkout, in an empty folder without a network: it predicts with nothing else given."""

import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from dense_aspp_jax.training.run import load_model

ROOT = pathlib.Path(__file__).parents[1]
_PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
_NOWHERE = 'http://127.0.0.1:9'  # a proxy that refuses every connection


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  folder = tmp_path_factory.mktemp('wheel')
  options = ['--quiet', '--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', str(folder)]
  subprocess.run([*_PIP, 'wheel', *options, str(ROOT)], check=True, timeout=300)
  (path,) = folder.glob('*.whl')
  return path


@pytest.mark.slow
def test_it_holds_the_whole_package_and_no_path_of_this_machine(wheel):
  assert wheel.stat().st_size < 40 * 2**20
  with zipfile.ZipFile(wheel) as archive:
    names = archive.namelist()
    for path in (ROOT / 'dense_aspp_jax').rglob('*'):
      if path.is_file() and path.suffix != '.pyc':
        assert archive.read(path.relative_to(ROOT).as_posix()) == path.read_bytes()
    assert 'dense_aspp_jax/pretrained/streets.safetensors' in names
    assert 'dense_aspp_jax/configs/fine_tune.py' in names
    assert not [name for name in names if name.startswith(('tests/', 'tools/', 'docs/'))]
    assert not [name for name in names if str(ROOT).encode() in archive.read(name)]


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_a_photograph_is_predicted_from_an_empty_folder(wheel, tmp_path):
  installed, empty = tmp_path / 'installed', tmp_path / 'empty'
  options = ['--quiet', '--no-deps', '--no-index', '--target', str(installed)]
  subprocess.run([*_PIP, 'install', *options, str(wheel)], check=True, timeout=300)
  empty.mkdir()
  image, _ = render_scene(5, 0, (360, 480))
  Image.fromarray(image).save(empty / 'photo.jpg', quality=100)
  environment = dict(os.environ, PYTHONPATH=str(installed), http_proxy=_NOWHERE, https_proxy=_NOWHERE)
  environment |= dict(HOME=str(tmp_path / 'home'), XLA_FLAGS='')
  command = [sys.executable, '-P', '-m', 'dense_aspp_jax', 'predict', 'photo.jpg', '--output', 'out']
  subprocess.run(command, cwd=empty, env=environment, check=True, timeout=300)
  network = load_model('streets')
  expected = network.label_set.decode(network.predict(empty / 'photo.jpg'))
  with Image.open(empty / 'out' / 'label_ids' / 'photo.png') as found:
    different = np.mean(np.asarray(found) != expected)
  assert different < 1e-3  # by how many threads sum
  assert len(np.unique(expected)) > 3
  assert sorted(path.name for path in empty.iterdir()) == ['out', 'photo.jpg']
