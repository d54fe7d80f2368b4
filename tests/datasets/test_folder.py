"""Labelled folders: layout, pairing by name, what is refused."""

import json
import os
import pathlib
import pickle
import unicodedata

import layouts
import numpy as np
import pytest

from dense_aspp_jax.datasets.examples import Split
from dense_aspp_jax.datasets.folder import list_folder, open_folder, splits_of
from dense_aspp_jax.datasets.images import decode_image, decode_label, encode_png
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import load_label_set
from dense_aspp_jax.labels import LabelSet

IMAGE = encode_png(np.zeros((4, 6, 3), np.uint8))
LABEL = encode_png(np.ones((4, 6), np.uint8))


def write(folder: pathlib.Path, *names: str) -> Split:
  """Writes files below `folder`/train and opens the split."""
  (folder / 'train' / 'images').mkdir(parents=True)
  (folder / 'train' / 'labels').mkdir()
  layouts.write_tree(folder / 'train', {n: LABEL if n.startswith('labels') else IMAGE for n in names})
  return open_folder(folder, 'train')


def test_reads_what_was_written(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 3, 'validation': 2})
  split = open_split(f'folder:{tmp_path}', 'validation')
  assert split.name == f'{tmp_path}/validation'
  assert [pair.image_id for pair in split] == ['scene_000', 'scene_001']
  image, label = layouts.scene(10001, (16, 24), 3)
  np.testing.assert_array_equal(decode_image(split[1].image.read(), ''), image)
  np.testing.assert_array_equal(decode_label(split[1].label.read(), ''), label)
  labels = load_label_set(str(tmp_path / 'labels.json')).encode(label, '')
  np.testing.assert_array_equal(labels, label)
  with pytest.raises(IndexError):
    split[2]


PAGE = (pathlib.Path(__file__).parents[2] / 'docs' / 'own_data.md').read_text(encoding='utf-8')


def documented(language: str) -> list[str]:
  return [text.split('```')[0] for text in PAGE.split(f'```{language}\n')[1:]]


def test_the_documented_example_is_a_label_set(tmp_path: pathlib.Path):
  page = PAGE
  (tmp_path / 'labels.json').write_text(documented('json')[0])
  label_set = load_label_set(str(tmp_path / 'labels.json'))
  ids = np.array([[0, 1, 2, 3, 255]], np.uint8)
  labels = label_set.encode(ids, '')
  np.testing.assert_array_equal(labels, [[2, 0, 1, 1, 255]])
  np.testing.assert_array_equal(label_set.decode(labels), [[0, 1, 2, 2, 255]])
  assert f'num_classes = {label_set.num_classes} ' in page


def test_extensions_subfolders_and_other_files(tmp_path: pathlib.Path):
  split = write(
    tmp_path,
    'images/a.JPG', 'labels/a.png',
    'images/b.jpeg', 'labels/b.PNG',
    'images/day 1/c.d.png', 'labels/day 1/c.d.png',
    'images/Thumbs.db', 'images/.hidden.png', 'labels/notes.txt', 'readme.md',
  )  # fmt: skip
  assert [pair.image_id for pair in split] == ['a', 'b', 'day 1/c.d']


def test_composed_and_decomposed_names_are_the_same(tmp_path: pathlib.Path):
  name = 'zürich_é'
  composed, decomposed = (unicodedata.normalize(form, name) for form in ('NFC', 'NFD'))
  assert composed != decomposed
  split = write(tmp_path, f'images/{decomposed}.png', f'labels/{composed}.png')
  assert layouts.read_pair(split[0]) == (composed, IMAGE, LABEL)


def test_equal_names_are_refused(tmp_path: pathlib.Path):
  with pytest.raises(InputError, match=r'a\.png: same name as .*a\.jpg'):
    write(tmp_path, 'images/a.png', 'images/a.jpg', 'labels/a.png')
  names = [f'images/{unicodedata.normalize(form, "ü")}.png' for form in ('NFC', 'NFD')]
  with pytest.raises(InputError, match='same name as'):
    write(tmp_path / 'unicode', *names, 'labels/ü.png')


