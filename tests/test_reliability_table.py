"""docs/reliability.md has a row for each scenario, and the tests it names exist."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
ROWS = re.findall(r'^\| (\d+) \|(.*)', (ROOT / 'docs' / 'reliability.md').read_text(), re.MULTILINE)


def functions_in(path):
  return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def named_tests(row):
  """File and function of each test, written as `path.py`: `test_one`, `test_two`."""
  path = None
  for name in re.findall(r'`(\S+)`', row):
    if name.endswith('.py'):
      path = name
    elif name.startswith('test_'):
      yield path, name


def test_there_are_thirty_scenarios_in_order_each_with_a_test():
  assert [int(number) for number, _ in ROWS] == list(range(1, 31))
  for number, row in ROWS:
    assert any(f'test_scenario_{int(number):02d}_' in name for _, name in named_tests(row)), number


def test_every_test_named_exists():
  for number, row in ROWS:
    for path, name in named_tests(row):
      assert name in functions_in(ROOT / path), (number, path, name)
