import fault_runs
import pytest


@pytest.fixture(autouse=True)
def _processes_end_with_their_test():
  yield
  fault_runs.end_started()


@pytest.fixture(scope='session')
def finished(scene_folder, tmp_path_factory):
  """A run of four steps, of which the checkpoints 2, 3 and 4 are kept. Not to be changed."""
  workdir = tmp_path_factory.mktemp('finished') / 'work'
  assert fault_runs.train(scene_folder, workdir) == 0
  return workdir
