import hashlib
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import yaml
from documented_code import run_python_of
from results_example import (
  add_evaluation,
  make_config,
  make_run,
  make_scores,
  make_start,
  make_test_time,
  unpadded,
)
from tiny_network import draw_variables

from dense_aspp_jax.checkpoint_io import load_checkpoint, save_checkpoint
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import write_file
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import create_model
from dense_aspp_jax.results.model_card import weights_digest, write_cards
from dense_aspp_jax.results.runs import read_run
from dense_aspp_jax.training.config import model_record
from dense_aspp_jax.training.run import load_run

EMA = 0.25  # training.ema_decay
PRETRAINED = {'source': 'torchvision', 'sha256': 'f00d', 'file': '/home/somebody/x.pth'}


def add_checkpoint(workdir, variables, step=4, model=None):
  path = workdir / 'checkpoints' / 'latest' / str(step)
  path.parent.mkdir(parents=True)
  save_checkpoint(path, variables, {'model': model_record(model or make_config()['model'])})


def card_of(workdir, directory):
  (card,) = write_cards({workdir: read_run(workdir)}, directory)
  return card


@pytest.fixture(scope='module')
def shapes():
  return abstract_variables(create_model(**make_config()['model']))


@pytest.fixture(scope='module')
def variables(shapes):
  """Of a checkpoint with averages."""
  return {**draw_variables(shapes), 'ema': draw_variables(shapes, seed=1)}


@pytest.fixture(scope='module')
def published(tmp_path_factory, variables):
  """A run with averages, started with a machine's paths, and its card."""
  root = tmp_path_factory.mktemp('published')
  config = make_config(2)
  config['data']['data_dir'] = str(root / 'tfds')
  config['init']['extractor_weights'] = str(root / 'weights' / 'tiny')
  config['training']['ema_decay'] = EMA
  command = f'train.py --config={root}/camvid.py --workdir={root}/runs/camvid_s2'
  starts = [make_start(command=command, extractor_weights=PRETRAINED)]
  workdir = make_run(root / 'runs' / 'camvid_s2', config=config, starts=starts, ema=make_scores(0.55))
  add_evaluation(workdir, 'test', 0.45, weights='ema', test_time=make_test_time(0.47), data_dir=str(root))
  add_evaluation(workdir, 'other_step', 0.33, step=2, checkpoint='2')
  add_checkpoint(workdir, variables)
  return workdir, card_of(workdir, root / 'cards'), root


def test_every_file_has_a_sum_that_is_its_own(published):
  _, card, _ = published
  lines = (card / 'SHA256SUMS').read_text().splitlines()
  sums = dict(reversed(re.fullmatch('([0-9a-f]{64})  (.+)', line).groups()) for line in lines)
  files = {path.relative_to(card).as_posix() for path in card.rglob('*') if path.is_file()}
  assert set(sums) == files - {'SHA256SUMS'}
  for name, digest in sums.items():
    assert hashlib.sha256((card / name).read_bytes()).hexdigest() == digest
  assert {name for name in files if not name.startswith('checkpoints/')} == {
    'README.md',
    'SHA256SUMS',
    'config.json',
    'data.json',
    'evaluations/test.json',
    'labels.json',
    'metrics.jsonl',
    'provenance.json',
    'scores.json',
  }


def test_no_path_of_the_machine_is_in_any_file(published):
  _, card, root = published
  for path in card.rglob('*'):
    if path.is_file():
      content = path.read_bytes()
      for place in (str(root), '/home/somebody', str(pathlib.Path.cwd())):
        assert place.encode() not in content, path
  config = json.loads((card / 'config.json').read_text())
  assert (config['data']['data_dir'], config['init']['extractor_weights']) == (None, 'tiny')
  assert json.loads((card / 'scores.json').read_text())['config'] == config
  assert json.loads((card / 'evaluations' / 'test.json').read_text())['config'] == config


def test_the_checkpoint_is_the_last_one_with_its_averages(published, variables):
  _, card, _ = published
  assert [str(p.relative_to(card)) for p in card.glob('checkpoints/*/*')] == ['checkpoints/best/4']
  restored = load_checkpoint(card / 'checkpoints' / 'best' / '4', variables)
  jax.tree.map(np.testing.assert_array_equal, restored, variables)
  for weights, expected in (('ema', variables['ema']), ('raw', variables)):
    run = load_run(card, weights=weights)
    assert run.step == 4
    kernel = run.variables['params']['head']['kernel']
    assert (kernel == expected['params']['head']['kernel']).all()


def test_the_card_gives_the_rows_of_the_run(published):
  workdir, card, _ = published
  assert read_run(card) == [row for row in read_run(workdir) if row.step == 4]


