"""Weights drawn from the names of arrays, the same on every machine: for comparing networks without files.

Only uniform numbers of NumPy's frozen RandomState and correctly rounded arithmetic are used, so that not
a bit depends on platform or version. Every key has numbers of its own, so that two exchanged keys show;
running variances and what layer normalizations read are small in part, so that every epsilon shows; and
the scales are such that no activation dies out or overflows.
"""

import hashlib
import math
import re
import zlib

import numpy as np

from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.weights.convert import source_arrays
from dense_aspp_jax.weights.name_maps import SOURCES


def keys_digest(shapes):
  """SHA-256 of the keys and shapes of a checkpoint."""
  lines = [f'{key} {tuple(shapes[key])}\n' for key in sorted(shapes)]
  return hashlib.sha256(''.join(lines).encode()).hexdigest()


def source_shapes(network, source):
  """Shape by key of a source's checkpoint of a network."""
  return dict(source_arrays(network, source).values())


def draw_classifier(architecture='densenet_tiny', source=0):
  """Draws the state dict of the classifier of an extractor in one of its sources."""
  classifier = create_classifier(create_extractor(architecture, implementation='reference'))
  return draw_weights(source_shapes(classifier, SOURCES[type(classifier.extractor)][source]))


def draw_weights(shapes):
  """Draws an array for every key of a torch state dict.

  Args:
    shapes: Shape by key (without num_batches_tracked).

  Returns:
    float32 arrays by key.
  """
  has_layer_scale = any(key.endswith(('layer_scale', 'gamma')) for key in shapes)
  return {key: _draw(key, shape, shapes, has_layer_scale).astype(np.float32) for key, shape in shapes.items()}


def _uniform(key, shape, low, high):
  return low + (high - low) * np.random.RandomState(zlib.crc32(key.encode())).random_sample(shape)


def _draw(key, shape, shapes, is_convnext):
  module, _, leaf = key.rpartition('.')
  if leaf == 'running_mean':
    return _uniform(key, shape, -0.5, 0.5)
  if leaf == 'running_var':
    return 0.01 + 4 * _uniform(key, shape, 0, 1) ** 4  # a quarter below 0.03
  if f'{module}.running_var' in shapes:  # BN: scale x / sqrt(var) stays about 1
    if leaf == 'bias':
      return _uniform(key, shape, -0.3, 0.3)
    variance = _draw(f'{module}.running_var', shape, shapes, is_convnext)
    return np.sqrt(variance) * _uniform(key, shape, 0.6, 1.4)
  # ConvNeXt's stream is kept small: at variance 1 its epsilon of 1e-6 would not show.
  small = 0.003 if is_convnext and _is_small(key, shape) else 1.0
  if leaf in ('layer_scale', 'gamma') or (leaf == 'weight' and len(shape) == 1):
    return small * _uniform(key, shape, 0.5, 1.5)
  if leaf == 'bias':
    return small * _uniform(key, shape, -0.2, 0.2)
  bound = math.sqrt(6 / math.prod(shape[1:]))  # He et al. 2015: keeps the variance through ReLUs
  return small * _uniform(key, shape, -bound, bound)


def _is_small(key, shape):
  """Of ConvNeXt: stem, downsampling and layer scale, which set the stream's scale, and added biases."""
  if len(shape) == 4:
    return shape[1] > 1  # not the depthwise convolutions
  return re.search(
    r'(layer_scale|gamma|\.block\.0\.bias|conv_dw\.bias|downsample\.1\.bias|stem\.[01]\.\w+'
    r'|features\.0\.[01]\.\w+|features\.[246]\.1\.bias)$',
    key,
  )
