"""Overfitting a few images, and what is said where it fails."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny_network import OVERRIDES, tiny_config

from configs import default
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.commands.overfit import advice
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.files import write_json
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.training.overfit import Overfitted, center_crop
from dense_aspp_jax.training.overfit import overfit as training_overfit

CONFIG = str(default.__file__)


@pytest.fixture(scope='module')
def blocks(tmp_path_factory):
  """Ten images of four coloured quarters each, 48x64, whose colours say the class but for noise."""
  root = tmp_path_factory.mktemp('blocks') / 'data'
  write_json(root / 'labels.json', CAMVID_11.to_json())
  rng = np.random.default_rng(0)
  colors = rng.integers(40, 216, (11, 3))
  for split, count in (('train', 10), ('validation', 1)):
    for index in range(count):
      label = np.kron(rng.permutation(11)[:4].reshape(2, 2), np.ones((24, 32), np.uint8)).astype(np.uint8)
      image = np.clip(colors[label] + rng.normal(0, 20, (48, 64, 3)), 0, 255).astype(np.uint8)
      label[:4, :4] = 11  # void
      for kind, array in (('images', image), ('labels', label)):
        path = root / split / kind / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
  return root


def overfit(blocks, *arguments):
  fields = {
    'data.dataset': f'folder:{blocks}',
    'data.label_set': 'camvid11',
    'data.image_size': '(48, 64)',
    'model.num_classes': 11,
    'model.dropout_rate': 0.5,  # in the way: left out
    'augmentation.flip_probability': 0.5,  # likewise
    'optimizer.learning_rate': 0.02,
  }
  options = [f'--config.{name}={value}' for name, value in fields.items()]
  return main(['overfit', f'--config={CONFIG}', *OVERRIDES, *options, *arguments])


def test_images_of_which_every_pixel_is_void_are_refused_at_once(blocks, tmp_path, capsys):
  label_set = {'classes': [{'name': 'other', 'ids': [200]}], 'ignore_ids': list(range(12))}
  write_json(tmp_path / 'labels.json', label_set)
  options = [f'--config.data.label_set={tmp_path}/labels.json', '--config.model.num_classes=1']
  assert overfit(blocks, *options) == 2
  err = capsys.readouterr().err
  assert '8 images of train: every pixel is ignored' in err
  assert 'compiling' not in err


def test_eight_images_are_overfitted(blocks, tmp_path, capsys):
  ignored = '--config.loss.ignore_label=10'
  assert overfit(blocks, '--output', str(tmp_path / 'out'), ignored) == 0
  report = json.loads((tmp_path / 'out' / 'overfit.json').read_text())
  assert report['mean_iou'] > 0.95
  assert report['steps'] < 600
  assert report['history'][-1] == {
    'step': report['steps'],
    'loss': report['history'][-1]['loss'],
    'mean_iou': report['mean_iou'],
  }
  assert report['iou'][CAMVID_11.class_names[10]] is None
  assert report['config']['model']['dropout_rate'] == 0.5  # as given
  assert np.asarray(Image.open(tmp_path / 'out' / 'overfit.png')).shape[1] >= 3 * 64
  assert 'above 95 %' in capsys.readouterr().out.splitlines()[-1]


def test_what_cannot_be_learnt_in_time_is_a_failed_run(blocks, capsys):
  assert overfit(blocks, '--max-steps', '2', '--images', '2', '--config.optimizer.learning_rate=1e-5') == 1
  err = capsys.readouterr().err
  assert 'on 2 images after 2 steps, not above 95 %. The loss hardly decreases: check the labels' in err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--images', '11'], "split 'train' has 10 images; 11 are asked for"),
    (['--images', '0'], 'expected at least 1 image'),
    (['--target', '100'], 'a target between 0 and 100'),
    (['--config.data.train_split=x'], 'x'),
  ],
)
def test_bad_arguments_are_one_message(blocks, capsys, arguments, message):
  assert overfit(blocks, *arguments) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert message in line


def test_a_configuration_may_have_integers_where_floats_are_usual():
  config = tiny_config(**{'data.dataset': 'folder:/nowhere', 'data.label_set': 'cityscapes20'})
  integers = {'weight_decay': 0, 'extractor_learning_rate_factor': 0}
  config.optimizer = ConfigDict({**config.optimizer.to_dict(), **integers})
  with pytest.raises(InputError, match='/nowhere'):
    training_overfit(config, num_images=1, target=0.5, max_steps=1)


def test_the_middle_of_a_larger_image_is_taken():
  image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
  example = CachedExample('x', image, image[..., 0])
  found = center_crop(example, (4, 5))
  np.testing.assert_array_equal(found.image, image[1:5, 1:6])
  np.testing.assert_array_equal(found.label, image[1:5, 1:6, 0])
  assert center_crop(example, (100, 5)).label.shape == (6, 5)
  assert center_crop(example, None).label.shape == (6, 8)


@pytest.mark.parametrize(
  ('pixel_accuracy', 'losses', 'stride', 'expected'),
  [
    (
      0.99,
      (2.0, 0.1),
      8,
      'With the statistics of the batch 99.0 % of the pixels are right, with the',
    ),
    (0.80, (2.0, 0.1), 8, 'Lowest: Pole 20 %, Sky 90 %. A logit stands for 8x8 pixels'),
    (0.80, (2.0, 0.1), 4, 'The loss still decreases: try more --max-steps. Lowest: Pole 20 %, Sky 90 %'),
    (0.80, (2.0, 1.9), 4, 'The loss hardly decreases'),
  ],
)
def test_advice_names_what_the_figures_say(pixel_accuracy, losses, stride, expected):
  scores = Scores({'mean_iou': 0.55}, 0.8, {'Pole': 0.2, 'Sky': 0.9, 'Car': None})
  history = [(20, losses[0], 0.1), (40, losses[1], 0.55)]
  result = Overfitted(scores, 40, 1.0, pixel_accuracy, history, stride, np.zeros((1, 1, 3), np.uint8))
  text = advice(result)
  assert expected in text
  assert ('skip_head' in text) == (stride == 8 and pixel_accuracy == 0.8)
