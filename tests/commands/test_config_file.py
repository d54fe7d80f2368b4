"""Configuration files of one's own: what goes wrong in them is told by file, line, field."""

import argparse
import os
import pathlib
import re
import subprocess
import sys

import pytest
from layouts import write_labelled_folder

from dense_aspp_jax.commands.config_file import read_config_file, shipped_configs
from dense_aspp_jax.commands.main import COMMANDS, main
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.training.config import parse_config, plain

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(path.stem for path in shipped_configs().glob('*.py'))


def read(path, *overrides):
  return read_config_file(argparse.Namespace(config=str(path), config_arguments=list(overrides)))


def copied(folder, line, name='mine.py'):
  """A configuration with a line of one's own, its sixth."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / name
  head = 'from configs import default\n\n\ndef get_config():\n  config = default.get_config()\n'
  path.write_text(f'{head}  {line}\n  return config\n')
  return path


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('x = config.optimizer.lr', "line 6 (x = config.optimizer.lr): no field 'lr' in config.optimizer;"),
    ('config.optimizer.lr = 1', 'line 6 (config.optimizer.lr = 1): unknown field config.optimizer.lr'),
    ("config.seed = 'a'", "line 6 (config.seed = 'a'): field 'seed' expects int, but 'a' is str"),
    ('config.seed = = 3', 'line 6 (config.seed = = 3): SyntaxError'),
    ('from configs import nothing', 'line 6 (from configs import nothing): ImportError'),
    ('undefined.x = 3', "line 6 (undefined.x = 3): NameError: name 'undefined'"),
    ('raise SystemExit(3)', 'line 6 (raise SystemExit(3)): SystemExit'),
    ('return', 'get_config() returned NoneType; expected a ConfigDict'),
  ],
)
def test_an_error_in_a_copied_configuration_has_its_line_and_field(tmp_path, line, message, capsys):
  path = copied(tmp_path, line)
  assert main(['parameters', f'--config={path}']) == 2
  error = capsys.readouterr().err
  assert error.startswith(f'dense-aspp parameters: --config={path}')
  assert message in error
  assert error.count('\n') == 1
  assert len(error) - len(str(path)) < 300


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'config = 3\n', 'no function get_config'),
    (b'def get_config():\n\treturn 1\n  return 2\n', 'line 3'),
    (b'\xff\xfe\x00', 'SyntaxError'),
    (b'def get_config(name):\n  return name\n', 'TypeError: get_config() missing 1 required'),
  ],
)
def test_what_is_no_configuration_is_named(tmp_path, content, message):
  path = tmp_path / 'mine.py'
  path.write_bytes(content)
  with pytest.raises(InputError, match=re.escape(message)):
    read(path)


def test_an_error_in_a_file_that_is_imported_names_that_file(tmp_path):
  base = copied(tmp_path / 'configs', 'config.seeds', 'base.py')
  path = tmp_path / 'configs' / 'mine.py'
  path.write_text('from configs.base import get_config\n')
  with pytest.raises(
    InputError,
    match=re.escape(
      f"--config={path}: {base}, line 6 (config.seeds): no field 'seeds', did you mean 'seed'?"
    ),
  ):
    read(path)


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('--config.optimizer.lr=3', 'unknown field config.optimizer.lr'),
    ('--config.optimizers.name=sgd', 'unknown field config.optimizers.name'),
    ('--config.optimizer.learning_rate=fast', 'expected a number'),
    ('--config.optimizer.learning_rate', 'expected a number'),
    ('--config.training.batch_size=2.5', 'expected an integer'),
    ('--config.model.skip_head=maybe', 'expected true or false'),
    ('--config.data.image_size=(64,128', 'expected a tuple'),
    (f'--config.model.dilation_rates={"-" * 50_000}1', 'expected a tuple'),
  ],
)
def test_an_override_that_is_wrong_is_named_with_what_is_expected(override, message):
  with pytest.raises(InputError) as error:
    read('camvid', override)
  assert str(error.value).startswith(f'{override[:300]}: {message}')


@pytest.mark.parametrize(('values', 'expected'), [(('a', 'None'), None), (('None', 'a'), 'a')])
def test_the_last_of_two_overrides_counts(values, expected):
  config = read('camvid', *(f'--config.data.data_dir={value}' for value in values))
  assert config.data.data_dir == expected


def test_a_file_below_the_home_directory_and_a_url(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'mine.py').write_text('from configs.camvid import get_config')
  assert read('~/mine.py').data.dataset == 'camvid'
  with pytest.raises(InputError, match=r'gs://bucket/mine\.py: a URL'):
    read('gs://bucket/mine.py')


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('import os; os.environ["MY_DATA"]', r'KeyError: MY_DATA'),
    ('open("/nowhere/x.json")', r"FileNotFoundError: .* No such file or directory: '/nowhere/x.json'"),
    ('b"\\xff".decode()', r"UnicodeDecodeError: 'utf-8' codec can't decode"),
  ],
)
def test_errors_that_are_not_of_the_configuration_keep_their_own_words(line, message, tmp_path):
  (tmp_path / 'mine.py').write_text(f'from configs.camvid import get_config\n{line}\n')
  with pytest.raises(InputError, match=rf'line 2 .*{message}'):
    read(tmp_path / 'mine.py')


def test_overrides_of_every_type_are_taken():
  config = read(
    'camvid',
    '--config.optimizer.learning_rate=1e-2',
    '--config.training.num_epochs=3',
    '--config.model.skip_head=false',
    '--config.data.on_device',
    '--config.data.image_size=64,128',
    '--config.augmentation.crop_size=None',
    '--config.data.data_dir=None',
    '--config.init.run=runs/a',
    '--config.data.held_out=a',
    '--config.data.held_out=b',
    '--config.seed=7',
  )
  assert config.data.held_out == ('a', 'b')
  assert (config.optimizer.learning_rate, config.training.num_epochs, config.seed) == (1e-2, 3.0, 7)
  assert (config.model.skip_head, config.data.on_device) == (False, True)
  assert (config.data.image_size, config.augmentation.crop_size) == ((64, 128), None)
  assert (config.data.data_dir, config.init.run) == (None, 'runs/a')


@pytest.mark.parametrize(
  ('override', 'expected'),
  [
    ('camvid', 'camvid'),
    ('folder:/my data/x', 'folder:/my data/x'),
    ("('camvid','street_scenes')", ('camvid', 'street_scenes')),
    ("['camvid', 'folder:/x']", ['camvid', 'folder:/x']),
  ],
)
def test_one_data_set_or_several_are_taken_from_the_command_line_and_from_a_file(
  override, expected, tmp_path
):
  several = copied(tmp_path, "config.data.update(dataset=('camvid', 'folder:x'), shares=(2, 6))")
  assert read(several).data.dataset == ('camvid', 'folder:x')
  plain_string = copied(tmp_path, "del config.data.dataset; config.data.dataset = 'cityscapes'", 'plain.py')
  for path in ('camvid', several, plain_string):
    config = read(path, f'--config.data.dataset={override}', '--config.data.shares=3,5')
    assert (config.data.dataset, config.data.shares) == (expected, (3, 5))
  pairs = read('camvid', "--config.data.class_map=(('tree', 'vegetation'), ('car', 'ignore'))").data.class_map
  assert pairs == (('tree', 'vegetation'), ('car', 'ignore'))


@pytest.mark.parametrize('value', ['3', 'None', "('camvid', 4)", ''])
def test_a_data_set_of_another_type_is_named_in_one_line(value, capsys):
  assert main(['parameters', '--config=camvid', f'--config.data.dataset={value}']) == 2
  error = capsys.readouterr().err
  assert 'config.data.dataset = ' in error
  assert "expected a name or 'folder:PATH', or a tuple of these, each once" in error
  assert error.count('\n') == 1


def test_a_file_with_a_colon_in_its_path(tmp_path):
  assert read(copied(tmp_path / 'run 1:2', 'config.seed = 4')).seed == 4


def test_a_file_in_the_root_folder(tmp_path, monkeypatch):
  """Where no test should write: it only seems to be there."""
  content, path = copied(tmp_path, 'config.seed = 4').read_bytes(), pathlib.Path('/mine of nobody.py')
  is_file, read_bytes = pathlib.Path.is_file, pathlib.Path.read_bytes
  monkeypatch.setattr(pathlib.Path, 'is_file', lambda self: self == path or is_file(self))
  monkeypatch.setattr(pathlib.Path, 'read_bytes', lambda self: content if self == path else read_bytes(self))
  assert read(path).seed == 4


def test_a_file_without_the_fields_of_later_versions_has_them(tmp_path):
  line = 'del config.init.run; del config.optimizer.extractor_learning_rate_factor'
  config = read(copied(tmp_path, line), '--config.init.run=runs/a')
  assert (config.init.run, config.optimizer.extractor_learning_rate_factor) == ('runs/a', 1.0)


def test_configs_are_ours_whatever_is_on_the_python_path(tmp_path):
  """In a process of its own: here `configs` is imported already."""
  for project in (tmp_path / 'other', tmp_path / 'namespace'):
    (project / 'configs').mkdir(parents=True)
    (project / 'configs' / 'default.py').write_text('raise SystemError("of another project")\n')
  (tmp_path / 'other' / 'configs' / '__init__.py').touch()
  own = copied(tmp_path / 'elsewhere', 'config.seed = 5')
  (tmp_path / 'project' / 'configs').mkdir(parents=True)
  (tmp_path / 'project' / 'configs' / 'base.py').write_text('SEED = 6\n')
  beside = copied(tmp_path / 'project' / 'configs', 'from configs import base; config.seed = base.SEED')
  code = (
    'import argparse, sys\n'
    'from dense_aspp_jax.commands.config_file import read_config_file\n'
    'for path in sys.argv[1:]:\n'
    '  print(read_config_file(argparse.Namespace(config=path, config_arguments=[])).seed)\n'
  )
  path = os.pathsep.join(map(str, (tmp_path / 'other', tmp_path / 'namespace', ROOT)))
  result = subprocess.run(
    [sys.executable, '-c', code, 'camvid', str(own), str(beside)],
    env={**os.environ, 'PYTHONPATH': path},
    capture_output=True,
    text=True,
    check=False,
    cwd=tmp_path / 'other',
  )
  assert result.stdout.split() == ['0', '5', '6'], result.stderr


@pytest.mark.parametrize('name', NAMES)
def test_a_printed_configuration_stands_alone_and_is_the_same(name, tmp_path, monkeypatch, capsys):
  write_labelled_folder(tmp_path / 'my_scenes', {'validation': 1}, num_ids=20)  # for fine_tune
  monkeypatch.chdir(tmp_path)
  assert main(['config', name, '--config.seed=3']) == 0
  path = tmp_path / 'mine.py'
  path.write_text(capsys.readouterr().out)
  assert 'from configs' not in path.read_text()
  expected, found = read(name, '--config.seed=3'), read(path)
  assert plain(found) == plain(expected)
  assert parse_config(found) == parse_config(expected)
  read(
    path,
    '--config.init.run=runs/a',
    '--config.augmentation.crop_size=(32, 64)',
    '--config.data.data_dir=None',
  )


def test_a_printed_configuration_takes_one_data_set_or_several(tmp_path, capsys):
  several = "--config.data.dataset=('camvid', 'street_scenes')"
  for options, expected in (([], 'camvid'), ([several], ('camvid', 'street_scenes'))):
    assert main(['config', 'camvid', *options]) == 0
    (tmp_path / 'configs').mkdir(exist_ok=True)
    (tmp_path / 'configs' / 'printed.py').write_text(capsys.readouterr().out)
    assert read(tmp_path / 'configs' / 'printed.py').data.dataset == expected
    path = tmp_path / 'configs' / 'mine.py'
    for changed in ("('street_scenes', 'camvid')", "'street_scenes'"):
      path.write_text(
        'from configs import printed\n\n\ndef get_config():\n  config = printed.get_config()\n'
        f'  config.data.dataset = {changed}\n  return config\n'
      )
      assert repr(read(path).data.dataset) == changed


def test_a_printed_configuration_says_of_no_changed_value_that_it_is_the_slides(capsys):
  assert main(['config', 'default', '--config.optimizer.learning_rate=0.5']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert '  config.optimizer.learning_rate = 0.5' in lines
  assert '  config.optimizer.weight_decay = 1e-5  # slides' in lines


def test_the_configurations_are_listed_with_what_they_are(capsys):
  assert main(['config']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == NAMES
  assert any('CamVid from scratch' in line for line in lines)
  assert main(['config', '--config=camvid']) == 2
  assert 'expected `dense-aspp config NAME`' in capsys.readouterr().err


def test_the_package_is_a_program_whose_commands_a_shell_can_complete():
  """By the line of docs/training.md."""
  documented = (ROOT / 'docs' / 'training.md').read_text()
  (line,) = (line for line in documented.splitlines() if line.startswith('complete '))
  command = re.search(r'"\$\((.*)\)"', line)[1].replace('dense-aspp', f'{sys.executable} -m dense_aspp_jax')
  words = subprocess.run(
    command, shell=True, capture_output=True, text=True, check=True, cwd=ROOT
  ).stdout.split()
  assert words == list(COMMANDS)
