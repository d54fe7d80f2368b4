"""Preparing Cityscapes: the same dataset as tfds's own builder, from zips and trees, checked."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import types

import layouts
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.download import extractor
from tensorflow_datasets.datasets.cityscapes import cityscapes_dataset_builder as stock

from dense_aspp_jax.datasets.cityscapes import CITYSCAPES, CITYSCAPES_COARSE
from dense_aspp_jax.datasets.images import decode_image, decode_label, encode_png
from dense_aspp_jax.datasets.listing import Listings
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.prepare import DATASETS, prepare
from dense_aspp_jax.datasets.tfds_store import PublishedDataset
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CITYSCAPES_19, CITYSCAPES_20
from dense_aspp_jax.label_tables import CITYSCAPES as LABELS

COUNTS = {'train': 7, 'val': 3, 'test': 2}
IMAGES_ZIP, LABELS_ZIP = 'leftImg8bit_trainvaltest.zip', 'gtFine_trainvaltest.zip'
SPLITS = {'train': 'train', 'validation': 'val', 'test': 'test'}


def prepare_partial(source: pathlib.Path, data_dir: pathlib.Path) -> None:
  assert prepare('cityscapes', source, str(data_dir), allow_partial=True)


def read(data_dir: pathlib.Path) -> dict[str, list]:
  return {s: list(map(layouts.read_pair, open_split('cityscapes', s, str(data_dir)))) for s in SPLITS}


def counts(files: Listings) -> dict[str, int]:
  return {split: len(listing.require()) for split, listing in files.splits.items()}


@pytest.fixture
def zips(tmp_path: pathlib.Path) -> pathlib.Path:
  layouts.write_cityscapes_zips(tmp_path / 'zips', COUNTS)
  return tmp_path / 'zips'


@pytest.fixture
def stock_data_dir(
  zips: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """What tfds's own builder makes of the same zips; it needs some of TensorFlow's file functions."""
  gfile = types.SimpleNamespace(
    GFile=open, exists=os.path.exists, listdir=lambda path: sorted(os.listdir(path))
  )
  tensorflow = types.SimpleNamespace(
    io=types.SimpleNamespace(gfile=gfile),
    compat=types.SimpleNamespace(as_text=lambda text: text.decode() if isinstance(text, bytes) else text),
  )
  for module in (extractor, stock):
    monkeypatch.setattr(module, 'tf', tensorflow)
  builder = stock.Builder(data_dir=tmp_path / 'stock', file_format='array_record')
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=zips, extract_dir=tmp_path / 'extracted')
  )
  return tmp_path / 'stock'


def test_equals_the_stock_builder(zips: pathlib.Path, stock_data_dir: pathlib.Path, tmp_path: pathlib.Path):
  prepare_partial(zips, tmp_path / 'ours')
  ours, theirs = read(tmp_path / 'ours'), read(stock_data_dir)
  assert {s: len(e) for s, e in theirs.items()} == {'train': 7, 'validation': 3, 'test': 2}
  assert ours == theirs  # ids, order and bytes
  folder = 'cityscapes/semantic_segmentation/1.0.0'
  files = sorted(p.name for p in (tmp_path / 'ours' / folder).iterdir())
  assert files == sorted(p.name for p in (stock_data_dir / folder).iterdir())
  read_back = stock.Builder(data_dir=tmp_path / 'ours')
  assert str(read_back.info.features) == str(stock.Builder(data_dir=stock_data_dir).info.features)
  first = read_back.as_data_source('train')[0]
  assert first['image_id'].decode() == theirs['train'][0].image_id
  np.testing.assert_array_equal(
    first['segmentation_label'][..., 0], decode_label(theirs['train'][0].label, '')
  )


def test_examples_hold_the_files_unchanged(zips: pathlib.Path, tmp_path: pathlib.Path):
  prepare_partial(zips, tmp_path / 'data')
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  for split, folder in SPLITS.items():
    examples = read(tmp_path / 'data')[split]
    assert len({e.image_id for e in examples}) == COUNTS[folder]
    for image_id, image, label in examples:
      stem = f'{folder}/{image_id.split("_")[0]}/{image_id}'
      assert image == image_files[f'leftImg8bit/{stem}_leftImg8bit.png']
      assert label == label_files[f'gtFine/{stem}_gtFine_labelIds.png']
      assert decode_image(image, '').shape == (16, 32, 3)


def no_city(name: str) -> str:
  return '/'.join(part for i, part in enumerate(name.split('/')) if i != 2)


LAYOUTS = {
  'no city folder': no_city,
  'validation': lambda name: name.replace('/val/', '/validation/'),
  'mmsegmentation': lambda name: f'data/cityscapes/{name}',
  'one tree': lambda name: name.replace('leftImg8bit/', '', 1).replace('gtFine/', ''),
  'capitals and digits': lambda name: name.replace('aachen', 'Aachen2'),
  'flat': lambda name: f'{"images" if "leftImg8bit" in name else "labels"}/{name.split("/")[-1]}',
  'upper case': lambda name: name.replace('.png', '.PNG').replace('/train/', '/Train/'),
  'backslashes': lambda name: name.replace('/', '\\'),
}


@pytest.mark.parametrize('change', LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_that_people_have(change, tmp_path: pathlib.Path):
  files = [{change(name): data for name, data in x.items()} for x in layouts.cityscapes_files(COUNTS)]
  for name, members in zip((IMAGES_ZIP, LABELS_ZIP), files, strict=True):
    layouts.write_zip(tmp_path / 'zips' / 'below' / name, members)
  layouts.write_zip(tmp_path / 'all.zip', files[0] | files[1])
  layouts.write_zip(tmp_path / 'one' / 'Cityscapes (1).ZIP', files[0] | files[1])
  sources = [tmp_path / 'zips', tmp_path / 'all.zip', tmp_path / 'one']
  if change is not LAYOUTS['backslashes']:
    for members in files:
      layouts.write_tree(tmp_path / 'tree', members)
    sources.append(tmp_path / 'tree')
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  images = {name.split('/')[-1]: data for name, data in image_files.items()}
  labels = {name.split('/')[-1]: data for name, data in label_files.items()}
  for source in sources:
    found = CITYSCAPES.list_files(source)
    assert counts(found) == {'train': 7, 'validation': 3, 'test': 2}
    assert found.describe() == []
    for split in found.splits.values():
      for pair in split.pairs:
        image_id = pair.image_id.replace('Aachen2', 'aachen')
        assert pair.image.read() == images[f'{image_id}_leftImg8bit.png']
        assert pair.label.read() == labels[f'{image_id}_gtFine_labelIds.png']


def test_links_to_folders_are_followed(tmp_path: pathlib.Path):
  layouts.write_cityscapes_tree(tmp_path / 'store', COUNTS)
  for kind in ('leftImg8bit', 'gtFine'):
    (tmp_path / 'tree' / kind).mkdir(parents=True)
    for split in SPLITS.values():
      (tmp_path / 'tree' / kind / split).symlink_to(tmp_path / 'store' / kind / split)
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data' / 'cityscapes').symlink_to(tmp_path / 'tree')  # as mmsegmentation's documents say
  assert counts(CITYSCAPES.list_files(tmp_path / 'data')) == {'train': 7, 'validation': 3, 'test': 2}


def test_names_that_are_no_utf_8(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
  source = tmp_path / os.fsdecode(b'caf\xe9')
  layouts.write_cityscapes_tree(source, COUNTS)
  layouts.write_tree(
    source, {os.fsdecode(b'leftImg8bit/train/a/Li\xe8ge_000000_000019_leftImg8bit.png'): b''}
  )
  prepare_partial(source, tmp_path / 'data')
  err = capsys.readouterr().err
  assert '1 file left out: 1 PNG of another name; the first is' in err
  assert err.encode()  # can be printed


def test_what_is_left_out_is_counted_and_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
  layouts.write_cityscapes_zips(tmp_path / 'source', COUNTS)
  image_files, _ = layouts.cityscapes_files(COUNTS)
  layouts.write_tree(tmp_path / 'source', image_files)  # extracted beside its zip
  stray = {
    'leftImg8bit/coventry/coventry_000000_000019_leftImg8bit.png': 'in no folder train, val or test',
    'leftImg8bit/train_extra/ulm/ulm_000001_000019_leftImg8bit.png': 'of split train_extra',
    'a/aachen_000000_000019_leftImg8bit.png': 'second copy',  # in no folder of a split
    'leftImg8bit_sequence/train/ulm/ulm_000002_000019_leftImg8bit.png': 'of another package',
    'leftImg8bit/train/ulm/frame.png': 'PNG of another name',
    'leftImg8bit/train/ulm/ulm_000003_000019_leftImg8bit.jpg': '.jpg',
    'gtCoarse/train/ulm/ulm_000003_000019_gtCoarse_labelIds.png': None,  # of the other data set
  }
  layouts.write_tree(tmp_path / 'source', dict.fromkeys(stray, b''))
  files = CITYSCAPES.list_files(tmp_path / 'source')
  assert counts(files) == {'train': 7, 'validation': 3, 'test': 2}
  reasons = {f'{tmp_path}/source/{name}: {why}' for name, why in stray.items() if why}
  copies = {f'{tmp_path}/source/{name}: second copy' for name in image_files if name.endswith('png')}
  assert set(files.left) == reasons | copies
  prepare_partial(tmp_path / 'source', tmp_path / 'data')
  assert f'{tmp_path}/source: 18 files left out: 13 second copy, ' in capsys.readouterr().err


TRAIN_IDS = {label.id: label.train_id for label in LABELS if label.id >= 0}


def in_train_ids(files: dict[str, bytes]) -> dict[str, bytes]:
  train_ids = np.array([TRAIN_IDS[i] for i in range(34)], np.uint8)
  return {
    name.replace('labelIds', 'labelTrainIds'): encode_png(train_ids[decode_label(data, '')])
    for name, data in files.items()
    if name.endswith('labelIds.png')
  }


def test_labels_in_train_ids(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  layouts.write_tree(tmp_path / 'tree', image_files | in_train_ids(label_files))
  prepare_partial(tmp_path / 'tree', tmp_path / 'data')
  assert (
    'split validation: 3 of 3 labels from *_gtFine_labelTrainIds.png; train ids ' in capsys.readouterr().err
  )
  for example in read(tmp_path / 'data')['validation']:
    stored = decode_label(example.label, '')
    published = decode_label(label_files[f'gtFine/val/frankfurt/{example.image_id}_gtFine_labelIds.png'], '')
    for label_set in (CITYSCAPES_19, CITYSCAPES_20):
      np.testing.assert_array_equal(label_set.encode(stored, ''), label_set.encode(published, ''))
    trained = np.isin(published, CITYSCAPES_19.ignore_ids, invert=True)
    np.testing.assert_array_equal(stored, np.where(trained, published, 0))


def test_labels_in_instance_ids_and_the_best_of_several_kinds(tmp_path: pathlib.Path):
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  files = label_files | in_train_ids(label_files)
  instances = {name: data for name, data in files.items() if not name.endswith('labelIds.png')}
  layouts.write_tree(tmp_path / 'instances', image_files | instances)
  found = CITYSCAPES.list_files(tmp_path / 'instances')
  assert [note.rpartition('; ')[2] for note in found.notes] == ['instance ids became label ids'] * 3
  for pair in found.splits['train'].pairs:
    city = pair.image_id.split('_')[0]
    published = label_files[f'gtFine/train/{city}/{pair.image_id}_gtFine_labelIds.png']
    np.testing.assert_array_equal(decode_label(pair.label.read(), ''), decode_label(published, ''))
  layouts.write_tree(tmp_path / 'all', image_files | files)
  found = CITYSCAPES.list_files(tmp_path / 'all')
  assert found.notes == []
  assert all(pair.label.where.endswith('_labelIds.png') for pair in found.splits['train'].pairs)


@pytest.mark.parametrize(
  ('kind', 'data', 'message'),
  [
    (
      'labelTrainIds',
      encode_png(np.full((16, 32), 19, np.uint8)),
      r'train ids 19 \(512 pixels\); expected 0\.\.18',
    ),
    ('instanceIds', encode_png(np.full((16, 32), 34, np.uint8)), r'instance ids 34 \(512 pixels\); expected'),
    ('instanceIds', layouts.encode_instances(np.full((16, 32), 34)), r'instance ids 34003 \(512 pixels\)'),
    ('instanceIds', encode_png(np.zeros((16, 32, 3), np.uint8)), r'8-bit RGB PNG.*16-bit grey'),
  ],
  ids=['train id', 'id', 'instance', 'colours'],
)
def test_other_ids_are_named(kind: str, data: bytes, message: str, tmp_path: pathlib.Path):
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  name = IMAGE.replace('leftImg8bit/', 'gtFine/').replace('leftImg8bit.png', f'gtFine_{kind}.png')
  kept = {n: d for n, d in label_files.items() if 'frankfurt_000001' not in n}
  layouts.write_tree(tmp_path / 'tree', image_files | kept | {name: data})
  with pytest.raises(InputError, match=f'{name}: .*{message}'):
    prepare('cityscapes', tmp_path / 'tree', str(tmp_path / 'data'), allow_partial=True)


def publish(monkeypatch: pytest.MonkeyPatch, dataset: PublishedDataset, **counts: int) -> None:
  published = dataclasses.replace(dataset, counts=counts, image_size=(16, 32))
  monkeypatch.setitem(DATASETS, dataset.name, published)


def test_a_test_split_without_labels_is_left_out(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  labelled = {name: data for name, data in label_files.items() if '/test/' not in name}
  layouts.write_tree(tmp_path / 'tree', image_files | labelled)
  publish(monkeypatch, CITYSCAPES, train=7, validation=3, test=2)
  assert prepare('cityscapes', tmp_path / 'tree', str(tmp_path / 'data'))  # no --allow-partial
  assert 'split test left out: it has 2 images, but no labels' in capsys.readouterr().err
  with pytest.raises(InputError, match=r"no split 'test'"):
    open_split('cityscapes', 'test', str(tmp_path / 'data'))


def test_coarse_labels_and_train_extra(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
  coarse = {'train': 3, 'train_extra': 4, 'val': 2}
  image_files, label_files = layouts.cityscapes_files(coarse, annotations='gtCoarse')
  extra = {name: data for name, data in image_files.items() if 'train_extra' in name}
  others = {name: data for name, data in image_files.items() if 'train_extra' not in name}
  fine = layouts.cityscapes_files({'train': 3, 'val': 2})[1]
  for name, files in ((IMAGES_ZIP, others), ('gtCoarse.zip', label_files), (LABELS_ZIP, fine)):
    layouts.write_zip(tmp_path / 'zips' / name, files)
  publish(monkeypatch, CITYSCAPES_COARSE, train=3, train_extra=4, validation=2)
  arguments = 'cityscapes_coarse', tmp_path / 'zips'
  assert prepare(*arguments, str(tmp_path / 'without'))
  assert 'split train_extra left out: it has 4 labels, but no images' in capsys.readouterr().err
  layouts.write_zip(tmp_path / 'zips' / 'leftImg8bit_trainextra.zip', extra)
  assert prepare(*arguments, str(tmp_path / 'data'))
  assert capsys.readouterr().err.startswith('Preparing cityscapes_coarse/train')
  split = open_split('cityscapes_coarse', 'train_extra', str(tmp_path / 'data'))
  assert (split.name, len(split)) == ('cityscapes_coarse/train_extra', 4)
  for image_id, image, label in map(layouts.read_pair, split):
    stem = f'train_extra/bad-honnef/{image_id}'
    assert image == extra[f'leftImg8bit/{stem}_leftImg8bit.png']
    assert label == label_files[f'gtCoarse/{stem}_gtCoarse_labelIds.png']
  both = open_split('cityscapes_coarse', 'train+train_extra', str(tmp_path / 'data'))
  assert (both.name, len(both)) == ('cityscapes_coarse/train+train_extra', 7)
  stored = stock.Builder(config='semantic_segmentation_extra', data_dir=tmp_path / 'data')  # tfds reads it
  assert {s: i.num_examples for s, i in stored.info.splits.items()} == {
    'train': 3, 'train_extra': 4, 'validation': 2
  }  # fmt: skip
  with pytest.raises(InputError, match="'cityscapes' is not prepared"):
    open_split('cityscapes', 'train', str(tmp_path / 'data'))


@pytest.mark.parametrize('unpacked', ['both', 'images', 'labels'])
def test_trees_give_the_same_as_zips(zips: pathlib.Path, tmp_path: pathlib.Path, unpacked: str):
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  mixed = tmp_path / 'mixed'
  if unpacked in ('both', 'images'):
    layouts.write_tree(mixed, image_files)
  else:
    layouts.write_zip(mixed / IMAGES_ZIP, image_files)
  if unpacked in ('both', 'labels'):
    layouts.write_tree(mixed, label_files)
  else:
    layouts.write_zip(mixed / LABELS_ZIP, label_files)
  prepare_partial(zips, tmp_path / 'a')
  prepare_partial(mixed, tmp_path / 'b')
  assert read(tmp_path / 'a') == read(tmp_path / 'b')


def test_stray_files_are_counted(tmp_path: pathlib.Path):
  layouts.write_cityscapes_tree(tmp_path / 'tree', COUNTS)
  city = tmp_path / 'tree' / 'leftImg8bit' / 'train' / 'aachen'
  for name in (
    'Thumbs.db',
    '.DS_Store',
    '._aachen_000000_000019_leftImg8bit.png',
    'copy of image.png',
    'a.txt',
  ):
    (city / name).write_bytes(b'stray')
  layouts.write_tree(tmp_path / 'tree', {'a/aachen_000000_000019_leftImg8bit.png': b'of no split'})
  files = CITYSCAPES.list_files(tmp_path / 'tree')
  assert counts(files) == {'train': 7, 'validation': 3, 'test': 2}
  assert all(str(tmp_path / 'tree' / 'leftImg8bit') in p.image.where for p in files.splits['train'].pairs)
  assert files.left == [
    f'{city}/a.txt: .txt',
    f'{city}/copy of image.png: PNG of another name',
    f'{tmp_path}/tree/a/aachen_000000_000019_leftImg8bit.png: second copy',
  ]
  (line,) = files.describe()
  assert line.startswith('3 files left out: ')


def test_splits_may_be_missing_if_partial_is_allowed(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
  layouts.write_cityscapes_zips(tmp_path / 'zips', {'train': 2, 'val': 1})
  prepare_partial(tmp_path / 'zips', tmp_path / 'data')
  warnings = [x for x in capsys.readouterr().err.splitlines() if x.startswith('warning: ')]
  assert len(warnings) == 2
  assert 'number of images: train 2 (published: 2975), validation 1 (published: 500)' in warnings[0]
  assert '3 images not of 1024x2048 pixels (height x width), as published, but 3 of 16x32' in warnings[1]
  with pytest.raises(InputError, match=r"no split 'test'.* train, validation"):
    open_split('cityscapes', 'test', str(tmp_path / 'data'))


def test_counts_are_checked(zips: pathlib.Path, tmp_path: pathlib.Path):
  with pytest.raises(InputError, match=r'train 7 \(published: 2975\).*--allow-partial'):
    prepare('cityscapes', zips, str(tmp_path / 'data'))


def test_sizes_are_checked(zips: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  published = {split: COUNTS[folder] for split, folder in SPLITS.items()}
  found = dataclasses.replace(CITYSCAPES, counts=published)
  monkeypatch.setitem(DATASETS, 'cityscapes', found)
  with pytest.raises(InputError, match=r'12 images not of 1024x2048 .*aachen_000000_000019_leftImg8bit\.png'):
    prepare('cityscapes', zips, str(tmp_path / 'data'))
  monkeypatch.setitem(DATASETS, 'cityscapes', dataclasses.replace(found, image_size=(16, 32)))
  assert prepare('cityscapes', zips, str(tmp_path / 'data'))


def test_missing_zips_say_where_to_get_them(tmp_path: pathlib.Path):
  with pytest.raises(InputError) as error:
    prepare('cityscapes', None, str(tmp_path))
  for part in (
    IMAGES_ZIP,
    LABELS_ZIP,
    'https://www.cityscapes-dataset.com',
    str(tmp_path / 'downloads/manual'),
  ):
    assert part in str(error.value)
  layouts.write_zip(tmp_path / 'half' / IMAGES_ZIP, {})
  with pytest.raises(InputError, match=f'no images with labels found.*{LABELS_ZIP}.*_gtFine_labelIds'):
    prepare('cityscapes', tmp_path / 'half', str(tmp_path))
  image_files, label_files = layouts.cityscapes_files({'val': 1})
  drawn = {name.replace('labelIds', 'color'): b'' for name in label_files if 'labelIds' in name}
  layouts.write_tree(tmp_path / 'drawn', image_files | drawn)
  with pytest.raises(InputError, match=r'1 images, but no labels.*\*_gtFine_color are not read'):
    CITYSCAPES.list_files(tmp_path / 'drawn')


def test_zips_in_the_manual_folder_of_tfds_are_found(tmp_path: pathlib.Path):
  layouts.write_cityscapes_zips(tmp_path / 'downloads' / 'manual', COUNTS)
  assert prepare('cityscapes', None, str(tmp_path), allow_partial=True)
  assert len(open_split('cityscapes', 'train', str(tmp_path))) == 7


def damaged_tree(tmp_path: pathlib.Path, name: str, data: bytes | None) -> pathlib.Path:
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  files = image_files | label_files
  if data is None:
    del files[name]
    files.pop(name.replace('labelIds', 'instanceIds'), None)  # which would be read instead
  else:
    files[name] = data
  layouts.write_tree(tmp_path / 'tree', files)
  return tmp_path / 'tree'


IMAGE = 'leftImg8bit/val/frankfurt/frankfurt_000001_000019_leftImg8bit.png'
LABEL = 'gtFine/val/frankfurt/frankfurt_000001_000019_gtFine_labelIds.png'
GOOD_LABEL = layouts.cityscapes_files(COUNTS)[1][LABEL]
GOOD_IMAGE = layouts.cityscapes_files(COUNTS)[0][IMAGE]


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    (LABEL, None, r'frankfurt_000001_000019_leftImg8bit\.png: image without label'),
    (IMAGE, None, r'frankfurt_000001_000019_gtFine_labelIds\.png: label without image'),
    (
      LABEL,
      encode_png(np.zeros((16, 31), np.uint8)),
      '16x31.* 16x32',
    ),
    (LABEL, encode_png(np.zeros((16, 32, 3), np.uint8)), '8-bit RGB PNG.*8-bit grey'),
    (IMAGE, encode_png(np.zeros((16, 32), np.uint8)), '8-bit grey PNG.*8-bit RGB'),
    (LABEL, encode_png(np.full((16, 32), 34, np.uint8)), r'unknown label ids 34 \(512 pixels\)'),
    (LABEL, encode_png(np.full((16, 32), 255, np.uint8)), r'255 \(512 pixels\).*train ids.*_labelTrainIds'),
    (LABEL, GOOD_LABEL[:-12], 'truncated PNG'),
    (IMAGE, GOOD_IMAGE[:-12], 'truncated PNG'),
    (IMAGE, GOOD_IMAGE[:300] + b'\xff\0' + GOOD_IMAGE[302:], 'damaged PNG.*checksum'),
    (IMAGE, b'', 'not a PNG file'),
    (LABEL, b'<html>' * 99, 'not a PNG file .a web page'),
  ],
  ids=[
    'no label',
    'no image',
    'sizes differ',
    'label in colours',
    'grey image',
    'unknown id',
    'train id',
    'truncated label',
    'truncated image',
    'damaged image',
    'empty image',
    'web page as label',
  ],
)
def test_bad_files_are_named_and_leave_nothing_behind(
  tmp_path: pathlib.Path, name: str, data: bytes | None, message: str
):
  tree = damaged_tree(tmp_path, name, data)
  with pytest.raises(InputError, match=message) as error:
    prepare('cityscapes', tree, str(tmp_path / 'data'), allow_partial=True)
  assert 'frankfurt_000001_000019' in str(error.value)
  left = [p for p in tmp_path.glob('data/cityscapes/**/*') if p.is_file() and p.parent.name != '.config']
  assert not left
  assert not list(tmp_path.glob('data/cityscapes/semantic_segmentation/*'))
  with pytest.raises(InputError, match='not prepared'):
    open_split('cityscapes', 'train', str(tmp_path / 'data'))
  layouts.write_tree(tree, {IMAGE: GOOD_IMAGE, LABEL: GOOD_LABEL})
  prepare_partial(tree, tmp_path / 'data')  # after the repair it succeeds


def test_bad_zip_member_is_named(tmp_path: pathlib.Path):
  image_files, label_files = layouts.cityscapes_files(COUNTS)
  layouts.write_zip(tmp_path / 'zips' / IMAGES_ZIP, image_files)
  layouts.write_zip(
    tmp_path / 'zips' / LABELS_ZIP, label_files | {LABEL: encode_png(np.full((16, 32), 77, np.uint8))}
  )
  with pytest.raises(InputError, match=f'{LABELS_ZIP}: {LABEL}: unknown label ids 77'):
    prepare('cityscapes', tmp_path / 'zips', str(tmp_path / 'data'), allow_partial=True)


def test_zips_of_other_packages_are_not_opened(zips: pathlib.Path):
  layouts.write_tree(zips, {'gtCoarse.zip': b'half a download', 'leftImg8bit_sequence_trainvaltest.zip': b''})
  files = CITYSCAPES.list_files(zips)
  assert counts(files) == {'train': 7, 'validation': 3, 'test': 2}
  assert files.left == [f'{zips}/leftImg8bit_sequence_trainvaltest.zip: .zip']


def test_truncated_zip_is_refused(zips: pathlib.Path, tmp_path: pathlib.Path):
  data = (zips / LABELS_ZIP).read_bytes()
  (zips / LABELS_ZIP).write_bytes(data[: len(data) // 2])
  with pytest.raises(InputError, match=f'{LABELS_ZIP}: '):
    prepare('cityscapes', zips, str(tmp_path / 'data'), allow_partial=True)


def test_large_split_is_sorted_on_disk(
  zips: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  prepare_partial(zips, tmp_path / 'in_memory')
  monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 3000)  # some examples in memory, then all on disk
  prepare_partial(zips, tmp_path / 'on_disk')
  assert read(tmp_path / 'on_disk') == read(tmp_path / 'in_memory')
  assert not list(tmp_path.rglob('*.tmp'))


@pytest.mark.slow
def test_split_over_1000_mib(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture):
  size = (700, 1000)
  image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)  # noise: 2 MiB of PNG
  files = {'image': encode_png(image), 'label': encode_png(np.full(size, 7, np.uint8))}
  count = (shuffle.MAX_MEM_BUFFER_SIZE // len(files['image'])) + 20
  layouts.write_tree(tmp_path, files)
  for i in range(count):  # the same file under all names: links take no space
    for kind, name in (
      ('image', 'leftImg8bit/train/aachen/aachen_{:06d}_000019_leftImg8bit.png'),
      ('label', 'gtFine/train/aachen/aachen_{:06d}_000019_gtFine_labelIds.png'),
    ):
      path = tmp_path / 'tree' / name.format(i)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.hardlink_to(tmp_path / kind)
  prepare_partial(tmp_path / 'tree', tmp_path / 'data')
  split = open_split('cityscapes', 'train', str(tmp_path / 'data'))
  assert len(split) == count
  ids = []
  for example in map(layouts.read_pair, split):
    ids.append(example.image_id)
    assert (example.image, example.label) == (files['image'], files['label'])
  assert sorted(ids) == [f'aachen_{i:06d}_000019' for i in range(count)]
  assert ids != sorted(ids)  # in the order of hashed keys


def test_tensorflow_and_torch_are_never_imported(zips: pathlib.Path, tmp_path: pathlib.Path):
  program = (
    'import sys\n'
    'from tensorflow_datasets.core import shuffle\n'
    'from dense_aspp_jax.datasets.prepare import prepare\n'
    'from dense_aspp_jax.datasets.open import open_split\n'
    'shuffle.MAX_MEM_BUFFER_SIZE = 3000\n'
    f'prepare("cityscapes", {str(zips)!r}, {str(tmp_path / "data")!r}, allow_partial=True)\n'
    f'assert len(open_split("cityscapes", "train", {str(tmp_path / "data")!r})[0].image.read()) > 100\n'
    'print([m for m in ("tensorflow", "torch", "cv2") if m in sys.modules])'
  )
  result = subprocess.run(
    [sys.executable, '-W', 'error', '-c', program], capture_output=True, text=True, check=False
  )
  assert (result.returncode, result.stdout) == (0, '[]\n'), result.stderr


def test_what_labelme_writes_beside_an_image_is_not_taken_for_it(tmp_path: pathlib.Path):
  layouts.write_cityscapes_tree(tmp_path, {'train': 1})
  (image,) = tmp_path.rglob('*_leftImg8bit.png')
  image.with_suffix('.json').write_text('{}')
  found = CITYSCAPES.list_files(tmp_path)
  assert [pair.image.path for pair in found.splits['train'].pairs] == [image]
  assert found.left == [f'{image.with_suffix(".json")}: .json']
