"""The contracts of pyproject.toml, and what importing the package needs."""

import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys

import dense_aspp_jax

ROOT = pathlib.Path(__file__).parents[1]


def run_python(code, *arguments):
  command = [sys.executable, '-c', code, *arguments]
  return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_imports_keep_the_contracts():
  lint_imports = 'from importlinter.cli import lint_imports_command; lint_imports_command()'
  result = run_python(lint_imports, '--no-cache', '--no-logo')
  assert result.returncode == 0, result.stdout + result.stderr


def test_importing_everything_needs_neither_tensorflow_nor_torch():
  names = [m.name for m in pkgutil.walk_packages(dense_aspp_jax.__path__, 'dense_aspp_jax.')]
  assert len(names) > 100
  # These run only in the process of a peer, which has its library.
  names = [name for name in names if not re.search(r'\.benchmark\.peers\.(pytorch_\w+|onnx_peers)$', name)]
  code = (
    'import sys, importlib\n'
    f'for name in {names!r}: importlib.import_module(name)\n'
    'print([name for name in ("tensorflow", "torch", "timm", "cv2") if name in sys.modules])'
  )
  result = run_python(code)
  assert result.stdout == '[]\n', result.stderr


def test_the_public_door_is_there_and_costs_no_import():
  assert dense_aspp_jax.load_run is importlib.import_module('dense_aspp_jax.training.run').load_run
  assert not hasattr(dense_aspp_jax, 'load_ruin')
  result = run_python('import sys, dense_aspp_jax; print([n for n in ("jax", "numpy") if n in sys.modules])')
  assert result.stdout == '[]\n', result.stderr
