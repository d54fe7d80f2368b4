"""The pack for machines without a network: what is carried, the copy of the data, the manifest, the limit."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import zipfile

import layouts
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image, JpegImagePlugin
from test_run_offline import write_wheel

from dense_aspp_jax.datasets.camvid import CAMVID
from dense_aspp_jax.datasets.open import open_split
from dense_aspp_jax.datasets.prepare import DATASETS
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_sets import CAMVID_11, load_label_set
from dense_aspp_jax.training.checkpoint_series import steps_in
from tools import pack_offline
from tools.offline import wheels
from tools.offline.wheels import Target, read_target

COUNTS = {'train': 8, 'validation': 3, 'test': 2}


@pytest.fixture
def segnet(tmp_path, monkeypatch):
  """Generated data in SegNet's layout, as many as are said to be published."""
  published = dataclasses.replace(CAMVID, counts=COUNTS, image_size=(24, 32))
  monkeypatch.setitem(DATASETS, 'camvid', published)
  folder = tmp_path / 'CamVid'
  layouts.write_camvid(folder, COUNTS, size=(24, 32))
  for path in folder.glob('*annot/*.png'):  # as no encoder of ours would write them
    with Image.open(path) as image:
      image.save(path, compress_level=0)
  return folder


# What a made-up index has: name -> what it requires.
INDEX = {
  'reader': ['Shared_Part>=2', 'codec[fast]', 'old-times; python_version < "3.12"', 'win; os_name == "nt"'],
  'shared-part': ['array>=1'],
  'codec': ['array', 'speed>=1; extra == "fast"', 'unused; extra == "slow"'],
  'speed': [],
  'table': ['heavy', 'heavier; python_version >= "3"', 'files; extra == "io"'],
  'files': ['array<3'],
}
PINS = {'reader': '1.0', 'shared-part': '2.1', 'codec': '4', 'speed': '1.5', 'table': '7', 'files': '1'}


@pytest.fixture
def collect(tmp_path, monkeypatch):
  """Collects wheels for requirements and what the target has; pip downloads from `INDEX`.

  Returns the packages carried, without ours, and what pip was asked for.
  """

  def collect(requirements, present):
    asked = []

    def pip(command, **_):
      _, _, _, _, action, *options = command
      folder = pathlib.Path(options[options.index('--wheel-dir' if action == 'wheel' else '--dest') + 1])
      if action == 'wheel':
        write_wheel(folder, 'dense_aspp_jax', '0.1', requirements)
      else:
        asked.append(options[options.index('--dest') + 2])
        name, _, version = asked[-1].partition('==')
        write_wheel(folder, name.replace('-', '_'), version, INDEX[name])
      return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(wheels.subprocess, 'run', pip)
    carried = wheels.collect_wheels(tmp_path / 'wheels', Target('3.12', present), 'abc', PINS)
    assert carried.pop('dense-aspp-jax') == '0.1'
    assert wheels.wheels_in(tmp_path / 'wheels').keys() == {'dense-aspp-jax', *carried}
    return carried, asked

  return collect


def test_what_the_target_lacks_is_carried_with_what_that_requires(collect):
  carried, asked = collect(['reader', 'array'], {'array': '2.0'})
  assert carried == {name: PINS[name] for name in ('reader', 'shared-part', 'codec', 'speed')}
  assert sorted(asked) == sorted(f'{name}=={version}' for name, version in carried.items())


def test_what_is_there_is_complete(collect):
  assert collect(['table'], {'table': None}) == ({}, [])


@pytest.mark.parametrize(('version', 'asked'), [(None, 'table==7'), ('6', 'table==6')])
def test_extras_of_what_is_there_are_carried(collect, version, asked):
  assert collect(['table[io]'], {'table': version, 'array': None}) == ({'files': '1'}, [asked, 'files==1'])


def test_all_that_does_not_fit_is_said_at_once(collect):
  with pytest.raises(InputError) as caught:
    collect(['table[io]>=5', 'codec>5', 'nowhere'], {'array': '3.1', 'table': '4.9', 'speed': None})
  assert str(caught.value).splitlines() == [
    'dense_aspp_jax requires codec>5; pinned is 4',
    'dense_aspp_jax requires nowhere, which the target lacks and no pin gives a version of',
    'dense_aspp_jax requires table[io]>=5; the target has 4.9',
    'files requires array<3; the target has 3.1',
    'correct the list of the target or constraints.txt',
  ]