def test_halves_are_listed(tmp_path: pathlib.Path):
  with pytest.raises(InputError) as error:
    write(tmp_path, *(f'images/{i}.png' for i in range(8)), 'labels/0.png', 'labels/x/1.png')
  train = tmp_path / 'train'
  first, *lines, last = str(error.value).splitlines()
  assert first == f'{train}: 8 problems:'
  assert [line.partition(';')[0] for line in lines] == [
    f'  {train}/images/{i}.png: image without label' for i in range(1, 6)
  ]
  assert last == '  and 3 more; `dense-aspp check-data` lists them all'


def test_missing_folder_split_and_files(tmp_path: pathlib.Path):
  with pytest.raises(InputError, match='no such folder'):
    open_folder(tmp_path / 'none', 'train')
  with pytest.raises(InputError, match=r"no split 'train' .*no split at all"):
    open_folder(tmp_path, 'train')
  layouts.write_labelled_folder(tmp_path, {'train': 1, 'test': 1})
  with pytest.raises(InputError, match=r"no split 'validation' .*train, test"):
    open_folder(tmp_path, 'validation')
  with pytest.raises(InputError, match=r'train: no images.*\.png, \.jpg, \.jpeg'):
    write(tmp_path / 'empty')


def test_the_fingerprint_is_of_the_content_alone(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path / 'a', {'train': 2})
  first = open_folder(tmp_path / 'a', 'train').fingerprint
  layouts.write_labelled_folder(tmp_path / 'b', {'train': 2})  # as extracted again: other times
  for path in (tmp_path / 'b').rglob('*.png'):
    os.utime(path, (1, 1))
  assert open_folder(tmp_path / 'b', 'train').fingerprint == first
  images, labels = tmp_path / 'b' / 'train' / 'images', tmp_path / 'b' / 'train' / 'labels'
  label = labels / 'scene_001.png'
  data = label.read_bytes()
  label.write_bytes(data + b' ')
  assert open_folder(tmp_path / 'b', 'train').fingerprint != first  # size
  label.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
  assert open_folder(tmp_path / 'b', 'train').fingerprint != first  # content
  label.write_bytes(data)
  assert open_folder(tmp_path / 'b', 'train').fingerprint == first
  for folder in (images, labels):
    (folder / 'scene_001.png').rename(folder / 'scene_009.png')
  assert open_folder(tmp_path / 'b', 'train').fingerprint != first  # name


def test_can_be_sent_to_a_worker(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 2})
  split = open_folder(tmp_path, 'train')
  copy = pickle.loads(pickle.dumps(split))
  assert (copy.fingerprint, copy.name) == (split.fingerprint, split.name)
  assert layouts.read_pair(copy[1]) == layouts.read_pair(split[1])


def test_file_that_vanished_is_named(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 1})
  split = open_folder(tmp_path, 'train')
  (tmp_path / 'train' / 'images' / 'scene_000.png').unlink()
  with pytest.raises(InputError, match=r'images/scene_000\.png: cannot be read'):
    split[0].image.read()


