"""Score a network with layers of DenseASPP removed."""

from __future__ import annotations

import argparse

import grain

from dense_aspp_jax.analysis.layer_removal import analyse_layer_removal, format_removal_table
from dense_aspp_jax.commands.run_arguments import (
  add_cache_argument,
  add_run_arguments,
  check_at_least,
  data_record,
  output_folder,
)
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import check_writable, replaced_directory, write_json
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.pretrained import shown_model
from dense_aspp_jax.training.run import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser)
  add_cache_argument(parser)
  parser.add_argument('--images', type=int, metavar='N', help='score only the first N images (default all)')
  parser.add_argument('--pictures', type=int, default=3, help='images drawn as pictures (default 3)')
  parser.add_argument(
    '--output', type=path_argument, help='folder for the results (default WORKDIR/analysis/layer_removal)'
  )


def run(args: argparse.Namespace) -> int:
  """Writes curves.png, one picture an image and layer_removal.json; prints the table."""
  output = output_folder(args, 'analysis', 'layer_removal')
  check_writable(output, '--output')
  check_at_least('--images', args.images)
  check_at_least('--pictures', args.pictures, 0)
  run = load_model(args.model, args.checkpoint, args.weights, args.bn)
  if not run.model.dense_aspp.dilation_rates:
    raise InputError(f'{shown_model(args.model)}: a network without atrous layers, so none can be removed')
  # Every setting reads the whole split.
  split = run.load_split(args.split, args.data_dir, args.images is None, args.cache_dir, args.dataset)
  with replaced_directory(output, 'layer_removal.json') as folder:
    result = analyse_layer_removal(
      run.predictor,
      grain.MapDataset.source(split)[: args.images],
      split.label_set,
      batch_size=run.batch_size,
      num_pictures=args.pictures,
      output=folder,
    )
    write_json(
      folder / 'layer_removal.json',
      {**result, **run.describe(), **data_record(args, run)},
    )
  print(format_removal_table(result['settings']))
  num_layers = len(result['layers'])
  lost = [
    f'{e["class"]} with {e["layers_removed"]} of {num_layers} layers removed' for e in result['lost_first']
  ]
  print(f'lost first (IoU below half): {", ".join(lost)}' if lost else 'no class loses half of its IoU')
  print(f'{result["images"]} images; pictures and layer_removal.json in {output}')
  return 0
