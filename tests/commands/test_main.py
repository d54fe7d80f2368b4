import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from PIL import Image

from configs import default
from dense_aspp_jax.__main__ import main as entry
from dense_aspp_jax.commands.config_file import read_config_file
from dense_aspp_jax.commands.main import COMMANDS, main
from dense_aspp_jax.errors import InputError, RunError, Stopped
from dense_aspp_jax.models.counts import count_parameters
from dense_aspp_jax.models.segmentation import create_model

ROOT = pathlib.Path(__file__).parents[2]
DEFAULT = str(ROOT / 'configs' / 'default.py')


def test_every_command_is_described_by_its_modules_first_line():
  for name, text in COMMANDS.items():
    module = __import__(f'dense_aspp_jax.commands.{name.replace("-", "_")}', fromlist=['run'])
    assert module.__doc__.splitlines()[0] == text


@pytest.mark.parametrize(
  ('raised', 'code', 'text'),
  [
    (InputError('bad path'), 2, 'bad path'),
    (RunError('went wrong'), 1, 'went wrong'),
    (OSError(28, 'No space left on device'), 1, 'No space left on device'),
    (KeyboardInterrupt(), 130, 'stopped by SIGINT'),
    (Stopped(signal.SIGTERM, 'saved'), 143, 'saved'),
  ],
)
def test_errors_become_exit_codes_and_one_line(raised, code, text, monkeypatch, capsys):
  def fail(args):
    raise raised

  monkeypatch.setattr('dense_aspp_jax.commands.parameters.run', fail)
  assert main(['parameters', f'--config={DEFAULT}']) == code
  assert capsys.readouterr().err == f'dense-aspp parameters: {text}\n'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_unwinds_any_command(monkeypatch, capsys, number):
  undone = []

  def work(args):
    try:
      os.kill(os.getpid(), number)
      time.sleep(10)
    finally:
      undone.append(True)

  monkeypatch.setattr('dense_aspp_jax.commands.parameters.run', work)
  before = signal.getsignal(number)
  assert main(['parameters', f'--config={DEFAULT}']) == 128 + number
  assert capsys.readouterr().err == f'dense-aspp parameters: stopped by {number.name}\n'
  assert undone
  assert signal.getsignal(number) is before


INTERRUPT_AT_IMPORT = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background process
class Interrupter:
  def find_spec(self, name, *_):
    if name == {name!r}:
      os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupter())
