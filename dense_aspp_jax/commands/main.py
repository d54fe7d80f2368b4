"""`dense-aspp COMMAND ...`: finds the command, runs it, turns errors into exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

import dense_aspp_jax
from dense_aspp_jax.commands.interrupts import end_at_interrupt, raise_at_interrupt
from dense_aspp_jax.commands.streams import lasting_streams
from dense_aspp_jax.compilation_cache import use_compilation_cache
from dense_aspp_jax.errors import InputError, RunError, Stopped, no_device, termination_signals

# What each does is the first line of its module's docstring, repeated here so that --help imports none.
COMMANDS = {
  'prepare': 'Prepare a data set, once, without TensorFlow.',
  'check-data': 'Check every pair of a data set and list all that is wrong.',
  'config': 'Print a configuration with every field, to copy and change.',
  'train': 'Train a network.',
  'overfit': 'Overfit a few images: the first thing to run when something looks wrong.',
  'evaluate': 'Score the checkpoint of a run on a split.',
  'recalibrate': 'Estimate the BN statistics of a run again, over its training split.',
  'predict': 'Predict images with a trained network.',
  'score': 'Score a folder of prediction PNGs against label PNGs.',
  'models': 'List the trained networks that come with the package.',
  'pack': 'Write the network of a run as one file, to use anywhere.',
  'parameters': 'Count the parameters of a network, exactly.',
  'convert': 'Convert foreign weights into a checkpoint, strictly and without torch.',
  'similarity': 'Show which classes a network sees alike: cosine similarity with class means.',
  'remove-layers': 'Score a network with layers of DenseASPP removed.',
  'receptive-field': 'Show what a network sees: receptive field, coverage, and the measured one.',
  'report': 'Write one HTML file about a run.',
  'results': 'Gather the scores of runs over seeds, beside published ones.',
  'benchmark': 'Measure training, inference and input on this machine.',
}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one command.

  Args:
    arguments: Without the program's name; by default those of the process.

  Returns:
    0, 1 if a run failed, 2 for bad input or configuration; 128 + its number if SIGINT or one of
    `termination_signals` ended it.
  """
  with lasting_streams() as failures:
    end_at_interrupt()
    try:
      code = _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
      raise_at_interrupt()
  return code or int(bool(failures))


def _run(arguments: list[str]) -> int:
  if 'matplotlib' not in sys.modules:  # it fails where a notebook names its own backend to what it starts
    os.environ['MPLBACKEND'] = 'agg'
  parser = argparse.ArgumentParser(prog='dense-aspp', description=dense_aspp_jax.__doc__, allow_abbrev=False)
  parser.add_argument('--version', action='version', version=dense_aspp_jax.__version__)
  subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
  chosen = next((a for a in arguments if not a.startswith('-')), None)
  for name, text in COMMANDS.items():
    subparser = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
    if name == chosen:
      module = importlib.import_module(f'dense_aspp_jax.commands.{name.replace("-", "_")}')
      module.add_arguments(subparser)
  try:
    # Options of the form --config... belong to ml_collections, see commands/config_file.py.
    args, args.config_arguments = parser.parse_known_args(arguments)
    if args.config_arguments and not hasattr(args, 'config'):
      subparsers.choices[args.command].error(f'unknown arguments: {" ".join(args.config_arguments)}')
    use_compilation_cache()
    raise_at_interrupt()
    with _termination_unwinds():
      return module.run(args)
  except InputError as error:
    print(f'dense-aspp {chosen}: {error}', file=sys.stderr)
    return 2
  except RunError as error:
    print(f'dense-aspp {chosen}: {error}', file=sys.stderr)
    return 1
  except (AssertionError, RuntimeError) as error:
    reason = no_device(error)
    if reason is None:
      raise
    print(f'dense-aspp {chosen}: {reason}', file=sys.stderr)
    return 2
  except OSError as error:  # where a folder may not be searched, or a name is too long: pathlib passes it on
    if isinstance(error.filename, str):
      reason = f'{error.filename}: {error.strerror}; check path and permissions'
    elif error.errno == errno.ENOSPC:  # of a file that was open already
      reason = error.strerror
    else:
      raise
    print(f'dense-aspp {chosen}: {reason}', file=sys.stderr)
    return 1
  except (KeyboardInterrupt, Stopped) as error:
    stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
    print(f'dense-aspp {chosen}: {stopped}', file=sys.stderr)
    return 128 + stopped.signal


@contextlib.contextmanager
def _termination_unwinds() -> Iterator[None]:
  """Makes `termination_signals` exceptions, as SIGINT is, so that nothing half-written stays behind."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def stop(number: int, _: object) -> None:
    raise Stopped(number)

  before = {number: signal.signal(number, stop) for number in termination_signals()}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


if __name__ == '__main__':
  sys.exit(main())
