"""What the documents say can be done as they say it: commands, fields, links, files and Python."""

import importlib
import json
import pathlib
import re

import pytest
from documented_code import block_of, commands_of, run_python_of

from configs import default
from dense_aspp_jax.commands.config_file import read_config_file
from dense_aspp_jax.commands.main import COMMANDS, main
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.training.config import parse_config

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').glob('*.md'))]
READERS_OWN = 'configs/my_scenes.py'  # what docs/own_data.md has its reader write

documents = pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.stem)


def test_the_readme_is_short():
  assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 150


@documents
def test_its_commands_are_accepted(document, monkeypatch):
  monkeypatch.chdir(ROOT)
  for arguments in commands_of(document):
    name, *options = arguments
    assert name in COMMANDS or name.startswith('-'), arguments
    if not options or '--help' in options:
      continue
    parsed = []
    module = importlib.import_module(f'dense_aspp_jax.commands.{name.replace("-", "_")}')
    with monkeypatch.context() as patch:
      patch.setattr(module, 'run', lambda args, parsed=parsed: parsed.append(args) or 0)
      assert main(arguments) == 0, arguments
    if 'config' in parsed[0] and pathlib.Path(parsed[0].config or '').is_file():
      read_config_file(parsed[0])


@documents
def test_the_fields_it_names_exist(document):
  config = default.get_config()
  sections = '|'.join(name for name, value in config.items() if hasattr(value, 'items'))
  named = re.findall(
    rf'`(?:--)?(?:config\.)?({sections})\.(?!json)(\w+)', document.read_text(encoding='utf-8')
  )
  assert not [f'{section}.{field}' for section, field in named if field not in config[section]]


@documents
def test_the_files_it_names_exist(document):
  text = document.read_text(encoding='utf-8')
  links = re.findall(r'\]\((?!https?:)([^)#]+)', text)
  assert not [link for link in links if not (document.parent / link).exists()]
  folders = [path for root in (ROOT, ROOT / 'dense_aspp_jax') for path in root.iterdir() if path.is_dir()]
  names = '|'.join(path.name for path in folders if path.name not in ('data', 'runs'))  # what commands write
  for file in re.findall(rf'(?:[`=]|python )((?:{names})/[\w/]+\.\w+)', text):
    assert (
      (ROOT / file).exists()
      or (ROOT / 'dense_aspp_jax' / file).exists()
      or file == READERS_OWN
      or 'NAME' in file
    ), file


def test_the_readmes_python_predicts_a_photograph(tmp_path, monkeypatch):
  found = run_python_of(ROOT / 'README.md', tmp_path, monkeypatch)
  assert found['classes'].shape == (45, 60)
  assert found['network'].workdir.stem == 'streets'
  assert found['names']
  assert set(found['names']) <= set(CITYSCAPES_20.class_names)


def test_the_configuration_for_several_data_sets_is_accepted(tmp_path, monkeypatch):
  config = run_python_of(ROOT / 'docs' / 'training.md', tmp_path, monkeypatch)['get_config']()
  assert parse_config(config).data.datasets == ('camvid', 'street_scenes')


def test_the_configuration_for_own_data_fits_its_labels(tmp_path, monkeypatch):
  document = ROOT / 'docs' / 'own_data.md'
  config = run_python_of(document, tmp_path, monkeypatch)['get_config']()
  labels = LabelSet.from_json(json.loads(block_of(document, 'json')), 'labels.json')
  assert config.model.num_classes == labels.num_classes
  assert config.keys() == default.get_config().keys()
  for name, section in default.get_config().items():
    assert not hasattr(section, 'keys') or section.keys() == config[name].keys()
