"""The JSON files of a run, edited by hand: each edit is accepted, or refused by one message."""

import copy
import itertools
import json
import random
import types

import jaxtyping
import pytest
from PIL import Image
from results_example import add_evaluation, make_config, make_run
from tiny_network import OVERRIDES

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import read_json
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.results.runs import read_run
from dense_aspp_jax.results.summary import summarize
from dense_aspp_jax.results.table import markdown, text
from dense_aspp_jax.training import workdir as workdirs

FILES = (
  'config.json', 'labels.json', 'data.json', 'provenance.json', 'scores.json', 'evaluations/a.json'
)  # fmt: skip
REMOVED = object()
VALUES = (
  None, 'x', '', 1.5, -1, 0, 10**400, float('nan'), True, [], {}, [1], ['a'], {'a': 1}, REMOVED
)  # fmt: skip
COMMANDS = ('predict', 'evaluate', 'recalibrate', 'similarity', 'remove-layers', 'report', 'results', 'train')


@pytest.fixture(autouse=True)
def _without_checks_of_annotations():
  """Only tests have them: values reach the checks of the configuration."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


@pytest.fixture
def workdir(tmp_path):
  """A finished run without checkpoints."""
  workdir = make_run(tmp_path / 'run')
  add_evaluation(workdir, 'a', 0.4)
  return workdir


def places(data, path=()):
  """The paths of all values in JSON data, of lists those of the first two."""
  yield path
  if isinstance(data, dict | list):
    keys = data if isinstance(data, dict) else range(min(2, len(data)))
    for key in keys:
      yield from places(data[key], (*path, key))


def edited(data, path, value):
  if not path:
    return None if value is REMOVED else value
  data = copy.deepcopy(data)
  inner = data
  for key in path[:-1]:
    inner = inner[key]
  if value is REMOVED:
    del inner[path[-1]]
  else:
    inner[path[-1]] = value
  return data


def resume(workdir, stored):
  split = types.SimpleNamespace(name='train', label_set=CAMVID_11, fingerprint='ab', former_fingerprint='cd')
  sized = type('Split', (), {**vars(split), '__len__': lambda _: 367})()
  workdirs.check(workdir, stored, CAMVID_11)
  with workdirs.begin(workdir, stored, CAMVID_11, {'train': sized}):
    workdirs.record_start(workdir, stored, 0, {})
  workdirs.scored_step(workdir)


def results(workdir, stored):
  del stored
  found = summarize(read_run(workdir))
  markdown(found)
  text(found)


@pytest.mark.parametrize('use', [resume, results])
def test_an_edit_is_accepted_or_refused_by_one_line(workdir, use, monkeypatch):
  monkeypatch.setattr(workdirs, 'provenance', dict)  # git takes long
  stored = workdirs.to_store(workdir, make_config())
  contents = {name: (workdir / name).read_text() for name in FILES}
  rng = random.Random(0)
  refused = 0
  for name in FILES:
    data = json.loads(contents[name])
    edits = rng.sample(list(itertools.product(places(data), VALUES)), 25)
    for path, value in edits:
      (workdir / name).write_text(json.dumps(edited(data, path, value)))
      message = ''
      try:
        use(workdir, stored)
      except InputError as error:
        message = str(error)
      except Exception as error:
        raise AssertionError(f'{name}, {path}: {value!r}') from error
      assert '\n' not in message, (name, path, value)
      refused += bool(message)
      for changed in FILES if use is resume else [name]:
        (workdir / changed).write_text(contents[changed])
  assert refused > 30


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    (('data', 'image_size'), None, 'config.data.image_size = None: expected (height, width)'),
    (('data', 'image_size'), [64], 'config.data.image_size = (64,)'),
    (('data', 'image_size'), 'x', "config.data.image_size = 'x'"),
    (('data', 'mean'), 'abc', "config.data.mean = 'abc': expected three numbers"),
    (('data', 'mean'), [0.5], 'config.data.mean = (0.5,)'),
    (('data', 'std'), [0, 0, 0], 'config.data.std = (0, 0, 0): expected three numbers above 0'),
    (('training',), None, 'config.training = None'),
    (('training', 'batch_size'), REMOVED, 'missing field config.training.batch_size'),
    (('evaluation', 'batch_size'), '8', "config.evaluation.batch_size = '8': expected an integer"),
    (('model', 'bottleneck_width'), 1.5, 'config.model.bottleneck_width = 1.5: expected an integer'),
    (('model', 'speed'), 1, 'unknown field config.model.speed'),
    (('model', 'extractor'), 'vgg', "config.model.extractor = 'vgg'"),
    (('model',), REMOVED, 'config.model = None'),
    (('optimizer', 'name'), [], 'config.optimizer.name'),
    (('seed',), 'x', "config.seed = 'x'"),
    ((), [], 'expected the sections of a configuration'),
    ((), None, 'expected the sections of a configuration'),
  ],
)
def test_every_command_names_the_field_of_a_configuration_that_was_edited(
  workdir, tmp_path, capsys, path, value, message
):
  config = workdir / 'config.json'
  config.write_text(json.dumps(edited(json.loads(config.read_text()), path, value)))
  Image.new('RGB', (64, 32)).save(tmp_path / 'a.png')
  options = {
    'predict': [f'--workdir={workdir}', f'--output={tmp_path}/out', f'{tmp_path}/a.png'],
    'results': [str(workdir)],
    'train': [f'--workdir={workdir}', '--config=camvid', *OVERRIDES],
  }
  for command in COMMANDS:
    assert main([command, *options.get(command, [f'--workdir={workdir}'])]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f'dense-aspp {command}: {config}: '), last
    assert message in last


def test_deeply_nested_json_is_refused(workdir):
  (workdir / 'config.json').write_text('[' * 100_000)
  with pytest.raises(InputError, match=r'config\.json: cannot be read as JSON'):
    workdirs.read_config(workdir)
  (workdir / 'config.json').write_text('NaN')
  with pytest.raises(InputError, match='NaN'):
    read_json(workdir / 'config.json', '')
