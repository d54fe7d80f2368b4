r"""Measures what helps drawn scenes to teach photographs.

  python -m tools.compare_scenes --output runs/scenes --weights weights/lite0

Trains a network on drawn scenes alone, from the same ImageNet weights and for as many steps, with each group
of `Style` left out and without photometric augmentation. Scores each on the 367 training photos of CamVid,
which none has seen, over the classes that both have. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys

from tabulate import tabulate

from dense_aspp_jax.datasets.street_scenes.scene import render_scene
from dense_aspp_jax.datasets.street_scenes.style import Style
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.files import write_file, write_json
from dense_aspp_jax.label_sets import CITYSCAPES_20
from dense_aspp_jax.progress import progress
from tools.commands import run_commands

CONFIG = 'configs/pretrained_streets.py'
SIZE = 192, 256  # of the scenes, and of what the network sees
GROUPS = [field.name for field in dataclasses.fields(Style)]
PLAIN = Style(**dict.fromkeys(GROUPS, False))
STYLES = {'all': Style(), **{f'no {group}': Style(**{group: False}) for group in GROUPS}, 'none': PLAIN}
PHOTOMETRIC = (
  *('brightness', 'contrast', 'saturation', 'gamma', 'white_balance'),
  *('grayscale_probability', 'rotation', 'blur', 'noise'),
)
NOT_AUGMENTED = 'all, no photometric augmentation'


def write_scenes(folder: pathlib.Path, style: Style, count: int) -> None:
  """Writes a labelled folder of `count` scenes and eight to validate, once."""
  if (folder / 'labels.json').exists():
    return
  for seed, (split, number) in enumerate({'train': count, 'validation': 8}.items()):
    for index in progress(range(number), f'drawing {folder.name}, {split}', unit='scene'):
      image, label = render_scene(seed, index, SIZE, style)
      save_png(folder / split / 'images' / f'{index:05d}.png', image)
      save_png(folder / split / 'labels' / f'{index:05d}.png', label)
  write_json(folder / 'labels.json', CITYSCAPES_20.to_json())


def commands(
  folder: pathlib.Path, workdir: pathlib.Path, weights: str, epochs: float, augmented: bool, fields: list[str]
) -> list[list[str]]:
  """The commands that train on a folder of scenes and score on CamVid."""
  train = [
    'train',
    '--no-report',
    f'--config={CONFIG}',
    f'--workdir={workdir}',
    f'--config.init.extractor_weights={weights}',
    f'--config.data.dataset=folder:{folder}',
    '--config.data.shares=()',
    '--config.data.class_map=()',
    f'--config.data.image_size={SIZE}',
    f'--config.augmentation.crop_size={SIZE}',
    f'--config.training.num_epochs={epochs}',
    f'--config.evaluation.every_epochs={epochs}',
    f'--config.checkpoint.every_epochs={epochs}',
    *([] if augmented else [f'--config.augmentation.{field}=0.0' for field in PHOTOMETRIC]),
    *fields,
  ]
  output = workdir / 'camvid.json'
  score = ['evaluate', f'--model={workdir}', '--checkpoint=latest', '--dataset=camvid', '--split=train']
  return [train, [*score, f'--output={output}']]


def main(arguments: list[str] | None = None) -> int:
  """Draws, trains, scores and writes table.md in --output; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output', type=pathlib.Path, required=True, help='folder for the runs and the table')
  parser.add_argument('--weights', required=True, help='of EfficientNet-Lite0, converted')
  parser.add_argument('--scenes', type=int, default=640, help='drawn in each style (default 640)')
  parser.add_argument('--epochs', type=float, default=3.0, help='over the scenes (default 3)')
  args, fields = parser.parse_known_args(arguments)  # fields: --config.FIELD=VALUE of all
  compared = {name: (name, True) for name in STYLES} | {NOT_AUGMENTED: ('all', False)}
  workdirs = {name: args.output / name.replace(', ', '_').replace(' ', '_') for name in compared}
  for name, (style, augmented) in compared.items():
    folder = args.output / 'data' / style.replace(' ', '_')
    write_scenes(folder, STYLES[style], args.scenes)
    steps = commands(folder, workdirs[name], args.weights, args.epochs, augmented, fields)
    if code := run_commands(steps):
      return code
  scores = [
    json.loads((workdir / 'camvid.json').read_text(encoding='utf-8')) for workdir in workdirs.values()
  ]
  classes = [name for name, iou in scores[0]['iou'].items() if iou is not None]
  rows = [
    [name, *(f'{100 * (x or 0):.1f}' for x in (s['mean_iou_19'], *(s['iou'][c] for c in classes)))]
    for name, s in zip(compared, scores, strict=True)
  ]
  text = tabulate(rows, ['scenes', 'mean IoU', *classes], 'github', disable_numparse=True) + '\n'
  write_file(args.output / 'table.md', text.encode())
  print(text, end='')
  return 0


if __name__ == '__main__':
  sys.exit(main())
