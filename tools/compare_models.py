"""Trains the slides' models and their variants on generated scenes, and writes the table that compares them.

  python -m tools.compare_models --output runs/compare

Everything is a quarter of the slides': the sides of the images, the dilation rates (rounded) and the widths
of the cascade, behind a small DenseNet with all four blocks. All models see the same images, equally often.
The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from tools.commands import run_commands

CONFIG = 'configs/street_scenes.py'
_NARROW = {'growth_rate': 8, 'bottleneck_width': 0}  # as #1 to #3: growth 32, no 1x1
MODELS: dict[str, Mapping[str, Any]] = {
  'model1': {**_NARROW, 'last_layer': 'transition3', 'dilation_rates': (1, 2, 2, 3)},
  'model2': {**_NARROW, 'last_layer': 'denseblock3', 'dilation_rates': (1, 2, 2, 3)},
  'model3': {**_NARROW, 'dilation_rates': (2, 3, 5, 6)},
  'model4': {},
  'model5': {
    'dilation_rates': (1, 2, 2, 3, 5, 6),
    'first_norm': False,
    'final_norm': True,
    'num_classes': 19,
  },
  'model4_without_cascade': {'dilation_rates': ()},
  'model4_one_layer': {'dilation_rates': (3,)},
  'model4_mobilenet_v3': {'extractor': 'mobilenet_v3_large'},
  'model4_efficientnet_lite0': {'extractor': 'efficientnet_lite0'},
}
_CASCADE = {'dilation_rates': (1, 2, 3, 5, 6), 'growth_rate': 16, 'bottleneck_width': 64}  # of #4


def commands(name: str, output: pathlib.Path, epochs: float, fields: list[str]) -> list[list[str]]:
  """The commands that train one of `MODELS` and score its last checkpoint on the training images too."""
  model = _CASCADE | MODELS[name]
  workdir = output / name
  overrides = [f'--config.model.{field}={value}' for field, value in model.items()]
  if model.get('num_classes') == 19:
    overrides.append('--config.data.label_set=cityscapes19')
  train = ['train', '--no-report', f'--config={CONFIG}', f'--workdir={workdir}', *overrides]
  evaluate = ['evaluate', f'--model={workdir}', '--checkpoint=latest', '--split=train', '--record']
  return [[*train, f'--config.training.num_epochs={epochs}', *fields], evaluate]


def main(arguments: list[str] | None = None) -> int:
  """Trains, scores and writes results.json and results.md in --output; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--output', type=pathlib.Path, required=True, help='folder for the runs and the table')
  parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS), metavar='NAME')
  parser.add_argument('--epochs', type=float, default=12.0, help='of 512 scenes each (default 12)')
  args, fields = parser.parse_known_args(arguments)  # fields: --config.FIELD=VALUE of all models
  steps = [command for name in args.models for command in commands(name, args.output, args.epochs, fields)]
  steps.append(['results', *(str(args.output / name) for name in args.models)])
  steps[-1] += ['--output', str(args.output / 'results.json'), '--output', str(args.output / 'results.md')]
  return run_commands(steps)


if __name__ == '__main__':
  sys.exit(main())