# Entries of labels.json, files of the training split with their image ids, and what is left.
LAYOUTS = {
  'mmseg': (
    {'images': 'img_dir/{split}', 'labels': 'ann_dir/{split}'},
    {'img_dir/train/a/1.jpg': 'a/1', 'ann_dir/train/a/1.png': 'a/1', 'img_dir/val/2.jpg': None},
    {},
  ),
  'mmseg, Cityscapes': (
    {
      'images': 'leftImg8bit/{split}',
      'labels': 'gtFine/{split}',
      'image_suffix': '_leftImg8bit.png',
      'label_suffix': '_gtFine_labelTrainIds.png',
    },
    {
      'leftImg8bit/train/aachen/aachen_0_leftImg8bit.png': 'aachen/aachen_0',
      'gtFine/train/aachen/aachen_0_gtFine_labelTrainIds.png': 'aachen/aachen_0',
    },
    {'gtFine/train/aachen/aachen_0_gtFine_labelIds.png', 'gtFine/train/aachen/aachen_0_gtFine_polygons.json'},
  ),
  'VOC': (
    {
      'images': 'JPEGImages',
      'labels': 'SegmentationClass',
      'lists': 'ImageSets/Segmentation/{split}.txt',
    },
    {
      'JPEGImages/1.jpg': '1',
      'SegmentationClass/1.png': '1',
      'JPEGImages/2.jpg': None,
      'SegmentationClass/2.png': None,
      'ImageSets/Segmentation/train.txt': None,
      'ImageSets/Segmentation/val.txt': None,
    },
    {'JPEGImages/3.jpg'},
  ),
  'pairs in a folder': (
    {'images': '{split}', 'labels': '{split}', 'image_suffix': '_sat', 'label_suffix': '_mask'},
    {
      'train/1_sat.JPG': '1',
      'train/1_mask.png': '1',
      'train/x/2_sat.png': 'x/2',
      'train/x/2_mask.png': 'x/2',
    },
    {'train/readme.txt', 'train/3.png'},
  ),
  'pairs told by extension': (
    {'images': '{split}', 'labels': '{split}', 'image_suffix': '.jpg', 'label_suffix': '.png'},
    {'train/1.jpg': '1', 'train/1.png': '1'},
    set(),
  ),
  'Kaggle': (
    {'images': 'images', 'labels': 'masks', 'label_suffix': '_L', 'lists': '{split}.txt'},
    {'images/1.png': '1', 'masks/1_L.png': '1', 'images/2.png': None, 'masks/2_L.png': None},
    {'images/3.png'},
  ),
  'Supervisely': (
    {'images': '{split}/img', 'labels': '{split}/masks_machine'},
    {'train/img/1.jpg': '1', 'train/masks_machine/1.png': '1'},
    {'train/ann/1.jpg.json'},
  ),
  'ADE20K': (
    {'images': 'images/{split}', 'labels': 'annotations/{split}'},
    {'images/training/1.jpg': '1', 'annotations/training/1.png': '1'},
    set(),
  ),
  'Mapillary Vistas': (
    {'images': '{split}/images', 'labels': '{split}/v2.0/labels'},
    {'training/images/1.jpg': '1', 'training/v2.0/labels/1.png': '1'},
    {'training/v2.0/instances/1.png'},
  ),
  'Carvana': (
    {'images': '{split}', 'labels': '{split}_masks', 'label_suffix': '_mask.gif'},
    {'train/1_01.jpg': '1_01', 'train_masks/1_01_mask.gif': '1_01'},
    set(),
  ),
  'labels inside': (
    {'images': '{split}', 'labels': '{split}/masks'},
    {'train/1.png': '1', 'train/masks/1.png': '1'},
    set(),
  ),
}
LISTS = {'train': '\ufeff# comment\nJPEGImages/1.jpg\tSegmentationClass/1.png\n\n', 'val': '2\n'}


def write_layout(folder: pathlib.Path, entries: dict[str, str], names: list[str]) -> None:
  labels = {'classes': ['road', 'sky'], **entries}
  data = {
    name: LISTS[pathlib.PurePath(name).stem].encode()
    if name.endswith('.txt') and 'lists' in entries
    else IMAGE
    for name in names
  }
  layouts.write_tree(folder, {'labels.json': json.dumps(labels).encode(), **data})


