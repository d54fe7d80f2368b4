"""Preparing CamVid as published and as on Kaggle: frames by name, colours to ids, splits."""

import collections
import dataclasses
import pathlib

import layouts
import numpy as np
import pytest

from dense_aspp_jax.datasets.camvid_full import CAMVID_FULL, segnet_split
from dense_aspp_jax.datasets.images import decode_label, encode_png
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.prepare import DATASETS, prepare
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import LABEL_SETS
from dense_aspp_jax.label_tables import CAMVID_32

IMAGE_IDS = ['0001TP_006690', '0006R0_f00930', '0016E5_07959', '0001TP_008550', 'Seq05VD_f00000']
SPLITS = {'train': IMAGE_IDS[:2], 'validation': IMAGE_IDS[2:3], 'test': IMAGE_IDS[3:]}
KAGGLE = dict(zip(IMAGE_IDS, ('train', 'test', 'train', 'val', 'train'), strict=True))
FILES = layouts.camvid_full_files(IMAGE_IDS)
LABEL = 'LabeledApproved_full/0006R0_f00930_L.png'


def as_on_kaggle() -> dict[str, bytes]:
  files = {'class_dict.csv': b'name,r,g,b'}
  for image_id, split in KAGGLE.items():
    files[f'{split}/{image_id}.png'] = FILES[f'701_StillsRaw_full/{image_id}.png']
    files[f'{split}_labels/{image_id}_L.png'] = FILES[f'LabeledApproved_full/{image_id}_L.png']
  return files


