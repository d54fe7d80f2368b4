"""Show what a network sees: receptive field, coverage, and the measured one."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from dense_aspp_jax.commands.config_file import add_config_argument, read_config_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_config_argument(parser)
  parser.add_argument(
    '--workdir', type=pathlib.Path, help="measure with a run's parameters; default: random initial ones"
  )
  parser.add_argument('--checkpoint', help="of --workdir: 'best' (default), 'latest', or a step")
  parser.add_argument('--images', type=int, default=4, help='random images to average over (default 4)')
  parser.add_argument('--output', required=True, type=pathlib.Path, help='folder for the results')


def run(args: argparse.Namespace) -> int:
  """Writes receptive_field.json and two pictures; prints the table."""
  from dense_aspp_jax.errors import InputError

  if args.output.exists() and not args.output.is_dir():
    raise InputError(f'{args.output}: a file; --output expects a folder')
  if args.images < 1:
    raise InputError(f'--images {args.images}: expected at least 1')
  if args.checkpoint and not args.workdir:
    raise InputError(f'--checkpoint {args.checkpoint}: it needs the --workdir of a run')
  config = read_config_file(args)

  import dataclasses

  from dense_aspp_jax.analysis import receptive_field as analysis
  from dense_aspp_jax.analysis.field_propagation import propagate_field
  from dense_aspp_jax.analysis.figures import render
  from dense_aspp_jax.analysis.receptive_field_pictures import effective_figure, scales_figure
  from dense_aspp_jax.evaluation.pictures import save_png
  from dense_aspp_jax.models.segmentation import create_model
  from dense_aspp_jax.provenance import provenance, write_json
  from dense_aspp_jax.training.config_check import check_fields

  check_fields(config)
  # In float32, whatever a run computes in: rounding would hide what is small.
  model = create_model(**{**config.model, 'compute_dtype': 'float32'})
  step, variables = _variables(args, config, model)
  source = f'checkpoint of step {step:,}' if args.workdir else 'random initial parameters'

  stride = model.extractor.stride
  image_size = tuple(-(-n // stride) * stride for n in config.data.image_size)
  extractor = propagate_field(model.extractor, (*image_size, 3))
  paths = analysis.cascade_paths(config.model.dilation_rates, extractor)
  print(analysis.format_table(paths, extractor))
  if extractor.is_global:
    print('global: the extractor also reads means over the whole image (squeeze and excitation)')
  measured = analysis.measure_field(
    model, variables, extractor, image_size, num_images=args.images, seed=config.seed
  )
  sides = {f'{share:.0%}': measured.side(share) for share in analysis.SHARES}

  save_png(args.output / 'scales.png', render(scales_figure(paths, extractor)))
  figure = effective_figure(measured, extractor, paths[-1], f'{config.model.extractor}, {source}')
  save_png(args.output / 'receptive_field.png', render(figure))
  write_json(
    args.output / 'receptive_field.json',
    {
      'extractor': {**dataclasses.asdict(extractor), 'size': extractor.size},
      'paths': [dataclasses.asdict(path) for path in paths],
      'measured': {
        'sides': sides,
        'images': args.images,
        'image_size': image_size,
        'cell': measured.cell,
        'center': measured.center,
      },
      'protocol': analysis.PROTOCOL,
      'workdir': str(args.workdir) if args.workdir else None,
      'checkpoint': (args.checkpoint or 'best') if args.workdir else None,
      'step': step,
      'seed': config.seed,
      'config': config.to_dict(),
      'provenance': provenance(),
    },
  )
  held = ', '.join(f'{share} of the gradient within {side:g}' for share, side in sides.items())
  print(f'measured ({source}, {args.images} images): {held} image pixels')
  print(f'receptive_field.json and two pictures in {args.output}')
  return 0


def _variables(args: argparse.Namespace, config: Any, model: Any) -> tuple[int | None, Any]:
  """Step and variables of the run's checkpoint, or None and random initial variables."""
  import inspect

  import jax
  import jax.numpy as jnp

  from dense_aspp_jax.errors import InputError
  from dense_aspp_jax.models.segmentation import create_model
  from dense_aspp_jax.training.workdir import load_run

  if not args.workdir:
    return None, jax.jit(model.init)(jax.random.key(config.seed), jnp.zeros((1, 64, 64, 3)))
  run = load_run(args.workdir, args.checkpoint or 'best')
  given = config.model.to_dict()
  defaults = {name: p.default for name, p in inspect.signature(create_model).parameters.items()}
  stored = {**defaults, **run.config['model']}  # a field newer than the run has its default there
  different = [
    f'model.{name}: {stored[name]!r} there, {given[name]!r} given'
    for name in given
    if stored[name] != given[name] and name != 'compute_dtype'
  ]
  if different:
    raise InputError(f'{args.workdir}: a run of another network ({"; ".join(different)}); give its --config')
  return run.step, run.variables
