"""The check of the GPU kernels, in a process of its own, and what is kept of it."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import pytest

from dense_aspp_jax import kernel_verdicts
from dense_aspp_jax.errors import RunError


@pytest.fixture
def check(tmp_path, monkeypatch):
  """Replaces the check with lines of Python; returns a function that asks for the verdict anew."""
  monkeypatch.setattr(kernel_verdicts, 'user_cache', lambda: tmp_path / 'cache')
  monkeypatch.setattr(kernel_verdicts, '_CHECK', 'check_of_a_test')
  monkeypatch.syspath_prepend(tmp_path)

  def passes(lines='', form='mosaic'):
    script = 'import os, pathlib, sys, time\npathlib.Path(__file__).with_name("ran").open("a").write("x")\n'
    (tmp_path / 'check_of_a_test.py').write_text(script + textwrap.dedent(lines))
    kernel_verdicts.passes.cache_clear()
    return kernel_verdicts.passes(form)

  passes.times = lambda: len((tmp_path / 'ran').read_text())
  passes.file = tmp_path / 'cache' / 'gpu_kernels.json'
  yield passes
  kernel_verdicts.passes.cache_clear()


def test_kernels_that_pass_are_checked_once(check, capsys):
  assert check()
  assert check()
  assert check.times() == 1
  assert f"checking the 'mosaic' kernels on this {jax.devices()[0].device_kind}" in capsys.readouterr().err


def test_each_form_and_each_version_of_the_kernels_has_its_own_verdict(check, monkeypatch, tmp_path):
  assert check()
  assert not check('sys.exit("wrong")', form='triton')
  (tmp_path / 'kernels').mkdir()
  (tmp_path / 'kernels' / 'changed.py').write_text('')
  monkeypatch.setattr(kernel_verdicts, '_KERNELS', tmp_path / 'kernels')
  assert not check('sys.exit("wrong")')
  assert check.times() == 3
  assert len(json.loads(check.file.read_text())) == 3


@pytest.mark.parametrize(
  ('lines', 'reason'),
  [
    ('sys.exit("denseblock differs by 3.0e-01")', 'denseblock differs by 3.0e-01'),
    ('raise ValueError("no such layout")', 'ValueError: no such layout'),
    ('os.abort()', 'ended by SIGABRT'),
    ('os._exit(7)', 'exit code 7'),
    ('time.sleep(60)', 'did not end within 8 s'),
  ],
)
def test_kernels_that_fail_are_not_used_and_the_user_reads_why(check, monkeypatch, capsys, lines, reason):
  monkeypatch.setattr(kernel_verdicts, '_SECONDS', 8)
  assert not check(lines)
  assert not check('')  # the verdict is kept
  assert check.times() == 1
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 3
  assert reason in said[-1]
  assert f'delete {check.file}' in said[-1]
  check.file.unlink()
  assert check('')


def test_a_python_that_cannot_be_started_is_a_failure(check, monkeypatch, capsys):
  monkeypatch.setattr(sys, 'executable', '/nowhere/python')
  assert not check()
  assert "'/nowhere/python' could not be started: No such file" in capsys.readouterr().err


def test_a_damaged_file_of_verdicts_is_written_anew(check):
  check.file.parent.mkdir()
  for damage in (b'', b'{"a":', b'[]', b'\xff\xfe'):
    check.file.write_bytes(damage)
    assert check()
    assert len(json.loads(check.file.read_text())) == 1
  assert check.times() == 4


def test_without_a_place_for_verdicts_each_process_checks(check):
  check.file.parent.write_text('a file where a folder has to be')
  assert check()
  assert check()
  assert check.times() == 2


def test_in_a_run_of_several_processes_a_failure_ends_the_run(check, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  assert check('', form='triton')
  with pytest.raises(RunError, match=r"failed.*implementation = 'fused_triton' in all processes"):
    check('sys.exit("wrong")')


def test_the_check_itself_says_that_it_found_no_gpu():
  command = [sys.executable, '-m', kernel_verdicts._CHECK, 'mosaic', 'gpu']
  done = subprocess.run(command, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == "found the backend 'cpu' in a second process, expected 'gpu'"
