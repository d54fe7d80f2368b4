"""Show which classes a network sees alike: cosine similarity with class means."""

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
  parser.add_argument('--images', type=int, default=4, help='images drawn as pictures (default 4)')
  parser.add_argument(
    '--layer',
    default='dense_aspp',
    help="'extractor', 'layer1' (first atrous layer), ..., or 'dense_aspp' (default: what the head reads)",
  )
  parser.add_argument(
    '--data-dir', help="where the prepared data are, if not where the run's configuration says"
  )
  parser.add_argument(
    '--output', type=pathlib.Path, help='folder for the results (default WORKDIR/analysis/similarity)'
  )


def run(args: argparse.Namespace) -> int:
  """Writes matrix.png, one picture an image and similarity.json; prints the most confused pairs."""
  from dense_aspp_jax.analysis.similarity import analyse_similarity
  from dense_aspp_jax.errors import InputError
  from dense_aspp_jax.provenance import provenance, write_json
  from dense_aspp_jax.training.workdir import load_run

  output = args.output or args.workdir / 'analysis' / 'similarity'
  if output.exists() and not output.is_dir():
    raise InputError(f'{output}: a file; --output expects a folder')
  if args.images < 1:
    raise InputError(f'--images {args.images}: expected at least 1')
  run = load_run(args.workdir, args.checkpoint)
  data = run.config['data']
  split = run.load_split(args.split, args.data_dir)
  result = analyse_similarity(
    run.model,
    run.variables,
    split,
    run.label_set,
    mean=data['mean'],
    std=data['std'],
    layer=args.layer,
    num_pictures=args.images,
    output=output,
  )
  write_json(
    output / 'similarity.json',
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
  print(f'most confused classes, by the cosine of their mean features ({args.layer}):')
  for pair in result['most_confused']:
    print(f'  {pair["cosine"]:6.3f}  {" / ".join(pair["classes"])}')
  print(f'{result["images"]} images; pictures and similarity.json in {output}')
  return 0