def publish(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
  published = dataclasses.replace(CAMVID_FULL, counts=counts, image_size=(12, 16))
  monkeypatch.setitem(DATASETS, 'camvid_full', published)


def write_sources(tmp_path: pathlib.Path, files: dict[str, bytes]) -> list[pathlib.Path]:
  layouts.write_tree(tmp_path / 'tree' / 'below', files)
  layouts.write_zip(tmp_path / 'archive.zip', {f'CamVid/{name}': data for name, data in files.items()})
  layouts.write_zip(tmp_path / 'kaggle' / 'archive.zip', files)
  return [tmp_path / 'tree', tmp_path / 'archive.zip', tmp_path / 'kaggle']


def test_as_published(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
  publish(monkeypatch, train=2, validation=1, test=2)
  sources = write_sources(tmp_path, FILES)
  for kind in ('701_StillsRaw_full', 'LabeledApproved_full'):
    members = {name.split('/')[1]: data for name, data in FILES.items() if name.startswith(kind)}
    layouts.write_zip(tmp_path / 'zips' / f'{kind}.zip', members)
  for number, source in enumerate([*sources, tmp_path / 'zips']):
    assert prepare('camvid_full', source, str(tmp_path / f'data{number}'))  # no --allow-partial
    assert capsys.readouterr().err.startswith('Preparing ')  # nothing left out, nothing to note
    for split, image_ids in SPLITS.items():
      examples = list(
        map(layouts.read_pair, open_split('camvid_full', split, str(tmp_path / f'data{number}')))
      )
      assert sorted(e.image_id for e in examples) == sorted(image_ids)
      for image_id, image, label in examples:
        assert image == FILES[f'701_StillsRaw_full/{image_id}.png']
        _, ids = layouts.scene(7000 + IMAGE_IDS.index(image_id), (12, 16), 32)
        np.testing.assert_array_equal(decode_label(label, ''), ids)


def test_as_on_kaggle(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
  publish(monkeypatch, train=2, validation=1, test=2)  # in sum as many
  for number, source in enumerate(write_sources(tmp_path, as_on_kaggle())):
    assert prepare('camvid_full', source, str(tmp_path / f'data{number}'))
    assert '5 of 5 frames are split by their folders' in capsys.readouterr().err
    for split, folder in (('train', 'train'), ('validation', 'val'), ('test', 'test')):
      image_ids = {
        pair.image_id for pair in open_split('camvid_full', split, str(tmp_path / f'data{number}'))
      }
      assert image_ids == {image_id for image_id, there in KAGGLE.items() if there == folder}


def test_label_ids_of_fast_ai(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  publish(monkeypatch, train=2, validation=1, test=2)
  files = {f'images/{n.split("/")[1]}': data for n, data in FILES.items() if n.startswith('701')}
  for index, image_id in enumerate(IMAGE_IDS):
    files[f'labels/{image_id}_P.png'] = encode_png(layouts.scene(7000 + index, (12, 16), 32)[1])
  layouts.write_tree(tmp_path / 'camvid', files)
  layouts.write_tree(tmp_path / 'published', FILES)
  for source in ('camvid', 'published'):
    assert prepare('camvid_full', tmp_path / source, str(tmp_path / f'data_{source}'))
  for split in SPLITS:
    fast_ai, published = (
      list(map(layouts.read_pair, open_split('camvid_full', split, str(tmp_path / f'data_{source}'))))
      for source in ('camvid', 'published')
    )
    assert fast_ai == published


def test_all_frames_are_expected(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  publish(monkeypatch, train=3, validation=1, test=2)
  layouts.write_tree(tmp_path / 'source', as_on_kaggle())
  with pytest.raises(InputError, match=r'train 3 \(published: 3\), validation 1 .*, test 1 \(published: 2\)'):
    prepare('camvid_full', tmp_path / 'source', str(tmp_path / 'data'))


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    (LABEL, None, r'0006R0_f00930\.png: image without label'),
    (LABEL, encode_png(np.full((12, 16, 3), 1, np.uint8)), r'\(1, 1, 1\) \(192 pixels, .*nearest'),
    (LABEL, FILES[LABEL][:-12], 'truncated PNG'),
  ],
  ids=['no label', 'another colour', 'truncated'],
)
def test_bad_labels_are_named(tmp_path: pathlib.Path, name: str, data: bytes | None, message: str):
  files = {n: d for n, d in (FILES | {name: data}).items() if d is not None}
  layouts.write_tree(tmp_path / 'source', files)
  with pytest.raises(InputError, match=message):
    prepare('camvid_full', tmp_path / 'source', str(tmp_path / 'data'), allow_partial=True)


def test_what_is_left_out_is_counted(tmp_path: pathlib.Path):
  stray = {'copy/0001TP_006690.png': b'', 'train/frame.png': b'', 'notes.txt': b'', 'label_colors.txt': b''}
  layouts.write_tree(tmp_path, FILES | stray)
  (line,) = CAMVID_FULL.list_files(tmp_path).describe()
  assert line.startswith('3 files left out: ')
  for part in ('1 second copy', '1 PNG of another name', '1 .txt'):
    assert part in line


def test_other_folders_are_refused(tmp_path: pathlib.Path):
  layouts.write_camvid(tmp_path / 'CamVid', {'train': 2, 'validation': 1})
  with pytest.raises(InputError, match=r"no frames with labels found.*701_StillsRaw_full.*SegNet's version"):
    prepare('camvid_full', tmp_path / 'CamVid', str(tmp_path / 'data'))
  with pytest.raises(InputError, match=r'downloads/manual: no frames with labels found'):
    prepare('camvid_full', None, str(tmp_path / 'data'))


def test_the_split_is_that_of_segnets_lists():
  """The lists have 367, 101 and 233 frames; of two drives the numbers follow a rule."""
  lists = [f'0001TP_{n:06d}' for n in range(6690, 10381, 30)]
  lists += [f'0006R0_f{n:05d}' for n in range(930, 3931, 30)]
  counts = collections.Counter((name.split('_')[0], segnet_split(name)) for name in lists)
  assert counts == {('0001TP', 'train'): 62, ('0001TP', 'test'): 62, ('0006R0', 'train'): 101}
  splits = {
    '00390': 'train',
    '07920': 'train',
    '07959': 'validation',
    '08159': 'validation',
    '08190': 'train',
  }
  assert {number: segnet_split(f'0016E5_{number}') for number in splits} == splits
  assert segnet_split('Seq05VD_f05100') == 'test'


def test_label_sets():
  """32 labels, Void ignored, or 11 classes in the order of SegNet's ids."""
  ids = np.arange(32, dtype=np.uint8)
  names = [name for name, _ in CAMVID_32]
  all_labels, merged = LABEL_SETS['camvid32'], LABEL_SETS['camvid32_as_11']
  classes = all_labels.encode(ids, '')
  assert classes[names.index('Void')] == 255
  assert [all_labels.class_names[c] for c in classes if c != 255] == [n for n in names if n != 'Void']
  assert merged.class_names == LABEL_SETS['camvid11'].class_names
  by_class = collections.defaultdict(set)
  for name, index in zip(names, merged.encode(ids, ''), strict=True):
    by_class[int(index)].add(name)
  assert by_class.pop(255) == {'Void'}
  assert by_class[1] == {'Archway', 'Bridge', 'Building', 'Tunnel', 'Wall'}
  assert by_class[8] == {'Car', 'OtherMoving', 'SUVPickupTruck', 'Train', 'Truck_Bus'}
  assert by_class[10] == {'Bicyclist', 'MotorcycleScooter'}
  assert sum(map(len, by_class.values())) == 31
  written = [names[i] for i in merged.decode(np.arange(11, dtype=np.uint8))]
  assert written == [
    *('Sky', 'Building', 'Column_Pole', 'Road', 'Sidewalk', 'Tree'),
    *('SignSymbol', 'Fence', 'Car', 'Pedestrian', 'Bicyclist'),
  ]


def test_an_image_without_label_is_a_problem_where_its_split_has_no_other(tmp_path: pathlib.Path):
  alone, *pair = (f'701_StillsRaw_full/{i}.png' for i in (IMAGE_IDS[0], IMAGE_IDS[2]))
  pair.append(f'LabeledApproved_full/{IMAGE_IDS[2]}_L.png')
  layouts.write_tree(tmp_path / 'source', {name: FILES[name] for name in (alone, *pair)})
  with pytest.raises(InputError, match=r'0001TP_006690\.png: image without label'):
    prepare('camvid_full', tmp_path / 'source', str(tmp_path / 'data'), allow_partial=True)


def test_a_folder_that_is_no_split_of_camvid_splits_nothing(tmp_path: pathlib.Path):
  layouts.write_tree(tmp_path / 'train_extra', FILES)
  splits = CAMVID_FULL.list_files(tmp_path).splits
  assert {split: [pair.image_id for pair in listing.pairs] for split, listing in splits.items()} == SPLITS


def test_a_frame_without_label_is_a_problem_of_its_split(tmp_path: pathlib.Path):
  files = dict(FILES)
  del files[f'LabeledApproved_full/{SPLITS["validation"][0]}_L.png']
  layouts.write_tree(tmp_path, files)
  splits = CAMVID_FULL.list_files(tmp_path).splits
  assert {name: len(listing.problems) for name, listing in splits.items()} == {
    'train': 0,
    'validation': 1,
    'test': 0,
  }
