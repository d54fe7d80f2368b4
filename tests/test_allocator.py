import os
import subprocess
import sys
import types

import pytest

from dense_aspp_jax import allocator

SETTING = 'glibc.malloc.hugetlb=1'
_HERE = allocator._pages_on_request() and allocator._glibc_version() >= allocator._FIRST_VERSION


class Started(Exception):
  """What would have been started in place of this process."""


@pytest.fixture(autouse=True)
def command(monkeypatch, tmp_path):
  """A process that is `dense-aspp info`, on Linux with glibc 2.36 and huge pages on request."""
  for name in [name for name in os.environ if name.startswith(('MALLOC_', 'GLIBC_'))]:
    monkeypatch.delenv(name)
  monkeypatch.setattr(sys, 'orig_argv', ['python', '-X', 'dev', 'bin/dense-aspp', 'info', '--all'])
  monkeypatch.setattr(sys, 'argv', ['bin/dense-aspp', 'info', '--all'])
  monkeypatch.setattr(sys, 'gettrace', lambda: None)
  monkeypatch.setattr(os, 'confstr', lambda name: 'glibc 2.36', raising=False)
  monkeypatch.setattr(allocator, '_PAGES', tmp_path / 'enabled')
  (tmp_path / 'enabled').write_text('always [madvise] never\n')

  def execv(program, arguments):
    raise Started(program, arguments, os.environ['GLIBC_TUNABLES'])

  monkeypatch.setattr(os, 'execv', execv)


def test_a_command_is_started_again_as_it_was():
  with pytest.raises(Started) as started:
    allocator.start_again_with_huge_pages()
  assert started.value.args == (
    sys.executable,
    [sys.executable, '-X', 'dev', 'bin/dense-aspp', 'info', '--all'],
    SETTING,
  )
  allocator.start_again_with_huge_pages()  # once


def test_a_command_that_may_not_start_another_runs_as_it_is(monkeypatch):
  def execv(*_):
    raise PermissionError('not here')

  monkeypatch.setattr(os, 'execv', execv)
  allocator.start_again_with_huge_pages()


def test_other_settings_of_glibc_are_kept(monkeypatch):
  monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.cpu.x86_ibt=off')
  with pytest.raises(Started) as started:
    allocator.start_again_with_huge_pages()
  assert started.value.args[-1] == f'glibc.cpu.x86_ibt=off:{SETTING}'


@pytest.mark.parametrize(
  ('before', 'starts'),
  [
    (['-m', 'dense_aspp_jax'], True),
    (['train.py'], True),
    (['somewhere/train.py'], True),
    (['-c', 'program'], False),
    (['my_program.py'], False),
    (['-m', 'ipykernel_launcher', '-f', 'kernel.json'], False),
  ],
)
def test_nothing_but_a_command_is_started_again(monkeypatch, before, starts):
  monkeypatch.setattr(sys, 'orig_argv', ['python', *before, *sys.argv[1:]])
  if starts:
    with pytest.raises(Started):
      allocator.start_again_with_huge_pages()
  else:
    allocator.start_again_with_huge_pages()


def test_a_notebook_that_runs_the_script_is_not_started_again(monkeypatch):
  monkeypatch.setattr(sys, 'orig_argv', ['python', '-m', 'ipykernel_launcher', '-f', 'kernel.json'])
  monkeypatch.setattr(sys, 'argv', ['train.py', '--config=configs/default.py'])
  allocator.start_again_with_huge_pages()


@pytest.mark.parametrize('name', ['MALLOC_ARENA_MAX', 'GLIBC_TUNABLES'])
def test_settings_of_the_user_stay(monkeypatch, name):
  monkeypatch.setenv(name, 'glibc.malloc.arena_max=1')
  allocator.start_again_with_huge_pages()


def test_does_nothing_in_an_embedded_interpreter(monkeypatch):
  monkeypatch.setattr(sys, 'orig_argv', [])
  monkeypatch.setattr(sys, 'argv', [''])
  allocator.start_again_with_huge_pages()


def test_does_nothing_under_a_debugger(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pydevd', types.ModuleType('pydevd'))
  allocator.start_again_with_huge_pages()


def _raises(error):
  def confstr(name):
    raise error

  return confstr


@pytest.mark.parametrize(
  'confstr', [lambda name: 'glibc 2.34', lambda name: None, lambda name: 'musl 1.2', _raises(ValueError)]
)
def test_does_nothing_without_a_glibc_that_knows_the_setting(monkeypatch, confstr):
  monkeypatch.setattr(os, 'confstr', confstr, raising=False)
  allocator.start_again_with_huge_pages()


def test_does_nothing_without_confstr(monkeypatch):
  monkeypatch.delattr(os, 'confstr', raising=False)
  allocator.start_again_with_huge_pages()


@pytest.mark.parametrize('enabled', ['[always] madvise never', 'always madvise [never]', None])
def test_does_nothing_where_pages_are_not_on_request(monkeypatch, enabled):
  if enabled is None:
    allocator._PAGES.unlink()
  else:
    allocator._PAGES.write_text(enabled)
  allocator.start_again_with_huge_pages()


_ALLOCATES = """
import contextlib, io, resource, sys
from dense_aspp_jax.__main__ import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
  main(['--version'])
faults = []
for _ in range(3):
  block = bytearray(64 * 2**20)  # all its pages are written
  del block
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""


@pytest.mark.skipif(not _HERE, reason='no huge pages on request, or no glibc that asks for them')
def test_a_real_command_allocates_huge_pages(tmp_path):
  """Counts the page faults of two allocations of 64 MiB."""

  def faults(name, **settings):
    path = tmp_path / name
    path.write_text(_ALLOCATES)
    ended = subprocess.run(
      [sys.executable, path], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    return int(ended.stdout)

  assert faults('another.py') > 30_000
  assert faults('train.py') < 3_000  # both ends may be in small pages
  assert faults('train.py', MALLOC_ARENA_MAX='1') > 30_000
