"""The --config option: a configuration file and overrides of its fields."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import linecache
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

import dense_aspp_jax
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.training.config import EVERY_FIELD, check_names, tuples, with_added_fields

CONFIG_HELP = (
  "configuration file (Python code, which is executed), or the name of one of the package's, such as "
  "'camvid'; --config.FIELD=VALUE overrides a field"
)
_PACKAGE = 'configs'
_FILE = '_config_file'  # the module that the file is while it runs
_LONGEST = 300  # characters of an error's own text
_TYPES = {
  bool: 'true or false',
  int: 'an integer',
  float: 'a number',
  str: 'a string',
  tuple: 'a tuple, such as (1, 2)',
  object: "a name, or a tuple such as ('a', 'b')",
}
_OVERRIDE_ERRORS = (flags.Error, ValueError, TypeError, IndexError, SyntaxError, MemoryError, RecursionError)
# What ml_collections says of a field that there is not, and where a value has another type than the field.
_NO_FIELD = re.compile(r"""["'\\]*(\w+)["'\\]*(?:(?:\\n| )Did you mean "(\w+)".*)?""")
_WRONG_TYPE = re.compile(
  r"Could not override field '(?P<field>\w+)' .*?\. (?P<value>.*) is of original type "
  r"<class '(?P<found>[\w.]+)'> and cannot be casted to type <class '(?P<expected>[\w.]+)'>"
)


def add_config_argument(parser: argparse.ArgumentParser) -> None:
  """Adds `--config FILE`; `--config.FIELD=VALUE` overrides a field of it."""
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE',
    help=CONFIG_HELP,
  )


def read_config_file(args: argparse.Namespace) -> ConfigDict:
  """Reads the file, applies the overrides, locks it.

  Args:
    args: From a parser with `add_config_argument`, with `config_arguments`, the `--config.…` left over.

  Raises:
    InputError: No such file, an error in it, an unknown field, or a value of the wrong type.
  """
  where = f'--config={args.config}'
  whole = os.path.isfile(os.path.expanduser(args.config))
  name, *argument = [args.config] if whole else re.split(r':(?!//)', args.config, maxsplit=1)
  path = _find(name)
  foreign = [a for a in args.config_arguments if not a.startswith('--config.')]
  if foreign:
    raise InputError(f'unknown arguments: {" ".join(foreign)}; fields are set as --config.FIELD=VALUE')
  with _configs_seen_from(path) as folders:
    try:
      config = _call(path, argument)
    except (Exception, SystemExit) as error:  # the file is code: it may raise anything
      raise InputError(f'{where}{_explained(error, path, folders)}') from error
  if not isinstance(config, ConfigDict):
    raise InputError(
      f'{where}: get_config() returned {type(config).__name__}; expected a ConfigDict, as that of '
      'configs/default.py, which ends with `return config`'
    )
  _add_missing_fields(config)
  try:
    check_names(config)
  except InputError as error:
    raise InputError(f'{where}{_line_of(error, path)}: {error}') from error
  config.lock()
  _apply(config, args.config_arguments)
  return config


def shipped_configs() -> pathlib.Path:
  """The folder of the package's configurations: inside an installed package, beside it in a checkout."""
  package = pathlib.Path(dense_aspp_jax.__file__).parent
  inside = package / _PACKAGE
  return inside if inside.is_dir() else package.with_name(_PACKAGE)


def _find(name: str) -> pathlib.Path:
  """The file of this path, or the package's configuration of this name. Raises InputError."""
  folder = shipped_configs()
  for path in (local_path(name), folder / f'{name}.py'):
    if path.is_file():
      return path.absolute()
  names = ', '.join(sorted(path.stem for path in folder.glob('*.py')))
  raise InputError(f'--config={name}: no such file; expected a file, or one of the package: {names}')


@contextlib.contextmanager
def _configs_seen_from(path: pathlib.Path) -> Iterator[list[pathlib.Path]]:
  """Lets a configuration say `from configs import default`, wherever it and the current directory are.

  Within the block the package `configs` consists of the folder of this name that the file is in, the
  package's own, and that of the current directory; never of another project's on the Python path. A module
  beside the file is found by the name of its folder.

  Yields:
    The folders that configurations are imported from.
  """
  own = next((folder for folder in path.parents if folder.name == _PACKAGE), None)
  shipped = shipped_configs().absolute()
  folders = [own] if own not in (None, shipped) else []
  folders += [shipped] if path.parent == shipped else [shipped, pathlib.Path.cwd() / _PACKAGE]
  init = own / '__init__.py' if own else None
  loaded = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_config_module(name)}
  before = list(sys.path)
  package = types.ModuleType(_PACKAGE)
  if init and init.is_file():
    package = importlib.util.module_from_spec(importlib.util.spec_from_file_location(_PACKAGE, init))
  package.__path__ = [str(folder) for folder in folders]
  sys.modules[_PACKAGE] = package
  if path.parent != shipped:
    sys.path[:] = [str(path.parent.parent), *sys.path, str(pathlib.Path.cwd())]
  try:
    yield [path.parent, *folders]
  finally:
    sys.path[:] = before
    for name in [name for name in sys.modules if _is_config_module(name)]:
      del sys.modules[name]
    sys.modules.update(loaded)


def _is_config_module(name: str) -> bool:
  return name in (_PACKAGE, _FILE) or name.startswith(f'{_PACKAGE}.')


