"""Feature similarity: which pixels, and which classes, a network sees alike.

Slides, "Feature similarity": for each label present in the ground truth, the mean feature vector over its
pixels, and the cosine similarity of every pixel's feature vector with that mean, as a heat map.

A pixel of the label has the feature vector that bilinear upsampling gives it, on the grid of the logits (see
`SegmentationModel`). Upsampling is linear, so a class's mean is taken on the small feature map: the sum over
the pixels of a mask M of the upsampled features U f equals the sum of (U^T M) f.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, Int32, UInt8

from dense_aspp_jax.analysis.figures import render
from dense_aspp_jax.analysis.similarity_pictures import matrix_figure, similarity_figure
from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.pictures import save_png
from dense_aspp_jax.files import write_file
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.models.segmentation import reference_model
from dense_aspp_jax.models.upsampling import bilinear_matrix
from dense_aspp_jax.progress import progress

NUM_CONFUSED = 5  # pairs of classes that are named
PROTOCOL = (
  'Features of one layer, upsampled bilinearly to the size of the label. matrix: cosine similarity of the '
  'mean features of two classes, each over all its pixels in all images of the split; ignored pixels belong '
  "to no class. Pictures: cosine similarity of each pixel's features with the mean over the pixels of a "
  'class in that image. maps: the same values as float16 `similarity` [class, height, width] of the '
  '`classes` present, and the `means` [class, channel] they compare with; means_file: those over the split.'
)

_HIGHEST = jax.lax.Precision.HIGHEST  # a GPU would round to tensor-float-32, a TPU to bfloat16
_MATRIX_PICTURE = 'matrix.png'
_MEANS_FILE = 'means.npz'


def layer_names(model: nn.Module) -> tuple[str, ...]:
  """Layers of a `SegmentationModel` that can be observed, from the image to the head.

  Returns:
    'extractor' (the features that enter DenseASPP), 'layer1', ... (the new channels of one atrous layer),
    'dense_aspp' (the last concatenation, which the head reads).
  """
  layers = (f'layer{i}' for i in range(1, len(model.dense_aspp.dilation_rates) + 1))
  return 'extractor', *layers, 'dense_aspp'


def layer_features(
  model: nn.Module, variables: Mapping[str, Any], image: Float[Array, 'h w 3'], layer: str
) -> Float32[Array, 'fh fw c']:
  """The output of one layer for one normalised image; `layer` is one of `layer_names`."""
  path = ('dense_aspp', layer) if layer.startswith('layer') else (layer,)
  _, captured = reference_model(model).apply(
    variables,
    image[None],
    train=False,
    mutable=['intermediates'],
    capture_intermediates=lambda module, method: module.path == path and method == '__call__',
  )
  found = captured['intermediates']
  for name in path:
    found = found[name]
  (output,) = found['__call__']
  features = output.last if layer == 'extractor' else output
  return features[0].astype(jnp.float32)


def class_feature_sums(
  features: Float32[Array, 'fh fw c'],
  labels: UInt8[Array, 'h w'],
  scale: tuple[float, float],
  num_classes: int,
) -> tuple[Float32[Array, 'k c'], Int32[Array, ' k']]:
  """Sums the upsampled features over the pixels of each class, without upsampling them.

  Args:
    features: Feature map.
    labels: Class indices; values of `num_classes` and above belong to no class.
    scale: Label pixels per feature pixel, vertically and horizontally.
    num_classes: Number of classes k.

  Returns:
    The sums, and the number of pixels of each class.
  """
  rows = bilinear_matrix(features.shape[0], labels.shape[0], scale[0])
  columns = bilinear_matrix(features.shape[1], labels.shape[1], scale[1])

  def sums(index):  # one class after the other: one mask in memory
    mask = labels == index
    weights = jnp.einsum('oh,op,pw->hw', rows, mask.astype(jnp.float32), columns, precision=_HIGHEST)
    return jnp.einsum('hw,hwc->c', weights, features, precision=_HIGHEST), mask.sum(dtype=jnp.int32)

  return jax.lax.map(sums, jnp.arange(num_classes))


def similarity_maps(
  features: Float32[Array, 'fh fw c'],
  vectors: Float32[Array, 'k c'],
  size: tuple[int, int],
  scale: tuple[float, float],
) -> Float32[Array, 'k h w']:
  """Cosine similarity of every pixel's upsampled feature vector with each of k vectors.

  Args:
    features: Feature map.
    vectors: What the pixels are compared with.
    size: Height and width of the maps.
    scale: Map pixels per feature pixel, vertically and horizontally.

  Returns:
    Values in -1..1; 0 where either vector is zero.
  """
  rows = bilinear_matrix(features.shape[0], size[0], scale[0])
  columns = bilinear_matrix(features.shape[1], size[1], scale[1])
  # The product with a vector commutes with upsampling; the norm does not.
  products = jnp.einsum('hwc,kc->khw', features, vectors, precision=_HIGHEST)
  products = jnp.einsum('oh,khw,pw->kop', rows, products, columns, precision=_HIGHEST)
  norms = jnp.sqrt(jnp.maximum(_upsampled_squared_norms(features, rows, columns), 0))  # rounding
  norms = norms * jnp.linalg.norm(vectors, axis=-1)[:, None, None]
  return jnp.clip(jnp.where(norms > 0, products / jnp.where(norms > 0, norms, 1), 0), -1, 1)


def _upsampled_squared_norms(
  features: Float32[Array, 'fh fw c'],
  rows: Float32[np.ndarray, 'h fh'],
  columns: Float32[np.ndarray, 'w fw'],
) -> Float32[Array, 'h w']:
  """Squared norms of upsampled features, from inner products of neighbours at the size of the features.

  A pixel is a weighted sum of the corners of one cell, so its squared norm needs the inner products of each
  corner with itself, its neighbours and those across the diagonals.
  """

  def interpolate(row_weights, products, column_weights):
    return jnp.einsum('oh,hw,pw->op', row_weights, products, column_weights, precision=_HIGHEST)

  def inner(a, b):
    return (a * b).sum(-1)

  upper, lower, left, right = features[:-1], features[1:], features[:, :-1], features[:, 1:]
  across = inner(upper[:, :-1], lower[:, 1:]) + inner(upper[:, 1:], lower[:, :-1])
  row_pairs, column_pairs = (2 * weights[:, :-1] * weights[:, 1:] for weights in (rows, columns))
  return (
    interpolate(rows**2, inner(features, features), columns**2)
    + interpolate(row_pairs, inner(upper, lower), columns**2)
    + interpolate(rows**2, inner(left, right), column_pairs)
    + interpolate(row_pairs, across / 2, column_pairs)
  )


def cosine_matrix(sums: Float64[np.ndarray, 'k c'], counts: Int[np.ndarray, ' k']) -> np.ndarray:
  """Cosine similarity of the mean feature vectors of each two classes.

  Args:
    sums: Sum of the feature vectors of each class.
    counts: Its pixels.

  Returns:
    float64 `[k, k]`; NaN for a class without pixels, 0 where a mean is the zero vector.
  """
  means = sums / np.maximum(counts, 1)[:, None]
  norms = np.linalg.norm(means, axis=1, keepdims=True)
  unit = means / np.where(norms > 0, norms, 1)
  matrix = np.clip(unit @ unit.T, -1, 1)
  matrix[counts == 0] = np.nan
  matrix[:, counts == 0] = np.nan
  return matrix


def most_confused(matrix: np.ndarray, class_names: Sequence[str], count: int) -> list[dict[str, Any]]:
  """The pairs of different classes with the highest cosine, highest first.

  Args:
    matrix: From `cosine_matrix`; pairs that are NaN are left out.
    class_names: Names by class index.
    count: How many pairs at most.

  Returns:
    `[{'classes': [a, b], 'cosine': x}, ...]`.
  """
  pairs = [(i, j) for i, j in zip(*np.triu_indices(len(matrix), 1), strict=True) if np.isfinite(matrix[i, j])]
  pairs.sort(key=lambda pair: -matrix[pair])
  return [
    {'classes': [class_names[i], class_names[j]], 'cosine': float(matrix[i, j])} for i, j in pairs[:count]
  ]


def analyse_similarity(
  model: nn.Module,
  variables: Mapping[str, Any],
  split: Sequence[CachedExample],
  label_set: LabelSet,
  preprocessing: Preprocessing,
  *,
  layer: str,
  num_pictures: int,
  output: pathlib.Path,
) -> dict[str, Any]:
  """Compares the features of all classes over a split, and draws its first images.

  Args:
    model: The segmentation model.
    variables: Its variables.
    split: Images at the network's input size with native label ids.
    label_set: What the network's class indices mean.
    preprocessing: How images are normalized.
    layer: One of `layer_names`.
    num_pictures: How many images to draw.
    output: Folder for the pictures and the arrays.

  Returns:
    JSON data: layer, images, pixels by class, classes, matrix (null for absent classes), most_confused, and
    the names of the files in `output`: pictures, maps (of the same images, see `PROTOCOL`) and means_file.

  Raises:
    InputError: There is no such layer, or no pixel of the ground truth belongs to a class.
  """
  if layer not in layer_names(model):
    raise InputError(f'layer {layer!r}: this network has {", ".join(layer_names(model))}')

  @jax.jit
  def observe(variables, image, labels):
    normalized = preprocessing.normalize(image.astype(jnp.float32))
    features = layer_features(model, variables, normalized, layer)
    scale = _scale(model, image, labels.shape)
    return features, *class_feature_sums(features, labels, scale, label_set.num_classes)

  draw = jax.jit(similarity_maps, static_argnames=('size', 'scale'))
  names = np.array(label_set.class_names)
  total, pixels, pictures, map_files = 0, np.zeros(label_set.num_classes, np.int64), [], []
  for image_id, image, label_ids in progress(
    evaluation_examples(split), 'comparing features', len(split), 'image'
  ):
    labels = label_set.encode(label_ids, image_id)
    features, sums, counts = observe(variables, image, labels)
    total, pixels = total + np.asarray(sums, np.float64), pixels + np.asarray(counts)
    if len(pictures) < num_pictures:
      means = sums / jnp.maximum(counts, 1)[:, None]
      maps = draw(features, means, size=labels.shape, scale=_scale(model, image, labels.shape))
      maps, present = np.asarray(maps), np.flatnonzero(counts)
      # Numbered: the ids a/b_c and a_b/c would share a name.
      name = f'similarity_{len(pictures) + 1}_{image_id.replace("/", "_")}'
      pictures.append(f'{name}.png')
      map_files.append(f'{name}.npz')
      _save_arrays(
        output / map_files[-1],
        similarity=maps[present].astype(np.float16),
        classes=names[present],
        means=np.asarray(means)[present],
      )
      title = f'Cosine similarity with the mean feature of each class: {layer}, {image_id}'
      figure = similarity_figure(image, labels, maps, label_set, title)
      save_png(output / pictures[-1], render(figure))
  if not pixels.any():
    raise InputError('no pixel of the ground truth belongs to a class; use a split with real labels')
  occurring = np.flatnonzero(pixels)
  means = (total[occurring] / pixels[occurring, None]).astype(np.float32)
  _save_arrays(output / _MEANS_FILE, classes=names[occurring], means=means)
  matrix = cosine_matrix(total, pixels)
  confused = most_confused(matrix, label_set.class_names, NUM_CONFUSED)
  figure = matrix_figure(matrix, label_set.class_names, [pair['classes'] for pair in confused], layer)
  save_png(output / _MATRIX_PICTURE, render(figure))
  return {
    'layer': layer,
    'images': len(split),
    'pixels': dict(zip(label_set.class_names, pixels.tolist(), strict=True)),
    'classes': list(label_set.class_names),
    'matrix': [[None if np.isnan(value) else value for value in row] for row in matrix.tolist()],
    'most_confused': confused,
    'matrix_picture': _MATRIX_PICTURE,
    'pictures': pictures,
    'maps': map_files,
    'means_file': _MEANS_FILE,
    'protocol': PROTOCOL,
  }


def _save_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
  """Writes a compressed .npz, whole or not at all."""
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  write_file(path, buffer.getvalue())


def _scale(model: nn.Module, image: np.ndarray | Array, size: tuple[int, int]) -> tuple[float, float]:
  """Label pixels per feature pixel, as `SegmentationModel` scales its logits."""
  height, width = image.shape[:2]
  return model.extractor.stride * size[0] / height, model.extractor.stride * size[1] / width
