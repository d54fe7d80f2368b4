"""The one listing of folders and archives: what it takes, what it leaves, and what it refuses."""

import os
import pathlib
import socket

import layouts
import pytest

from dense_aspp_jax.datasets import stored_files
from dense_aspp_jax.datasets.stored_files import StoredFile, describe_left, files_of_folder, files_of_zip
from dense_aspp_jax.errors import InputError, RunError


def test_members_are_read_in_order_of_their_names(tmp_path: pathlib.Path):
  layouts.write_zip(tmp_path / 'a.zip', {'b/c.png': b'2', 'a.png': b'1', 'x..y.png': b'3', 'b/': b''})
  files = files_of_zip(tmp_path / 'a.zip').taken
  found = [(name, file.read()) for name, file in files.items()]
  assert found == [('a.png', b'1'), ('b/c.png', b'2'), ('x..y.png', b'3')]
  assert files['b/c.png'].where == f'{tmp_path}/a.zip: b/c.png'


def test_a_member_that_unpacks_to_too_much_is_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  layouts.write_zip(tmp_path / 'a.zip', {'a.png': bytes(1024)})
  monkeypatch.setattr(stored_files, 'MAX_MEMBER_BYTES', 1024)
  assert len(files_of_zip(tmp_path / 'a.zip').taken['a.png'].read()) == 1024
  monkeypatch.setattr(stored_files, 'MAX_MEMBER_BYTES', 1023)
  with pytest.raises(InputError, match=r"unsafe member 'a\.png' .*unpacked"):
    files_of_zip(tmp_path / 'a.zip')


def test_hidden_files_are_left_out_and_a_missing_folder_is_named(tmp_path: pathlib.Path):
  layouts.write_tree(tmp_path, {'b.png': b'', 'a/c.png': b'', '.d.png': b'', '.e/f.png': b''})
  assert list(files_of_folder(tmp_path).taken) == ['a/c.png', 'b.png']
  with pytest.raises(InputError, match=r'none: cannot be listed \(No such file'):
    files_of_folder(tmp_path / 'none')


def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path):
  (tmp_path / 'a').write_bytes(b'123')
  assert StoredFile.on_disk(tmp_path / 'a').read(2) == b'12'
  with pytest.raises(InputError, match=r'none: cannot be read \(No such file'):
    StoredFile.on_disk(tmp_path / 'none').read()


