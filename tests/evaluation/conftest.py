import pytest


@pytest.fixture
def labels(tmp_path):
  """Folder of ground truth, not made yet."""
  return tmp_path / 'gtFine' / 'val'


@pytest.fixture
def predictions(tmp_path):
  """Folder of predictions, empty."""
  folder = tmp_path / 'results'
  folder.mkdir()
  return folder
