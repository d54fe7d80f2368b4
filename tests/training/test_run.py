import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.checkpoints import Checkpoints
from dense_aspp_jax.training.run import load_run
from dense_aspp_jax.training.train_state import TrainState


@pytest.fixture(scope='module')
def averaged(tiny_run, tmp_path_factory):
  """A run with moving averages, its best checkpoint of step 1 and its latest of step 2.

  Raw values are those of `tiny_run` plus the step, averages plus ten times the step.
  """
  workdir = shutil.copytree(tiny_run, tmp_path_factory.mktemp('averaged') / 'run')
  shutil.rmtree(workdir / 'checkpoints')
  config = json.loads((workdir / 'config.json').read_text())
  config['training']['ema_decay'] = 0.5
  (workdir / 'config.json').write_text(json.dumps(config))
  variables = load_run(tiny_run).variables

  def shifted(by):
    return jax.tree.map(lambda x: x + by, variables)

  with Checkpoints(workdir, 2, config['model']) as checkpoints:
    for step in (1, 2):
      state = TrainState(
        step=jnp.int32(step), **shifted(step), opt_state={'x': jnp.ones(1)}, ema=shifted(10 * step)
      )
      checkpoints.save_latest(state)
      checkpoints.save_best(state, 1 / step)
  return workdir


@pytest.mark.parametrize(
  ('arguments', 'step', 'weights', 'shift'),
  [
    ((), 1, 'ema', 10),
    (('latest',), 2, 'ema', 20),
    (('2', 'ema'), 2, 'ema', 20),
    ((2,), 2, 'ema', 20),
    (('best', 'raw'), 1, 'raw', 1),
  ],
)
def test_a_run_is_loaded_at_its_best_with_its_averages_unless_told_otherwise(
  averaged, tiny_run, arguments, step, weights, shift
):
  run, tiny = load_run(averaged, *arguments), load_run(tiny_run)
  assert (run.step, run.weights) == (step, weights)
  assert (tiny.step, tiny.weights) == (0, 'raw')
  expected = jax.tree.map(lambda x: np.asarray(x) + np.float32(shift), tiny.variables)
  jax.tree.map(np.testing.assert_array_equal, run.variables, expected)


@pytest.mark.parametrize(('weights', 'named'), [('ema', 'ema_decay = 0'), ('swa', "'swa'")])
def test_weights_that_a_run_does_not_have_are_named(tiny_run, weights, named):
  with pytest.raises(InputError, match=named):
    load_run(tiny_run, weights=weights)


@pytest.mark.parametrize('checkpoint', [77, None, 1.5, '../x'])
def test_a_checkpoint_that_there_is_not_is_an_input_error(tiny_run, checkpoint):
  with pytest.raises(InputError, match=f'no checkpoint .*{checkpoint}'):
    load_run(tiny_run, checkpoint)


@pytest.mark.parametrize('workdir', [None, 7, 'missing', 'gs://bucket/run', '~/missing'])
def test_a_workdir_that_there_is_not_is_an_input_error(workdir, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  with pytest.raises(InputError, match=r'workdir|missing|gs:'):
    load_run(workdir)


def test_a_run_is_found_below_the_home_directory(tiny_run, monkeypatch):
  monkeypatch.setenv('HOME', str(tiny_run.parent))
  assert load_run(f'~/{tiny_run.name}').workdir == tiny_run
