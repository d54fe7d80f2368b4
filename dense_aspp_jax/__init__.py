"""Semantic segmentation of street scenes with DenseASPP, in JAX and Flax.

`dense_aspp_jax.load_model('streets').predict('photo.jpg')` predicts an image; see docs/predictor.md.
"""

import importlib
from typing import Any

__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
  # Imported when it is used: importing the package alone loads no JAX.
  if name in ('load_model', 'load_run'):
    return getattr(importlib.import_module('dense_aspp_jax.training.run'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
