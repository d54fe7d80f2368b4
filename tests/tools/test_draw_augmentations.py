import numpy as np
from PIL import Image

from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from tools import draw_augmentations as tool


def test_the_image_and_each_augmentation_have_a_panel(tmp_path, monkeypatch):
  height, width = size = (64, 64)
  monkeypatch.setattr(tool, 'SIZE', size)
  monkeypatch.setattr(tool, '_DRAWS', 4)
  for fields in ('FIELDS', 'EVERYTHING'):
    monkeypatch.setattr(tool, fields, {'flip_probability': 1.0, 'brightness': 0.5})
  picture = tool.picture()
  image, mirrored, brighter, first, second = (
    picture[-height:, start : start + width] for start in range(0, picture.shape[1], width + 4)
  )
  np.testing.assert_array_equal(image, render_scene(*tool.SCENE, size)[0])
  np.testing.assert_array_equal(mirrored, image[:, ::-1])
  assert np.abs(brighter.astype(float) - image).mean() > 5
  assert (first != second).any()
  path = tmp_path / 'augmentation.jpg'
  assert tool.main(['--output', str(path)]) == 0
  with Image.open(path) as written:
    assert written.size == picture.shape[1::-1]
