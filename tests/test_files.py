import functools
import http.server
import json
import os
import pathlib
import threading

import numpy as np
import pytest

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import (
  download_file,
  new_directory,
  read_json,
  replaced_directory,
  write_arrays,
  write_file,
  write_json,
)


def test_a_file_is_written_into_a_folder_that_is_made(tmp_path):
  path = tmp_path / 'new' / 'report.html'
  write_file(path, b'page')
  assert path.read_bytes() == b'page'
  assert [p.name for p in path.parent.iterdir()] == ['report.html']


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
  path = tmp_path / 'report.html'
  write_file(path, b'old')

  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr('os.replace', fail)
  with pytest.raises(RunError, match=rf'{path}: cannot be written \(No space left on device\)'):
    write_file(path, b'new')
  assert path.read_bytes() == b'old'
  assert [p.name for p in tmp_path.iterdir()] == ['report.html']


@pytest.mark.parametrize('exists', [False, True])
def test_a_directory_appears_when_all_is_written(tmp_path, exists):
  directory = tmp_path / 'deep' / 'out'
  if exists:
    directory.mkdir(parents=True)
  with new_directory(directory) as folder:
    (folder / 'a.txt').write_text('a')
    assert not list(directory.glob('*'))
  assert (directory / 'a.txt').read_text() == 'a'
  assert [p.name for p in directory.parent.iterdir()] == ['out']


def test_a_directory_does_not_appear_after_an_error(tmp_path):
  with pytest.raises(RunError, match='out: cannot be written'), new_directory(tmp_path / 'out') as folder:
    (folder / 'none' / 'a.txt').write_text('a')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('new', [new_directory, functools.partial(replaced_directory, own_file='a')])
def test_the_longest_name_of_a_directory(new, tmp_path):
  directory = tmp_path / ('ü' * 127 + 'a')  # 255 bytes
  with new(directory) as folder:
    (folder / 'a').write_text('')
  assert [path.name for path in tmp_path.iterdir()] == [directory.name]


def test_the_longest_name_that_there_is(tmp_path):
  path = tmp_path / ('ü' * 125 + '.json')  # 255 bytes
  write_json(path, [1])
  write_json(path, [2])
  assert read_json(path, 'no') == [2]
  assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_holds_something_is_left_alone(tmp_path):
  (tmp_path / 'mine.txt').write_text('precious')
  with (
    pytest.raises(InputError, match='new or an empty folder'),
    new_directory(tmp_path),
  ):
    pytest.fail('entered')
  assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']


def test_a_link_to_an_empty_folder_and_the_current_folder(tmp_path, monkeypatch):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'link').symlink_to('empty')
  with new_directory(tmp_path / 'link') as folder:
    (folder / 'a.txt').write_text('a')
  assert (tmp_path / 'empty' / 'a.txt').read_text() == 'a'
  (tmp_path / 'here').mkdir()
  monkeypatch.chdir(tmp_path / 'here')
  with pytest.raises(InputError, match='new or an empty folder'), new_directory(pathlib.Path()):
    pytest.fail('entered')


def test_a_result_is_replaced_as_a_whole(tmp_path):
  for name in ('old.png', 'new.png'):
    with replaced_directory(tmp_path / 'out', 'result.json') as folder:
      (folder / 'result.json').write_text(name)
      (folder / name).write_text('')
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['new.png', 'result.json']
  assert (tmp_path / 'out' / 'result.json').read_text() == 'new.png'
  assert [p.name for p in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('error', [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_result(tmp_path, error):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'result.json').write_text('old')

  def interrupted():
    with replaced_directory(tmp_path / 'out', 'result.json') as folder:
      (folder / 'result.json').write_text('new')
      raise error

  with pytest.raises(RunError if error is OSError else error):
    interrupted()
  assert (tmp_path / 'out' / 'result.json').read_text() == 'old'
  assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_a_result_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'result.json').write_text('old')
  replace = os.replace

  def fail_for_the_new(source, target):
    if str(source).endswith('.tmp'):
      raise OSError(28, 'No space left on device')
    replace(source, target)

  monkeypatch.setattr('os.replace', fail_for_the_new)
  with (
    pytest.raises(RunError, match='cannot be written'),
    replaced_directory(tmp_path / 'out', 'result.json'),
  ):
    pass
  assert (tmp_path / 'out' / 'result.json').read_text() == 'old'
  assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_what_is_no_result_is_not_replaced(tmp_path):
  (tmp_path / 'mine.txt').write_text('precious')
  with (
    pytest.raises(InputError, match='new or an empty folder'),
    replaced_directory(tmp_path, 'result.json'),
  ):
    pytest.fail('entered')
  assert (tmp_path / 'mine.txt').read_text() == 'precious'


def test_json_is_read_as_written_and_a_missing_or_damaged_file_is_named_with_the_remedy(tmp_path):
  path = tmp_path / 'a' / 'x.json'
  with pytest.raises(InputError, match=r'x\.json: no such file; restore it'):
    read_json(path, 'restore it')
  assert read_json(path, 'restore it', default={}) == {}
  write_json(path, {'a': [1, None]})
  assert read_json(path, 'restore it') == {'a': [1, None]}
  path.write_bytes(b'\xff{')
  with pytest.raises(InputError, match=r'x\.json: cannot be read as JSON .*; restore it'):
    read_json(path, 'restore it', default={})


def test_json_that_the_system_refuses_to_read_is_not_called_damaged(tmp_path, monkeypatch):
  def refuse(self):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)
  with pytest.raises(InputError, match=r'x\.json: cannot be read \(Permission denied\)') as error:
    read_json(tmp_path / 'x.json', 'restore it', default={})
  assert 'restore it' not in str(error.value)


def test_json_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'new' / 'x.json'
  write_json(path, {'a': [1, None]})
  with pytest.raises(ValueError, match='JSON'):
    write_json(path, {'a': float('nan')})
  assert json.loads(path.read_text()) == {'a': [1, None]}
  assert [p.name for p in path.parent.iterdir()] == ['x.json']


def test_a_place_that_cannot_be_written_is_a_failed_run(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(RunError, match=r'x\.json: cannot be written'):
    write_json(tmp_path / 'file' / 'x.json', {})
  with pytest.raises(RunError, match=r'x\.npz: cannot be written'):
    write_arrays(tmp_path / 'file' / 'x.npz', x=np.arange(3))


@pytest.fixture
def server():
  """Serves ten bytes and, under /short, breaks off after four of them."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header('Content-Length', '10')
      self.end_headers()
      self.wfile.write(b'0123456789'[: 4 if self.path == '/short' else 10])

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f'http://127.0.0.1:{httpd.server_port}'
    httpd.shutdown()
    thread.join()


def test_a_file_comes_whole(server, tmp_path):
  download_file(f'{server}/whole', tmp_path / 'a', 'downloading', 'copy it')
  assert (tmp_path / 'a').read_bytes() == b'0123456789'


def test_a_download_that_breaks_off_is_noticed(server, tmp_path):
  with pytest.raises(RunError, match=r'short: download failed \(4 of 10 bytes came\); copy it'):
    download_file(f'{server}/short', tmp_path / 'a', 'downloading', 'copy it')
