"""The --config option: a configuration file and overrides of its fields."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

import dense_aspp_jax
from dense_aspp_jax.errors import InputError

CONFIG_HELP = (
  "configuration file (Python code, which is executed), or the name of one of the package's, such as "
  "'camvid'; --config.FIELD=VALUE overrides a field"
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
  name, *argument = args.config.split(':', maxsplit=1)
  path = _find(name)
  foreign = [a for a in args.config_arguments if not a.startswith('--config.')]
  if foreign:
    raise InputError(f'unknown arguments: {" ".join(foreign)}; fields are set as --config.FIELD=VALUE')
  arguments = ['dense-aspp', f'--config={":".join([str(path), *argument])}', *args.config_arguments]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, lock_config=True, sys_argv=arguments)
  try:
    with _importable_beside(path):
      values(arguments)
    config = values.config
  except Exception as error:  # the file is code: it may raise anything
    text = ' '.join(str(error.args[0] if error.args else '').split())
    raise InputError(f'--config={args.config}: {type(error).__name__}: {text}') from error
  if not isinstance(config, ConfigDict):
    raise InputError(
      f'--config={args.config}: get_config() gave {type(config).__name__}; expected a ConfigDict'
    )
  return config


def shipped_configs() -> pathlib.Path:
  """The folder of the package's configurations: inside an installed package, beside it in a checkout."""
  package = pathlib.Path(dense_aspp_jax.__file__).parent
  inside = package / 'configs'
  return inside if inside.is_dir() else package.with_name('configs')


def _find(name: str) -> pathlib.Path:
  """The file of this path, or the package's configuration of this name. Raises InputError."""
  folder = shipped_configs()
  for path in (pathlib.Path(name), folder / f'{name}.py'):
    if path.is_file():
      return path
  names = ', '.join(sorted(path.stem for path in folder.glob('*.py')))
  raise InputError(f'--config={name}: no such file; expected a file, or one of the package: {names}')


@contextlib.contextmanager
def _importable_beside(path: pathlib.Path) -> Iterator[None]:
  """Lets a configuration say `from configs import default`, wherever it and the current directory are."""
  before = list(sys.path)
  own, shipped = path.absolute().parents[1], shipped_configs().parent
  # One of the package's never takes the `configs` of the current directory.
  sys.path += [str(shipped)] if own == shipped else [str(own), str(pathlib.Path.cwd()), str(shipped)]
  try:
    yield
  finally:
    sys.path[:] = before