def digest_of(array):
  content = f'{array.dtype.name} {array.shape} '.encode() + array.tobytes()
  return hashlib.sha256(content).hexdigest()


def test_the_digest_of_the_weights_knows_the_arrays_alone(tmp_path):
  arrays = {
    'params/a/kernel': np.arange(6.0, dtype=np.float32).reshape(2, 3),
    'params/a-b': np.ones(2, np.int32),
  }
  items = {'params': {'a': {'kernel': arrays['params/a/kernel']}, 'a-b': arrays['params/a-b']}}
  for name in ('first', 'second'):
    save_checkpoint(tmp_path / name, items, {'time': name})
  other = {'params': {**items['params'], 'a-b': np.zeros(2, np.int32)}}
  save_checkpoint(tmp_path / 'other', other)
  lines = ''.join(f'{name} {digest_of(array)}\n' for name, array in sorted(arrays.items()))
  expected = hashlib.sha256(lines.encode()).hexdigest()
  assert weights_digest(tmp_path / 'first') == weights_digest(tmp_path / 'second') == expected
  assert weights_digest(tmp_path / 'other') != expected


def test_the_card_says_what_it_is_and_is_not(published):
  _, card, _ = published
  _, front_matter, text = (card / 'README.md').read_text().split('---\n', 2)
  text = unpadded(text)
  assert yaml.safe_load(front_matter) == {
    'license': 'other',
    'license_name': 'see-licence-below',
    'library_name': 'dense_aspp_jax',
    'pipeline_tag': 'image-segmentation',
    'tags': ['semantic-segmentation', 'street-scenes', 'DenseASPP', 'jax', 'flax'],
    'datasets': ['camvid'],
    'metrics': ['mean_iou', 'accuracy'],
  }
  for part in (
    '# camvid_s2\n',
    '4 steps from an extractor pretrained on ImageNet',
    '| test split, EMA weights | 45.00 | 90.00 |  |',
    '| test split, EMA weights, flip and scales 0.75, 1, 1.25 | 47.00 | 90.00 | flip and scales 0.75, 1, ',
    '| validation split | 50.00 | 90.00 | validation split |',
    "load_run('camvid_s2')  # this folder, with the moving averages of the weights (EMA)",
    'dense-aspp evaluate --workdir=camvid_s2 --checkpoint=4 --split=validation --data-dir=DIR',
    'Not for driving',
    'IoU is below 50 % on the validation split for bicyclist (45.0).',
    'train.py --config=camvid.py --workdir=camvid_s2',
    '"ema_decay": 0.25',
    'Training began with the extractor of torchvision (SHA-256\n`f00d`)',
    'CamVid (Brostow',
    f'`{weights_digest(card / "checkpoints" / "best" / "4")}`',
  ):
    assert part in text
  assert 'test split' in text.split('| class |')[1]
  assert '33.00' not in text  # of another step
  assert '{{' not in text


@pytest.mark.parametrize(
  ('dataset', 'terms'),
  [
    ('cityscapes', '<https://www.cityscapes-dataset.com/license/>'),
    ('street_scenes', 'nobody else has rights in them'),
    ('folder:/home/somebody/own', "a folder of somebody's own: its owner says"),
  ],
)
def test_the_licence_is_that_of_weights_and_data(dataset, terms, tmp_path):
  model = {'model.num_classes': 20, 'data.label_set': 'cityscapes20', 'data.dataset': dataset}
  config = make_config(**model)
  scores = {'mean_iou_19': 0.9, 'mean_iou_20': 0.8, 'iou': {'road': 0.9, 'void': None}}
  workdir = make_run(tmp_path / 'run', config=config, label_set=CITYSCAPES_20, **scores)
  shapes = abstract_variables(create_model(**config['model']))
  add_checkpoint(workdir, draw_variables(shapes), model=config['model'])
  text = (card_of(workdir, tmp_path / 'cards') / 'README.md').read_text()
  assert 'license: apache-2.0\nlibrary_name' in text
  assert 'The weights, trained from scratch: Apache-2.0.' in text
  assert terms in text
  assert 'IoU is below' not in text
  assert f'- {json.dumps(dataset.replace("/home/somebody/", ""))}\nmetrics' in text


def test_a_card_names_every_data_set_with_its_terms(tmp_path, variables):
  names = ('camvid', 'folder:/home/somebody/own')
  config = make_config(**{'data.dataset': names, 'data.shares': (2, 6)})
  others = [{'dataset': names[1], 'images': 16}]
  start = {'run': 'streets', 'sha256': 'f00d', 'dataset': ['cityscapes', 'x'], 'pretraining': []}
  workdir = make_run(
    tmp_path / 'run', config=config, also_trained_on=others, starts=[make_start(init_run=start)]
  )
  add_checkpoint(workdir, variables)
  text = (card_of(workdir, tmp_path / 'cards') / 'README.md').read_text()
  assert yaml.safe_load(text.split('---\n')[1])['datasets'] == ['camvid', 'folder:own']
  for part in (
    'on 367 images (train) of camvid and 16 images of folder own,',
    'weather of camvid and folder:own alone',
    '4 steps from a network trained on cityscapes and x,',
    'camvid: CamVid (Brostow',
    "folder:own: The images are a folder of somebody's own",
    'trained also on 16 images of folder own',
  ):
    assert part in text
  assert '/home/somebody' not in text


