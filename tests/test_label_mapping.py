"""Label ids of one data set as classes of another: by name, by the published tables, by pairs."""

import dataclasses
import pickle
import re

import numpy as np
import pytest

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_mapping import (
  MappedLabelSet,
  check_class_map,
  label_groups,
  map_label_set,
  mapped_from,
  repeated_classes,
)
from dense_aspp_jax.label_sets import (
  CAMVID_11,
  CAMVID_31,
  CAMVID_32_AS_11,
  CITYSCAPES_19,
  CITYSCAPES_19_TRAIN_IDS,
  CITYSCAPES_20,
)
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet

RUN = LabelSet(
  'run',
  (
    LabelClass('road', (7,), (1, 2, 3)),
    LabelClass('Traffic-Light', (9, 4), (4, 5, 6)),
    LabelClass('plants', (2,), (7, 8, 9)),
  ),
)
OWN = LabelSet(
  'own',
  (
    LabelClass('traffic_light', (0,), (10, 0, 0)),
    LabelClass('tree', (1, 5), (0, 10, 0)),
    LabelClass('bush', (2,), (0, 20, 0), ((0, 21, 0),)),
    LabelClass('Road', (3,), (0, 0, 10)),
    LabelClass('rider', (4,), (30, 0, 0)),
  ),
  (255,),
)
PAIRS = (('tree', 'plants'), ('bush', 'Plants'), ('rider', 'ignore'))


def test_classes_are_mapped_by_name_and_by_pairs():
  mapped = map_label_set([OWN], RUN, PAIRS, 'x')
  ids = np.array([[0, 1, 2, 3, 4, 5, 255]], np.uint8)
  np.testing.assert_array_equal(mapped.encode(ids, 'x'), [[1, 2, 2, 0, IGNORE_LABEL, 2, IGNORE_LABEL]])
  assert (mapped.name, mapped.class_names) == ('own as run', RUN.class_names)
  np.testing.assert_array_equal(mapped.colors, RUN.colors)
  np.testing.assert_array_equal(mapped.decode(np.array([0, 1, 2], np.uint8)), [7, 9, 2])
  assert (mapped_from(mapped), mapped_from(RUN)) == ('own', None)
  assert mapped.of_predictions == RUN.of_predictions == RUN
  assert pickle.loads(pickle.dumps(mapped)) == mapped
  with pytest.raises(InputError, match=r"unknown label ids 9 .* label set 'own as run' knows 0\.\.5, 255"):
    mapped.encode(np.array([[9]], np.uint8), 'x')


def test_pixels_by_id_are_counted_by_class_of_the_run():
  mapped = map_label_set([OWN], RUN, PAIRS, 'x')
  pixels = np.zeros(256, np.int64)
  pixels[[0, 1, 3, 4, 5, 255]] = [1, 10, 100, 1000, 10_000, 100_000]
  counted = mapped.count_classes(pixels)
  assert dict(zip(np.flatnonzero(counted), counted[counted > 0], strict=True)) == {
    0: 100,
    1: 1,
    2: 10_010,
    IGNORE_LABEL: 101_000,
  }


def test_every_class_without_a_counterpart_is_named():
  with pytest.raises(InputError) as error:
    map_label_set([OWN], RUN, PAIRS[:1], "dataset 'x'")
  message = str(error.value)
  assert message.startswith(
    "dataset 'x': no counterpart in label set 'run' for the classes bush, rider of 'own'"
  )
  assert 'road, Traffic-Light, plants' in message
  assert "config.data.class_map pairs such as ('bush', 'road'), or ('bush', 'ignore')" in message
  assert '\n' not in message


def test_a_data_set_that_is_all_ignored_is_refused():
  pairs = tuple((name, 'ignore') for name in OWN.class_names)
  with pytest.raises(InputError, match="x: all classes of its label set 'own' are ignored"):
    map_label_set([OWN], RUN, pairs, 'x')


def test_of_several_label_sets_the_first_that_can_be_mapped_is_taken():
  other = dataclasses.replace(OWN, name='other', classes=OWN.classes[:2])
  assert map_label_set([OWN, other], RUN, PAIRS, 'x').own is OWN
  assert map_label_set([OWN, other], RUN, PAIRS[:1], 'x').own is other


GROUPED = (('tree', 'plants|ROAD'), ('bush', 'road|plants'), ('rider', 'traffic light|road'))


