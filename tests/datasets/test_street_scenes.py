import argparse
import dataclasses
import functools
import random
import sys

import layouts
import numpy as np
import pytest
from color_baseline import fit_color_classifier, predict_color_classifier

from dense_aspp_jax.commands import check_data
from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.images import decode_image, decode_label
from dense_aspp_jax.datasets.prepare import DATASETS
from dense_aspp_jax.datasets.street_scenes.body import Pose
from dense_aspp_jax.datasets.street_scenes.builder import (
  STREET_SCENES,
  STREET_SCENES_LARGE,
  generate,
  render_scene,
)
from dense_aspp_jax.datasets.street_scenes.canvas import Camera, Canvas
from dense_aspp_jax.datasets.street_scenes.cars import draw_car
from dense_aspp_jax.datasets.street_scenes.light import Light
from dense_aspp_jax.datasets.street_scenes.people import draw_bicycle
from dense_aspp_jax.datasets.street_scenes.vehicles import draw_bus
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.label_tables import CITYSCAPES

ID = {label.name: label.id for label in CITYSCAPES}
SMALL = (128, 256)


@functools.cache
def scenes(seed: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
  return [render_scene(seed, index, SMALL) for index in range(count)]


def rows_of(label: np.ndarray, name: str) -> np.ndarray:
  return np.nonzero(label == ID[name])[0]


def mean_iou(confusion: np.ndarray) -> float:
  """Mean IoU over the first 19 of 20 classes; pixels whose label is void do not count."""
  confusion = confusion[:19]
  hits = np.diag(confusion[:, :19])
  union = confusion.sum(1) + confusion.sum(0)[:19] - hits
  assert (confusion.sum(1) > 0).all(), 'a class is missing from the scored scenes'
  return float((hits / union).mean())


def test_shapes_types_and_known_ids():
  for size in ((256, 512), (64, 64), (100, 331), (240, 120)):
    image, label = render_scene(3, 1, size)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (label.shape, label.dtype) == (size, np.uint8)
    CITYSCAPES_20.encode(label, 'scene')  # raises if an id is unknown
    assert len(np.unique(label)) >= 5
    assert rows_of(label, 'sky').max() < 0.6 * size[0]  # the ground reaches the lower edge
    assert image.std() > 15


def test_too_small_is_an_error():
  with pytest.raises(InputError, match='at least 64 pixels'):
    render_scene(0, 0, (63, 128))


def test_seed_and_index_determine_the_scene():
  first, other = render_scene(1, 5, SMALL), render_scene(1, 6, SMALL)
  again = render_scene(1, 5, SMALL)  # after another scene: nothing is carried over
  reseeded = render_scene(2, 5, SMALL)
  for k in range(2):
    np.testing.assert_array_equal(first[k], again[k])
    assert (first[k] != other[k]).mean() > 0.1
    assert (first[k] != reseeded[k]).mean() > 0.1


def test_the_scenes_of_this_version_are_unchanged():
  """Pixels of the largest classes, and mean colours: other scenes need another version."""
  assert str(STREET_SCENES.builder.VERSION) == '2.0.0'
  known = (
    (
      {'road': 10405, 'building': 6876, 'vegetation': 3663, 'sky': 3641, 'sidewalk': 2064},
      (86.0, 83.2, 82.1),
    ),
    (
      {'road': 14194, 'building': 5858, 'vegetation': 3507, 'sky': 2894, 'terrain': 1644},
      (100.1, 96.1, 82.8),
    ),
    ({'road': 11550, 'vegetation': 5163, 'sky': 4112, 'car': 3920, 'building': 2723}, (118.1, 114.4, 117.7)),
  )
  for (image, label), (pixels, colors) in zip(scenes(0, 60), known, strict=False):
    # Other versions of Pillow may draw single border pixels differently.
    assert {name: (label == ID[name]).sum() for name in pixels} == pytest.approx(pixels, abs=20)
    assert image.mean((0, 1)) == pytest.approx(colors, abs=0.3)


def test_all_classes_occur_often_enough():
  labels = [CITYSCAPES_20.encode(label, 'scene') for _, label in scenes(0, 60)]
  pixels = np.stack([np.bincount(label.ravel(), minlength=20) for label in labels])
  shown = dict(zip(CITYSCAPES_20.class_names, (pixels >= 8).mean(0), strict=True))
  rare = ('truck', 'bus', 'train')
  assert {name: share for name, share in shown.items() if share < (0.12 if name in rare else 0.2)} == {}
  assert all(shown[name] > 0.9 for name in ('road', 'sidewalk', 'building', 'sky', 'car', 'pole'))
  share = dict(zip(CITYSCAPES_20.class_names, pixels.sum(0) / pixels.sum(), strict=True))
  assert 0.2 < share['road'] < 0.5
  assert max(share, key=share.get) == 'road'
  assert min(share.values()) > 0.001


def test_the_sky_is_above_and_the_road_below():
  for _, label in scenes(0, 60):
    sky, road = rows_of(label, 'sky'), rows_of(label, 'road')
    assert len(road)
    assert road.min() > 0.3 * SMALL[0]
    if len(sky):
      assert sky.max() < 0.6 * SMALL[0]
      assert sky.mean() < road.mean() - 0.2 * SMALL[0]


def test_things_stand_on_the_ground():
  for name in ('person', 'car', 'bicycle', 'truck', 'bus', 'train'):
    lowest = [rows.max() for _, label in scenes(0, 60) if len(rows := rows_of(label, name)) > 8]
    # The highest horizon is at 0.34; of a few, only the upper part shows over what stands before them.
    assert np.mean(np.array(lowest) > 0.34 * SMALL[0]) > 0.9, name


def test_pixels_of_ground_lie_below_those_of_the_sky_in_every_column():
  for _, label in scenes(0, 60):
    rows = np.arange(SMALL[0])[:, None]
    lowest_sky = np.where(label == ID['sky'], rows, -1).max(0)
    highest_road = np.where(label == ID['road'], rows, SMALL[0]).min(0)
    assert (lowest_sky < highest_road).all()


def test_color_alone_does_not_solve_it():
  train, held_out = scenes(0, 60)[:24], scenes(1, 24)
  encode = functools.partial(CITYSCAPES_20.encode, where='scene')
  table = fit_color_classifier([image for image, _ in train], [encode(label) for _, label in train], 20)
  confusion = np.zeros((20, 20), np.int64)
  for image, label in held_out:
    np.add.at(confusion, (encode(label), predict_color_classifier(table, image)), 1)
  assert 0.05 < mean_iou(confusion) < 0.13, mean_iou(confusion)


def plain_canvas(size: tuple[int, int] = (128, 256)) -> Canvas:
  """An empty straight street, evenly lit, with a focal length of 400 canvas pixels."""
  grey = (0.8, 0.8, 0.8)
  sky = (200.0, 200.0, 200.0)
  light = Light(sky, sky, (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), grey, sky, 1e6, 0.0, False)
  return Canvas(size, Camera(400.0, 256.0, 100.0, 1.5, 0.0, 0.0), light)


def test_objects_are_drawn_at_the_size_and_place_of_perspective():
  for z in (10.0, 20.0):
    canvas = plain_canvas()
    draw_car(canvas, random.Random(0), Pose(1.0, z + 2.3))  # its rear end about z metres ahead
    rows, columns = np.nonzero(np.asarray(canvas.labels) == ID['car'])
    assert rows.max() == pytest.approx(100 + 400 * 1.5 / z, abs=4)  # the tyres touch the ground
    assert columns.min() == pytest.approx(256 + 400 * (1.0 - 0.9) / z, abs=140 / z)  # mirrors: 0.35 m
    assert columns.max() == pytest.approx(256 + 400 * (1.0 + 0.9) / z, abs=140 / z)


def test_nearer_objects_hide_farther_ones():
  canvas = plain_canvas()
  draw_bus(canvas, random.Random(1), Pose(0.0, 30.0))
  bus = (np.asarray(canvas.labels) == ID['bus']).sum()
  draw_car(canvas, random.Random(1), Pose(0.0, 12.0))
  assert 0 < (np.asarray(canvas.labels) == ID['bus']).sum() < bus


def test_a_ridden_bicycle_carries_a_rider_above_it():
  canvas = plain_canvas()
  draw_bicycle(canvas, random.Random(0), Pose(0.0, 8.0, 1.57), True)
  label = np.asarray(canvas.labels)
  assert rows_of(label, 'rider').mean() < rows_of(label, 'bicycle').mean()
  assert rows_of(label, 'bicycle').max() == pytest.approx(100 + 400 * 1.5 / 8, abs=4)
  assert not len(rows_of(label, 'person'))


def test_image_and_label_share_their_outlines():
  """A car on an empty canvas changes exactly the pixels it labels (shadows come later)."""
  canvas = plain_canvas()
  draw_car(canvas, random.Random(2), Pose(-1.0, 9.0, 0.4))
  painted = np.asarray(canvas.image).any(-1)
  labelled = np.asarray(canvas.labels) == ID['car']
  assert labelled.sum() > 1000
  assert (painted != labelled).mean() < 0.001


def test_prepared_scenes_are_read_back_as_drawn(tmp_path):
  counts = {'train': 3, 'validation': 2, 'test': 1}
  splits = {split: generate(split, count, (64, 128)) for split, count in counts.items()}
  STREET_SCENES.store(splits, counts, str(tmp_path))
  assert 'tensorflow' not in sys.modules
  for split_seed, (split, count) in enumerate(counts.items()):
    stored = STREET_SCENES.open_split(split, str(tmp_path))
    examples = {example.image_id: example for example in map(layouts.read_pair, stored)}
    assert sorted(examples) == [f'{split}_{index:05d}' for index in range(count)]
    for index, image_id in enumerate(sorted(examples)):
      image, label = render_scene(split_seed, index, (64, 128))
      np.testing.assert_array_equal(decode_image(examples[image_id].image, ''), image)
      np.testing.assert_array_equal(decode_label(examples[image_id].label, ''), label)


def test_the_published_scenes_are_those_that_configurations_expect():
  assert (STREET_SCENES.image_size, STREET_SCENES.generate) == ((256, 512), generate)
  assert STREET_SCENES.counts == {'train': 512, 'validation': 64, 'test': 64}
  assert STREET_SCENES_LARGE.counts == {'train': 6000, 'validation': 100, 'test': 100}
  assert STREET_SCENES_LARGE.builder.VERSION == STREET_SCENES.builder.VERSION


def test_the_large_data_set_is_prepared_at_first_use_and_passes_the_check(tmp_path, monkeypatch, capsys):
  tiny = dataclasses.replace(STREET_SCENES_LARGE, counts={'train': 2, 'validation': 1})
  monkeypatch.setitem(DATASETS, 'street_scenes_large', tiny)
  data = Data(dataset='street_scenes_large', data_dir=str(tmp_path), image_size=(32, 64))
  split = data.open('validation', cached=False)
  assert len(split) == 1
  _, label = render_scene(1, 0, (384, 512))
  np.testing.assert_array_equal(split[0].label, label)
  assert 'Preparing street_scenes_large/train: 2/2' in capsys.readouterr().err
  folder = tmp_path / 'street_scenes_large' / 'default'
  assert [path.name for path in folder.iterdir()] == ['2.0.0']  # nothing half-written
  args = argparse.ArgumentParser()
  check_data.add_arguments(args)
  assert check_data.run(args.parse_args(['street_scenes_large', '--data-dir', str(tmp_path)])) == 0