def test_the_list_of_the_target_is_read(tmp_path):
  (tmp_path / 'target.txt').write_text('# a comment\npython==3.12\nJAX==0.11.2  # one more\nml_dtypes\n')
  target = read_target(tmp_path / 'target.txt')
  assert target == Target('3.12', {'jax': '0.11.2', 'ml-dtypes': None})
  for text, message in (
    ('jax', 'a line python==VERSION'),
    ('python>=3.12', 'python>=3.12 gives no version'),
    ('python 3.12', "'python 3.12' is not a package"),
  ):
    (tmp_path / 'target.txt').write_text(text)
    with pytest.raises(InputError, match=message):
      read_target(tmp_path / 'target.txt')


def test_the_pins_are_those_for_the_python_of_the_target(tmp_path):
  (tmp_path / 'pins.txt').write_text(
    '# a comment\njax==2 ; python_version >= "3.12"\njax==1 ; python_version < "3.12"\nPyYAML==6.0.3\n'
  )
  assert wheels.read_pins(tmp_path / 'pins.txt', Target('3.12', {})) == {'jax': '2', 'pyyaml': '6.0.3'}
  for text in ('jax>=1', '-e .'):
    (tmp_path / 'pins.txt').write_text(text)
    with pytest.raises(InputError, match='name==version'):
      wheels.read_pins(tmp_path / 'pins.txt', Target('3.12', {}))


def test_the_known_target_has_what_our_lower_bounds_ask_for():
  target = read_target(pack_offline.OFFLINE / 'target_packages.txt')
  ours = [r for r in map(Requirement, importlib.metadata.requires('dense_aspp_jax')) if target.applies(r)]
  lacking = {canonicalize_name(r.name) for r in ours} - target.packages.keys()
  assert {'grain', 'ml-collections', 'tensorflow-datasets', 'tensorboardx', 'array-record'} <= lacking
  assert not {'jax', 'flax', 'numpy', 'ml-dtypes', 'pillow', 'tensorflow', 'torch'} & lacking
  for requirement in ours:
    version = target.packages.get(canonicalize_name(requirement.name))
    assert version is None or version in requirement.specifier, requirement


@pytest.fixture
def without_index(monkeypatch):
  """Stands for pip: two small files as wheels."""

  def collect_wheels(folder, target, commit, pins):
    folder.mkdir()
    for name in ('dense_aspp_jax-0.1.0-py3-none-any.whl', 'toml-0.10.2-py3-none-any.whl'):
      (folder / name).write_text(f'{name} {commit}')
    return {'dense-aspp-jax': '0.1.0', 'toml': '0.10.2'}

  monkeypatch.setattr(pack_offline, 'collect_wheels', collect_wheels)


def pack(segnet, output, *options):
  arguments = ['--data=camvid', f'--source={segnet}', f'--output={output}', *options]
  return pack_offline.main(arguments)


def test_the_copy_is_jpeg_without_subsampling_and_labels_are_the_same_bytes(segnet, tmp_path, without_index):
  def copy(quality):
    assert pack(segnet, tmp_path / f'q{quality}', f'--quality={quality}') == 0
    record = json.loads((tmp_path / f'q{quality}' / 'manifest.json').read_text())['data']
    return tmp_path / f'q{quality}' / record['folder'], record

  folder, record = copy(95)
  assert record['images'] == {'train': 8, 'validation': 3}
  assert record['jpeg'] == {'quality': 95, 'subsampling': '4:4:4', 'progressive': True}
  assert load_label_set(str(folder / 'labels.json')) == CAMVID_11
  errors = []
  for split, name in (('train', 'train'), ('validation', 'val')):
    copied = open_split(f'folder:{folder}', split)
    assert len(copied) == COUNTS[split]
    for pair in copied:
      assert pair.label.read() == (segnet / f'{name}annot' / f'{pair.image_id}.png').read_bytes()
      with (
        Image.open(pair.image.where) as image,
        Image.open(segnet / name / f'{pair.image_id}.png') as original,
      ):
        assert (image.format, JpegImagePlugin.get_sampling(image)) == ('JPEG', 0)  # 0: 4:4:4
        errors.append(np.abs(np.asarray(image, np.float64) - np.asarray(original)))
  assert record['error']['mean'] == pytest.approx(np.mean(errors))
  assert record['error']['max'] == np.max(errors) > 0
  assert copy(50)[1]['error']['mean'] > 2 * record['error']['mean']


