import pathlib
import pwd

import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.paths import local_path, user_cache


def nobody(*_):
  raise KeyError('no such user')


@pytest.fixture
def homeless(monkeypatch):
  """A user of a container: no HOME, and no entry in the user database."""
  for name in ('HOME', 'XDG_CACHE_HOME'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', nobody)
  monkeypatch.setattr(pwd, 'getpwnam', nobody)


def test_a_tilde_is_the_home_directory(monkeypatch):
  monkeypatch.setenv('HOME', '/users/ada')
  assert local_path('~/run') == pathlib.Path('/users/ada/run')
  assert local_path('a~b') == pathlib.Path('a~b')
  assert local_path(pathlib.Path('runs/~x')) == pathlib.Path('runs/~x')


@pytest.mark.parametrize('url', ['gs://bucket/run', 's3://bucket/run', 'https://host/run', 'hdfs://a'])
def test_a_url_is_refused_before_anything_is_created(url, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match='2'):
    main(['train', '--config=camvid', f'--workdir={url}'])
  assert f'argument --workdir: {url}: a URL' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('path', ['C:/runs/x', 'a:b', 'runs/x:1'])
def test_what_only_resembles_a_url_is_a_path(path):
  assert local_path(path) == pathlib.Path(path)


def test_without_a_home_directory_a_tilde_is_refused_caches_are_temporary(homeless, tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  with pytest.raises(InputError, match='HOME'):
    local_path('~/run')
  assert user_cache().parent == tmp_path
