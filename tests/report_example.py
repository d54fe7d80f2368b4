"""The content of a small report, with figures that can be worked out by hand."""

import numpy as np

from dense_aspp_jax.analysis.report import Analysis, render_report
from dense_aspp_jax.analysis.report_pictures import Example
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet

THREE = LabelSet(
  'three',
  (
    LabelClass('road', (0,), (128, 64, 128)),
    LabelClass('car', (1,), (0, 0, 142)),
    LabelClass('sky', (2,), (70, 130, 180)),
  ),
  ignore_ids=(255,),
)
# IoU: road 80 / 105, car 15 / 30, sky 40 / 50; pixel accuracy 135 / 160.
COUNTS = np.array([[80, 10, 10, 0], [5, 15, 0, 0], [0, 0, 40, 0], [7, 0, 0, 0]])
METRICS = (
  {'step': 1, 'kind': 'train', 'loss': 2.5, 'pixel_accuracy': 0.25, 'learning_rate': 0.01},
  {'step': 2, 'kind': 'train', 'loss': 1.5, 'pixel_accuracy': 0.5, 'learning_rate': 0.005},
  {'step': 2, 'kind': 'validation', 'mean_iou': 0.6, 'pixel_accuracy': 0.75, 'iou/car': None},
)


def confusion(counts=COUNTS, label_set=THREE):
  matrix = ConfusionMatrix(label_set)
  matrix.counts += counts
  return matrix


def example(image_id='street/1', size=(8, 16)):
  """Left half road, right half sky, a column ignored; the prediction says road everywhere."""
  image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
  label = np.zeros(size, np.uint8)
  label[:, size[1] // 2 :] = 2
  label[:, -1] = IGNORE_LABEL
  return Example(image_id, image, label, np.zeros(size, np.uint8))


def similarity(**changes):
  data = {
    'layer': 'dense_aspp',
    'images': 3,
    'classes': ['road', 'car', 'sky'],
    'matrix': [[1.0, 0.2, None], [0.2, 1.0, None], [None, None, None]],
    'most_confused': [{'classes': ['road', 'car'], 'cosine': 0.2345}],
    'matrix_picture': 'matrix.png',
    'pictures': ['similarity_a.png', 'similarity_b.png', 'similarity_c.png'],
  }
  data = {**data, **changes}
  return Analysis(data, {name: png(900) for name in (data['matrix_picture'], *data['pictures'])})


def layer_removal(**changes):
  def setting(kind, removed, mean_iou, pixel_accuracy, **iou):
    scores = {'mean_iou': mean_iou, 'pixel_accuracy': pixel_accuracy, 'iou': {**iou, 'sky': None}}
    return {'kind': kind, 'removed': removed, 'scores': scores}

  data = {
    'layers': [{'name': 'layer1', 'dilation': 3}, {'name': 'layer2', 'dilation': 6}],
    'settings': [
      setting('none', [], 0.687, 0.84, road=0.8, car=0.5),
      setting('top', [2], 0.5, 0.8, road=0.7, car=0.24),
      setting('top', [1, 2], 0.4, 0.7, road=0.39, car=0.3),
      setting('single', [1], 0.6871, 0.85, road=0.8, car=0.5),
      setting('single', [2], 0.5, 0.8, road=0.7, car=0.24),
    ],
    'lost_first': [
      {'class': 'car', 'layers_removed': 1, 'kept': 0.48},
      {'class': 'road', 'layers_removed': 2, 'kept': 0.4875},
    ],
    'lost_first_rule': 'by halves',
    'images': 4,
    'curves_picture': 'curves.png',
    'pictures': ['removal_a.png'],
  }
  data = {**data, **changes}
  return Analysis(data, {name: png(1400) for name in (data['curves_picture'], *data['pictures'])})


def png(width):
  """Noise, as photographs have it."""
  return encode_png(np.random.default_rng(1).integers(0, 256, (30, width, 3)).astype(np.uint8))


def provenance(time='2026-01-02T03:04:05+00:00'):
  return {
    'dense_aspp_jax': '1.2.3',
    'git_commit': 'abc123',
    'libraries': {'jax': '9.9', 'grain': None},
    'devices': ['cpu: cpu'],
    'processes': 1,
    'command': 'train.py --workdir=x',
    'time': time,
  }


def report(**changes):
  """The page as text; a report without curves, because each costs a figure."""
  run = {
    'dataset': 'three_streets',
    'workdir': '/runs/my run',
    'config': {
      'seed': 7,
      'model': {'extractor': 'densenet_tiny', 'dilation_rates': (3, 6)},
      'data': {'dataset': 'three_streets', 'data_dir': None},
    },
    'checkpoint': 'best',
    'step': 5678,
    'weights': 'raw',
    'bn': 'running',
    'provenance': provenance('2026-03-04T05:06:07+00:00'),
  }
  content = {
    'split': 'validation',
    'images': 90,
    'parameters': {'extractor': 1000, 'dense_aspp': 200, 'head': 34, 'total': 1234, 'gmac': 0.5},
    'confusion': confusion(),
    'examples': [example('street/1'), example('street/2')],
    'metrics': (),
    'starts': [{'step': 0, **provenance()}, {'step': 2, **provenance('2026-02-03T04:05:06+00:00')}],
    'similarity': similarity(),
    'layer_removal': layer_removal(),
  }
  run |= {key: value for key, value in changes.items() if key in run}
  return render_report(run, **{**content, **{k: v for k, v in changes.items() if k not in run}})