def test_data_that_are_not_as_published_are_refused(segnet, tmp_path, without_index, monkeypatch, capsys):
  (segnet / 'test.txt').rename(segnet / 'gone.txt')
  shutil.rmtree(segnet / 'test')
  assert pack(segnet, tmp_path / 'pack', '--test') == 2
  assert "no split 'test'" in capsys.readouterr().err
  monkeypatch.setitem(DATASETS, 'camvid', dataclasses.replace(CAMVID, image_size=(24, 32)))
  assert pack(segnet, tmp_path / 'pack') == 2
  assert 'train 8 (published: 367)' in capsys.readouterr().err


def test_the_manifest_describes_every_file(segnet, tmp_path, without_index, monkeypatch, capsys):
  monkeypatch.setattr(pack_offline, 'git_commit', lambda *_: 'abc+changes')
  weights = tmp_path / 'lite0'
  layouts.write_tree(
    weights, {'weights.json': b'{}', 'checkpoint/params/d': b'1', 'checkpoint/classifier/d': b'unused'}
  )
  output = tmp_path / 'pack'
  assert pack(segnet, output, f'--weights={weights}', '--test', '--quality=90') == 0
  manifest = json.loads((output / 'manifest.json').read_text())
  files = {p.relative_to(output).as_posix(): p for p in output.rglob('*') if p.is_file()}
  del files['manifest.json']
  assert manifest['files'] == {
    name: {'bytes': p.stat().st_size, 'sha256': hashlib.sha256(p.read_bytes()).hexdigest()}
    for name, p in files.items()
  }
  assert {
    'run.sh',
    'run.py',
    'README.txt',
    'train.py',
    'configs/camvid.py',
    'configs/default.py',
  } <= files.keys()
  assert {'weights/lite0/weights.json', 'weights/lite0/checkpoint/params/d'} <= files.keys()
  assert not any('classifier' in name or '__pycache__' in name for name in files)
  assert manifest['git_commit'] == 'abc+changes'
  assert manifest['python'] == '3.12'
  assert manifest['packages']['carried'] == {'dense-aspp-jax': '0.1.0', 'toml': '0.10.2'}
  assert manifest['packages']['expected']['jax'] == '0.11.2'
  data = manifest['data']
  assert (data['folder'], data['images'], data['jpeg']['quality']) == ('data/camvid_jpeg_q90', COUNTS, 90)
  assert 'non-commercial' in data['licence']
  assert sum(manifest['bytes'].values()) == sum(p.stat().st_size for p in files.values())
  assert set(manifest['bytes']) == {'data', 'wheels', 'weights', 'configs', 'files'}
  assert f'differ by {data["error"]["mean"]:.2f} of 255' in capsys.readouterr().out


def test_a_pack_above_the_limit_is_not_written(segnet, tmp_path, without_index, capsys):
  before = set(tmp_path.iterdir())
  assert pack(segnet, tmp_path / 'pack', '--limit-mib=0.01') == 2
  assert set(tmp_path.iterdir()) == before
  error = capsys.readouterr().err
  assert 'expected at most 0.01 MiB (--limit-mib). Nothing was written' in error
  assert 'data 0.0, ' in error


def test_a_folder_that_holds_something_and_weights_that_are_none_are_refused(segnet, tmp_path, capsys):
  (tmp_path / 'pack').mkdir()
  (tmp_path / 'pack' / 'mine').write_text('')
  assert pack(segnet, tmp_path / 'pack') == 2
  assert 'expected a new or an empty folder' in capsys.readouterr().err
  assert pack(segnet, tmp_path / 'new', f'--weights={segnet}') == 2
  assert 'no weights.json; expected what `dense-aspp convert` wrote' in capsys.readouterr().err
  assert not (tmp_path / 'new').exists()


def test_what_pip_says_is_said(segnet, tmp_path, monkeypatch, capsys):
  def fail(command, **_):
    return subprocess.CompletedProcess(command, 1, '', 'WARNING: x\nERROR: No matching distribution found\n')

  monkeypatch.setattr(wheels.subprocess, 'run', fail)
  monkeypatch.setattr(pack_offline, 'git_commit', lambda *_: None)
  assert pack(segnet, tmp_path / 'pack') == 1
  assert capsys.readouterr().err.endswith('pip wheel failed: ERROR: No matching distribution found\n')
  assert not (tmp_path / 'pack').exists()


TRAINING = [
  '--config.model.extractor=densenet_tiny',
  '--config.model.dilation_rates=(1, 2)',
  '--config.model.growth_rate=4',
  '--config.model.bottleneck_width=8',
  '--config.model.compute_dtype=float32',
  '--config.data.image_size=(24, 32)',
  '--config.augmentation.crop_size=(24, 32)',
  '--config.optimizer.schedule=constant',  # so that a resumed run may have another end
  '--config.optimizer.warmup_steps=0',
  '--config.checkpoint.every_epochs=1e6',
  '--config.evaluation.every_epochs=1e6',
  '--config.evaluation.num_pictures=1',
]