@pytest.mark.parametrize(('entries', 'files', 'left'), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_others(entries, files, left, tmp_path: pathlib.Path):
  names = [*files, *left]
  if 'lists' in entries:
    names += [entries['lists'].replace('{split}', name) for name in LISTS]
  write_layout(tmp_path, entries, dict.fromkeys(names))
  listing = list_folder(tmp_path, 'train')
  assert listing.problems == []
  found = {}
  for pair in listing.pairs:
    for file in (pair.image, pair.label):
      found[file.path.relative_to(tmp_path).as_posix()] = pair.image_id
  assert found == {name: image_id for name, image_id in files.items() if image_id is not None}
  assert {entry.rpartition(': ')[0] for entry in listing.left} == {f'{tmp_path}/{name}' for name in left}
  assert open_folder(tmp_path, 'train').name == f'{tmp_path}/train'


def test_lists_choose_the_split_and_are_checked(tmp_path: pathlib.Path):
  entries, files, _ = LAYOUTS['VOC']
  write_layout(tmp_path, entries, list(files))
  assert splits_of(tmp_path) == ['train', 'validation']
  (pair,) = open_folder(tmp_path, 'validation')
  assert pair.image_id == '2'
  path = tmp_path / 'ImageSets' / 'Segmentation' / 'val.txt'
  path.write_text('2\n2.jpg\n20\n')
  again, unknown = list_folder(tmp_path, 'validation').problems
  assert again.startswith(f"{path}: line 2 names '2.jpg' again, as line 1 does")
  assert unknown.startswith(
    f"{path}: line 3 names '20', no image in {tmp_path}/JPEGImages (the nearest is '2')"
  )
  path.write_text('\n')
  (empty,) = list_folder(tmp_path, 'validation').problems
  assert f'{path}: empty' in empty
  path.unlink()
  with pytest.raises(
    InputError, match=r"no split 'validation' \(it has train; ImageSets/.*validation\.txt missing\)"
  ):
    open_folder(tmp_path, 'validation')


def test_the_first_column_of_a_list_counts(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 2})
  entries = {'images': 'train/images', 'labels': 'train/labels', 'lists': '{split}.txt'}
  write_layout(tmp_path, entries, [])
  for line in ('scene_001.png scene_000.png', 'a b/scene_001.png,scene_000.png', 'scene_001 scene_000'):
    for encoding in ('utf-8', 'utf-16'):
      (tmp_path / 'train.txt').write_text(f'{line}\n', encoding=encoding)
      assert [pair.image_id for pair in open_folder(tmp_path, 'train')] == ['scene_001']


def test_a_second_list_of_a_split_is_left(tmp_path: pathlib.Path):
  entries, files, _ = LAYOUTS['VOC']
  write_layout(tmp_path, entries, list(files))
  first = tmp_path / 'ImageSets' / 'Segmentation' / 'val.txt'
  first.with_name('validation.txt').write_bytes(first.read_bytes())
  assert f'{first}: second list of validation' in list_folder(tmp_path, 'validation').left


@pytest.mark.parametrize('others', [{'ignore_ids': [255]}, {'name': 'mine'}])
def test_a_layout_without_classes_may_stand_beside_other_entries(others, tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path / 'there', {'train': 1, 'val': 1})
  entries = {'images': 'there/{split}/images', 'labels': 'there/{split}/labels'}
  (tmp_path / 'labels.json').write_text(json.dumps(entries | others))
  assert len(open_folder(tmp_path, 'train')) == 1


def test_a_layout_below_the_home_directory_has_all_its_splits(tmp_path: pathlib.Path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  layouts.write_labelled_folder(tmp_path / 'data', {'train': 1, 'validation': 1})
  write_layout(tmp_path / 'mine', {'images': '~/data/{split}/images', 'labels': '~/data/{split}/labels'}, [])
  assert splits_of(tmp_path / 'mine') == ['train', 'validation']


def test_files_may_lie_elsewhere(tmp_path: pathlib.Path):
  """A labels.json of one's own for data that one may only read."""
  _, files, _ = LAYOUTS['VOC']
  write_layout(tmp_path / 'shared', LAYOUTS['VOC'][0], list(files))
  entries = {name: f'{tmp_path}/shared/{value}' for name, value in LAYOUTS['VOC'][0].items()}
  write_layout(tmp_path / 'mine', entries, [])
  split = open_folder(tmp_path / 'mine', 'train')
  assert split.fingerprint == open_folder(tmp_path / 'shared', 'train').fingerprint


@pytest.mark.parametrize(
  ('entries', 'message'),
  [
    ({'images': 'images', 'labels': 'masks'}, r'neither "images" nor "lists" has \{split\}'),
    ({'images': '{split}', 'labels': '{split}/'}, 'are the same folder; expected a "label_suffix"'),
    ({'images': ['{split}']}, r'"images" is .*; expected a string'),
    ({'label_suffix': None}, '"label_suffix" is None; expected a string'),
  ],
)
def test_a_layout_that_means_nothing_is_refused(entries, message, tmp_path: pathlib.Path):
  write_layout(tmp_path, entries, [])
  with pytest.raises(InputError, match=message) as error:
    list_folder(tmp_path, 'train')
  assert f'{tmp_path}/labels.json: ' in str(error.value)


def test_a_labels_json_of_another_program_describes_no_layout(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 1})
  (tmp_path / 'labels.json').write_text('{"images": [{"id": 1}], "categories": []}')  # COCO
  assert len(open_folder(tmp_path, 'train')) == 1


