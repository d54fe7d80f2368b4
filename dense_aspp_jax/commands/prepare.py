"""Prepare a data set, once, without TensorFlow."""

from __future__ import annotations

import argparse

from dense_aspp_jax.datasets.prepare import DATASETS, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument('name', choices=DATASETS, help='dataset to prepare')
  parser.add_argument(
    '--source',
    metavar='PATH',
    help='; '.join(f'{name}: {dataset.files}' for name, dataset in DATASETS.items() if dataset.files)
    + ' (default, except for camvid: downloads/manual in the data directory)',
  )
  add_shared_arguments(parser)
  parser.add_argument('--download', action='store_true', help='camvid: download it (needs a network)')


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds those that `prepare` and `check-data` have in common."""
  parser.add_argument(
    '--data-dir',
    metavar='DIR',
    help='where prepared datasets are kept (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)',
  )
  parser.add_argument(
    '--allow-partial',
    action='store_true',
    help='accept files with other numbers and sizes of images than the published ones, with a warning',
  )
  parser.add_argument(
    '--skip-bad',
    type=_count,
    default=0,
    metavar='N',
    help='bad pairs of the training split that may be left out (default: 0); they are named',
  )


def _count(text: str) -> int:
  value = int(text)
  if value < 0:
    raise argparse.ArgumentTypeError(f'{value}; expected at least 0')
  return value


def run(args: argparse.Namespace) -> int:
  """Prepares the dataset and says where it lies and how many examples it has."""
  done = prepare(args.name, args.source, args.data_dir, args.allow_partial, args.download, args.skip_bad)
  builder = DATASETS[args.name].prepared_builder(args.data_dir)
  counts = ', '.join(f'{name} {split.num_examples}' for name, split in builder.info.splits.items())
  print(f'{args.name} {"is prepared" if done else "was prepared already"}: {counts}, in {builder.data_dir}')
  return 0
