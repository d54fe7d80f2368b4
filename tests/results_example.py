"""Directories of runs as training and evaluate leave them, with scores that can be worked out by hand."""

import json
import re

from tiny_network import tiny_config

from dense_aspp_jax.label_sets import CAMVID_11

COMMIT = '0123456789abcdef0123456789abcdef01234567'
DATA_DIR = '/home/somebody/tfds'


def make_config(seed=0, **overrides):
  """Of the tiny network on CamVid, as a run stores it."""
  camvid = {'data.dataset': 'camvid', 'data.label_set': 'camvid11', 'data.data_dir': DATA_DIR}
  camvid |= {'data.image_size': (360, 480), 'model.num_classes': 11, 'seed': seed}
  return tiny_config(**camvid | overrides).to_dict()


def make_scores(mean_iou, pixel_accuracy=0.9):
  """The first ten classes share what the last one lacks."""
  iou = dict.fromkeys(CAMVID_11.class_names, mean_iou + 0.01)
  iou['bicyclist'] = mean_iou - 0.1
  return {'mean_iou': mean_iou, 'pixel_accuracy': pixel_accuracy, 'iou': iou}


def make_start(step=0, workdir='/home/somebody/runs/a', **changes):
  return {
    'step': step,
    'git_commit': COMMIT,
    'devices': ['gpu: NVIDIA H200'],
    'command': f'train.py --config=configs/camvid.py --workdir={workdir}',
    **changes,
  }


def write(path, data):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(data), encoding='utf-8')


def make_run(
  workdir,
  mean_iou=0.5,
  *,
  config=None,
  starts=None,
  label_set=CAMVID_11,
  log=((2, 40.0), (4, 20.0)),
  **changes,
):
  """A finished run of 4 steps that was scored on the validation split.

  Args:
    workdir: Its directory.
    mean_iou: Its score.
    config: As `make_config` makes it.
    starts: As provenance.json.
    label_set: Of labels.json.
    log: Step and images a second of the lines of metrics.jsonl.
    **changes: To scores.json.
  """
  config = config or make_config()
  starts = starts or [make_start(workdir=workdir)]
  write(workdir / 'config.json', config)
  write(workdir / 'labels.json', label_set.to_json())
  write(workdir / 'data.json', {'train': {'name': f'{DATA_DIR}/x', 'examples': 367, 'fingerprint': 'ab'}})
  write(workdir / 'provenance.json', starts)
  lines = [{'step': step, 'kind': 'train', 'images_per_second': rate} for step, rate in log]
  lines.append({'step': log[-1][0], 'kind': 'validation', 'mean_iou': mean_iou})
  (workdir / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  scores = {
    **make_scores(mean_iou),
    'images': 101,
    'protocol': 'as it is',
    'weights': 'raw',
    'bn': 'running',
    'bn_batch_size': None,
    'test_time': None,
    'dataset': config['data']['dataset'],
    'split': 'validation',
    'step': 4,
    'seed': config['seed'],
    'config': config,
    'provenance': starts[-1],
    'num_steps': 4,
    'train_images': 367,
    'checkpoint': 'latest',
    'ema': None,
  }
  write(workdir / 'scores.json', {**scores, **changes})
  return workdir


def add_evaluation(workdir, name, mean_iou, **changes):
  """What `evaluate --record` writes; by default of the last checkpoint on the test split."""
  evaluation = json.loads((workdir / 'scores.json').read_text())
  for key in ('num_steps', 'train_images', 'ema'):
    del evaluation[key]
  evaluation |= {
    **make_scores(mean_iou),
    'split': 'test',
    'images': 233,
    'provenance': make_start(command=f'dense-aspp evaluate --workdir={workdir} --split=test --record'),
    'data_dir': None,
    'workdir': str(workdir),
    'label_set': 'camvid11',
  }
  write(workdir / 'evaluations' / f'{name}.json', {**evaluation, **changes})


def make_test_time(mean_iou, flip=True, scales=(0.75, 1.0, 1.25), window=None):
  return {'flip': flip, 'scales': list(scales), 'window': window, 'scores': make_scores(mean_iou)}


def unpadded(document):
  """The document with tables that have one blank around each cell."""
  lines = document.split('\n')
  for i, line in enumerate(lines):
    if line.startswith('|'):
      cells = [re.sub('^-{2,}$', '---', cell.strip()) for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
      lines[i] = f'| {" | ".join(cells)} |'
  return '\n'.join(lines)
