"""Print a configuration with every field, to copy and change."""

from __future__ import annotations

import argparse
import ast
import json
import pathlib
import re
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from tabulate import tabulate

import dense_aspp_jax
from dense_aspp_jax.commands.config_file import CONFIG_HELP, read_config_file, shipped_configs
from dense_aspp_jax.training.config import plain, tuples

_FIELD = re.compile(r'  config\.(?P<name>\w+(?:\.\w+)?) = (?P<value>.*?)(?:  # (?P<comment>.*))?')
_SOURCES = ('slides', 'ours')  # in comments of configs/default.py: where a value comes from


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  text = f"{CONFIG_HELP}. Without it: lists the package's"
  parser.add_argument('config', nargs='?', metavar='FILE', help=text)


def run(args: argparse.Namespace) -> int:
  """Prints a configuration file, or the names of the package's."""
  if args.config is not None:
    print(complete_file(args.config, read_config_file(args)), end='')
    return 0
  rows = [
    (path.stem, ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))).splitlines()[0])
    for path in sorted(shipped_configs().glob('*.py'))
  ]
  print(tabulate(rows, tablefmt='plain'))
  return 0


def complete_file(name: str, config: ConfigDict) -> str:
  """A configuration as a file of its own: configs/default.py, comments included, with its values.

  Args:
    name: Of the configuration, for the header.
    config: With every field.
  """
  default = (shipped_configs() / 'default.py').read_text(encoding='utf-8')
  values = flatten_dict(tuples(plain(config)), sep='.')
  _, imports, body = default.partition('import ml_collections\n')
  header, function = body.split('  config = ml_collections.ConfigDict()\n', 1)
  header = re.sub('""".*"""', '"""Returns the configuration."""', header)
  title = json.dumps(pathlib.PurePath(name).name)[1:-1]  # in a docstring
  return (
    f'"""{title} of dense_aspp_jax {dense_aspp_jax.__version__} with every field, to change and train:\n\n'
    '  dense-aspp train --config=THIS_FILE --workdir=runs/NAME\n"""\n\n'
    f'{imports}{header}  config = ml_collections.ConfigDict()\n'
    + ''.join(f'{_with_value(line, values)}\n' for line in function.splitlines())
  )


def _with_value(line: str, values: dict[str, Any]) -> str:
  """A line of configs/default.py with the configuration's value in place of the default."""
  found = _FIELD.fullmatch(line)
  if not found or found['name'] not in values:
    return line
  value = values[found['name']]
  if _literal(found['value']) == value:
    return line
  clauses = [c.removeprefix('ours. ') for c in (found['comment'] or '').split('; ') if c not in _SOURCES]
  comment = '; '.join(filter(None, clauses))
  return f'  config.{found["name"]} = {value!r}{f"  # {comment}" if comment else ""}'


def _literal(code: str) -> Any:
  return None if code.startswith('config_dict.placeholder(') else ast.literal_eval(code)
