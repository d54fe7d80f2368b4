"""The tests of this folder fail when what they test is taken away."""

import ast
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from guards import GUARDS

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = 'dense_aspp_jax'
COPIED = (PACKAGE, 'configs', 'tests', 'tools', 'pyproject.toml', 'train.py')
SECONDS = 120  # a hang is a failure too


def functions_in(path):
  return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_scenario_has_a_guard():
  assert sorted({guard.scenario for guard in GUARDS}) == list(range(1, 31))


def test_every_guard_is_found_once_and_its_test_exists():
  for guard in GUARDS:
    assert (ROOT / PACKAGE / guard.path).read_text().count(guard.old) == 1, guard
    path, name = guard.test.split('::')
    assert name.split('[')[0] in functions_in(ROOT / path), guard


@pytest.mark.slow
@pytest.mark.parametrize('guard', GUARDS, ids=[f'{i}-scenario_{g.scenario}' for i, g in enumerate(GUARDS)])
def test_without_its_guard_the_test_fails(guard, tmp_path):
  copy = tmp_path / 'copy'
  for name in COPIED:
    source = ROOT / name
    if source.is_dir():
      shutil.copytree(source, copy / name)  # bytecode too, which is of the files' times
    else:
      shutil.copy(source, copy / name)
  (ROOT / '.pytest_cache' / 'xla').mkdir(parents=True, exist_ok=True)
  (copy / '.pytest_cache').mkdir()
  (copy / '.pytest_cache' / 'xla').symlink_to(ROOT / '.pytest_cache' / 'xla')  # shared compilations
  path = copy / PACKAGE / guard.path
  path.write_text(path.read_text().replace(guard.old, guard.new))
  code, text = run(copy, guard.test)
  if re.search(r'^1 skipped', text, re.MULTILINE):
    pytest.skip(f'{guard.test} is skipped here')
  assert code == pytest.ExitCode.TESTS_FAILED, text
  shutil.rmtree(tmp_path)  # pytest would keep some megabytes for each guard


def run(copy, test):
  """Runs one test of a copy, and ends all processes that it leaves behind; exit code and output."""
  environment = {**os.environ, 'PYTHONPATH': str(copy)}
  python = [sys.executable, '-c', f'import {PACKAGE}; print({PACKAGE}.__file__)']
  imported = subprocess.run(python, cwd=copy, env=environment, capture_output=True, text=True, check=True)
  assert pathlib.Path(imported.stdout.strip()).is_relative_to(copy)
  options = [
    '-o',
    'addopts=',
    f'--timeout={SECONDS}',
    '--timeout-method=thread',
    f'--basetemp={copy.parent}/t',
  ]
  with (copy / 'output').open('w') as output:
    process = subprocess.Popen(
      [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *options, test],
      cwd=copy,
      env=environment,
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    try:
      code = process.wait()
    finally:
      with contextlib.suppress(ProcessLookupError):  # where none is left
        os.killpg(process.pid, signal.SIGKILL)
  return code, (copy / 'output').read_text()