def closure(names):
  """Installed packages by name with all that they require, as far as it is installed here."""
  found = set()
  pending = {canonicalize_name(name) for name in names}
  while pending:
    name = pending.pop()
    try:
      requires = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
      continue
    found.add(name)
    needed = {
      r.name for r in map(Requirement, requires) if r.marker is None or r.marker.evaluate({'extra': ''})
    }
    pending |= {canonicalize_name(n) for n in needed} - found
  return found


@pytest.fixture
def target_python(tmp_path):
  """A Python that has what the target has, of the packages installed here, and the list of them."""
  names = read_target(pack_offline.OFFLINE / 'target_packages.txt').packages
  present = closure(set(names) & {canonicalize_name(d.name) for d in importlib.metadata.distributions()})
  linked = tmp_path / 'linked'
  linked.mkdir()
  for name in present:
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files} - {'..', '__pycache__'}:
      if not (linked / top).exists():
        (linked / top).symlink_to(distribution.locate_file(top))
  python = tmp_path / 'venv' / 'bin' / 'python'
  subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
  asked = 'import sysconfig; print(sysconfig.get_path("purelib"))'
  site = subprocess.run([python, '-c', asked], check=True, capture_output=True, text=True).stdout.strip()
  pathlib.Path(site, 'target.pth').write_text(f'{linked}\n')
  version = '.'.join(map(str, sys.version_info[:2]))
  target = tmp_path / 'target.txt'
  target.write_text('\n'.join([f'python=={version}', *sorted(present)]))
  return python, target


@pytest.mark.slow
@pytest.mark.skipif(
  (platform.system(), platform.machine()) != ('Linux', 'x86_64'), reason='the wheels are for Linux on x86_64'
)
def test_a_pack_installs_trains_stops_in_time_and_resumes(segnet, target_python, tmp_path, capsys):
  probe = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--dest', tmp_path / 'probe', 'toml==0.10.2']
  if subprocess.run(probe, capture_output=True, check=False).returncode:
    pytest.skip('pip finds no package index')
  python, target = target_python
  folder, workdir = tmp_path / 'pack', tmp_path / 'runs' / 'tiny'
  assert pack(segnet, folder, f'--target={target}') == 0, capsys.readouterr().err
  carried = json.loads((folder / 'manifest.json').read_text())['packages']['carried']
  lacking = subprocess.run([python, '-c', 'import grain'], capture_output=True, text=True, check=False)
  assert 'No module named' in lacking.stderr
  with zipfile.ZipFile(wheels.wheels_in(folder / 'wheels')['dense-aspp-jax']) as archive:
    tops = {name.split('/')[0] for name in archive.namelist()}
    assert tops == {'dense_aspp_jax', f'dense_aspp_jax-{carried["dense-aspp-jax"]}.dist-info'}

  def run(minutes, epochs):
    fields = [*TRAINING, f'--config.training.num_epochs={epochs}']
    return subprocess.run(
      ['bash', folder / 'run.sh', 'configs/camvid.py', str(minutes), workdir, *fields],
      capture_output=True,
      text=True,
      check=False,
      env={**os.environ, 'PYTHON': str(python), 'PIP_NO_INDEX': '1', 'PIP_INDEX_URL': 'http://127.0.0.1:9'},
    )

  cut_off = run(1.5, 1e6)
  assert cut_off.returncode == 0, cut_off.stderr
  assert 'out of time; resume with the same command' in cut_off.stdout
  assert f'installed {len(carried)} wheels' in cut_off.stdout
  (step,) = steps_in(workdir / 'checkpoints' / 'latest')
  resumed = run(9, float(step + 2))  # one step is an epoch
  assert resumed.returncode == 0, resumed.stderr
  assert f'resuming at step {step} of {step + 2}' in resumed.stderr
  assert 'installed' not in resumed.stdout
  scores = json.loads((workdir / 'scores.json').read_text())
  assert (scores['step'], scores['images']) == (step + 2, COUNTS['validation'])
  starts = json.loads((workdir / 'provenance.json').read_text())
  assert [start['step'] for start in starts] == [0, step]
  commit = json.loads((folder / 'manifest.json').read_text())['git_commit']
  assert {start['git_commit'] for start in starts} == {commit}
  assert (workdir / 'report.html').is_file()
