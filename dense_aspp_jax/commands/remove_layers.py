"""Score a network with layers of DenseASPP removed."""

from __future__ import annotations

import argparse
import pathlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  parser.add_argument('--workdir', required=True, type=pathlib.Path, help='directory of the run')
  parser.add_argument('--checkpoint', default='best', help="'best' (default), 'latest', or a step")
  parser.add_argument(
    '--split', default='validation', help="'validation' (default), 'train' (not augmented), or 'test'"
  )
  parser.add_argument('--images', type=int, help='score the first so many images alone (default all)')
  parser.add_argument('--pictures', type=int, default=3, help='images drawn as pictures (default 3)')
  parser.add_argument(
    '--data-dir', help="where the prepared data are, if not where the run's configuration says"
  )
  parser.add_argument(
    '--output', type=pathlib.Path, help='folder for the results (default WORKDIR/analysis/layer_removal)'
  )


def run(args: argparse.Namespace) -> int:
  """Writes curves.png, one picture an image and layer_removal.json; prints the table."""
  import grain

  from dense_aspp_jax.analysis.layer_removal import analyse_layer_removal
  from dense_aspp_jax.analysis.removal_summary import format_removal_table
  from dense_aspp_jax.errors import InputError
  from dense_aspp_jax.provenance import provenance, write_json
  from dense_aspp_jax.training.workdir import load_run

  output = args.output or args.workdir / 'analysis' / 'layer_removal'
  if output.exists() and not output.is_dir():
    raise InputError(f'{output}: a file; --output expects a folder')
  if args.images is not None and args.images < 1:
    raise InputError(f'--images {args.images}: expected at least 1')
  if args.pictures < 0:
    raise InputError(f'--pictures {args.pictures}: expected at least 0')
  run = load_run(args.workdir, args.checkpoint)
  data = run.config['data']
  split = run.load_split(
    args.split, args.data_dir, cached=args.images is None
  )  # every setting reads all images
  result = analyse_layer_removal(
    run.predictor,
    run.variables,
    grain.MapDataset.source(split)[: args.images],
    run.label_set,
    dilation_rates=run.model.dense_aspp.dilation_rates,
    batch_size=run.config['evaluation']['batch_size'],
    num_pictures=args.pictures,
    output=output,
  )
  write_json(
    output / 'layer_removal.json',
    {
      **result,
      'dataset': data['dataset'],
      'split': args.split,
      'workdir': str(args.workdir),
      'checkpoint': args.checkpoint,
      'step': run.step,
      'seed': run.config['seed'],
      'label_set': run.label_set.name,
      'config': run.config,
      'provenance': provenance(),
    },
  )
  print(format_removal_table(result['settings']))
  print(f'lost first (see lost_first_rule): {", ".join(result["lost_first"][:3])}')
  print(f'{result["images"]} images; pictures and layer_removal.json in {output}')
  return 0
