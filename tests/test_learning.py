"""What `make train` promises, by doing it: minutes on two cores."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from color_baseline import fit_color_classifier, predict_color_classifier

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix
from dense_aspp_jax.label_sets import CITYSCAPES_20

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_network_learns_street_scenes_and_beats_the_color_of_pixels_twice(tmp_path):
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  started = time.monotonic()
  subprocess.run(
    [
      sys.executable,
      'train.py',
      '--config=configs/street_scenes.py',
      f'--workdir={tmp_path / "run"}',
      f'--config.data.data_dir={tmp_path / "data"}',
    ],
    cwd=ROOT,
    env=environment,
    check=True,
  )
  seconds = time.monotonic() - started
  scores = json.loads((tmp_path / 'run' / 'scores.json').read_text())

  def load(split):
    fields = dict(data_dir=str(tmp_path / 'data'), label_set='cityscapes20', image_size=(256, 512))
    return Data(dataset='street_scenes', **fields).open(split, cached=False)

  train = load('train')
  train = [train[i] for i in range(len(train))]
  table = fit_color_classifier(
    [e.image for e in train], [CITYSCAPES_20.encode(e.label, e.image_id) for e in train], 20
  )
  confusion = ConfusionMatrix(CITYSCAPES_20)
  validation = load('validation')
  for example in (validation[i] for i in range(len(validation))):
    prediction = predict_color_classifier(table, example.image)
    confusion.add(example.label, CITYSCAPES_20.decode(prediction), example.image_id)
  baseline = confusion.scores().mean_iou
  print(f'{seconds:.0f} s, mean_iou_19 {scores["mean_iou_19"]:.3f}, colour classifier {baseline:.3f}')
  assert scores['mean_iou_19'] >= max(0.25, 2 * baseline)
  assert scores['images'] == len(validation) == 64
  assert list((tmp_path / 'run' / 'pictures').glob('*.png'))
  assert np.isfinite(list(filter(None, scores['iou'].values()))).all()