def test_a_class_can_be_one_of_several():
  mapped = map_label_set([OWN], RUN, GROUPED, 'x')
  assert label_groups(GROUPED, RUN) == ((0, 2), (0, 1))
  assert dict(mapped.counterparts)['tree'] == dict(mapped.counterparts)['bush'] == 'road|plants'
  ids = np.array([[0, 1, 2, 3, 4, 5, 255]], np.uint8)
  labels = mapped.encode(ids, 'x')  # as scores have them
  np.testing.assert_array_equal(labels, [[1, *[IGNORE_LABEL] * 2, 0, *[IGNORE_LABEL] * 3]])
  expected = [[1, 254, 254, 0, 253, 254, IGNORE_LABEL]]
  np.testing.assert_array_equal(mapped.for_training(labels, ids), expected)
  plain = map_label_set([OWN], RUN, PAIRS, 'x')
  np.testing.assert_array_equal(plain.for_training(plain.encode(ids, 'x'), ids), plain.encode(ids, 'x'))
  ignored = tuple((name, 'ignore') for name, _ in GROUPED)
  without = map_label_set([OWN], RUN, ignored, 'x')
  assert sorted(mapped.ignore_ids) == sorted(without.ignore_ids)
  assert mapped.decoding(training=True) not in (mapped.decoding(), without.decoding(training=True))
  assert mapped.describe()['classes']['rider'] == 'road|Traffic-Light'
  assert pickle.loads(pickle.dumps(mapped)) == mapped
  check_class_map(GROUPED, RUN, (RUN, mapped))


@pytest.mark.parametrize('text', ['road|car', 'road|', '|', 'road|road', 'road|ignore'])
def test_a_group_has_several_classes_of_the_run(text):
  mapped = map_label_set([OWN], RUN, PAIRS, 'x')
  with pytest.raises(InputError, match=r"nor several of them joined by '\|'\. Correct the pair of 'tree'"):
    check_class_map((('tree', text),), RUN, (RUN, mapped))
  with pytest.raises(
    InputError, match=re.escape(f"{text!r} is neither 'ignore' nor a class of label set 'run'")
  ):
    map_label_set([OWN], RUN, (('tree', text),), 'x')


def test_a_class_whose_name_has_the_sign_is_itself():
  run = dataclasses.replace(RUN, classes=(*RUN.classes, LabelClass('road|plants', (40,), (0, 0, 0))))
  mapped = map_label_set([OWN], run, (*PAIRS[1:], ('tree', 'road|plants')), 'x')
  assert mapped.classes[3].ids == (1, 5)
  for text in ('road|plants', 'ROAD|Plants'):
    assert mapped.groups == label_groups((('tree', text),), run) == ()


def test_there_is_a_value_for_each_group_or_an_error():
  classes = tuple(LabelClass(f'c{i}', (i,), (i, 0, 0)) for i in range(254))
  run = LabelSet('many', classes)
  assert label_groups((('x', 'c0|c1'),), run) == ((0, 1),)
  with pytest.raises(InputError, match='2 groups of classes beside 254 classes; expected at most 255'):
    label_groups((('x', 'c0|c1'), ('y', 'c1|c2')), run)


def test_two_names_that_are_alike_are_no_counterpart_of_a_third():
  run = dataclasses.replace(RUN, classes=(*RUN.classes, LabelClass('traffic light', (40,), (0, 0, 0))))
  with pytest.raises(InputError, match='for the classes traffic_light'):
    map_label_set([OWN], run, PAIRS, 'x')
  exact = dataclasses.replace(OWN.classes[0], name='traffic light')
  mapped = map_label_set([dataclasses.replace(OWN, classes=(exact, *OWN.classes[1:]))], run, PAIRS, 'x')
  assert mapped.classes[3].ids == (0,)


def test_pairs_are_checked_against_the_classes_that_there_are():
  mapped = map_label_set([OWN], RUN, PAIRS, 'x')
  check_class_map(PAIRS, RUN, (RUN, mapped))
  check_class_map((), RUN, (RUN,))
  with pytest.raises(InputError, match=r"no data set whose classes are mapped has a class 'car'.*tree, bush"):
    check_class_map((('car', 'road'),), RUN, (RUN, mapped))
  with pytest.raises(InputError, match=r"has a class 'tree'; .* none, for no data set has other classes"):
    check_class_map(PAIRS, RUN, (RUN,))
  with pytest.raises(InputError, match=r"'car' is neither 'ignore' nor a class of label set 'run' \(road, "):
    check_class_map((('tree', 'car'),), RUN, (RUN, mapped))
  assert repeated_classes((('tree', 'a'), ('bush', 'b'), ('TREE', 'b'))) == ['TREE']


