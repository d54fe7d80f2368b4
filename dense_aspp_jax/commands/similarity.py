"""Show which classes a network sees alike: cosine similarity with class means."""

from __future__ import annotations

import argparse

from dense_aspp_jax.analysis.similarity import analyse_similarity
from dense_aspp_jax.commands.run_arguments import (
  add_run_arguments,
  check_at_least,
  data_record,
  output_folder,
)
from dense_aspp_jax.files import check_writable, replaced_directory, write_json
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.training.run import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  add_run_arguments(parser)
  parser.add_argument('--images', type=int, default=4, help='images drawn as pictures (default 4)')
  parser.add_argument(
    '--layer',
    default='dense_aspp',
    help="'extractor', 'layer1' (first atrous layer), ..., or 'dense_aspp' (default: what the head reads)",
  )
  parser.add_argument(
    '--output',
    type=path_argument,
    help='folder for the results (default WORKDIR/analysis/similarity, similarity_LAYER for another layer)',
  )


def run(args: argparse.Namespace) -> int:
  """Writes pictures, heat maps, means and similarity.json; prints the most confused pairs."""
  # The report reads the folder 'similarity': what the head reads.
  name = 'similarity' if args.layer == 'dense_aspp' else f'similarity_{args.layer}'
  output = output_folder(args, 'analysis', name)
  check_writable(output, '--output')
  check_at_least('--images', args.images)
  run = load_model(args.model, args.checkpoint, args.weights, args.bn)
  split = run.load_split(args.split, args.data_dir, dataset=args.dataset)
  with replaced_directory(output, 'similarity.json') as folder:
    result = analyse_similarity(
      run.predictor, split, split.label_set, layer=args.layer, num_pictures=args.images, output=folder
    )
    write_json(folder / 'similarity.json', {**result, **run.describe(), **data_record(args, run)})
  print(f'most confused classes, by the cosine of their mean features ({args.layer}):')
  for pair in result['most_confused']:
    print(f'  {pair["cosine"]:6.3f}  {" / ".join(pair["classes"])}')
  print(f'{result["images"]} images; pictures and similarity.json in {output}')
  return 0
