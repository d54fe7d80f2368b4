"""Splits made of stored ones, of prepared data sets and of labelled folders."""

import pickle
import re

import jax
import layouts
import numpy as np
import pytest

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.examples import Example
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.prepare import prepare
from dense_aspp_jax.errors import InputError

IDS = {
  'train': ['0001TP_1', '0006R0_1', '0006R0_2', '0016E5_1', '0016E5_2'],
  'validation': ['0016E5_8', '0016E5_9'],
}


@pytest.fixture(scope='module')
def datasets(tmp_path_factory) -> dict[str, tuple[str, str | None]]:
  """Name and data directory of the same images as a prepared data set and as a folder."""
  path = tmp_path_factory.mktemp('selected')
  files = {}
  for seed, (split, image_ids) in enumerate(IDS.items()):
    camvid = layouts.CAMVID_FOLDERS[split]
    files[f'CamVid/{camvid}.txt'] = ''.join(
      f'/{camvid}/{i}.png /{camvid}annot/{i}.png\n' for i in image_ids
    ).encode()
    for index, image_id in enumerate(image_ids):
      image, label = map(layouts.encode_png, layouts.scene(100 * seed + index, (12, 16), 12))
      files[f'CamVid/{camvid}/{image_id}.png'] = files[f'folder/{split}/images/{image_id}.png'] = image
      files[f'CamVid/{camvid}annot/{image_id}.png'] = files[f'folder/{split}/labels/{image_id}.png'] = label
  layouts.write_tree(path, files)
  prepare('camvid', path / 'CamVid', str(path / 'data'), allow_partial=True)
  return {'tfds': ('camvid', str(path / 'data')), 'folder': (f'folder:{path / "folder"}', None)}


@pytest.fixture(params=['tfds', 'folder'])
def opened(request, datasets):
  dataset, data_dir = datasets[request.param]
  return lambda split, *held_out: open_split(dataset, split, data_dir, held_out)


def ids(split) -> list[str]:
  return [pair.image_id for pair in split]


def examples(split) -> list[Example]:
  return list(map(layouts.read_pair, split))


def begin_with(split, *prefixes) -> list[str]:
  return [i for i in ids(split) if i.startswith(prefixes)]


def test_the_images_held_out_are_those_of_the_prefixes_and_no_others_are_trained_on(opened):
  whole = opened('train')
  assert sorted(ids(whole)) == IDS['train']
  for prefixes in (('0006R0',), ('0001TP', '0016E5_2')):
    train, held_out = opened('train', *prefixes), opened('held_out', *prefixes)
    assert ids(held_out) == begin_with(whole, *prefixes)
    assert ids(train) == [i for i in ids(whole) if i not in ids(held_out)]  # in the same order
    assert {*examples(train), *examples(held_out)} == set(examples(whole))  # the images and labels too
  for split in ('train', 'held_out'):
    selected = opened(split, '0006R0')
    for index in (-1, len(selected)):
      with pytest.raises(IndexError):
        selected[index]


def test_train_and_validation_follow_each_other_without_the_images_held_out(opened):
  train, validation = opened('train'), opened('validation')
  both = opened('train+validation')
  assert examples(both) == examples(train) + examples(validation)
  for index in (-1, 7):
    with pytest.raises(IndexError):
      both[index]
  selected = opened('train+validation', '0001TP', '0016E5')
  assert examples(selected) == examples(opened('held_out', '0006R0')) + examples(validation)


def test_without_prefixes_and_in_other_splits_nothing_changes(opened):
  for split, held_out in (('train', ()), ('validation', ()), ('validation', ('0016E5',))):
    found, stored = opened(split, *held_out), opened(split)
    assert (found.name, found.fingerprint) == (stored.name, stored.fingerprint)


