import json
import os
import re
import shutil
import subprocess

import jax
import pytest

import dense_aspp_jax
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.files import write_json
from dense_aspp_jax.provenance import provenance


def test_provenance_names_code_libraries_and_device():
  found = provenance()
  json.dumps(found)
  assert found['libraries']['jax'] == jax.__version__
  assert len(found['devices']) == jax.device_count()
  assert found['git_commit'] is None or re.fullmatch(r'[0-9a-f]{40}(\+changes)?', found['git_commit'])


@pytest.mark.skipif(shutil.which('git') is None, reason='needs git')
def test_the_commit_is_that_of_the_checkout_and_changes_are_marked(tmp_path, monkeypatch):
  def git(*arguments):
    options = ('-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false')
    command = ['git', '-C', str(tmp_path), *options, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

  module = tmp_path / 'dense_aspp_jax' / '__init__.py'
  module.parent.mkdir()
  module.write_text('')
  monkeypatch.setattr(dense_aspp_jax, '__file__', str(module))
  assert provenance()['git_commit'] is None
  (module.parent / 'COMMIT').write_text('0123abc+changes\n')  # as in a wheel of tools/pack_offline.py
  assert provenance()['git_commit'] == '0123abc+changes'
  git('init', '--quiet')
  git('add', '.')
  git('commit', '--quiet', '--message', 'x')
  commit = git('rev-parse', 'HEAD')
  (tmp_path / 'untracked').write_text('')
  assert provenance()['git_commit'] == commit
  new = module.with_name('new.py')
  new.write_text('')
  assert provenance()['git_commit'] == f'{commit}+changes'
  new.unlink()
  module.write_text('changed = True')
  assert provenance()['git_commit'] == f'{commit}+changes'


def test_json_that_cannot_replace_the_old_leaves_it(tmp_path, monkeypatch):
  def fail(source, target):
    raise OSError(28, 'No space left on device')

  path = tmp_path / 'x.json'
  write_json(path, {'a': 1})
  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(RunError, match='No space left'):
    write_json(path, {'a': 2})
  assert json.loads(path.read_text()) == {'a': 1}
  assert [p.name for p in tmp_path.iterdir()] == ['x.json']


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
