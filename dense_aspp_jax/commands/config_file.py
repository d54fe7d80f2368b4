"""The --config option: a configuration file and overrides of its fields."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

from dense_aspp_jax.errors import InputError


def add_config_argument(parser: argparse.ArgumentParser) -> None:
  """Adds `--config FILE`; `--config.FIELD=VALUE` overrides a field of it."""
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE',
    help='configuration file (Python code, which is executed); --config.FIELD=VALUE overrides a field',
  )


def read_config_file(args: argparse.Namespace) -> ConfigDict:
  """Reads the file, applies the overrides, locks it.

  Args:
    args: From a parser with `add_config_argument`, with `config_arguments`, the `--config.…` left over.

  Raises:
    InputError: No such file, an error in it, an unknown field, or a value of the wrong type.
  """
  if not pathlib.Path(args.config.partition(':')[0]).is_file():
    raise InputError(f'--config={args.config}: no such file; see configs/ for those that exist')
  foreign = [a for a in args.config_arguments if not a.startswith('--config.')]
  if foreign:
    raise InputError(f'unknown arguments: {" ".join(foreign)}; fields are set as --config.FIELD=VALUE')
  arguments = ['dense-aspp', f'--config={args.config}', *args.config_arguments]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, lock_config=True, sys_argv=arguments)
  try:
    with _importable_beside(pathlib.Path(args.config)):
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


@contextlib.contextmanager
def _importable_beside(path: pathlib.Path) -> Iterator[None]:
  """Lets a file in configs/ say `from configs import default`, from wherever the command is called."""
  added = [str(path.absolute().parents[1]), str(pathlib.Path.cwd())]
  sys.path.extend(added)
  try:
    yield
  finally:
    for entry in added:
      sys.path.remove(entry)