def _call(path: pathlib.Path, arguments: list[str]) -> Any:
  """What a file's `get_config` returns; raises whatever it raises."""
  package = sys.modules[_PACKAGE]
  if package.__spec__ is not None:
    package.__spec__.loader.exec_module(package)
  module = sys.modules[_FILE] = types.ModuleType(_FILE)
  module.__file__ = str(path)
  linecache.checkcache(str(path))
  exec(compile(path.read_bytes(), str(path), 'exec', dont_inherit=True), module.__dict__)
  if not callable(getattr(module, 'get_config', None)):
    raise InputError('no function get_config; expected one that returns the configuration')
  return module.get_config(*arguments)


def _explained(error: BaseException, path: pathlib.Path, folders: list[pathlib.Path]) -> str:
  """Where a configuration failed (file, line and its code) and why, to follow its name in one line."""
  frames = [
    f for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).parent in folders
  ]
  file, line, code = str(path), None, None
  if isinstance(error, SyntaxError) and error.lineno:
    file, line, code = error.filename or file, error.lineno, error.text
  elif frames:
    file, line, code = frames[-1].filename, frames[-1].lineno, frames[-1].line
  code = ' '.join((code or '').split())
  place = f'{"" if file == str(path) else f": {file}"}{"" if line is None else f", line {line}"}'
  return f'{place}{f" ({code})" if code else ""}: {_reason(error, code)}'


def _line_of(error: InputError, path: pathlib.Path) -> str:
  """The line of a file that sets the first unknown field of a message, if it is seen to do that."""
  found = re.search(r'unknown field config\.((?:\w+\.)*\w+)', str(error))
  if found:
    for number, line in enumerate(path.read_text(encoding='utf-8', errors='replace').splitlines(), start=1):
      if re.search(rf'\b{re.escape(found[1])}\s*=(?!=)', line):
        return f', line {number} ({" ".join(line.split())})'
  return ''


def _reason(error: BaseException, code: str) -> str:
  # str(error) would quote a KeyError's text and repeat a SyntaxError's file and line.
  whole = not error.args or not isinstance(error.args[0], str) or isinstance(error, UnicodeError)
  text = ' '.join(str(error if whole else error.args[0]).split())
  if isinstance(error, InputError):
    return str(error)
  of_config = 'ml_collections' in traceback.extract_tb(error.__traceback__)[-1].filename  # not of os.environ
  if of_config and isinstance(error, AttributeError | KeyError) and (found := _NO_FIELD.fullmatch(text)):
    section = re.search(rf'config\.(\w+)\.{found[1]}\b', code)
    similar = f', did you mean {found[2]!r}?' if found[2] else ''
    return f'no field {found[1]!r}{f" in config.{section[1]}" if section else ""}{similar}; {EVERY_FIELD}'
  if isinstance(error, TypeError) and (found := _WRONG_TYPE.search(text)):
    value = repr(found['value']) if found['found'] == 'str' else found['value']
    return f'field {found["field"]!r} expects {found["expected"]}, but {value} is {found["found"]}'
  return f'{type(error).__name__}: {text[:_LONGEST]}'


def _add_missing_fields(config: ConfigDict) -> None:
  """Adds the fields that did not exist yet when the file was written, and lets the data set be a tuple."""
  complete = with_added_fields(config)
  with config.unlocked():
    for section, fields in complete.items():
      if isinstance(fields, dict):
        for name in fields.keys() - config[section].keys():
          value = fields[name]
          config[section][name] = config_dict.placeholder(str) if value is None else tuples(value)
    data = config.get('data')
    if isinstance(data, ConfigDict) and 'dataset' in data and data.get_type('dataset') is not object:
      dataset = data.dataset
      del data.dataset
      data.dataset = config_dict.FieldReference(dataset, field_type=object)


def _apply(config: ConfigDict, overrides: Sequence[str]) -> None:
  """Sets the fields of `--config.FIELD=VALUE`. Raises InputError."""
  others = []
  for override in overrides:
    section, field = _section_and_field(config, override)
    if override.endswith('=None') and section.get_type(field) in (str, tuple):  # else 'None' and (None,)
      section[field] = None
      name = override.removesuffix('=None')
      others = [other for other in others if other.partition('=')[0] != name]  # the last one counts
    else:
      others.append(override)
  try:
    _parse(config, others)
  except _OVERRIDE_ERRORS as error:
    for override in others:
      _check_override(config.copy_and_resolve_references(), override)
    raise InputError(' '.join(str(error).split())[:_LONGEST]) from error


def _section_and_field(config: ConfigDict, override: str) -> tuple[ConfigDict, str]:
  name = override.removeprefix('--config.').partition('=')[0]
  *sections, field = re.sub(r'\[.*', '', name).split('.')
  section = config
  for part in sections:
    section = section.get(part) if isinstance(section, ConfigDict) else None
  if not isinstance(section, ConfigDict) or field not in section:
    raise InputError(f'{override[:_LONGEST]}: unknown field config.{name[:_LONGEST]}; {EVERY_FIELD}')
  return section, field


def _parse(config: ConfigDict, overrides: Sequence[str]) -> None:
  values, arguments = flags.FlagValues(), ['dense-aspp', *overrides]
  config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=arguments)
  values(arguments)


def _check_override(config: ConfigDict, override: str) -> None:
  """Raises InputError with what the field expects, if this one cannot be parsed alone."""
  try:
    _parse(config, [override])
  except _OVERRIDE_ERRORS as error:
    section, field = _section_and_field(config, override)
    expected = _TYPES.get(section.get_type(field))
    if expected is None:
      raise InputError(f'{override[:_LONGEST]}: {" ".join(str(error).split())[:_LONGEST]}') from error
    raise InputError(f'{override[:_LONGEST]}: expected {expected}') from error