def test_a_card_names_the_run_whose_weights_were_the_start(tmp_path, variables):
  starts = [
    make_start(init_run={'run': 'streets', 'sha256': 'f00d', 'dataset': 'cityscapes', 'pretraining': []})
  ]
  workdir = make_run(tmp_path / 'run', config=make_config(2), starts=starts)
  add_checkpoint(workdir, variables)
  text = (card_of(workdir, tmp_path / 'cards') / 'README.md').read_text()
  assert 'license: other' in text
  assert '4 steps from a network trained on cityscapes' in text
  assert 'the weights of the run streets on cityscapes' in text
  assert 'from scratch' not in text


def test_a_card_is_a_run_that_evaluate_takes(scene_folder, tmp_path, monkeypatch):
  overrides = {'data.dataset': f'folder:{scene_folder}', 'data.label_set': str(scene_folder / 'labels.json')}
  config = make_config(**overrides, **{'data.image_size': (32, 64), 'model.num_classes': 20})
  workdir = make_run(tmp_path / 'run', config=config, label_set=CITYSCAPES_20)
  variables = draw_variables(abstract_variables(create_model(**config['model'])))
  add_checkpoint(workdir, variables, model=config['model'])
  path = workdir / 'checkpoints' / 'best' / '4'
  path.parent.mkdir()
  save_checkpoint(path, variables)
  card = card_of(workdir, tmp_path / 'cards')
  monkeypatch.chdir(scene_folder.parent)  # where the folder is called by its name alone
  scores = []
  for directory in (workdir, card):
    output = tmp_path / f'{directory.name}.json'
    assert (
      main(['evaluate', f'--workdir={directory}', f'--output={output}', f'--data-dir={tmp_path}/data']) == 0
    )
    scores.append(json.loads(output.read_text()))
  assert scores[1]['step'] == 4
  assert scores[0]['iou'] == scores[1]['iou']
  assert scores[0]['mean_iou_19'] > 0


def test_the_python_of_the_card_loads_the_card(published, tmp_path, monkeypatch):
  card = published[1]
  (tmp_path / card.name).symlink_to(card)
  found = run_python_of(card / 'README.md', tmp_path, monkeypatch)
  assert (found['run'].step, found['run'].weights) == (4, 'ema')
  assert found['classes'].shape == (45, 60)


def test_what_exists_is_never_touched(published, tmp_path):
  workdir, _, _ = published
  (tmp_path / 'cards' / 'camvid_s2').mkdir(parents=True)
  with pytest.raises(InputError, match=r'cards/camvid_s2: exists already; nothing was written'):
    card_of(workdir, tmp_path / 'cards')
  assert list((tmp_path / 'cards' / 'camvid_s2').iterdir()) == []


def test_two_runs_of_one_name_are_refused(tmp_path):
  rows_of = {make_run(tmp_path / place / 'a'): [] for place in ('one', 'two')}
  with pytest.raises(InputError, match='two runs are named a; nothing was written'):
    write_cards(rows_of, tmp_path / 'cards')


@pytest.mark.parametrize('failure', ['missing', 'damaged', 'disk'])
def test_a_card_is_written_whole_or_not_at_all(failure, variables, tmp_path, monkeypatch):
  workdir = make_run(tmp_path / 'run', 0.5, ema=make_scores(0.5))
  if failure != 'missing':
    add_checkpoint(workdir, variables)
  if failure == 'damaged':  # an array is not the one whose digest was kept
    path = workdir / 'checkpoints' / 'latest' / '4' / '_CHECKPOINT_METADATA'
    metadata = json.loads(path.read_text())
    metadata['custom_metadata']['sha256']['ema/params/head/bias'] = '0' * 64
    path.write_text(json.dumps(metadata))
  if failure == 'disk':

    def fail(path, data):
      if path.name == 'SHA256SUMS':
        raise OSError('disk full')
      write_file(path, data)

    monkeypatch.setattr('dense_aspp_jax.results.model_card.write_file', fail)
  assert main(['results', str(workdir), f'--cards={tmp_path}/cards']) == (1 if failure == 'disk' else 2)
  assert not (tmp_path / 'cards').exists() or list((tmp_path / 'cards').iterdir()) == []
