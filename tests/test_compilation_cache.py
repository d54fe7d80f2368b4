import os
import pathlib
import pwd
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.compilation_cache import use_compilation_cache, without_compilation_cache

ROOT = pathlib.Path(__file__).parents[1]
# A process that compiles a function and counts what the cache had of it.
COUNT_HITS = """
import jax
from dense_aspp_jax.compilation_cache import use_compilation_cache
use_compilation_cache()
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jax.numpy.sort(x @ x))(jax.numpy.ones((8, 8)))
print(events.count('/jax/compilation_cache/cache_hits'))
"""


@pytest.fixture
def own_environment(monkeypatch, tmp_path):
  """An environment and a JAX without settings of a cache, and a home to write into."""
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  monkeypatch.setenv('HOME', str(tmp_path))
  directory = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield tmp_path
  jax.config.update('jax_compilation_cache_dir', directory)
  os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)


@pytest.mark.parametrize(
  ('xdg', 'expected'),
  [
    ('', '.cache/dense_aspp_jax/xla'),
    ('relative', '.cache/dense_aspp_jax/xla'),
    ('somewhere', 'somewhere/dense_aspp_jax/xla'),
  ],
)
@pytest.mark.skipif(sys.platform != 'linux', reason="another system's user directory")
def test_the_directory_is_the_users(xdg, expected, own_environment, monkeypatch):
  xdg = str(own_environment / xdg) if xdg == 'somewhere' else xdg
  monkeypatch.setenv('XDG_CACHE_HOME', xdg)
  use_compilation_cache()
  assert jax.config.jax_compilation_cache_dir == str(own_environment / expected)


def test_the_directory_is_made_for_the_user_alone_and_jax_told(own_environment):
  use_compilation_cache()
  directory = own_environment / '.cache' / 'dense_aspp_jax' / 'xla'
  assert jax.config.jax_compilation_cache_dir == str(directory)
  assert directory.stat().st_mode & 0o777 == 0o700


def test_without_jax_the_environment_is_told(own_environment, monkeypatch):
  monkeypatch.delitem(sys.modules, 'jax')
  use_compilation_cache()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == str(own_environment / '.cache/dense_aspp_jax/xla')


@pytest.mark.parametrize('value', ['', '/mine'])
def test_the_variable_of_jax_comes_first(value, own_environment, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', value)
  use_compilation_cache()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == value
  assert jax.config.jax_compilation_cache_dir is None
  assert not (own_environment / '.cache').exists()


def test_what_a_program_told_jax_comes_first(own_environment):
  jax.config.update('jax_compilation_cache_dir', '/mine')
  use_compilation_cache()
  assert jax.config.jax_compilation_cache_dir == '/mine'


def test_a_directory_that_cannot_be_made_means_no_cache_and_one_line(own_environment, capsys):
  (own_environment / '.cache').write_text('a file')
  use_compilation_cache()
  assert jax.config.jax_compilation_cache_dir is None
  assert capsys.readouterr().err == (
    f'{own_environment}/.cache/dense_aspp_jax/xla: Not a directory; compilations are not kept '
    '(set JAX_COMPILATION_CACHE_DIR to keep them)\n'
  )


def test_without_a_home_directory_commands_work_and_say_that_nothing_is_kept(
  own_environment, monkeypatch, capsys
):
  def unknown(_):
    raise KeyError

  monkeypatch.delenv('HOME')
  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  assert main(['parameters', '--config=camvid', '--json']) == 0
  assert jax.config.jax_compilation_cache_dir is None
  assert capsys.readouterr().err == (
    'no home directory; compilations are not kept (set JAX_COMPILATION_CACHE_DIR to keep them)\n'
  )


def test_the_second_start_finds_the_compilations_of_the_first(tmp_path):
  environment = {k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  environment |= {'XDG_CACHE_HOME': str(tmp_path), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}

  def start():
    command = [sys.executable, '-c', COUNT_HITS]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout), done.stderr

  assert start() == (0, '')
  assert list((tmp_path / 'dense_aspp_jax' / 'xla').iterdir())
  hits, messages = start()
  assert hits > 0
  assert messages == ''


def test_every_command_uses_the_cache(own_environment, capsys):
  config = [f'--config={ROOT}/configs/default.py', '--config.model.extractor=densenet_tiny']
  assert main(['parameters', *config, '--json']) == 0
  assert jax.config.jax_compilation_cache_dir == str(own_environment / '.cache/dense_aspp_jax/xla')


def test_inside_without_nothing_is_read_or_kept_and_afterwards_it_is_again(own_environment):
  use_compilation_cache()
  directory = own_environment / '.cache' / 'dense_aspp_jax' / 'xla'

  def compile_anew(number):
    jax.jit(lambda x: jnp.sin(x) + number).lower(jnp.ones(3)).compile()

  minimum = jax.config.jax_persistent_cache_min_compile_time_secs
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  try:
    with without_compilation_cache():
      compile_anew(1)
    assert not list(directory.iterdir())
    compile_anew(2)
    assert list(directory.iterdir())
  finally:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', minimum)
