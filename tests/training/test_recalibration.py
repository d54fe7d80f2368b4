"""Recalibrated statistics on disk, and runs that are loaded with them."""

import shutil

import jax
import numpy as np
import pytest

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.run import load_run


@pytest.fixture
def workdir(tiny_run, tmp_path):
  return shutil.copytree(tiny_run, tmp_path / 'run[1]')


def shifted(tree, by):
  return jax.tree.map(lambda x: np.asarray(x) + np.float32(by), tree)


def test_a_run_is_loaded_with_its_recalibrated_statistics(workdir):
  raw = load_run(workdir)
  assert raw.bn == 'running'
  for by in (1, 2):  # the second one replaces the first
    statistics = shifted(raw.variables['batch_stats'], by)
    folder = raw.save_statistics(statistics, {'images': by})
  assert folder == workdir / 'recalibrated' / '0_raw'
  assert [p.name for p in folder.parent.iterdir()] == ['0_raw']
  run = load_run(workdir, bn='recalibrated')
  assert run.bn == 'recalibrated'
  jax.tree.map(np.testing.assert_array_equal, run.variables['batch_stats'], statistics)
  jax.tree.map(np.testing.assert_array_equal, run.variables['params'], raw.variables['params'])
  image = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
  raw.predictor.update(run.variables)
  np.testing.assert_array_equal(run.predictor.predict(image), raw.predictor.predict(image))


def test_without_them_the_command_that_makes_them_is_named(workdir):
  with pytest.raises(InputError) as error:
    load_run(workdir, 'best', bn='recalibrated')
  command = f'dense-aspp recalibrate --workdir {workdir} --checkpoint best --weights raw'
  assert str(error.value).endswith(command)
  with pytest.raises(InputError, match="bn 'batch': expected running or recalibrated"):
    load_run(workdir, bn='batch')


def test_a_save_that_fails_leaves_what_was_there(workdir):
  raw = load_run(workdir)
  statistics = raw.variables['batch_stats']
  raw.save_statistics(statistics, {})
  with pytest.raises(TypeError):
    raw.save_statistics(shifted(statistics, 1), {'images': object()})
  found = load_run(workdir, bn='recalibrated').variables['batch_stats']
  jax.tree.map(np.testing.assert_array_equal, found, statistics)
  assert [p.name for p in (workdir / 'recalibrated').iterdir()] == ['0_raw']


def test_damaged_statistics_are_refused(workdir):
  raw = load_run(workdir)
  folder = raw.save_statistics(raw.variables['batch_stats'], {})
  shutil.rmtree(folder / 'checkpoint')
  with pytest.raises(InputError, match='checkpoint cannot be read'):
    load_run(workdir, bn='recalibrated')
