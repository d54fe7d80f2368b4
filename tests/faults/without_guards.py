"""A plugin of pytest: for each guard of guards.py a slow test, which must fail without the guard."""

import gc
import os
import pathlib
import sys

import pytest
from faults import guards

TESTS = pathlib.Path(__file__).parents[1]
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
    patch.setenv('PYTHONPATH', f'{TESTS}{os.pathsep}{TESTS / "faults"}', prepend=os.pathsep)
    yield
