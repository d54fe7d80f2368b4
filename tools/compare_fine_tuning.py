r"""Fine-tunes networks on a few images of CamVid, from different starts, and compares them.

  python -m tools.compare_fine_tuning --output runs/fine_tuning \
    --starts scratch imagenet=weights/lite0 streets=streets scenes=runs/scenes/all

A start is 'scratch', or NAME= and the weights of an extractor, or NAME= and a trained network: a run, a model
file or the name of a packaged one. Each is trained for as many steps on 8, 32 and 128 of the 367 training
images, evenly spaced, and scored on the 101 validation images. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from tabulate import tabulate

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.files import write_file, write_json
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.training.workdir import SCORES
from dense_aspp_jax.weights.store import WEIGHTS
from tools.commands import run_commands

CONFIG = 'configs/fine_tune.py'
BATCH_SIZE = 4


def write_folder(folder: pathlib.Path, num_images: int, data_dir: str | None) -> None:
  """Writes a labelled folder of `num_images` training images of CamVid and all of validation, once."""
  if (folder / 'labels.json').exists():
    return
  data = Data(dataset='camvid', data_dir=data_dir, image_size=(360, 480))
  for split in ('train', 'validation'):
    examples = data.open(split, cached=False)
    count = num_images if split == 'train' else len(examples)
    for index in range(count):
      example = examples[index * len(examples) // count]
      save_png(folder / split / 'images' / f'{example.image_id}.png', example.image)
      save_png(folder / split / 'labels' / f'{example.image_id}.png', example.label)
  write_json(folder / 'labels.json', CAMVID_11.to_json())


def command(
  start: str, num_images: int, steps: int, folder: pathlib.Path, workdir: pathlib.Path, fields: list[str]
) -> list[str]:
  """The command that trains from a start on a folder."""
  _, _, weights = start.partition('=')
  init = []
  if weights:
    field = 'extractor_weights' if (pathlib.Path(weights) / WEIGHTS).exists() else 'run'
    init = [f'--config.init.{field}={weights}']
  return [
    'train',
    '--no-report',
    f'--config={CONFIG}',
    f'--workdir={workdir}',
    f'--config.data.dataset=folder:{folder}',
    f'--config.model.num_classes={CAMVID_11.num_classes}',
    f'--config.training.batch_size={BATCH_SIZE}',
    f'--config.training.num_epochs={steps * BATCH_SIZE / num_images}',
    *init,
    *fields,
  ]


def table(starts: list[str], sizes: list[int], output: pathlib.Path) -> str:
  """Mean IoU in % of what has been trained, Markdown; a row for each start."""
  rows = []
  for start in starts:
    name = start.partition('=')[0]
    scores = [json.loads((output / f'{name}_{n}' / SCORES).read_text(encoding='utf-8')) for n in sizes]
    rows.append([name, *(f'{100 * score["mean_iou"]:.1f}' for score in scores)])
  return tabulate(rows, ['start', *(f'{n} images' for n in sizes)], 'github', disable_numparse=True) + '\n'


def main(arguments: list[str] | None = None) -> int:
  """Trains, and writes table.md in --output; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output', type=pathlib.Path, required=True, help='folder for the runs and the table')
  parser.add_argument('--starts', nargs='+', required=True, metavar='NAME[=WEIGHTS]')
  parser.add_argument('--images', nargs='+', type=int, default=[8, 32, 128], metavar='N')
  parser.add_argument('--steps', type=int, default=200, help='of 4 images (default 200)')
  parser.add_argument('--data-dir', help='where CamVid is prepared')
  args, fields = parser.parse_known_args(arguments)  # fields: --config.FIELD=VALUE of all
  commands = []
  for num_images in args.images:
    folder = args.output / 'data' / str(num_images)
    write_folder(folder, num_images, args.data_dir)
    for start in args.starts:
      workdir = args.output / f'{start.partition("=")[0]}_{num_images}'
      commands.append(command(start, num_images, args.steps, folder, workdir, fields))
  if code := run_commands(commands):
    return code
  text = table(args.starts, args.images, args.output)
  write_file(args.output / 'table.md', text.encode())
  print(text, end='')
  return 0


if __name__ == '__main__':
  sys.exit(main())