def test_a_layout_needs_no_classes(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 1})
  for name in ('images', 'labels'):
    (tmp_path / 'train' / name).rename(tmp_path / f'{name}_train')
  (tmp_path / 'labels.json').write_text('{"images": "images_{split}", "labels": "labels_{split}"}')
  assert len(open_folder(tmp_path, 'train')) == 1


def test_what_a_split_lacks_is_named(tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 1, 'val': 1})
  (tmp_path / 'val' / 'labels').rename(tmp_path / 'val' / 'masks')
  with pytest.raises(
    InputError, match=r'it has train; val/labels/ missing\); expected val/images/ and val/lab'
  ):
    list_folder(tmp_path, 'validation')


@pytest.mark.parametrize(
  ('name', 'split'), [('val', 'validation'), ('valid', 'validation'), ('testing', 'test')]
)
def test_splits_have_synonyms(name, split, tmp_path: pathlib.Path):
  layouts.write_labelled_folder(tmp_path, {'train': 1, name: 2})
  found = open_folder(tmp_path, split)
  assert (len(found), found.name) == (2, f'{tmp_path}/{split}')
  assert splits_of(tmp_path) == ['train', split]
  layouts.write_labelled_folder(tmp_path, {split: 1})  # its own name comes first, the other is counted
  listing = list_folder(tmp_path, split)
  in_second = [f'{tmp_path}/{name}/images/scene_00{i}.png: in a second folder of {split}' for i in range(2)]
  assert (len(listing.pairs), listing.left) == (1, in_second)


@pytest.mark.parametrize(
  ('images', 'labels', 'hint'),
  [
    (['1', '2', '10'], ['1_mask', '2_mask', '10_mask'], '"label_suffix": "_mask"'),
    (['1_sat', '2_sat'], ['1', '2'], '"image_suffix": "_sat"'),
    (['1', '2'], ['1', '22'], None),
    (['1', '2', '3'], ['1', '2', '3_L'], None),
  ],
)
def test_a_suffix_is_suggested_where_most_names_have_it(images, labels, hint, tmp_path: pathlib.Path):
  names = [*(f'images/{name}.png' for name in images), *(f'labels/{name}.png' for name in labels)]
  with pytest.raises(InputError) as error:
    write(tmp_path, *names)
  assert ('if that is the rule' in str(error.value)) == bool(hint)
  assert hint is None or f'add {hint} to labels.json' in str(error.value)


def test_the_nearest_name_is_given(tmp_path: pathlib.Path):
  with pytest.raises(InputError) as error:
    write(tmp_path, 'images/street_01.png', 'labels/street-01.png')
  assert f'street_01 (the nearest without image is {tmp_path}/train/labels/street-01.png)' in str(error.value)


def test_files_left_out_are_counted_when_a_split_is_opened(tmp_path: pathlib.Path, capsys):
  write(tmp_path, 'images/a.png', 'labels/a.png', 'labels/notes.txt', 'readme.md')
  assert f'{tmp_path}/train: 2 files left out: 1 .txt, 1 .md; the first is' in capsys.readouterr().err