def test_names_and_fingerprints_tell_selections_apart(opened):
  def described(*arguments):
    split = opened(*arguments)
    return split.name.rpartition('/')[2], split.fingerprint

  many = [f'{drive}{end}' for drive in ('0001TP', '0006R0', '0016E5') for end in ('', '_', '_1')]
  selections = [
    ('train',), ('validation',), ('train+validation',),
    ('train', '0006R0'), ('held_out', '0006R0'), ('train+validation', '0006R0'),
    ('train', '0001TP', '0006R0'), ('train', *many[:6]), ('train', *many[3:]),
  ]  # fmt: skip
  found = [described(*selection) for selection in selections]
  assert found == [described(*selection) for selection in selections]
  names, fingerprints = zip(*found, strict=True)
  assert names[:7] == (
    'train', 'validation', 'train+validation',
    'train without 0006R0', 'train only 0006R0', 'train without 0006R0+validation',
    'train without 0001TP,0006R0',
  )  # fmt: skip
  assert all(re.fullmatch('train without 6 prefixes [0-9a-f]{8}', name) for name in names[7:])
  assert len(set(names)) == len(selections)
  assert fingerprints[6] == fingerprints[7]  # the same images
  assert len(set(fingerprints)) == len(selections) - 1


def test_the_fingerprint_follows_the_stored_files(tmp_path):
  layouts.write_labelled_folder(tmp_path, {'train': 3})
  before = open_split(f'folder:{tmp_path}', 'train', None, ('scene_000',)).fingerprint
  label = tmp_path / 'train' / 'labels' / 'scene_001.png'
  label.write_bytes(label.read_bytes() + b' ')
  assert open_split(f'folder:{tmp_path}', 'train', None, ('scene_000',)).fingerprint != before


def test_can_be_sent_to_a_worker(opened):
  for split in (opened('train', '0006R0'), opened('train+validation', '0006R0')):
    copy = pickle.loads(pickle.dumps(split))
    assert (copy.name, copy.fingerprint) == (split.name, split.fingerprint)
    assert examples(copy) == examples(split)


def test_held_out_needs_prefixes(opened):
  with pytest.raises(InputError, match=r"'held_out'.*config\.data\.held_out"):
    opened('held_out')


@pytest.mark.parametrize('split', ['train', 'held_out', 'train+validation'])
def test_prefixes_that_do_not_fit(opened, split):
  with pytest.raises(InputError, match=r"train: .* '0005VD', '6R0'.* '0001TP_1' to '0016E5"):
    opened(split, '0006R0', '0005VD', '6R0')
  for prefixes in (('0',), ('',), ('0001TP', '0006R0', '0016E5')):
    with pytest.raises(InputError, match='train: all 5 image ids'):
      opened(split, *prefixes)


def test_equal_ids_in_train_and_validation(tmp_path):
  layouts.write_labelled_folder(tmp_path, {'train': 9, 'validation': 7})
  dataset = f'folder:{tmp_path}'
  with pytest.raises(InputError) as error:
    open_split(dataset, 'train+validation')
  assert f"{tmp_path}/validation: 7 image ids are in both, such as 'scene_000', 'scene_001'" in str(
    error.value
  )
  assert 'scene_005' not in str(error.value)
  with pytest.raises(InputError, match=r"1 image ids.*'scene_000'"):
    open_split(dataset, 'train+validation', None, [f'scene_00{i}' for i in range(1, 9)])
  held_out = [f'scene_00{i}' for i in range(7)]  # those of validation: then none is in both
  assert ids(open_split(dataset, 'train+validation', None, held_out)) == [
    f'scene_00{i}' for i in (7, 8, *range(7))
  ]


def test_an_unknown_split_is_told_what_there_is(datasets):
  with pytest.raises(InputError, match=r"'trainval'.* train, validation .*'held_out'.*'train\+val"):
    open_split('camvid', 'trainval', datasets['tfds'][1])


@pytest.mark.parametrize('kind', ['tfds', 'folder'])
def test_caches_of_selections_stand_side_by_side(datasets, kind, tmp_path, capsys):
  dataset, data_dir = datasets[kind]

  def load(split, cached=True):
    data = Data(
      dataset=dataset,
      data_dir=data_dir or str(tmp_path),
      label_set='camvid11',
      image_size=(6, 8),
      train_split=split,
      held_out=('0006R0',),
    )
    return data.open_train(cached=cached)

  counts = {'train': 3, 'held_out': 2, 'train+validation': 5}
  for split, count in counts.items():
    decoded, cached = load(split, cached=False), load(split)
    assert len(cached) == count
    jax.tree.map(np.testing.assert_array_equal, list(decoded), list(cached))
  assert 'caching' in capsys.readouterr().err
  for split in counts:
    load(split)
  assert 'caching' not in capsys.readouterr().err
