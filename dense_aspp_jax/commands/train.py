"""Train a network."""

from __future__ import annotations

import argparse
import pathlib
import shlex

import jax

from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.distributed import initialize
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.progress import say
from dense_aspp_jax.training.train import train_and_evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_config_argument(parser)
  text = 'directory of the run; one that holds this run already is resumed'
  parser.add_argument('--workdir', required=True, type=path_argument, help=text)
  text = 'fail where the newest checkpoint is damaged, instead of falling back to an older one'
  parser.add_argument('--strict-resume', action='store_true', help=text)
  parser.add_argument('--no-report', action='store_true', help='write no report at the end')
  group = parser.add_argument_group('several processes (docs/scaling.md)')
  text = 'join the processes that SLURM, Kubernetes or a TPU pod started'
  group.add_argument('--distributed', action='store_true', help=text)
  group.add_argument('--coordinator', metavar='HOST:PORT', help='or by hand: address of process 0')
  group.add_argument('--processes', type=int, help='how many processes')
  group.add_argument('--process-id', type=int, help='which one this is, from 0')
  text = 'after which a lost process ends the others (default 100)'
  group.add_argument('--heartbeat-timeout', type=int, default=100, metavar='SECONDS', help=text)


def run(args: argparse.Namespace) -> int:
  """Trains, evaluates and saves until the configured number of epochs; prints scores, writes a report."""
  config = read_config_file(args)
  by_hand = (args.coordinator, args.processes, args.process_id)
  if args.distributed or any(x is not None for x in by_hand):
    initialize(*by_hand, heartbeat_timeout=args.heartbeat_timeout)
  scores = train_and_evaluate(config, args.workdir, args.strict_resume)
  if args.no_report:
    return 0
  path = args.workdir / 'report.html'
  if scores is None and path.exists():
    print(f'report {path}')
  else:  # also for a run that was finished before, if its report was interrupted
    _report(args.workdir, config.data.validation_split)
  return 0


def _report(workdir: pathlib.Path, split: str) -> None:
  """Writes the report of a run that has reached its end; whatever happens here, the run is complete."""
  from dense_aspp_jax.commands.report import report_run  # late: it needs matplotlib, training does not

  command = shlex.join(['dense-aspp', 'report', '--workdir', str(workdir), '--split', split])
  if jax.process_count() > 1:
    if jax.process_index() == 0:
      print(f'no report is written by several processes: {command}')
    return
  say('making the report of the run ...')
  try:
    print(f'report {report_run(workdir, split)}')
  except Exception as error:  # a finished training does not fail for lack of a report
    reason = f'{type(error).__name__}: {error}'.splitlines()[0]
    say(f'no report was written ({reason}); the run is complete, and {command} writes it')