@pytest.mark.parametrize('run', [CITYSCAPES_20, CITYSCAPES_19, CITYSCAPES_19_TRAIN_IDS])
def test_camvid_is_mapped_to_cityscapes_by_its_table(run):
  mapped = map_label_set([CAMVID_11], run, (), 'camvid')
  found = mapped.encode(np.arange(12, dtype=np.uint8), 'camvid')
  names = [None if i == IGNORE_LABEL else run.class_names[i] for i in found]
  assert names == [
    'sky', 'building', 'pole', 'road', 'sidewalk', 'vegetation', None, 'fence', 'car', 'person', None, None
  ]  # fmt: skip
  signs = map_label_set([CAMVID_11], run, (('sign symbol', 'traffic sign'),), 'camvid')
  assert signs.encode(np.array([6], np.uint8), 'camvid') == run.class_names.index('traffic sign')


def test_the_32_labels_of_camvid_are_mapped_where_its_11_classes_are_too_coarse():
  mapped = map_label_set([CAMVID_32_AS_11, CAMVID_31], CITYSCAPES_19, (), 'camvid_full')
  assert mapped.own is CAMVID_31
  assert mapped.describe()['classes'].keys() == set(CAMVID_31.class_names)
  own = dict(zip(CAMVID_31.class_names, (c.ids[0] for c in CAMVID_31.classes), strict=True))
  ids = np.array([own[n] for n in ('TrafficLight', 'Child', 'Truck_Bus', 'LaneMkgsDriv')], np.uint8)
  found = [CITYSCAPES_19.class_names[i] if i != IGNORE_LABEL else None for i in mapped.encode(ids, '')]
  assert found == ['traffic light', 'person', None, 'road']
  assert map_label_set([CAMVID_32_AS_11, CAMVID_31], CAMVID_11, (), 'x').own is CAMVID_32_AS_11


def test_cityscapes_is_mapped_to_camvid_and_its_void_is_ignored():
  mapped = map_label_set([CITYSCAPES_20, CITYSCAPES_19], CAMVID_11, (), 'cityscapes')
  ids = np.array([7, 8, 12, 20, 22, 25, 27, 33, 0], np.uint8)
  found = [CAMVID_11.class_names[i] if i != IGNORE_LABEL else None for i in mapped.encode(ids, '')]
  assert found == [
    'road', 'pavement', 'building', 'sign symbol', None, 'bicyclist', 'car', 'bicyclist', None
  ]  # fmt: skip


def test_colour_label_maps_keep_the_colours_of_their_own_label_set():
  own = dataclasses.replace(OWN, label_colors=True, ignore_colors=((200, 0, 0),), orientation='applied')
  mapped = map_label_set([own], RUN, PAIRS, 'x')
  assert (mapped.label_colors, mapped.orientation) == (True, 'applied')
  assert mapped.id_of_color == own.id_of_color
  assert mapped.id_of_color[0, 21, 0] == 2


def test_what_is_recorded_changes_with_the_class_of_any_stored_pixel():
  mapped = map_label_set([OWN], RUN, PAIRS, 'x')
  record = mapped.describe()
  assert record['label_set'] == 'own'
  assert record['classes'] == {
    'traffic_light': 'Traffic-Light',
    'tree': 'plants',
    'bush': 'plants',
    'Road': 'road',
    'rider': 'ignore',
  }
  other_ids = dataclasses.replace(
    OWN, classes=(dataclasses.replace(OWN.classes[0], ids=(6,)), *OWN.classes[1:])
  )
  others = [
    map_label_set([other_ids], RUN, PAIRS, 'x'),
    map_label_set([OWN], RUN, (*PAIRS[:2], ('rider', 'road')), 'x'),
    map_label_set([dataclasses.replace(OWN, label_colors=True)], RUN, PAIRS, 'x'),
  ]
  assert isinstance(mapped, MappedLabelSet)
  assert len({record['sha256'], *(other.describe()['sha256'] for other in others)}) == 4
