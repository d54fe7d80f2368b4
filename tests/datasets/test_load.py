import jax
import numpy as np
import pytest

from dense_aspp_jax.datasets import load
from dense_aspp_jax.datasets.load import load_split
from dense_aspp_jax.labels import CITYSCAPES_20


@pytest.mark.parametrize('native_labels', [False, True])
def test_a_cache_is_built_in_the_data_directory_and_holds_what_is_decoded(
  scene_folder, tmp_path, native_labels
):
  def load_validation(cached):
    return load_split(
      f'folder:{scene_folder}',
      'validation',
      data_dir=str(tmp_path),
      label_set=CITYSCAPES_20,
      image_size=(32, 64),
      native_labels=native_labels,
      cached=cached,
    )

  decoded = load_validation(cached=False)
  assert not (tmp_path / 'cache').exists()
  cached = load_validation(cached=True)
  assert list((tmp_path / 'cache').iterdir())
  assert len(decoded) == len(cached) == 5
  assert decoded[3].image.shape == (32, 64, 3)
  assert decoded[3].label.shape == ((64, 128) if native_labels else (32, 64))
  jax.tree.map(np.testing.assert_array_equal, decoded[3], cached[3])


@pytest.mark.parametrize(
  ('dataset', 'expected'), [('street_scenes', [('street_scenes', 'd')]), ('camvid', [])]
)
def test_street_scenes_alone_are_prepared_at_first_use(dataset, expected, monkeypatch):
  class Stop(Exception):
    pass

  def open_split(*arguments):
    raise Stop

  prepared = []
  monkeypatch.setattr(load, 'prepare', lambda name, data_dir: prepared.append((name, data_dir)))
  monkeypatch.setattr(load, 'open_split', open_split)
  with pytest.raises(Stop):
    load_split(
      dataset, 'train', data_dir='d', label_set=CITYSCAPES_20, image_size=(8, 8), native_labels=False
    )
  assert prepared == expected
