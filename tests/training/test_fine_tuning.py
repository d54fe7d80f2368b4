"""`configs/fine_tune.py`: classes of one's own from few images, starting with a network of the package."""

import json

import numpy as np
import pytest

from configs import fine_tune
from dense_aspp_jax.datasets.street_scenes.builder import render_scene
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.files import write_json
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.training.train import train_and_evaluate

CLASSES = ('ground', 'upright', 'sky', 'moving')
GROUND, SKY, MOVING = ('road', 'sidewalk', 'terrain'), ('sky',), ('car', 'truck', 'bus', 'person', 'rider')
SIZE = 96, 128


@pytest.fixture
def folder(tmp_path):
  """Eight drawn scenes to train on and six to validate, with four classes of their own."""
  own = [0 if n in GROUND else 2 if n in SKY else 3 if n in MOVING else 1 for n in CITYSCAPES_20.class_names]
  for seed, (split, count) in enumerate({'train': 8, 'validation': 6}.items(), 50):
    for index in range(count):
      image, label_ids = render_scene(seed, index, SIZE)
      labels = np.asarray(own, np.uint8)[CITYSCAPES_20.encode(label_ids, 'scene')]
      save_png(tmp_path / split / 'images' / f'{index}.png', image)
      save_png(tmp_path / split / 'labels' / f'{index}.png', labels)
  write_json(tmp_path / 'labels.json', {'classes': list(CLASSES)})
  return tmp_path


def fine_tuned(folder, workdir, run):
  """The mean IoU after twelve steps."""
  config = fine_tune.get_config()
  config.init.run = run
  config.data.dataset = f'folder:{folder}'
  config.data.image_size = config.augmentation.crop_size = SIZE
  config.model.num_classes = len(CLASSES)
  config.optimizer.warmup_steps = 2
  config.training.num_epochs = 6.0
  config.evaluation.every_epochs = config.checkpoint.every_epochs = 6.0
  config.evaluation.num_pictures = 0
  return train_and_evaluate(config, workdir).mean_iou


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_a_few_steps_from_streets_learn_what_none_from_scratch_do(folder, tmp_path, capsys):
  known = fine_tuned(folder, tmp_path / 'streets', 'streets')
  assert 'weights of streets, step' in capsys.readouterr().err
  start = json.loads((tmp_path / 'streets' / 'provenance.json').read_text())[0]
  assert start['init_run']['drawn'] == ['head']
  scratch = fine_tuned(folder, tmp_path / 'scratch', None)
  assert known > 0.5
  assert known > 1.5 * scratch
