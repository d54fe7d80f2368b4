"""Installs the wheels packed beside this file and trains with them for a given time, without a network.

tools/pack_offline.py copies it into the pack, where run.sh starts it. It runs before anything is installed,
on the standard library.
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
from typing import Any, NoReturn

_DATA_TIME = 1_000_000_000  # of every file of the data: a copied pack must not look like changed data
_GRACE_SECONDS = 30.0  # for saving, at the end of the time; a quarter of it where that is less
_SHOWN = 5
_PIP = 'pip --disable-pip-version-check install --quiet --no-index --no-deps --no-compile --no-cache-dir'


def main(arguments: Sequence[str]) -> int:
  """Checks, installs, trains.

  Returns:
    0 if the training is finished or the time is up, otherwise the exit code of `dense-aspp train`. Bad input
    ends the program with 2, a signal with 128 + its number.
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
      fail(f'{pack} cannot be written; give a WORKDIR that lies elsewhere')
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
    return train(command, site, started + 60 * args.minutes, min(_GRACE_SECONDS, 15 * args.minutes), again)
  except OSError as error:
    fail(str(error), code=1)
  except KeyboardInterrupt:
    return 128 + signal.SIGINT


def fail(message: str, code: int = 2) -> NoReturn:
  """Prints a message and ends the program."""
  print(f'run.sh: {message}', file=sys.stderr)
  sys.exit(code)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
  """The command line: config, minutes, workdir and fields."""
  parser = argparse.ArgumentParser(
    prog='bash run.sh',
    usage='%(prog)s CONFIG MINUTES [WORKDIR] [--config.FIELD=VALUE ...]',
    allow_abbrev=False,
  )
  parser.add_argument('config', help='such as configs/camvid.py')
  parser.add_argument('minutes', type=float, help='time limit, installation included')
  parser.add_argument('workdir', nargs='?', type=pathlib.Path, help='the run; default: runs/NAME')
  fields = [a for a in arguments if a.startswith('--config.')]
  args = parser.parse_args([a for a in arguments if a not in fields], argparse.Namespace(fields=fields))
  if not args.minutes > 0:
    parser.error(f'MINUTES {args.minutes:g}; expected more than 0')
  return args


def verify(pack: pathlib.Path) -> dict[str, Any]:
  """Returns the manifest, if this is its Python and every file is the one that was packed."""
  manifest = json.loads((pack / 'manifest.json').read_text(encoding='utf-8'))
  python = '.'.join(map(str, sys.version_info[:2]))
  if python != manifest['python']:
    fail(
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
    shown = ', '.join([*damaged[:_SHOWN], *(['...'] if len(damaged) > _SHOWN else [])])
    fail(f'{pack}: {len(damaged)} files are missing or differ from the packed ones ({shown}). Copy it again')
  return manifest


def find_config(pack: pathlib.Path, name: str) -> pathlib.Path:
  """The file in the pack, or else relative to the current directory."""
  for path in (pack / name, pathlib.Path(name)):
    if path.is_file():
      return path.absolute()
  packed = ', '.join(sorted(f'configs/{path.name}' for path in (pack / 'configs').glob('*.py')))
  fail(f'{name}: no such configuration; packed are {packed}')


def install(pack: pathlib.Path, place: pathlib.Path, manifest: dict[str, Any]) -> pathlib.Path:
  """Installs the wheels into a folder in `place`, completely or not at all, unless that was done before."""
  wheels = sorted((pack / 'wheels').glob('*.whl'))
  digest = hashlib.sha256(''.join(manifest['files'][f'wheels/{w.name}']['sha256'] for w in wheels).encode())
  site = place / f'site_{sys.implementation.cache_tag}_{digest.hexdigest()[:12]}'
  if site.is_dir():
    return site
  temporary = place / f'.{site.name}.{os.getpid()}.tmp'
  command = [sys.executable, '-m', *_PIP.split(), f'--target={temporary}', *map(str, wheels)]
  began = time.monotonic()
  try:
    temporary.mkdir(parents=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
      fail(f'the wheels cannot be installed: {(done.stderr or done.stdout).strip()}', code=1)
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
  """Checks that everything the installed packages require is there; lists what is not."""
  sys.path.insert(0, str(site))
  try:
    from packaging.requirements import Requirement
  except ImportError as error:
    fail(f'{error}; it must be there, or be packed (target_packages.txt)')
  wrong = set()
  for installed in importlib.metadata.distributions(path=[str(site)]):
    for requirement in map(Requirement, installed.requires or ()):
      if requirement.marker and not requirement.marker.evaluate({'extra': ''}):
        continue
      try:
        found = importlib.metadata.version(requirement.name)
      except importlib.metadata.PackageNotFoundError:
        found = None
      if found is None or not requirement.specifier.contains(found, prereleases=True):
        wrong.add(
          f'{installed.name} requires {requirement.name}{requirement.specifier}; found: {found or "none"}'
        )
  if wrong:
    fail(
      '\n  '.join(['this machine is not what the pack was made for:', *sorted(wrong)])
      + '\nCorrect tools/offline/target_packages.txt and pack again'
    )


def train(command: list[str], site: pathlib.Path, deadline: float, grace: float, again: str) -> int:
  """Trains until the deadline (of `time.monotonic`) at most; returns the exit code.

  The training is told to save and stop `grace` seconds before, and killed at the deadline. What is on disk
  then is complete, but what came after the last checkpoint is lost.
  """
  remaining = deadline - grace - time.monotonic()
  if remaining <= 0:
    print(f'no time is left to train; the same command goes on:\n  {again}')
    return 0
  path = os.pathsep.join(filter(None, [str(site), os.environ.get('PYTHONPATH')]))
  process = subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': path})
  received: list[int] = []

  def stop(number: int, _: object) -> None:
    if number == signal.SIGALRM in received:
      process.kill()
    elif number == signal.SIGALRM:
      print('the time is nearly up: telling the training to save and stop', flush=True)
    received.append(number)
    process.terminate()

  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
    signal.signal(number, stop)
  signal.setitimer(signal.ITIMER_REAL, remaining, grace)  # first to stop it, then to kill it
  code = process.wait()
  signal.setitimer(signal.ITIMER_REAL, 0)
  if received.count(signal.SIGALRM) > 1:
    fail(
      'the training did not stop in time and was killed. What came after its last checkpoint is lost. To '
      f'continue from there, with more minutes if there is none:\n  {again}',
      code=1,
    )
  if received and code in (128 + signal.SIGTERM, -signal.SIGTERM):
    if asked := [number for number in received if number != signal.SIGALRM]:
      return 128 + asked[0]
    print(f'out of time; resume with the same command:\n  {again}')
    return 0
  return code if code >= 0 else 128 - code


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
