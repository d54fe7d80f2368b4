"""run.sh of a pack: checks, installation, the time limit; with a stand-in for the training."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import fault_runs
import pytest

from tools import pack_offline

# Writes down how it was called, then does what its configuration says.
TRAIN = """
import json, os, pathlib, signal, sys, time
import carried
args = dict(a.split('=', 1) for a in sys.argv[1:])
behaviour = pathlib.Path(args['--config']).read_text()
workdir = pathlib.Path(args['--workdir'])
workdir.mkdir(parents=True, exist_ok=True)
def save(number, frame):
  (workdir / 'saved').write_text('')
  if behaviour == 'stops':
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(workdir / 'called.json').write_text(json.dumps([args, carried.VALUE, carried.__file__]))
if behaviour == 'fails':
  sys.exit(7)
while behaviour != 'ends':
  time.sleep(0.01)
"""
PYTHON_VERSION = '.'.join(map(str, sys.version_info[:2]))


def write_wheel(path, name, version, requires=()):
  """A wheel of one module `name` with `VALUE`."""
  info = f'{name}-{version}.dist-info'
  metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n' + ''.join(
    f'Requires-Dist: {text}\n' for text in requires
  )
  path.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(path / f'{name}-{version}-py3-none-any.whl', 'w') as archive:
    archive.writestr(f'{name}.py', 'VALUE = 42\n')
    archive.writestr(f'{info}/METADATA', metadata)
    archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    archive.writestr(f'{info}/RECORD', '')


def write_manifest(folder, python=PYTHON_VERSION):
  (folder / 'manifest.json').unlink(missing_ok=True)
  manifest = {
    'python': python,
    'data': {'folder': 'data/tiny'},
    'files': pack_offline.list_files(folder),
  }
  (folder / 'manifest.json').write_text(json.dumps(manifest))


def write_pack(folder, requires=('numpy>=2', 'nowhere; python_version < "3"')):
  write_wheel(folder / 'wheels', 'carried', '1.0', requires)
  (folder / 'configs').mkdir()
  for behaviour in ('ends', 'fails', 'stops', 'ignores'):
    (folder / 'configs' / f'{behaviour}.py').write_text(behaviour)
  (folder / 'data' / 'tiny').mkdir(parents=True)
  (folder / 'data' / 'tiny' / 'labels.json').write_text('{}')
  (folder / 'train.py').write_text(TRAIN)
  for name in ('run.sh', 'run.py'):
    shutil.copy(pack_offline.OFFLINE / name, folder)
  write_manifest(folder)


@pytest.fixture(scope='module')
def pack(tmp_path_factory):
  """Installed already, so that short times are enough."""
  folder = tmp_path_factory.mktemp('pack') / 'a pack'  # with a space
  write_pack(folder)
  assert run(folder, 'configs/ends.py', 5).returncode == 0
  return folder


def run(pack, *arguments):
  command = ['bash', pack / 'run.sh', *map(str, arguments)]
  environment = {**os.environ, 'PYTHON': sys.executable, 'PIP_INDEX_URL': 'http://127.0.0.1:9'}
  return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def sites(place):
  return [path.name for path in place.iterdir() if 'site' in path.name]


def test_it_installs_once_and_trains_with_what_is_packed(tmp_path):
  pack = tmp_path / 'a pack'
  write_pack(pack)
  done = run(pack, 'configs/ends.py', 5, tmp_path / 'work', '--config.training.batch_size=2')
  assert done.returncode == 0, done.stderr
  args, value, module = json.loads((tmp_path / 'work' / 'called.json').read_text())
  (site,) = sites(pack)
  assert (value, module) == (42, str(pack / site / 'carried.py'))
  assert args == {
    '--config': str(pack / 'configs' / 'ends.py'),
    '--workdir': str(tmp_path / 'work'),
    '--config.data.dataset': f'folder:{pack}/data/tiny',
    '--config.data.label_set': f'{pack}/data/tiny/labels.json',
    '--config.data.data_dir': str(pack),
    '--config.training.batch_size': '2',
  }
  assert done.stdout.startswith(f'installed 1 wheels into {pack / site}')
  again = run(pack, 'configs/fails.py', 5)
  assert (again.returncode, again.stdout) == (7, '')
  assert (pack / 'runs' / 'fails' / 'called.json').is_file()
  assert sites(pack) == [site]


def test_a_copied_pack_has_the_same_times(pack, tmp_path):
  copy = tmp_path / 'copy'
  shutil.copytree(pack, copy, copy_function=shutil.copyfile)
  assert run(copy, 'configs/ends.py', 5).returncode == 0
  assert (copy / 'data' / 'tiny' / 'labels.json').stat().st_mtime == 1_000_000_000


def test_when_the_time_is_up_the_training_saves(pack, tmp_path):
  began = time.monotonic()
  done = run(pack, 'configs/stops.py', 0.06, tmp_path / 'a b')
  assert done.returncode == 0, done.stderr
  assert time.monotonic() - began < 20
  assert (tmp_path / 'a b' / 'saved').is_file()
  assert 'out of time; resume with the same command' in done.stdout
  assert f"bash '{pack}/run.sh' configs/stops.py 0.06 '{tmp_path}/a b'" in done.stdout


def test_a_training_that_does_not_stop_is_ended(pack, tmp_path):
  done = run(pack, 'configs/ignores.py', 0.06, tmp_path / 'work')
  assert done.returncode == 1
  assert (tmp_path / 'work' / 'saved').is_file()
  assert 'did not stop in time and was killed' in done.stderr


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_from_outside_is_handed_on(pack, tmp_path, number, code):
  command = ['bash', pack / 'run.sh', 'configs/stops.py', '5', tmp_path / 'work']
  process = subprocess.Popen(command, env={**os.environ, 'PYTHON': sys.executable})
  deadline = time.monotonic() + 60
  while not (tmp_path / 'work' / 'called.json').exists() and time.monotonic() < deadline:
    time.sleep(0.02)
  process.send_signal(number)
  assert process.wait(timeout=30) == code
  assert (tmp_path / 'work' / 'saved').is_file()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['configs/ends.py'], 'required: minutes'),
    (['configs/ends.py', 'soon'], "invalid float value: 'soon'"),
    (['configs/ends.py', 'nan'], 'MINUTES nan; expected more than 0'),
    (['configs/ends.py', 1, 'work', 'more'], 'unrecognized arguments: more'),
    (['configs/ends.py', 1, '--bn=batch'], 'unrecognized arguments: --bn=batch'),
    (['configs/no.py', 1], 'configs/no.py: no such configuration; packed are configs/ends.py'),
  ],
)
def test_arguments_that_cannot_be_used_are_said(pack, tmp_path, arguments, message):
  done = run(pack, *arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert 'Traceback' not in done.stderr


def test_no_time_left_is_no_failure(pack, tmp_path):
  done = run(pack, 'configs/ends.py', 0.0001, tmp_path / 'work')
  assert done.returncode == 0, done.stderr
  assert 'no time is left to train' in done.stdout
  assert not (tmp_path / 'work').exists()


def damage(folder):
  path = folder / 'data' / 'tiny' / 'labels.json'
  path.write_text('{ }')


def lose(folder):
  (folder / 'configs' / 'stops.py').unlink()


def age(folder):
  write_manifest(folder, python='3.6')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (damage, '1 files are missing or differ from the packed ones (data/tiny/labels.json)'),
    (lose, '1 files are missing or differ from the packed ones (configs/stops.py)'),
    (age, f'is Python {PYTHON_VERSION}; the wheels are for 3.6'),
  ],
)
def test_a_pack_that_does_not_fit_is_refused(tmp_path, change, message):
  folder = tmp_path / 'pack'
  write_pack(folder)
  change(folder)
  done = run(folder, 'configs/ends.py', 5)
  assert done.returncode == 2
  assert message in done.stderr
  assert not sites(folder)


def test_a_machine_that_lacks_more_is_refused(tmp_path):
  folder = tmp_path / 'pack'
  write_pack(folder, ['nowhere>=2', 'numpy<1', 'pytest; extra == "dev"'])
  done = run(folder, 'configs/ends.py', 5)
  assert done.returncode == 2
  assert 'carried requires nowhere>=2; found: none\n' in done.stderr
  assert 'carried requires numpy<1; found: 2' in done.stderr
  assert 'pytest' not in done.stderr
  assert not (folder / 'runs').exists()


def test_a_failed_installation_leaves_nothing(tmp_path):
  folder = tmp_path / 'pack'
  write_pack(folder)
  (folder / 'wheels' / 'carried-1.0-py3-none-any.whl').write_bytes(b'no archive')
  write_manifest(folder)
  done = run(folder, 'configs/ends.py', 5)
  assert done.returncode == 1
  assert 'the wheels cannot be installed: ERROR' in done.stderr
  assert not sites(folder)


@pytest.mark.skipif(not fault_runs.can_mount(), reason='no file system may be mounted here')
def test_a_pack_that_cannot_be_written_is_installed_beside_the_run(tmp_path):
  folder, workdir = tmp_path / 'pack', tmp_path / 'runs' / 'work'
  write_pack(folder)
  script = (
    f'mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && '
    f'bash {folder}/run.sh configs/ends.py 5; echo $?; bash {folder}/run.sh configs/ends.py 5 {workdir}'
  )
  environment = {**os.environ, 'PYTHON': sys.executable}
  command = ['unshare', '-rm', 'bash', '-c', script]
  done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith('2\n')
  assert 'cannot be written; give a WORKDIR that lies elsewhere' in done.stderr
  (site,) = sites(tmp_path / 'runs')
  args, _, module = json.loads((workdir / 'called.json').read_text())
  assert pathlib.Path(module).parent == tmp_path / 'runs' / site
  assert args['--config.data.data_dir'] == str(tmp_path / 'runs')
  assert not sites(folder)
