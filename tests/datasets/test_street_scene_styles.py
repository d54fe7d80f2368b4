"""What each group of properties of a scene changes, and what it leaves."""

import functools

import numpy as np
import pytest

from dense_aspp_jax.datasets.street_scenes.scene import render_scene
from dense_aspp_jax.datasets.street_scenes.style import Style
from dense_aspp_jax.label_tables import CITYSCAPES

ID = {label.name: label.id for label in CITYSCAPES}
SIZE = (96, 192)
COUNT = 16
Scenes = list[tuple[np.ndarray, np.ndarray]]


@functools.cache
def scenes(style: Style) -> Scenes:
  return [render_scene(4, index, SIZE, style) for index in range(COUNT)]


def contrast(drawn: Scenes, name: str) -> float:
  """Mean difference between horizontal neighbours of a class, relative to their brightness."""
  found = []
  for image, label in drawn:
    bright = image.mean(-1)
    inside = (label == ID[name])[:, 1:] & (label == ID[name])[:, :-1]
    if inside.sum() > 50:
      found.append(np.abs(np.diff(bright))[inside].mean() / bright[:, 1:][inside].mean())
  return float(np.mean(found))


def share(drawn: Scenes, names: tuple[str, ...]) -> float:
  return float(np.mean([np.isin(label, [ID[name] for name in names]).mean() for _, label in drawn]))


@pytest.mark.parametrize('group', ['textures', 'light', 'camera', 'objects'])
def test_each_group_changes_every_image(group):
  for (image, _), (other, _) in zip(scenes(Style()), scenes(Style(**{group: False})), strict=True):
    assert (image != other).mean() > 0.2


def test_light_leaves_the_labels():
  for (_, label), (_, other) in zip(scenes(Style()), scenes(Style(light=False)), strict=True):
    np.testing.assert_array_equal(label, other)


def test_textures_change_the_outlines_of_plants_alone():
  changed = []
  for (_, label), (_, other) in zip(scenes(Style()), scenes(Style(textures=False)), strict=True):
    differs = label != other
    assert ((label == ID['vegetation']) | (other == ID['vegetation']))[differs].all()
    changed.append(differs.mean())
  assert 0 < np.mean(changed) < 0.1


def test_textures_raise_the_contrast_of_large_surfaces():
  plain = scenes(Style(textures=False))
  assert contrast(scenes(Style()), 'building') > 1.2 * contrast(plain, 'building')
  assert contrast(scenes(Style()), 'vegetation') > 1.2 * contrast(plain, 'vegetation')


def test_light_has_the_range_of_photographs():
  def spread(drawn):
    return np.std([np.log(image.mean()) for image, _ in drawn])

  def bright_sky(drawn):
    return np.mean(
      [(image[label == ID['sky']] > 225).mean() for image, label in drawn if (label == ID['sky']).any()]
    )

  plain = scenes(Style(light=False))
  assert spread(scenes(Style())) > 1.5 * spread(plain)
  assert bright_sky(scenes(Style())) > 1.5 * bright_sky(plain)


def test_the_camera_varies_more_places_of_the_horizon():
  def spread(drawn):
    return np.std([np.nonzero(label == ID['road'])[0].min() / SIZE[0] for _, label in drawn])

  assert spread(scenes(Style())) > 1.25 * spread(scenes(Style(camera=False)))


def test_objects_fill_the_street():
  plain = scenes(Style(objects=False))
  assert share(scenes(Style()), ('car',)) > 1.05 * share(plain, ('car',))
  clutter = ('static', 'guard rail')
  assert share(scenes(Style()), clutter) > 1.5 * share(plain, clutter)


def test_a_scene_is_the_same_at_every_size():
  """Not pixel for pixel, but a larger one shows the same things at the same places."""
  for (_, small), index in zip(scenes(Style()), range(4), strict=False):
    image, large = render_scene(4, index, (2 * SIZE[0], 2 * SIZE[1]))
    assert (large[::2, ::2] == small).mean() > 0.93
    blocks = image.reshape(SIZE[0], 2, SIZE[1], 2, 3).mean((1, 3, 4))
    assert np.corrcoef(blocks.ravel(), scenes(Style())[index][0].mean(-1).ravel())[0, 1] > 0.85
