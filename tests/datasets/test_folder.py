"""Labelled folders: layout, pairing by name, what is refused."""

import os
import pathlib
import pickle
import unicodedata

import layouts
import numpy as np
import pytest

from dense_aspp_jax.datasets.examples import Split
from dense_aspp_jax.datasets.folder import open_folder
from dense_aspp_jax.datasets.images import decode_image, decode_label, encode_png
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import load_label_set

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


def test_the_documented_example_is_a_label_set(tmp_path: pathlib.Path):
  page = (pathlib.Path(__file__).parents[2] / 'docs' / 'own_data.md').read_text(encoding='utf-8')
  (tmp_path / 'labels.json').write_text(page.split('```json')[1].split('```')[0])
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
