"""The layers of the package import one way only, and nothing heavy that is optional."""

import ast
import pathlib
import subprocess
import sys

import pytest

import dense_aspp_jax

PACKAGE = pathlib.Path(dense_aspp_jax.__file__).parent
ROOT = PACKAGE.parent
BASE = {
  'labels',
  'errors',
  'progress',
  'provenance',
  'download',
  'fields',
  'files',
  'orbax_errors',
  'checkpoint_io',
  'distributed',
  'compilation_cache',
}
# Layer -> the layers it may import besides itself.
ALLOWED = {
  **dict.fromkeys(BASE, BASE),
  'datasets': BASE,
  'models': BASE,
  'weights': BASE | {'models'},
  'evaluation': BASE | {'datasets', 'models', 'weights'},
  'analysis': BASE | {'datasets', 'models', 'weights', 'evaluation'},
  'training': BASE | {'datasets', 'models', 'weights', 'evaluation'},
  'benchmark': BASE | {'datasets', 'models', 'weights', 'evaluation', 'training'},
  'results': BASE | {'datasets', 'models', 'weights', 'evaluation', 'training'},
  'commands': BASE
  | {'datasets', 'models', 'weights', 'evaluation', 'analysis', 'training', 'benchmark', 'results'},
}
OPTIONAL = {'tensorflow', 'torch', 'torchvision', 'timm', 'efficientnet_lite_pytorch'}
# What models must not know: flags, configurations, files.
FORBIDDEN_IN_MODELS = {'absl', 'ml_collections', 'argparse', 'pathlib', 'os', 'json'}


def modules():
  return sorted(p for p in PACKAGE.rglob('*.py') if p.parent != PACKAGE or p.stem != '__init__')


def imports(path):
  """Full names of everything a module imports, wherever it does."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('path', modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
  layer = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  for name in imports(path):
    parts = name.split('.')
    if parts[0] == 'dense_aspp_jax' and len(parts) > 1 and parts[1] in ALLOWED:
      assert parts[1] == layer or parts[1] in ALLOWED[layer], f'{layer} imports {name}'
    if layer == 'models':
      assert parts[0] not in FORBIDDEN_IN_MODELS, f'models import {name}'
    assert parts[0] not in OPTIONAL or path == PACKAGE / 'weights' / 'torch_reference.py', (
      f'{name} is optional: import it through an extra'
    )


def test_importing_everything_needs_neither_tensorflow_nor_torch():
  names = ['.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__') for p in modules()]
  code = (
    'import sys, importlib\n'
    f'for name in {names!r}: importlib.import_module(name)\n'
    'print([name for name in ("tensorflow", "torch", "timm", "cv2") if name in sys.modules])'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.stdout == '[]\n', result.stderr
