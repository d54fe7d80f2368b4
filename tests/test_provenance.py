import json
import re
import shutil
import subprocess

import jax
import pytest

import dense_aspp_jax
from dense_aspp_jax.provenance import git_commit, provenance


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
  own = tmp_path / 'configs' / 'mine.py'
  own.parent.mkdir()
  own.write_text('')
  assert (git_commit(), git_commit('configs')) == (commit, f'{commit}+changes')
  module.write_text('changed = True')
  assert provenance()['git_commit'] == f'{commit}+changes'
