import fault_runs
import pytest


@pytest.fixture(autouse=True)
def _processes_end_with_their_test():
  yield
  fault_runs.end_started()
