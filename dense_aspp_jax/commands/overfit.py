"""Overfit a few images: the first thing to run when something looks wrong."""

from __future__ import annotations

import argparse

from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file
from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.evaluation.metrics import format_table
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.files import check_writable, write_json
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training.overfit import Overfitted, overfit


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_config_argument(parser)
  parser.add_argument('--images', type=int, default=8, help='how many (default 8)')
  text = 'mean IoU on these images to exceed, in %% (default 95)'
  parser.add_argument('--target', type=float, default=95.0, help=text)
  parser.add_argument('--max-steps', type=int, default=600, help='when to give up (default 600)')
  parser.add_argument('--output', type=path_argument, help='folder for overfit.json and overfit.png')


def run(args: argparse.Namespace) -> int:
  """Trains on the images alone and prints the table; fails if the target is not reached."""
  if args.images < 1 or args.max_steps < 1 or not 0 < args.target < 100:
    raise InputError(
      f'--images {args.images} --target {args.target} --max-steps {args.max_steps}: expected at least 1 '
      'image and step, and a target between 0 and 100'
    )
  if args.output:
    check_writable(args.output, '--output')
  config = read_config_file(args)
  result = overfit(config, num_images=args.images, target=args.target / 100, max_steps=args.max_steps)
  scores = result.scores
  print(format_table(scores))
  if args.output:
    save_png(args.output / 'overfit.png', result.picture)
    names = ('step', 'loss', 'mean_iou')
    report = {
      **scores.to_json(),
      'images': args.images,
      'target': args.target / 100,
      'steps': result.steps,
      'seconds': result.seconds,
      'history': [dict(zip(names, entry, strict=True)) for entry in result.history],
      'config': config.to_dict(),
      'provenance': provenance(),
    }
    write_json(args.output / 'overfit.json', report)
    print(f'report {args.output / "overfit.json"}, picture {args.output / "overfit.png"}')
  reached = f'mean IoU {100 * scores.mean_iou:.2f} % on {args.images} images after {result.steps} steps'
  if scores.mean_iou <= args.target / 100:
    raise RunError(f'{reached}, not above {args.target:g} %. {advice(result)}')
  print(f'{reached} ({result.seconds:.0f} s): above {args.target:g} %')
  return 0


def advice(result: Overfitted) -> str:
  """The likely reason, from the figures."""
  scores = result.scores
  if result.pixel_accuracy - scores.pixel_accuracy > 0.05:
    return (
      f'With the statistics of the batch {100 * result.pixel_accuracy:.1f} % of the pixels are right, with '
      f'the running ones {100 * scores.pixel_accuracy:.1f} %: check the BN statistics'
    )
  (first, *_), (last, *_) = (entry[1:] for entry in (result.history[0], result.history[-1]))
  if last < 0.8 * first:
    worst = sorted((v, name) for name, v in scores.iou.items() if v is not None)[:3]
    listed = ', '.join(f'{name} {100 * v:.0f} %' for v, name in worst)
    text = f'The loss still decreases: try more --max-steps. Lowest: {listed}'
    if result.stride > 4:
      text += (
        f'. A logit stands for {result.stride}x{result.stride} pixels, too coarse for thin objects: '
        'config.model.skip_head makes it 4x4'
      )
    return text
  return 'The loss hardly decreases: check the labels, data.mean and data.std, and optimizer.learning_rate'
