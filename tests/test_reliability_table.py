"""docs/reliability.md has a row for each scenario and situation, and the tests it names exist."""

import ast
import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
SCENARIOS, SITUATIONS = (
  (ROOT / 'docs' / 'reliability.md').read_text().split('\n## Situations from bug reports\n')
)
NUMBERED = re.findall(r'^\| (\d+) \|(.*)', SCENARIOS, re.MULTILINE)
USERS = [row for row in re.findall(r'^\| .*', SITUATIONS, re.MULTILINE) if not row.startswith('| a user')]


@functools.cache
def functions_in(path):
  """The names of the tests of a file, of those in a class 'Class.test'."""
  found = set()
  for node in ast.parse(path.read_text()).body:
    for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
      if isinstance(inner, ast.FunctionDef):
        found.add(inner.name if inner is node else f'{node.name}.{inner.name}')
  return found


def named_tests(row):
  """File and function of each test, written as `path.py`: `test_one`, `test_two`."""
  path = None
  for name in re.findall(r'`(\S+)`', row):
    if name.startswith('tests/') and name.endswith('.py'):
      path = name
    elif re.match(r'(Test\w+\.)?test_', name):
      yield path, name


def test_there_are_thirty_scenarios_in_order_each_with_a_test():
  assert [int(number) for number, _ in NUMBERED] == list(range(1, 31))
  for number, row in NUMBERED:
    assert any(f'test_scenario_{int(number):02d}_' in name for _, name in named_tests(row)), number


def test_every_situation_is_there_once_with_a_test():
  situations = [row.split(' | ')[0] for row in USERS]
  assert len(set(situations)) == len(situations) > 60
  for row in USERS:
    assert row.count(' | ') == 2, row
    assert any(named_tests(row)), row


def test_every_test_named_exists():
  for row in (*(row for _, row in NUMBERED), *USERS):
    for path, name in named_tests(row):
      assert path, row
      assert name in functions_in(ROOT / path), (row, path, name)
