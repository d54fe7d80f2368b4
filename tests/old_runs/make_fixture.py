"""Writes the fixture beside this file with the code of commit 800da57; kept to say where it comes from.

  git clone . /tmp/old && git -C /tmp/old checkout 800da57
  cd /tmp/old && PYTHONPATH=/tmp/old:/tmp/old/tests python make_fixture.py /data/old_run

That commit stored absolute paths in config.json, so everything is made in /data/old_run, a place of no
machine, and copied from there. The run stops after step 24; the losses of the next four steps, and all
else that the tests compare, go to expected.json. The arithmetic is that of one CPU device.
"""
# ruff: noqa: I001  (sorted as the modules of that commit)

import json
import os
import pathlib
import sys
import tarfile

os.environ['JAX_PLATFORMS'] = 'cpu'

import flax
import layouts
import numpy as np
from PIL import Image
from torch_files import write_pth

from dense_aspp_jax.commands.main import main
from dense_aspp_jax.models.densenet import DenseNet
from dense_aspp_jax.models.extractors import create_classifier, create_extractor
from dense_aspp_jax.weights.convert import source_shapes
from dense_aspp_jax.weights.name_maps import SOURCES
from dense_aspp_jax.weights.store import load_extractor_weights
from tools.drawn_weights import draw_weights

MODIFIED = 1_700_000_000  # seconds; the run knows its images by name, size and time of modification
OVERRIDES = {
  'seed': 1,  # with which the best checkpoint is not the latest one
  'model.extractor': 'densenet_tiny',
  'model.last_layer': 'transition2',
  'model.dilation_rates': (1, 2),
  'model.growth_rate': 2,
  'model.bottleneck_width': 4,
  'model.num_classes': 3,
  'model.compute_dtype': 'float32',
  'model.dropout_rate': 0.1,
  'init.extractor_weights': 'weights',
  'data.dataset': 'folder:scenes',
  'data.label_set': 'scenes/labels.json',
  'data.data_dir': 'cache',
  'data.image_size': (24, 48),
  'augmentation.scale_range': (0.75, 1.5),
  'augmentation.crop_size': (24, 32),
  'augmentation.flip_probability': 0.5,
  'augmentation.brightness': 0.2,
  'loss.class_weighting': 'median_frequency',
  'loss.ohem_threshold': 0.7,
  'loss.region': 'dice',
  'optimizer.learning_rate': 0.01,
  'optimizer.clip_norm': 1.0,
  'optimizer.warmup_steps': 2,
  'training.batch_size': 2,
  'training.ema_decay': 0.5,
  'evaluation.every_epochs': 2.0,
  'evaluation.num_pictures': 1,
  'checkpoint.keep': 1,
}


def run(*arguments):
  """Runs a command of the package."""
  assert main([str(a) for a in arguments]) == 0


def _kept(member):
  """A member of the archive, of nobody; none for what is not needed to go on."""
  if member.name in ('run/report.html', 'run/tensorboard', 'run/pictures', 'run/.lock'):
    return None
  member.uid = member.gid = 0
  member.uname = member.gname = ''
  return member


def make(root):
  """Writes data, weights, the run, and what the commands say of it."""
  layouts.write_labelled_folder(root / 'scenes', {'train': 4, 'validation': 2}, size=(24, 48))
  for path in (root / 'scenes').rglob('*.png'):
    os.utime(path, (MODIFIED, MODIFIED))
  classifier = create_classifier(create_extractor('densenet_tiny'))
  weights = draw_weights(source_shapes(classifier, SOURCES[DenseNet][0]))
  write_pth(root / 'tiny.pth', {name: np.round(64 * array) / 64 + 2**-7 for name, array in weights.items()})
  os.chdir(root)
  run('convert', '--architecture', 'densenet_tiny', '--input', 'tiny.pth', '--output', 'weights')
  expected = {'overrides': OVERRIDES}
  arrays = flax.traverse_util.flatten_dict(load_extractor_weights(root / 'weights').variables, sep='/')
  expected['weights'] = {name: float(np.sum(array, dtype=np.float64)) for name, array in arrays.items()}
  config = pathlib.Path(main.__code__.co_filename).parents[2] / 'configs' / 'default.py'
  overrides = [f'--config.{name}={value}' for name, value in OVERRIDES.items()]
  train = ['train', f'--config={config}', *overrides]
  run(*train, '--workdir=run', '--config.training.num_epochs=12.0')
  run('recalibrate', '--workdir', 'run', '--checkpoint', 'latest')
  with tarfile.open('old_run.tar.xz', 'w:xz', preset=9) as archive:
    for name in ('scenes', 'weights', 'run'):
      archive.add(name, filter=_kept)
  for name, options in {
    'best': (),
    'latest raw': ('--checkpoint', 'latest', '--weights', 'raw'),
    'recalibrated': ('--checkpoint', 'latest', '--bn', 'recalibrated'),
  }.items():
    run('evaluate', '--workdir', 'run', *options, '--output', 'scores.json')
    scores = json.loads(pathlib.Path('scores.json').read_text())
    expected[name] = {key: scores[key] for key in ('step', 'mean_iou', 'pixel_accuracy', 'iou')}
  image = 'scenes/validation/images/scene_000.png'
  run('predict', '--workdir', 'run', '--output', 'predictions', image)
  with Image.open('predictions/label_ids/scene_000.png') as prediction:
    expected['prediction'] = [''.join(map(str, row)) for row in np.asarray(prediction)]  # a digit a pixel
  run('results', 'run', '--output', 'results.json')
  results = json.loads(pathlib.Path('results.json').read_text())
  expected['config_hash'] = results['ours'][0]['rows'][0]['config_hash']
  run(*train, '--workdir=run', '--config.training.num_epochs=14.0')
  lines = [json.loads(line) for line in pathlib.Path('run/metrics.jsonl').read_text().splitlines()]
  expected['losses'] = {line['step']: line['loss'] for line in lines if 'loss' in line and line['step'] > 24}
  scores = json.loads(pathlib.Path('run/scores.json').read_text())
  expected['resumed'] = {key: scores[key] for key in ('step', 'weights', 'mean_iou', 'iou', 'ema')}
  pathlib.Path('expected.json').write_text(json.dumps(expected, indent=1) + '\n')


if __name__ == '__main__':
  make(pathlib.Path(sys.argv[1]))
