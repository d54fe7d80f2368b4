"""Installs what is packed beside this file, and trains with it for a given time; no network is needed.

Copied into the pack by tools/pack_offline.py, where run.sh starts it. Standard library alone: it runs before
anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

_DATA_TIME = 1_000_000_000  # of every file of the data: a copied pack must not look like changed data
_GRACE_SECONDS = 30.0  # for saving, at the end of the time; a quarter of it where that is less
_SHOWN = 5
_PIP_OPTIONS = (
  '--quiet',
  '--no-index',
  '--no-deps',
  '--no-compile',
  '--no-cache-dir',
  '--disable-pip-version-check',
)


class PackError(Exception):
  """What cannot be used, or failed; `code` is the exit code."""

  def __init__(self, text: str, code: int = 2):
    super().__init__(text)
    self.code = code


def main(arguments: Sequence[str]) -> int:
  """Checks, installs, trains.

  Returns:
    0 if the training is finished or the time was up; 1 or 2 as `dense-aspp train`; 128 + the signal's number
    if one ended it.
  """
  started = time.monotonic()
  pack = pathlib.Path(__file__).absolute().parent
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  try:
    args = parse(arguments)
    manifest = verify(pack)
    config = find_config(pack, args.config)
    writable = os.access(pack, os.W_OK)
    if args.workdir is None and not writable:
      raise PackError(f'{pack} cannot be written; give a WORKDIR that lies elsewhere')
    workdir = (args.workdir or pack / 'runs' / config.stem).absolute()
    place = pack if writable else workdir.parent
    site = install(pack, place, manifest)
    check_requirements(site)
    data = pack / manifest['data']['folder']
    command = [
      sys.executable,
      str(pack / 'train.py'),
      f'--config={config}',
      f'--workdir={workdir}',
      f'--config.data.dataset=folder:{data}',
      f'--config.data.label_set={data}/labels.json',
      f'--config.data.data_dir={place}',  # where the decoded images are kept
      *args.fields,
    ]
    again = shlex.join(['bash', str(pack / 'run.sh'), *arguments])
    return train(command, site, started + 60 * args.minutes, 60 * args.minutes, again)
  except PackError as error:
    print(f'run.sh: {error}', file=sys.stderr)
    return error.code
  except OSError as error:
    print(f'run.sh: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 128 + signal.SIGINT


def parse(arguments: Sequence[str]) -> argparse.Namespace:
  """The command line: config, minutes, workdir and fields."""
  parser = argparse.ArgumentParser(
    prog='bash run.sh',
    usage='%(prog)s CONFIG MINUTES [WORKDIR] [--config.FIELD=VALUE ...]',
    allow_abbrev=False,
  )
  parser.add_argument('config', help='such as configs/camvid.py')
  parser.add_argument('minutes', type=float, help='after which it has ended, installation included')
  parser.add_argument('workdir', nargs='?', type=pathlib.Path, help='the run; default: runs/NAME')
  fields = [a for a in arguments if a.startswith('--config.')]
  args = parser.parse_args([a for a in arguments if a not in fields])
  if not args.minutes > 0:
    parser.error(f'MINUTES {args.minutes:g}; expected more than 0')
  args.fields = fields
  return args


def verify(pack: pathlib.Path) -> dict[str, Any]:
  """Reads the manifest and compares every file with it. Raises PackError."""
  manifest = json.loads((pack / 'manifest.json').read_text(encoding='utf-8'))
  python = '.'.join(map(str, sys.version_info[:2]))
  if python != manifest['python']:
    raise PackError(
      f'{sys.executable} is Python {python}; the wheels are for {manifest["python"]}. '
      f'Give another: PYTHON=python{manifest["python"]} bash run.sh ...'
    )
  damaged = []
  for name, stated in manifest['files'].items():
    path = pack / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != stated['sha256']:
      damaged.append(name)
    elif name.startswith(manifest['data']['folder']) and path.stat().st_mtime != _DATA_TIME:
      with contextlib.suppress(OSError):  # read-only: then its times stay as they are
        os.utime(path, (_DATA_TIME, _DATA_TIME))
  if damaged:
    raise PackError(
      f'{pack}: {len(damaged)} files are missing or not those that were packed '
      f'({", ".join(damaged[:_SHOWN])}{", ..." if len(damaged) > _SHOWN else ""}). Copy the folder again'
    )
  return manifest


def find_config(pack: pathlib.Path, name: str) -> pathlib.Path:
  """The file in the pack, or else from the current directory. Raises PackError."""
  for path in (pack / name, pathlib.Path(name)):
    if path.is_file():
      return path.absolute()
  there = ', '.join(sorted(f'configs/{path.name}' for path in (pack / 'configs').glob('*.py')))
  raise PackError(f'{name}: no such configuration; packed are {there}')


def install(pack: pathlib.Path, place: pathlib.Path, manifest: dict[str, Any]) -> pathlib.Path:
  """Installs the wheels into a folder in `place`, whole or not at all, unless that was done before.

  Raises:
    PackError: pip failed.
  """
  wheels = sorted((pack / 'wheels').glob('*.whl'))
  digest = hashlib.sha256(''.join(manifest['files'][f'wheels/{w.name}']['sha256'] for w in wheels).encode())
  site = place / f'site_{sys.implementation.cache_tag}_{digest.hexdigest()[:12]}'
  if site.is_dir():
    return site
  temporary = place / f'.{site.name}.{os.getpid()}.tmp'
  command = [sys.executable, '-m', 'pip', 'install', *_PIP_OPTIONS, f'--target={temporary}']
  began = time.monotonic()
  try:
    temporary.mkdir(parents=True)
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True, check=False)
    if done.returncode:
      raise PackError(f'the wheels cannot be installed: {(done.stderr or done.stdout).strip()}', code=1)
    try:
      os.rename(temporary, site)
    except OSError:
      if not site.is_dir():  # another process was not quicker either
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  print(f'installed {len(wheels)} wheels into {site} in {time.monotonic() - began:.0f} s', flush=True)
  return site


def check_requirements(site: pathlib.Path) -> None:
  """Checks that all that the installed packages require is there. Raises PackError, which lists the rest."""
  sys.path.insert(0, str(site))
  try:
    from packaging.requirements import Requirement
  except ImportError as error:
    raise PackError(f'{error}; it must be there, or be packed (target_packages.txt)') from error
  wrong = set()
  for installed in importlib.metadata.distributions(path=[str(site)]):
    for requirement in map(Requirement, installed.requires or ()):
      if requirement.marker is not None and not requirement.marker.evaluate({'extra': ''}):
        continue
      try:
        found = importlib.metadata.version(requirement.name)
      except importlib.metadata.PackageNotFoundError:
        found = 'none'
      if found == 'none' or not requirement.specifier.contains(found, prereleases=True):
        wrong.add(f'{installed.name} requires {requirement.name}{requirement.specifier}; there is {found}')
  if wrong:
    raise PackError(
      'this machine is not what the pack was made for:\n  ' + '\n  '.join(sorted(wrong)) + '\n'
      'Correct tools/offline/target_packages.txt and pack again'
    )


def train(command: list[str], site: pathlib.Path, deadline: float, seconds: float, again: str) -> int:
  """Trains until the deadline (of `time.monotonic`) at most; returns the exit code.

  The training is told to save and stop somewhat before, and killed at the deadline: what is on disk then is
  whole, but what came after the last checkpoint is lost.
  """
  stop_at = deadline - min(_GRACE_SECONDS, seconds / 4)
  if time.monotonic() >= stop_at:
    print(f'no time is left to train; the same command goes on:\n  {again}')
    return 0
  path = os.pathsep.join([str(site), *filter(None, [os.environ.get('PYTHONPATH')])])
  process = subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': path})
  received: list[int] = []

  def hand_on(number: int, _: object) -> None:
    received.append(number)
    process.terminate()

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, hand_on)
  out_of_time = False
  try:
    code = process.wait(max(0.0, stop_at - time.monotonic()))
  except subprocess.TimeoutExpired:
    out_of_time = True
    print('the time is nearly up: the training is told to save and stop', flush=True)
    process.terminate()
    try:
      code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      print(
        'run.sh: the training did not stop in time and was ended: what came after its last checkpoint is '
        f'lost. To go on from there, with more minutes if there is none:\n  {again}',
        file=sys.stderr,
      )
      return 1
  stopped = code in (128 + signal.SIGTERM, -signal.SIGTERM)
  if stopped and received:
    return 128 + received[0]
  if stopped and out_of_time:
    print(f'out of time; resume with the same command:\n  {again}')
    return 0
  return code if code >= 0 else 128 - code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