def test_the_documented_layouts_are_read(tmp_path: pathlib.Path):
  """mmseg, VOC, pairs side by side, images and masks with lists."""
  files = (
    ('img_dir/val/a.jpg', 'ann_dir/val/a.png'),
    ('JPEGImages/a.jpg', 'SegmentationClass/a.png', 'ImageSets/Segmentation/val.txt'),
    ('val/a.jpg', 'val/a_mask.png'),
    ('images/a.png', 'masks/a.png', 'val.txt'),
  )
  for number, (text, names) in enumerate(zip(documented('json')[1:], files, strict=True)):
    folder = tmp_path / str(number)
    layouts.write_tree(
      folder, {n: b'a' if n.endswith('txt') else IMAGE for n in names} | {'labels.json': text.encode()}
    )
    assert load_label_set(str(folder / 'labels.json')).num_classes in (2, 3)
    assert [pair.image_id for pair in open_folder(folder, 'validation')] == ['a']


def test_the_documented_script_merges_one_mask_per_class(tmp_path: pathlib.Path, monkeypatch):
  (script,) = (text for text in documented('python') if 'CLASSES' in text)
  road, car = np.zeros((2, 3, 4), np.uint8)
  road[:2], car[1] = 255, 255
  layouts.write_tree(
    tmp_path / 'masks',
    {'a/road.png': encode_png(road), 'a/car.png': encode_png(car), 'b/car.png': encode_png(car)},
  )
  monkeypatch.chdir(tmp_path)
  exec(compile(script, 'own_data.md', 'exec'), {})
  labels = [decode_label((tmp_path / 'train' / 'labels' / f'{i}.png').read_bytes(), '') for i in 'ab']
  np.testing.assert_array_equal(labels, [[[0] * 4, [1] * 4, [255] * 4], [[255] * 4, [1] * 4, [255] * 4]])


def test_a_split_without_any_label_is_one_problem(tmp_path: pathlib.Path):
  with pytest.raises(InputError, match=r'train: 2 images without any label; expected files \.png'):
    write(tmp_path, 'images/a.png', 'images/b.png', 'labels/a.json')


def test_a_misspelt_entry_is_named_before_what_follows_from_it(tmp_path: pathlib.Path):
  write_layout(tmp_path, {'images': '{split}', 'labels': '{split}', 'label_sufix': '_mask'}, [])
  with pytest.raises(InputError, match='unknown entry label_sufix; did you mean label_suffix'):
    list_folder(tmp_path, 'train')


def test_whatever_stands_in_labels_json_is_read_or_refused(tmp_path: pathlib.Path):
  """Each value in turn is another one: a label set, or an InputError, and no other exception."""
  entries = {
    'name': 'x',
    'classes': [
      {'name': 'a', 'ids': [1, 2], 'color': [1, 2, 3]},
      {'name': 'b', 'ids': [3], 'colors': [[4, 5, 6]]},
    ],
    'ignore_ids': [255],
    'ignore_colors': [[0, 0, 0]],
    'label_colors': True,
    'orientation': 'applied',
    'images': '{split}',
    'labels': 'labels/{split}',
    'image_suffix': '_a',
    'label_suffix': '_b',
    'lists': '{split}.txt',
  }
  values = (
    None,
    True,
    -1,
    1.5,
    256,
    10**400,
    '',
    '\0',
    '{split}',
    '{',
    [],
    {},
    [None],
    {'1': 'a'},
    {'a': []},
    ['a'],
  )

  def places(value, place=()):
    yield place
    if isinstance(value, dict | list):
      for key in value if isinstance(value, dict) else range(len(value)):
        yield from places(value[key], (*place, key))

  def replaced(value, place, new):
    if not place:
      return new
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy

  refused = 0
  for place in places(entries):
    for value in values:
      data = replaced(entries, place, value)
      (tmp_path / 'labels.json').write_text(json.dumps(data))
      try:
        label_set = load_label_set(str(tmp_path / 'labels.json'))
        assert LabelSet.from_json(json.loads(json.dumps(label_set.to_json())), '') == label_set
      except InputError:
        refused += 1
      with pytest.raises(InputError, match=r'labels\.json|no split'):
        list_folder(tmp_path, 'train')
  assert refused > 300
