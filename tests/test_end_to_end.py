"""The way a user goes: prepare, train.py, evaluate, predict, score, on generated files in true layouts."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import layouts
import numpy as np
import pytest
from PIL import Image
from tiny_network import SHALLOW
from xla_flags import xla_flags

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.evaluation.pictures import colorize, overlay
from dense_aspp_jax.label_sets import CITYSCAPES_20

pytestmark = pytest.mark.usefixtures('one_device')

ROOT = pathlib.Path(__file__).parents[1]
SMALL_MODEL = [
  *(f'--config.model.{name}={value}' for name, value in SHALLOW.items()),
  '--config.training.num_epochs=1.0',
]


def train(config, workdir, *overrides):
  """Runs train.py as a process of its own, on one device."""
  environment = {**os.environ, 'XLA_FLAGS': xla_flags(1)}
  command = [
    sys.executable,
    'train.py',
    f'--config=configs/{config}.py',
    f'--workdir={workdir}',
    *SMALL_MODEL,
    *overrides,
  ]
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def run(*arguments):
  assert main([str(a) for a in arguments]) == 0


@pytest.fixture(scope='module')
def cityscapes(tmp_path_factory):
  """Zips -> prepared -> one epoch; returns the folder of everything."""
  root = tmp_path_factory.mktemp('cityscapes')
  counts = {'train': 6, 'val': 5, 'test': 1}
  layouts.write_cityscapes_zips(root / 'zips', counts, (64, 128))
  layouts.write_cityscapes_tree(root / 'tree', counts, (64, 128))
  run('prepare', 'cityscapes', '--source', root / 'zips', '--data-dir', root / 'data', '--allow-partial')
  result = train(
    'default',
    root / 'work',
    f'--config.data.data_dir={root / "data"}',
    '--config.data.image_size=(32, 64)',
    '--config.training.batch_size=2',
  )
  assert result.returncode == 0, result.stderr
  return root, result


def test_cityscapes_from_the_zips_through_training(cityscapes):
  root, result = cityscapes
  assert '6 training and 5 validation images, 3 steps of 2 images at 32x64 on 1 x cpu' in result.stderr
  assert 'mean_iou_19' in result.stdout
  assert (root / 'work' / 'checkpoints' / 'latest' / '3').is_dir()


def evaluate_and_score(root, output, folder, evaluate=(), predict=()):
  """What `evaluate` finds, and what `score` finds in the predictions of `predict` for the same images."""
  images, labels = (root / 'tree' / kind / folder for kind in ('leftImg8bit', 'gtFine'))
  run('evaluate', '--workdir', root / 'work', '--output', output / 'e.json', *evaluate)
  run('predict', '--workdir', root / 'work', '--output', output / 'p', *predict, images)
  run('score', '--labels', labels, '--predictions', output / 'p', '--output', output / 's.json')
  return (json.loads((output / name).read_text()) for name in ('e.json', 's.json'))


@pytest.mark.parametrize('batch_size', [1, 4])
def test_evaluate_equals_predict_and_score_bit_for_bit(cityscapes, tmp_path, batch_size):
  root, _ = cityscapes
  evaluated, scored = evaluate_and_score(root, tmp_path, 'val', ['--batch-size', batch_size])
  for name in ('mean_iou_19', 'mean_iou_20', 'pixel_accuracy', 'iou'):
    assert evaluated[name] == scored[name]
  assert evaluated['images'] == scored['images'] == 5
  assert evaluated['config']['data']['image_size'] == [32, 64]
  assert evaluated['provenance']['libraries']['jax']


def test_the_training_split_is_scored_unaugmented_at_native_size(cityscapes, tmp_path):
  root, _ = cityscapes
  options = ['--split', 'train', '--checkpoint', 'latest'], ['--checkpoint', '3']
  evaluated, scored = evaluate_and_score(root, tmp_path, 'train', *options)
  assert evaluated['iou'] == scored['iou']
  assert evaluated['images'] == 6


def test_an_all_void_split_is_refused(cityscapes, capsys):
  root, _ = cityscapes
  assert main(['evaluate', '--workdir', str(root / 'work'), '--split', 'test']) == 2
  assert 'void' in capsys.readouterr().err


def test_predict_writes_three_pictures_of_the_images_own_size(cityscapes, tmp_path):
  root, _ = cityscapes
  rng = np.random.default_rng(0)
  (tmp_path / 'in' / 'sub').mkdir(parents=True)
  Image.fromarray(rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)).save(
    tmp_path / 'in' / 'sub' / 'a b.JPG'
  )
  Image.fromarray(rng.integers(0, 256, (40, 90)).astype(np.uint8)).save(tmp_path / 'grey.png')
  run(
    'predict',
    '--workdir',
    root / 'work',
    '--output',
    tmp_path / 'out',
    tmp_path / 'in',
    tmp_path / 'grey.png',
  )
  paths = {'sub/a b': tmp_path / 'in' / 'sub' / 'a b.JPG', 'grey': tmp_path / 'grey.png'}
  for name, size in (('sub/a b', (70, 50)), ('grey', (90, 40))):
    with Image.open(tmp_path / 'out' / 'label_ids' / f'{name}.png') as label_ids:
      assert (label_ids.mode, label_ids.size) == ('L', size)
      assert np.asarray(label_ids).max() <= 33
      labels = CITYSCAPES_20.encode(np.asarray(label_ids), name)
    image = np.asarray(Image.open(paths[name]).convert('RGB'))
    for kind, expected in (
      ('color', colorize(labels, CITYSCAPES_20)),
      ('overlay', overlay(image, labels, CITYSCAPES_20)),
    ):
      with Image.open(tmp_path / 'out' / kind / f'{name}.png') as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)


def test_predict_goes_on_past_a_bad_file_and_names_it(cityscapes, tmp_path, capsys):
  root, _ = cityscapes
  folder = tmp_path / 'in'
  shutil.copytree(root / 'tree' / 'leftImg8bit' / 'val', folder)
  bad = folder / 'a_bad.png'
  bad.write_bytes(next(folder.rglob('*.png')).read_bytes()[:200])
  assert (
    main(['predict', '--workdir', str(root / 'work'), '--output', str(tmp_path / 'out'), str(folder)]) == 2
  )
  assert f'1 of 6 images could not be predicted:\n  {bad}' in capsys.readouterr().err
  assert len(list((tmp_path / 'out' / 'label_ids').rglob('*.png'))) == 5
  written = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert (written['images'], written['step'], written['checkpoint']) == (5, 3, 'best')
  assert written['label_set'] == CITYSCAPES_20.to_json()
  assert written['provenance']['libraries']['jax']


def test_evaluate_prints_its_scores_as_the_last_line_and_reads_the_data_directory_given(
  cityscapes, tmp_path, capsys
):
  root, _ = cityscapes
  shutil.copytree(root / 'data' / 'cityscapes', tmp_path / 'moved' / 'cityscapes')
  run('evaluate', '--workdir', root / 'work', '--data-dir', tmp_path / 'moved')
  scores = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert (scores['images'], scores['step'], scores['checkpoint']) == (5, 3, 'best')
  assert main(['evaluate', '--workdir', str(root / 'work'), '--data-dir', str(tmp_path / 'none')]) == 2
  assert str(tmp_path / 'none') in capsys.readouterr().err


def test_predict_passes_over_hidden_files_and_its_own_output(cityscapes, tmp_path):
  root, _ = cityscapes
  folder = tmp_path / 'in'
  shutil.copytree(root / 'tree' / 'leftImg8bit' / 'val', folder)
  (folder / '._a.png').write_bytes(b'')
  (folder / '.cache').mkdir()
  (folder / '.cache' / 'b.png').write_bytes(b'')
  for _ in range(2):
    run('predict', '--workdir', root / 'work', '--output', folder / 'out', folder)
  assert len(list((folder / 'out' / 'label_ids').rglob('*.png'))) == 5


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda p: p / 'missing.png', 'no such file or folder'),
    (lambda p: (p / 'empty').mkdir() or p / 'empty', 'holds no image'),
  ],
)
def test_predict_refuses_missing_and_empty_input(cityscapes, tmp_path, make, message, capsys):
  root, _ = cityscapes
  assert (
    main(['predict', '--workdir', str(root / 'work'), '--output', str(tmp_path / 'o'), str(make(tmp_path))])
    == 2
  )
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'o').exists()


def test_camvid_from_the_folder_through_evaluation(tmp_path):
  layouts.write_camvid(tmp_path / 'camvid', {'train': 4, 'validation': 3}, (36, 48))
  run(
    'prepare', 'camvid', '--source', tmp_path / 'camvid', '--data-dir', tmp_path / 'data', '--allow-partial'
  )
  run(
    'train',
    f'--config={ROOT}/configs/camvid.py',
    f'--workdir={tmp_path / "work"}',
    *SMALL_MODEL,
    f'--config.data.data_dir={tmp_path / "data"}',
    '--config.data.image_size=(36, 48)',
    '--config.augmentation.crop_size=(24, 32)',
    '--config.model.skip_head=False',  # less to compile
    '--config.model.auxiliary_head=False',
    '--config.training.batch_size=2',
    '--config.optimizer.warmup_steps=0',
  )
  run('evaluate', '--workdir', tmp_path / 'work', '--output', tmp_path / 'e.json')
  scores = json.loads((tmp_path / 'e.json').read_text())
  assert len(scores['iou']) == 11
  assert 0 <= scores['mean_iou'] <= 1
  assert 'mean_iou_19' not in scores


def test_train_py_ends_with_2_for_bad_input_and_says_what_to_do(tmp_path):
  result = train('default', tmp_path / 'work', f'--config.data.data_dir={tmp_path}')
  assert result.returncode == 2
  assert 'dense-aspp prepare cityscapes' in result.stderr
  assert not (tmp_path / 'work').exists()
