"""Every scenario has a guard: a function, and a test that fails without it (see without_guards.py)."""

import pathlib

import pytest
from faults.guards import GUARDS

TESTS = pathlib.Path(__file__).parents[1]


def test_every_scenario_has_a_guard():
  assert {guard.scenario for guard in GUARDS} - {None} == set(range(1, 31))


def test_the_guards_of_other_situations_have_tests_that_the_table_names():
  page = (TESTS.parent / 'docs' / 'reliability.md').read_text()
  for test in (guard.test for guard in GUARDS if guard.scenario is None):
    assert f'`{test.rpartition("::")[2].partition("[")[0]}`' in page


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
