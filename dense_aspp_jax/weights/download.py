"""Downloads official weight files."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from dense_aspp_jax.download import download_file
from dense_aspp_jax.errors import InputError

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


@contextlib.contextmanager
def downloaded(architecture: str) -> Iterator[pathlib.Path]:
  """Downloads the official file of an architecture; it is deleted when the `with` block ends.

  Raises:
    InputError: There is no official file for this architecture.
    RunError: No network, or the download was interrupted.
  """
  if architecture not in WEIGHT_URLS:
    raise InputError(
      f'architecture {architecture!r}: no official file to download; expected one of '
      f'{", ".join(WEIGHT_URLS)}, or give a file with --input'
    )
  url = WEIGHT_URLS[architecture]
  with tempfile.TemporaryDirectory(prefix='weights_') as folder:
    path = pathlib.Path(folder) / url.rpartition('/')[2]
    otherwise = 'where there is a network, get that file, copy it here and run convert with --input FILE'
    download_file(url, path, f'downloading {path.name}', otherwise)
    yield path
