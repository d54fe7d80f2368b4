import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.training import checkpoint_series
from dense_aspp_jax.training.checkpoints import Checkpoints, checkpoints_directory, restore_variables
from dense_aspp_jax.training.train_state import TrainState


def make_state(step):
  return TrainState(
    step=jnp.int32(step),
    params={'w': jnp.full(3, 10.0 + step)},
    batch_stats={'mean': jnp.full(2, 20.0 + step)},
    opt_state={'trace': jnp.full(3, 30.0 + step)},
  )


def assert_same(first, second):
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_best_gives_way_to_a_better_one_alone_in_this_run_and_the_next(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert checkpoints.best_score is None
    for step, score in ((1, 0.3), (2, 0.5), (3, 0.4)):
      checkpoints.save_best(make_state(step), score)
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert (checkpoints.best_score, checkpoints.best_step) == (0.5, 2)
    checkpoints.save_best(make_state(4), 0.45)
  step, variables = restore_variables(tmp_path, 'best', make_state(0).variables)
  assert step == 2
  assert_same(variables, make_state(2).variables)
  assert [p.name for p in (checkpoints_directory(tmp_path) / 'best').iterdir()] == ['2']


def test_as_many_of_the_newest_are_kept_as_asked_for_and_the_last_is_restored_whole(tmp_path):
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    assert checkpoints.latest_step is None
    for step in range(1, 6):  # without waiting: none is left out while another one is written
      checkpoints.save_latest(make_state(step))
  with Checkpoints(tmp_path, keep=3) as checkpoints:
    assert checkpoints.latest_step == 5
    assert_same(checkpoints.restore_latest(make_state(0)), make_state(5))
  assert {p.name for p in (checkpoints_directory(tmp_path) / 'latest').iterdir()} == {'3', '4', '5'}


@pytest.mark.parametrize('keep', [1, 2, 4])
def test_the_one_just_saved_stays_whatever_its_number(tmp_path, keep):
  """After a fall-back the best may be of an earlier step than the one before."""
  series = checkpoint_series.CheckpointSeries(tmp_path, keep)
  for step in (7, 8, 3):
    series.save(step, {'params': make_state(step).params}, {})
    series.wait()
  assert series.steps == {1: [3], 2: [3, 8], 4: [3, 7, 8]}[keep]


def test_a_best_checkpoint_whose_record_is_unreadable_is_set_aside(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save_best(make_state(8), 0.5)
  (checkpoints_directory(tmp_path) / 'best' / '8' / '_CHECKPOINT_METADATA').write_text('{')
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert checkpoints.best_score is None
    checkpoints.verify_best(make_state(0))
    checkpoints.save_best(make_state(7), 0.1)
  assert [p.name for p in (checkpoints_directory(tmp_path) / 'best').iterdir()] == ['7']


@pytest.mark.parametrize(('checkpoint', 'expected'), [('latest', 2), ('1', 1)])
def test_variables_are_those_of_the_checkpoint_asked_for(tmp_path, checkpoint, expected):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step in (1, 2):
      checkpoints.save_latest(make_state(step))
  step, variables = restore_variables(tmp_path, checkpoint, make_state(0).variables)
  assert step == expected
  assert_same(variables, make_state(expected).variables)


@pytest.mark.parametrize('batch_stats', [{}, {'mean': jnp.full(2, 5.0)}])
@pytest.mark.parametrize('kind', ['latest', 'best'])
def test_moving_averages_are_kept_beside_the_raw_weights(tmp_path, kind, batch_stats):
  ema = {'params': {'w': jnp.full(3, 4.0)}, 'batch_stats': batch_stats}
  state = make_state(3).replace(batch_stats=batch_stats, ema=ema)
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save_latest(state)
    checkpoints.save_best(state, 0.5)
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert_same(checkpoints.restore_latest(jax.tree.map(jnp.zeros_like, state)), state)
  abstract = {name: tree for name, tree in ema.items() if tree}
  raw, averaged = (
    restore_variables(tmp_path, kind, abstract, weights=weights)[1] for weights in ('raw', 'ema')
  )
  assert_same(raw, {name: tree for name, tree in state.variables.items() if tree})
  assert_same(averaged, abstract)


@pytest.mark.parametrize('save', [Checkpoints.save_latest, lambda c, s: c.save_best(s, 0.5)])
@pytest.mark.parametrize('where', ['at once', 'in the background'])
def test_a_save_that_fails_is_a_failed_run(tmp_path, monkeypatch, save, where):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  begin = fail if where == 'at once' else lambda *_: types.SimpleNamespace(result=fail)
  monkeypatch.setattr(checkpoint_series, 'start_saving', begin)
  checkpoints = Checkpoints(tmp_path, keep=1)

  def save_and_wait():
    save(checkpoints, make_state(1))
    checkpoints.close()

  with pytest.raises(RunError, match=r'1 .*No space left on device'):
    save_and_wait()
  monkeypatch.undo()
  with checkpoints:  # the next one is saved again
    save(checkpoints, make_state(2))
  assert restore_variables(tmp_path, '2', make_state(0).variables)[0] == 2


@pytest.mark.parametrize('save', [Checkpoints.save_latest, lambda c, s: c.save_best(s, 0.1 * int(s.step))])
def test_a_save_that_cannot_be_read_back_is_set_aside_and_the_older_one_stays(tmp_path, monkeypatch, save):
  checkpoints = Checkpoints(tmp_path, keep=1)
  save(checkpoints, make_state(1))
  checkpoints.close()
  written = ocp.save_checkpointables_async

  def save_badly(path, *args, **options):
    response = written(path, *args, **options)

    def lose_values():
      response.result()
      for file in path.glob('*/d/*'):
        file.write_bytes(b'')

    return types.SimpleNamespace(result=lose_values)

  def save_and_wait():
    save(checkpoints, make_state(2))
    checkpoints.close()

  with monkeypatch.context() as patch:
    patch.setattr(ocp, 'save_checkpointables_async', save_badly)
    with pytest.raises(RunError, match=r'2 could not be written .*ReadBack'):
      save_and_wait()
  root = checkpoints_directory(tmp_path)
  assert [p.name[-3:] for p in (root / 'set_aside').iterdir()] == ['2-0']
  assert checkpoints.best_step in (None, 1)
  with checkpoints:
    save(checkpoints, make_state(3))
  assert restore_variables(tmp_path, '3', make_state(0).variables)[0] == 3
  assert [p.name for p in root.glob('*t/*')] == ['3']


def test_a_system_that_refuses_to_read_is_no_reason_to_fall_back(tmp_path, monkeypatch):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save_best(make_state(1), 0.5)
    for step in (1, 2):
      checkpoints.save_latest(make_state(step))

  def refuse(*_):
    raise MemoryError

  with monkeypatch.context() as patch, Checkpoints(tmp_path, keep=2) as checkpoints:
    patch.setattr(ocp, 'load_checkpointables', refuse)
    for use in (checkpoints.restore_latest, checkpoints.verify_best):
      with pytest.raises(RunError, match='too little memory'):
        use(make_state(0))
    with pytest.raises(RunError, match='too little memory'):
      restore_variables(tmp_path, 'latest', make_state(0).variables)
    patch.undo()
    assert int(checkpoints.restore_latest(make_state(0)).step) == 2
    assert checkpoints.best_step == 1


def test_a_network_without_batch_statistics_is_saved_and_restored(tmp_path):
  """ConvNeXt with one atrous layer that has no norm."""
  state = make_state(1).replace(batch_stats={})
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save_best(state, 0.5)
    checkpoints.save_latest(state)
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    assert_same(checkpoints.restore_latest(make_state(0).replace(batch_stats={})), state)
  assert_same(restore_variables(tmp_path, 'best', {'params': state.params})[1], {'params': state.params})


@pytest.mark.parametrize('save', [Checkpoints.save_latest, lambda c, s: c.save_best(s, 0.5)])
@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_what_is_not_finite_is_never_saved(tmp_path, save, value):
  state = make_state(3).replace(batch_stats={'mean': jnp.array([1.0, float(value)])})
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    with pytest.raises(RunError, match=r'step 3: batch_stats/mean '):
      save(checkpoints, state)
    assert checkpoints.best_score is None
  assert not checkpoints_directory(tmp_path).exists()


@pytest.mark.parametrize('checkpoint', ['best', 'latest', '1'])
def test_a_checkpoint_that_a_training_removes_while_it_is_read_is_no_damaged_one(
  tmp_path, monkeypatch, capsys, checkpoint
):
  load = ocp.load_checkpointables
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save_best(make_state(1), 0.1)
    checkpoints.save_latest(make_state(1))
    checkpoints.close()

    def load_too_late(*args, **options):
      monkeypatch.setattr(ocp, 'load_checkpointables', load)
      checkpoints.save_best(make_state(2), 0.2)
      checkpoints.save_latest(make_state(2))
      checkpoints.close()
      return load(*args, **options)

    monkeypatch.setattr(ocp, 'load_checkpointables', load_too_late)
    if checkpoint == '1':
      with pytest.raises(InputError, match=r"no checkpoint '1'; existing: latest: \[2\]; best: \[2\]"):
        restore_variables(tmp_path, checkpoint, make_state(0).variables)
    else:
      step, variables = restore_variables(tmp_path, checkpoint, make_state(0).variables)
      assert step == 2
      assert_same(variables, make_state(2).variables)
  assert 'warning' not in capsys.readouterr().err
