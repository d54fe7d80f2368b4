"""Eight fake devices for every test, and compilations shared between tests and runs."""

import gc
import os
import pathlib
import sys

from xla_flags import xla_flags

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = xla_flags(8)

import jax
import pytest
from faults import guards

_CACHE = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'xla'
# In the environment, so that commands that tests start as processes of their own share it.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_CACHE)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.5'
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


@pytest.fixture(scope='module')
def one_device():
  """Where eight are not the matter: on two cores they wait for each other at every batch statistic."""
  device = jax.devices()[:1]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'devices', lambda: device)
    patch.setattr(jax, 'local_devices', lambda: device)
    yield


TESTS = pathlib.Path(__file__).parent
COLLECTED = pytest.StashKey[tuple[set[pathlib.Path], set[guards.Guard | None]]]()


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
  """Adds, for each guard of a test, a slow instance of the test that must fail without the guard."""
  place = f'{pathlib.Path(metafunc.module.__file__).relative_to(TESTS)}::{metafunc.function.__name__}'
  found = {guard.name: guard for guard in guards.GUARDS if guard.test.partition('[')[0] == place}
  if found:
    marks = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.filterwarnings('ignore')]
    metafunc.parametrize(
      'without_guard',
      [
        pytest.param(None, id=pytest.HIDDEN_PARAM),
        *(pytest.param(guard, marks=marks, id=name) for name, guard in found.items()),
      ],
      indirect=True,
    )


def guard_of(item):
  """The guard that a test does without."""
  return item.callspec.params.get('without_guard') if hasattr(item, 'callspec') else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
  """Drops the instances whose other parameters are not those of the guard's test."""

  def belongs(item):
    guard = guard_of(item)
    if guard is None:
      return True
    name, bracket, parameters = guard.test.rpartition('::')[2].partition('[')
    expected = f'{name}[{parameters[:-1]}-{guard.name}]' if bracket else f'{name}[{guard.name}]'
    return item.name == expected

  items[:] = [item for item in items if belongs(item)]
  config.stash[COLLECTED] = {item.path for item in items}, {guard_of(item) for item in items}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
  """A test without its guard passes where the test fails; an error in its fixtures remains one."""
  guard = guard_of(pyfuncitem)
  if guard is None:
    return (yield)
  failed = False
  try:
    yield
  except pytest.skip.Exception:
    raise
  except (Exception, pytest.fail.Exception):
    if pyfuncitem.config.option.runxfail:  # shows how it fails
      raise
    failed = True
  if not failed:
    pytest.fail(f'it passes without {guard.function}')
  gc.collect()  # what it left behind is nothing to the next test
  return True


@pytest.fixture
def collected(request):
  """Files of the tests that were collected, and guards that have a test among them, deselected ones too."""
  return request.config.stash[COLLECTED]


@pytest.fixture(autouse=True)
def without_guard(request):
  """Takes a guard away, here and in the processes that the test starts; fixtures were made with the guard."""
  guard = getattr(request, 'param', None)
  if guard is None:
    yield
    return
  owner, name, function = guard.find()
  replacement = guard.without(function)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(owner, name, replacement)
    for module in [m for n, m in sys.modules.items() if n.startswith('dense_aspp_jax.')]:
      for imported in [n for n, value in vars(module).items() if value is function]:
        patch.setattr(module, imported, replacement)
    patch.setenv(guards.VARIABLE, guard.name)
    patch.setenv('PYTHONPATH', str(TESTS / 'faults'), prepend=os.pathsep)
    yield


@pytest.fixture(scope='session')
def scene_folder(tmp_path_factory):
  """Generated street scenes as one's own labelled folder: 16 training and 5 validation images, 64x128."""
  from dense_aspp_jax.datasets.street_scenes.builder import render_scene
  from dense_aspp_jax.evaluation.pictures import save_png
  from dense_aspp_jax.files import write_json
  from dense_aspp_jax.labels import CITYSCAPES_20

  root = tmp_path_factory.mktemp('folder') / 'scenes'
  write_json(root / 'labels.json', CITYSCAPES_20.to_json())
  for seed, (split, count) in enumerate({'train': 16, 'validation': 5}.items()):
    for index in range(count):
      image, label_ids = render_scene(seed, index, (64, 128))
      save_png(root / split / 'images' / f'{index}.png', image)
      save_png(root / split / 'labels' / f'{index}.png', label_ids)
  return root


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory):
  """The directory of a run: a small network with random weights, 20 classes, 32x64. Not to be changed."""
  import numpy as np
  from tiny_network import TINY

  from configs import default
  from dense_aspp_jax.files import write_json
  from dense_aspp_jax.labels import CITYSCAPES_20
  from dense_aspp_jax.models.counts import abstract_variables
  from dense_aspp_jax.models.segmentation import create_model
  from dense_aspp_jax.training.checkpoints import save_variables

  config = default.get_config()
  config.data.image_size = (32, 64)
  config.model.update(TINY)
  rng = np.random.default_rng(0)
  shapes = abstract_variables(create_model(**config.model))
  variables = {
    'params': jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes['params']),
    'batch_stats': jax.tree.map(
      lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), shapes['batch_stats']
    ),
  }
  workdir = tmp_path_factory.mktemp('tiny_run')
  save_variables(workdir, variables, config.model.to_dict())
  write_json(workdir / 'labels.json', CITYSCAPES_20.to_json())
  write_json(workdir / 'config.json', config.to_dict())
  return workdir