sys.argv = ['train.py', 'train', '--config=camvid', '--workdir=never']
runpy.{run}
"""


TRAIN_SCRIPT = "run_path('train.py', run_name='__main__')"
MODULE = "run_module('dense_aspp_jax', run_name='__main__', alter_sys=True)"


@pytest.mark.parametrize(
  ('run', 'name'), [(TRAIN_SCRIPT, 'tqdm'), (TRAIN_SCRIPT, 'dense_aspp_jax.training.train'), (MODULE, 'jax')]
)
def test_an_interrupt_during_the_imports_is_its_exit_code_and_nothing_else(run, name):
  code = INTERRUPT_AT_IMPORT.format(name=name, run=run)
  process = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert (process.returncode, process.stdout, process.stderr) == (130, '', '')


def test_an_interrupt_of_a_command_is_an_exception_again(monkeypatch):
  """Also where the process began with that of the entry point."""
  before = signal.getsignal(signal.SIGINT)
  undone = []

  def work(args):
    try:
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(10)
    finally:
      undone.append(True)

  monkeypatch.setattr('dense_aspp_jax.commands.parameters.run', work)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  assert entry(['parameters', f'--config={DEFAULT}']) == 130
  assert undone
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
  'command', ['evaluate', 'recalibrate', 'predict', 'similarity', 'remove-layers', 'report']
)
def test_without_a_device_no_checkpoint_is_blamed(command, tiny_run, monkeypatch, capsys):
  def fail(*_):
    raise RuntimeError("Unable to initialize backend 'cuda': no (set JAX_PLATFORMS='' to choose)")

  for name in ('devices', 'local_devices', 'process_index', 'process_count'):
    monkeypatch.setattr(jax, name, fail)
  options = {'predict': [str(ROOT / 'docs/images'), '--output=never']}.get(command, [])
  if command == 'similarity':
    options = ['--output=never']
  assert main([command, f'--workdir={tiny_run}', *options]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "no device to compute on (Unable to initialize backend 'cuda': no)" in line
  assert 'JAX_PLATFORMS=cpu' in line


@pytest.mark.parametrize('platform', ['cuda', pytest.param('nonsense', marks=pytest.mark.slow)])
def test_a_platform_that_is_not_there_is_named(platform, tiny_run):
  """JAX raises a bare AssertionError for the first."""
  command = [sys.executable, '-m', 'dense_aspp_jax', 'evaluate', f'--workdir={tiny_run}']
  environment = os.environ | {'JAX_PLATFORMS': platform, 'CUDA_VISIBLE_DEVICES': ''}
  process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
  assert process.returncode == 2
  (line,) = process.stderr.splitlines()
  assert line.startswith(f'dense-aspp evaluate: JAX_PLATFORMS={platform}: no device')


def test_an_assertion_that_has_nothing_to_do_with_devices_is_not_hidden(monkeypatch):
  def fail(args):
    raise AssertionError

  monkeypatch.setattr('dense_aspp_jax.commands.parameters.run', fail)
  with pytest.raises(AssertionError):
    main(['parameters', f'--config={DEFAULT}'])


def test_fields_are_overridden_on_the_command_line(capsys):
  arguments = ['--config.model.extractor=densenet_tiny', '--config.model.dilation_rates=(3, 6)']
  assert main(['parameters', f'--config={DEFAULT}', *arguments, '--json']) == 0
  config = default.get_config()
  config.model.extractor, config.model.dilation_rates = 'densenet_tiny', (3, 6)
  expected = count_parameters(create_model(**config.model), config.data.image_size)
  assert json.loads(capsys.readouterr().out) == expected


def test_the_table_of_parameters_ends_with_the_counts_of_the_parts(capsys):
  arguments = [f'--config={DEFAULT}', '--config.model.extractor=densenet_tiny']
  arguments += ['--config.data.image_size=(64, 128)']
  assert main(['parameters', *arguments]) == 0
  table = capsys.readouterr().out
  assert main(['parameters', *arguments, '--json']) == 0
  counts = json.loads(capsys.readouterr().out)
  *rows, gmac = [line.split() for line in table.splitlines() if line][-6:]
  assert rows == [
    [part, f'{counts[part]:,}']
    for part in ('extractor', 'dense_aspp', 'head', 'dense_aspp_and_head', 'total')
  ]
  assert gmac[:2] == [f'{counts["gmac"]:.2f}', 'gmac']
  assert '64x128' in gmac
  assert main(['parameters', *arguments[:2], '--config.data.image_size=(64, 64)', '--json']) == 0
  assert json.loads(capsys.readouterr().out)['gmac'] == pytest.approx(counts['gmac'] / 2)


@pytest.mark.parametrize(
  'command',
  ['evaluate', 'predict', 'similarity', 'remove-layers', 'receptive-field', 'report', 'recalibrate', 'pack'],
)
@pytest.mark.parametrize(
  ('options', 'loaded'),
  [
    ([], 'None None None'),
    (['--checkpoint=latest', '--weights=raw'], 'latest raw None'),
    (['--checkpoint=7', '--weights=ema', '--bn=recalibrated'], '7 ema recalibrated'),
  ],
)
def test_the_variables_asked_for_are_loaded(command, options, loaded, monkeypatch, tmp_path, capsys):
  def load(workdir, checkpoint, weights, bn='running'):
    raise InputError(f'{workdir} {checkpoint} {weights} {bn}')

  module = f'dense_aspp_jax.commands.{command.replace("-", "_")}'
  of_runs = command in ('recalibrate', 'pack')  # alone
  monkeypatch.setattr(f'{module}.{"load_run" if of_runs else "load_model"}', load)
  Image.new('RGB', (1, 1)).save(tmp_path / 'a.png')
  others = [] if command == 'recalibrate' else ['--output', str(tmp_path / 'out.safetensors')]
  if command == 'predict':
    others.append(str(tmp_path / 'a.png'))
  if command == 'recalibrate':  # from those of training
    options, loaded = options[:2], loaded.replace('recalibrated', 'None')
  if of_runs:
    checkpoint, weights, bn = loaded.split()
    loaded = f'{checkpoint.replace("None", "best")} {weights} {bn.replace("None", "running")}'
  assert main([command, '--workdir=runs/x', *options, *others]) == 2
  assert capsys.readouterr().err.endswith(f'dense-aspp {command}: runs/x {loaded}\n')


def test_a_batch_size_below_one_is_refused(capsys):
  assert main(['evaluate', '--workdir=x', '--batch-size=0']) == 2
  assert '--batch-size 0: expected at least 1' in capsys.readouterr().err


def test_a_configuration_imports_the_one_beside_it_from_anywhere(tmp_path, monkeypatch, capsys):
  folder = tmp_path / 'my_configs'
  folder.mkdir()
  (folder / 'base.py').write_text('from configs.default import get_config')
  (folder / 'mine.py').write_text('from my_configs.base import get_config')
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  before = list(sys.path)
  arguments = [f'--config={folder / "mine.py"}', '--config.model.extractor=densenet_tiny', '--json']
  assert main(['parameters', *arguments]) == 0
  assert json.loads(capsys.readouterr().out)['total'] > 0
  assert sys.path == before


def test_the_configurations_of_the_package_have_names_from_any_directory(tmp_path, monkeypatch, capsys):
  """Also for a file of one's own that begins with them, as docs/own_data.md has it."""
  own = tmp_path / 'configs' / 'mine.py'
  own.parent.mkdir()
  own.write_text('from configs import default\n\n\ndef get_config():\n  return default.get_config()\n')
  other = tmp_path / 'other' / 'configs'  # a package of another project
  other.mkdir(parents=True)
  (other / '__init__.py').touch()
  monkeypatch.chdir(other.parent)
  totals = []
  for config in ('default', str(own)):
    assert main(['parameters', f'--config={config}', '--json']) == 0
    totals.append(json.loads(capsys.readouterr().out)['total'])
  assert totals == [9_206_676] * 2


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=nowhere.py'], 'no such file'),
    (['--config=nowhere'], 'camvid, camvid_efficientnet_lite'),
    ([f'--config={DEFAULT}', '--config.model.growth_rat=3'], 'growth_rat'),
    ([f'--config={DEFAULT}', '--config.model.growth_rate=many'], 'growth_rate'),
    (
      [f'--config={DEFAULT}', '--config.data.mean=(0.5,)'],
      'config.data.mean = (0.5,): expected three numbers',
    ),
    ([f'--config={DEFAULT}', '--growth-rate=3'], 'unknown arguments: --growth-rate=3'),
    ([f'--config={DEFAULT}', '--config.model.extractor=vgg'], "model.extractor = 'vgg'"),
  ],
)
def test_bad_configuration_ends_with_2_and_names_the_field(arguments, message, capsys):
  assert main(['parameters', *arguments]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count('\n') == 1


def test_a_configuration_is_locked():
  config = read_config_file(argparse.Namespace(config=DEFAULT, config_arguments=['--config.seed=3']))
  assert (config.seed, config.is_locked, config.model.is_locked) == (3, True, True)


def test_an_error_in_a_configuration_file_is_bad_input(tmp_path, capsys):
  path = tmp_path / 'mine.py'
  path.write_text('def get_config(:\n')
  assert main(['parameters', f'--config={path}']) == 2
  assert 'SyntaxError' in capsys.readouterr().err


def test_unknown_arguments_of_a_command_without_configuration_are_refused(capsys):
  with pytest.raises(SystemExit) as exit_info:
    main(['evaluate', '--workdir=x', '--wokdir=y'])
  assert exit_info.value.code == 2
  assert 'unknown arguments: --wokdir=y' in capsys.readouterr().err


def test_help_imports_no_heavy_library():
  code = (
    'import sys; from dense_aspp_jax.commands.main import main\n'
    'try: main(["--help"])\n'
    'except SystemExit: print([m for m in ("jax", "tensorflow_datasets", "numpy") if m in sys.modules])'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT
  ).stdout
  assert out.splitlines()[-1] == '[]'


def test_the_backend_that_a_notebook_names_to_its_shell_is_not_needed(tmp_path):
  command = [sys.executable, '-m', 'dense_aspp_jax.commands.main', 'similarity', '--workdir', str(tmp_path)]
  environment = {**os.environ, 'MPLBACKEND': 'module://matplotlib_inline.backend_inline'}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert 'not the directory of a run' in done.stderr
