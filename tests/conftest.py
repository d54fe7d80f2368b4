"""Eight fake devices for every test, and compilations shared between tests and runs."""

import os
import pathlib
import signal

from xla_flags import xla_flags

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = xla_flags(8)
# Data sets that somebody prepared on this machine are no part of the tests; tfds reads it when imported.
os.environ['TFDS_DATA_DIR'] = str(pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'no_data_sets')

import jax
import pytest
from fake_devices import first_devices

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it

pytest_plugins = ['faults.without_guards']

_CACHE = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'xla'
# In the environment, so that commands that tests start as processes of their own share it.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_CACHE)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.5'
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@pytest.fixture(scope='module')
def one_device():
  """Where eight are not the matter: on two cores they wait for each other at every batch statistic."""
  with first_devices(1):
    yield


@pytest.fixture(scope='module')
def two_devices():
  """Where a batch must be spread, but not over all eight."""
  with first_devices(2):
    yield


@pytest.fixture(scope='session')
def scene_folder(tmp_path_factory):
  """Generated street scenes as one's own labelled folder: 16 training and 5 validation images, 64x128."""
  from dense_aspp_jax.datasets.street_scenes.builder import render_scene
  from dense_aspp_jax.evaluation.pictures import save_png
  from dense_aspp_jax.files import write_json
  from dense_aspp_jax.label_sets import CITYSCAPES_20

  root = tmp_path_factory.mktemp('folder') / 'scenes'
  write_json(root / 'labels.json', CITYSCAPES_20.to_json())
  for seed, (split, count) in enumerate({'train': 16, 'validation': 5}.items()):
    for index in range(count):
      image, label_ids = render_scene(seed, index, (64, 128))
      save_png(root / split / 'images' / f'{index}.png', image)
      save_png(root / split / 'labels' / f'{index}.png', label_ids)
  return root


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
  """The directory of a run: a small network with random weights, 20 classes, 32x64. Not to be changed."""
  from tiny_network import draw_variables, tiny_config

  from dense_aspp_jax.files import write_json
  from dense_aspp_jax.label_sets import CITYSCAPES_20
  from dense_aspp_jax.models.counts import abstract_variables
  from dense_aspp_jax.models.segmentation import create_model
  from dense_aspp_jax.training.checkpoints import save_variables

  config = tiny_config()
  variables = draw_variables(abstract_variables(create_model(**config.model)))
  workdir = tmp_path_factory.mktemp('tiny_run')
  save_variables(workdir, variables, config.model.to_dict())
  write_json(workdir / 'labels.json', CITYSCAPES_20.to_json())
  write_json(workdir / 'config.json', config.to_dict())
  return workdir
