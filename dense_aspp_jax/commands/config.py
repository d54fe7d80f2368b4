"""Print a configuration with every field, to copy and change."""

from __future__ import annotations

import argparse
import ast
import json
import pathlib
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from tabulate import tabulate

import dense_aspp_jax
from dense_aspp_jax.commands.config_file import CONFIG_HELP, read_config_file, shipped_configs
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.config import plain, tuples


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  text = f"{CONFIG_HELP}. Without it: lists the package's"
  parser.add_argument('config', nargs='?', metavar='FILE', help=text)


def run(args: argparse.Namespace) -> int:
  """Prints a configuration file, or the names of the package's."""
  if args.config is not None:
    print(complete_file(args.config, read_config_file(args)), end='')
    return 0
  if args.config_arguments:
    raise InputError(
      f'{args.config_arguments[0]}: no configuration to change; expected `dense-aspp config NAME`'
    )
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
  source = (shipped_configs() / 'default.py').read_text(encoding='utf-8')
  lines, values = source.splitlines(), flatten_dict(tuples(plain(config)), sep='.')
  docstring, *_, function = ast.parse(source).body
  for statement in reversed(function.body):
    first, end = statement.lineno - 1, statement.end_lineno
    if isinstance(statement, ast.Assign):
      field = ast.unparse(statement.targets[0]).removeprefix('config.')
      if field in values and _default(statement.value) != values[field]:
        comment = _without_source(' '.join(filter(None, map(_comment, lines[first:end]))))
        value = repr(values[field])
        if _is_reference(statement.value):  # the type stays
          value = f'config_dict.FieldReference({value}, field_type=object)'
        lines[first:end] = [f'  config.{field} = {value}{f"  # {comment}" if comment else ""}']
    elif isinstance(statement, ast.Expr):  # what the function says of itself
      lines[first:end] = ['  """Returns the configuration."""']
  title = json.dumps(pathlib.PurePath(name).name)[1:-1]  # in a docstring
  header = (
    f'"""{title} of dense_aspp_jax {dense_aspp_jax.__version__} with every field, to change and train:\n\n'
    '  dense-aspp train --config=THIS_FILE --workdir=runs/NAME\n"""'
  )
  return '\n'.join([header, *lines[docstring.end_lineno :]]) + '\n'


def _default(value: ast.expr) -> Any:
  if isinstance(value, ast.Call):  # a placeholder is None
    return ast.literal_eval(value.args[0]) if _is_reference(value) else None
  return ast.literal_eval(value)


def _is_reference(value: ast.expr) -> bool:
  return isinstance(value, ast.Call) and ast.unparse(value.func) == 'config_dict.FieldReference'


def _comment(line: str) -> str:
  return line.partition('  # ')[2]


def _without_source(comment: str) -> str:
  """A comment without what says where the default comes from."""
  return '; '.join(c.removeprefix('ours. ') for c in comment.split('; ') if c not in ('slides', 'ours'))
