"""Archives that are not what they seem are refused before a member is read."""

import pathlib

import layouts
import pytest

from dense_aspp_jax.datasets import stored_files
from dense_aspp_jax.datasets.stored_files import StoredFile, files_of_folder, files_of_zip
from dense_aspp_jax.errors import InputError


def test_members_are_read_in_order_of_their_names(tmp_path: pathlib.Path):
  layouts.write_zip(tmp_path / 'a.zip', {'b/c.png': b'2', 'a.png': b'1', 'x..y.png': b'3', 'b/': b''})
  files = files_of_zip(tmp_path / 'a.zip')
  found = [(name, file.read()) for name, file in files.items()]
  assert found == [('a.png', b'1'), ('b/c.png', b'2'), ('x..y.png', b'3')]
  assert files['b/c.png'].where == f'{tmp_path}/a.zip: b/c.png'


def test_a_member_that_unpacks_to_too_much_is_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  layouts.write_zip(tmp_path / 'a.zip', {'a.png': bytes(1024)})
  monkeypatch.setattr(stored_files, 'MAX_MEMBER_BYTES', 1024)
  assert len(files_of_zip(tmp_path / 'a.zip')['a.png'].read()) == 1024
  monkeypatch.setattr(stored_files, 'MAX_MEMBER_BYTES', 1023)
  with pytest.raises(InputError, match=r"unsafe member 'a\.png' .*unpacked"):
    files_of_zip(tmp_path / 'a.zip')


def test_hidden_files_are_left_out_and_a_missing_folder_is_named(tmp_path: pathlib.Path):
  layouts.write_tree(tmp_path, {'b.png': b'', 'a/c.png': b'', '.d.png': b'', '.e/f.png': b''})
  assert list(files_of_folder(tmp_path)) == ['a/c.png', 'b.png']
  with pytest.raises(InputError, match=r'none: cannot be listed \(No such file'):
    files_of_folder(tmp_path / 'none')


def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path):
  (tmp_path / 'a').write_bytes(b'123')
  assert StoredFile.on_disk(tmp_path / 'a').read(2) == b'12'
  with pytest.raises(InputError, match=r'none: cannot be read \(No such file'):
    StoredFile.on_disk(tmp_path / 'none').read()