def test_only_what_is_damaged_is_to_be_fetched_again(tmp_path: pathlib.Path):
  def message_of(file: StoredFile) -> str:
    with pytest.raises(InputError) as caught:
      file.read()
    return str(caught.value)

  assert 'again' not in message_of(StoredFile.on_disk(tmp_path / 'none'))
  assert 'again' not in message_of(StoredFile.on_disk(pathlib.Path('/proc/self/mem')))  # EIO
  layouts.write_zip(tmp_path / 'a.zip', {'a.png': bytes(range(256))})
  whole = (tmp_path / 'a.zip').read_bytes()
  for place, change, remedy in (
    (whole.index(bytes(range(256))), 0xFF, 'get the archive again'),
    (whole.index(b'PK\1\2') + 8, 1, 'unpack the archive'),  # encrypted
    (whole.index(b'PK\1\2') + 10, 6, 'unpack the archive'),  # a compression from the nineties
  ):
    data = bytearray(whole)
    data[place] ^= change
    (tmp_path / 'b.zip').write_bytes(data)
    assert f'; {remedy}' in message_of(files_of_zip(tmp_path / 'b.zip').taken['a.png'])
  for data, remedy in (
    (whole[:-5], 'get the file again'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    (b'\x1f\x8b\x08\0' * 40, 'unpack it, and give the folder'),
  ):
    (tmp_path / 'b.zip').write_bytes(data)
    with pytest.raises(InputError, match=rf'b\.zip: not a readable zip archive \(.*; .*{remedy}'):
      files_of_zip(tmp_path / 'b.zip')

  def fail(*_):
    raise MemoryError

  with pytest.raises(RunError, match=r'a\.png: too little memory'):
    StoredFile('a.png', fail).read()
  with pytest.raises(InputError, match=r'none\.zip: cannot be read \(No such file'):
    files_of_zip(tmp_path / 'none.zip')


def test_links_to_files_and_folders_are_followed(tmp_path: pathlib.Path):
  layouts.write_tree(tmp_path, {'elsewhere/a.png': b'1', 'elsewhere/sub/b.png': b'2', 'other/c.png': b'3'})
  folder = tmp_path / 'folder'
  folder.mkdir()
  (folder / 'images').symlink_to(tmp_path / 'elsewhere')
  (folder / 'c.png').symlink_to('../other/c.png')
  (folder / 'again').symlink_to('images')  # two ways to one folder are no loop
  (tmp_path / 'linked').symlink_to(folder)
  for root in (folder, tmp_path / 'linked'):
    taken, left = files_of_folder(root)
    expected = ['again/a.png', 'again/sub/b.png', 'c.png', 'images/a.png', 'images/sub/b.png']
    assert (list(taken), left) == (expected, [])
    assert taken['images/sub/b.png'].read() == b'2'
    assert taken['c.png'].where == f'{root}/c.png'


def test_loops_of_links_end(tmp_path: pathlib.Path):
  layouts.write_tree(tmp_path, {'data/images/a.png': b'', 'data/b/c.png': b''})
  data = tmp_path / 'data'
  (data / 'images' / 'up').symlink_to('..')
  (data / 'images' / 'above').symlink_to(tmp_path)  # above the folder that is listed
  (data / 'b' / 'images').symlink_to('../images')
  taken, left = files_of_folder(data)
  assert list(taken) == ['b/c.png', 'b/images/a.png', 'images/a.png']
  assert left == [
    f'{data}/{folder}/{name}: loop' for folder in ('b/images', 'images') for name in ('above', 'up')
  ]


def test_what_is_no_file_is_left_and_never_opened(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  layouts.write_tree(tmp_path, {'a.png': b'', 'file': b''})
  os.mkfifo(tmp_path / 'pipe.png')
  (tmp_path / 'linked_pipe.png').symlink_to('pipe.png')
  (tmp_path / 'device.png').symlink_to('/dev/null')
  monkeypatch.chdir(tmp_path)  # the path of a socket is short
  with socket.socket(socket.AF_UNIX) as bound:
    bound.bind('socket.png')
    taken, left = files_of_folder(tmp_path)
  assert list(taken) == ['a.png', 'file']
  kinds = {'pipe': 'pipe', 'linked_pipe': 'pipe', 'device': 'device', 'socket': 'socket'}
  assert left == sorted(f'{tmp_path}/{name}.png: {kind}' for name, kind in kinds.items())


def test_an_image_that_a_link_misses_is_an_error_and_not_left_out(tmp_path: pathlib.Path):
  (tmp_path / 'a.png').symlink_to('nowhere')
  (tmp_path / 'b.png').symlink_to('b.png')
  (tmp_path / 'images').symlink_to('/nowhere/images')
  taken, left = files_of_folder(tmp_path)
  assert (list(taken), left) == (['a.png', 'b.png'], [f'{tmp_path}/images: broken link'])
  for file in taken.values():
    with pytest.raises(InputError, match=f'{file.where}: cannot be read'):
      file.read()


def test_what_systems_and_programs_leave_behind_is_hidden(tmp_path: pathlib.Path):
  hidden = (
    '.DS_Store', '._a.png', '.ipynb_checkpoints/a-checkpoint.png', '@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg',
    '__MACOSX/a.png', 'lost+found/a.png',
    'Thumbs.db', 'sub/thumbs.DB', 'desktop.ini', '#recycle/a.png', '$RECYCLE.BIN/a.png',
  )  # fmt: skip
  names = dict.fromkeys(('a.png', 'sub/b.png', 'sub/eaDir.png', *hidden), b'')
  layouts.write_tree(tmp_path / 'in', names)
  layouts.write_zip(tmp_path / 'a.zip', names)
  for taken, left in (files_of_folder(tmp_path / 'in'), files_of_zip(tmp_path / 'a.zip')):
    assert (list(taken), left) == (['a.png', 'sub/b.png', 'sub/eaDir.png'], [])
  layouts.write_tree(tmp_path / '.in', {'a.png': b''})
  assert list(files_of_folder(tmp_path / '.in').taken) == ['a.png']  # asked for by its name


def test_names_in_any_bytes_are_kept_and_shown(tmp_path: pathlib.Path):
  name = os.fsdecode(b'caf\xe9\n.png')
  (tmp_path / name).write_bytes(b'1')
  (found, file), *_ = files_of_folder(tmp_path).taken.items()
  assert (found, file.read()) == (name, b'1')
  assert file.where == f'{tmp_path}/caf\\xe9\\x0a.png'
  assert file.where.encode()


def test_a_zip_written_with_backslashes_has_folders_too(tmp_path: pathlib.Path):
  files = {'b\\c.png': b'1', 'b\\': b'', '__MACOSX\\b\\c.png': b'', 'b/c.png': b'2'}
  layouts.write_zip(tmp_path / 'a.zip', files)
  taken, left = files_of_zip(tmp_path / 'a.zip')
  assert {name: file.read() for name, file in taken.items()} == {'b/c.png': b'2'}
  assert describe_left(left).startswith('1 file left out: 1 older member of the same name')


def test_a_member_of_a_zip_without_a_suffix_is_counted_as_that(tmp_path: pathlib.Path):
  layouts.write_zip(tmp_path / 'a.zip', {'README': b'', 'b.png': b''})
  _, left = files_of_zip(tmp_path / 'a.zip').with_suffixes(['.png'])
  assert describe_left(left) == f'1 file left out: 1 no suffix; the first is {tmp_path}/a.zip: README'


def test_what_is_left_is_counted_by_kind_and_the_first_is_named(tmp_path: pathlib.Path):
  layouts.write_tree(tmp_path, {'a.PNG': b'', 'b.txt': b'', 'c/d.TXT': b'', 'e': b''})
  os.mkfifo(tmp_path / 'z.png')
  taken, left = files_of_folder(tmp_path).with_suffixes(['.png'])
  assert list(taken) == ['a.PNG']
  text = describe_left(left)
  assert text.startswith('4 files left out: 2 .txt, ')
  assert '1 pipe' in text
  assert '1 no suffix' in text
  assert text.endswith(f'the first is {tmp_path}/z.png')
  assert describe_left([]) == ''
