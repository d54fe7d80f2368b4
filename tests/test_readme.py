"""README's Python works as it stands there."""

import pathlib

from documented_code import run_python_of

from dense_aspp_jax.labels import CITYSCAPES_20

README = pathlib.Path(__file__).parents[1] / 'README.md'


def test_its_python_predicts_a_photograph(tiny_run, tmp_path, monkeypatch):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'street_scenes').symlink_to(tiny_run)
  found = run_python_of(README, tmp_path, monkeypatch)
  assert found['classes'].shape == (40, 60)
  assert found['names']
  assert set(found['names']) <= set(CITYSCAPES_20.class_names)
