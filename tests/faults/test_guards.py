"""Every scenario has a guard: a function, and a test that fails without it (see without_guards.py)."""

import pathlib

import pytest
from faults.guards import GUARDS

TESTS = pathlib.Path(__file__).parents[1]


def test_every_scenario_has_a_guard():
  assert sorted({guard.scenario for guard in GUARDS}) == list(range(1, 31))


@pytest.mark.parametrize('guard', GUARDS, ids=lambda guard: guard.name)
def test_the_function_of_a_guard_exists_and_so_does_its_test(guard, collected):
  _, _, function = guard.find()
  assert callable(guard.without(function))
  names = guard.function.replace(':', '.').split('.')
  assert not [name for name in names if name.startswith('_') and not name.endswith('__')]
  files, guards = collected
  path = TESTS / guard.test.partition('::')[0]
  assert path.exists()
  assert path not in files or guard in guards
