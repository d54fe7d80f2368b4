"""Show what a network sees: receptive field, coverage, and the measured one."""

from __future__ import annotations

import argparse
import dataclasses

from ml_collections import ConfigDict

from dense_aspp_jax.analysis.field_propagation import propagate_field
from dense_aspp_jax.analysis.figures import save_figure
from dense_aspp_jax.analysis.receptive_field import (
  PROTOCOL,
  SHARES,
  cascade_paths,
  effective_figure,
  format_table,
  measure_field,
  scales_figure,
)
from dense_aspp_jax.commands.config_file import CONFIG_HELP, read_config_file
from dense_aspp_jax.commands.run_arguments import (
  MODEL,
  add_run_arguments,
  check_at_least,
  model_argument,
  output_folder,
)
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import check_writable, write_json
from dense_aspp_jax.models.initial_variables import initial_variables
from dense_aspp_jax.models.segmentation import Network, create_model
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.pretrained import shown_model
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.run import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  parser.add_argument(
    '--config',
    metavar='FILE',
    help=f'{CONFIG_HELP}; default: that of --model',
  )
  parser.add_argument(
    '--model',
    '--workdir',
    type=model_argument,
    metavar=MODEL,
    help='measure with the parameters of a trained network; default: random initial ones',
  )
  add_run_arguments(parser, ('--checkpoint', '--weights', '--bn'))
  parser.add_argument('--images', type=int, default=4, help='random images to average over (default 4)')
  parser.add_argument(
    '--output',
    type=path_argument,
    help='folder for the results (default WORKDIR/analysis/receptive_field; needed without a run)',
  )


def run(args: argparse.Namespace) -> int:
  """Writes receptive_field.json and pictures; prints the table."""
  if not args.model and not (args.config and args.output):
    raise InputError('expected --model, a trained network, or --config and --output')
  if args.config_arguments and not args.config:
    raise InputError(f'{" ".join(args.config_arguments)}: expected --config=FILE with it, or neither')
  output = output_folder(args, 'analysis', 'receptive_field')
  check_writable(output, '--output')
  check_at_least('--images', args.images)
  for option in ('checkpoint', 'weights', 'bn'):
    value = getattr(args, option)
    if value is not None and not args.model:
      raise InputError(f'--{option} {value}: expected --model with it')
  config = read_config_file(args) if args.config else None
  loaded = load_model(args.model, args.checkpoint, args.weights, args.bn) if args.model else None
  if config is None:
    config = ConfigDict(loaded.config)
  else:
    parse_config(config)
  # In float32, whatever a run computes in: rounding would hide what is small.
  model = create_model(**{**config.model, 'compute_dtype': 'float32'})
  if loaded:
    # A field newer than the run has its default there.
    there, given = (dataclasses.asdict(Network(**c['model'])) for c in (loaded.config, config.to_dict()))
    different = '; '.join(
      f'model.{name}: {there[name]!r} there, {value!r} given'
      for name, value in given.items()
      if there[name] != value and name != 'compute_dtype'
    )
    if different:
      raise InputError(f'{shown_model(args.model)}: another network ({different}); omit --config')
    variables, source = loaded.variables, f'checkpoint of step {loaded.step:,}'
  else:
    variables = initial_variables(model, config.seed)
    source = 'random initial parameters'

  stride = model.extractor.stride
  image_size = tuple(-(-n // stride) * stride for n in config.data.image_size)
  extractor = propagate_field(model.extractor, (*image_size, 3))
  paths = cascade_paths(config.model.dilation_rates, extractor)
  print(format_table(paths, extractor))
  measured = measure_field(model, variables, extractor, image_size, num_images=args.images, seed=config.seed)
  sides = {f'{share:.0%}': measured.side(share) for share in SHARES}

  if paths:
    save_figure(output / 'scales.png', scales_figure(paths, extractor))
  cascade = paths[-1] if paths else None
  figure = effective_figure(measured, extractor, cascade, f'{config.model.extractor}, {source}')
  save_figure(output / 'receptive_field.png', figure)
  about = loaded.describe() if loaded else {'provenance': provenance()}
  write_json(
    output / 'receptive_field.json',
    {
      'extractor': {**dataclasses.asdict(extractor), 'size': extractor.size},
      'paths': [path._asdict() for path in paths],
      'measured': {
        'sides': sides,
        'images': args.images,
        'image_size': image_size,
        'cell': measured.cell,
        'center': measured.center,
      },
      'protocol': PROTOCOL,
      **{name: about.get(name) for name in ('workdir', 'checkpoint', 'step', 'weights', 'bn')},
      'seed': config.seed,
      'config': config.to_dict(),
      'provenance': about['provenance'],
    },
  )
  held = ', '.join(f'{share} of the gradient within {side:g}' for share, side in sides.items())
  print(f'measured ({source}, {args.images} images): {held} image pixels')
  print(f'receptive_field.json and {"two pictures" if paths else "a picture"} in {output}')
  return 0
