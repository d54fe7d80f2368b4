"""Feature similarity: which pixels, and which classes, a network represents alike.

Slides, "Feature similarity": for each label present in the ground truth, the mean feature vector over its
pixels, and the cosine similarity of every pixel's feature vector with that mean, as a heat map.

A label pixel's feature vector is that of the bilinearly upsampled feature map, on the grid of the logits (see
`SegmentationModel`). Upsampling is linear, so the mean of a class is taken on the small feature map: the sum
over the pixels of a mask M of the upsampled features U f equals the sum of (U^T M) f.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Float32, Float64, Int, Int32, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dense_aspp_jax.analysis.figures import MOST_NUMBERED, draw_matrix, literal, picture_name, save_figure
from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.files import shown, write_arrays
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet
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
_COLORS = dict(cmap='RdBu_r', vmin=-1, vmax=1)  # white is 0, red alike, blue opposed
_COLUMNS = 4
_PANEL_WIDTH = 3.2  # inches, at 100 pixels each


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
  """The output of one layer for one normalized image; `layer` is one of `layer_names`."""
  path = ('dense_aspp', layer) if layer.startswith('layer') else (layer,)
  _, captured = reference_model(model).apply(
    variables,
    image[None],
    train=False,
    mutable=['intermediates'],
    capture_intermediates=lambda module, method: module.path == path and method == '__call__',
  )
  (output,) = flatten_dict(captured['intermediates'])[*path, '__call__']
  features = output.last if layer == 'extractor' else output
  return features[0].astype(jnp.float32)


def class_feature_sums(
  features: Float32[Array, 'fh fw c'],
  labels: UInt8[Array, 'h w'],
  scale: tuple[float, float],
  num_classes: int,
) -> tuple[Float32[Array, 'k c'], Int32[Array, ' k']]:
  """Sums the upsampled features over the pixels of each class, without upsampling them.

  The scale is label pixels per feature pixel, vertically and horizontally. Label values of `num_classes` and
  above belong to no class. Returns the sums, and the number of pixels of each class.
  """
  rows, columns = map(bilinear_matrix, features.shape, labels.shape, scale)

  def sums(index):  # one class at a time, to hold one mask
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

  The scale is map pixels per feature pixel, vertically and horizontally. Values are in -1..1, and 0 where
  either vector is zero.
  """
  rows, columns = map(bilinear_matrix, features.shape, size, scale)
  # The product with a vector commutes with upsampling; the norm does not, and rounding may make its square
  # negative.
  products = jnp.einsum('hwc,kc->khw', features, vectors, precision=_HIGHEST)
  products = _interpolate(rows, products, columns)
  norms = jnp.sqrt(jnp.maximum(_upsampled_squared_norms(features, rows, columns), 0))
  norms = norms * jnp.linalg.norm(vectors, axis=-1)[:, None, None]
  return jnp.clip(jnp.where(norms > 0, products / jnp.where(norms > 0, norms, 1), 0), -1, 1)


def _upsampled_squared_norms(
  features: Float32[Array, 'fh fw c'], rows: Float32[np.ndarray, 'h fh'], columns: Float32[np.ndarray, 'w fw']
) -> Float32[Array, 'h w']:
  """Squared norms of upsampled features, from inner products of neighbours at the size of the features.

  A pixel is a weighted sum of the corners of one cell, so its squared norm needs the inner products of each
  corner with itself, its neighbours and those across the diagonals.
  """

  def inner(a, b):
    return (a * b).sum(-1)

  upper, lower, left, right = features[:-1], features[1:], features[:, :-1], features[:, 1:]
  across = inner(upper[:, :-1], lower[:, 1:]) + inner(upper[:, 1:], lower[:, :-1])
  row_pairs, column_pairs = (2 * weights[:, :-1] * weights[:, 1:] for weights in (rows, columns))
  return (
    _interpolate(rows**2, inner(features, features), columns**2)
    + _interpolate(row_pairs, inner(upper, lower), columns**2)
    + _interpolate(rows**2, inner(left, right), column_pairs)
    + _interpolate(row_pairs, across / 2, column_pairs)
  )


def _interpolate(rows, maps, columns):
  return jnp.einsum('oh,...hw,pw->...op', rows, maps, columns, precision=_HIGHEST)


def cosine_matrix(sums: Float64[np.ndarray, 'k c'], counts: Int[np.ndarray, ' k']) -> np.ndarray:
  """Cosine similarity of the mean feature vectors of each two classes, from their sums and pixel counts.

  Returns:
    float64 `[k, k]`; NaN for a class without pixels, 0 where a mean is the zero vector.
  """
  means = sums / np.maximum(counts, 1)[:, None]
  norms = np.linalg.norm(means, axis=1, keepdims=True)
  unit = means / np.where(norms > 0, norms, 1)
  absent = counts == 0
  return np.where(absent[:, None] | absent, np.nan, np.clip(unit @ unit.T, -1, 1))


def most_confused(matrix: np.ndarray, class_names: Sequence[str], count: int) -> list[dict[str, Any]]:
  """Up to `count` pairs of different classes with the highest cosine (not NaN), highest first.

  Returns:
    `[{'classes': [a, b], 'cosine': x}, ...]`.
  """
  pairs = [pair for pair in itertools.combinations(range(len(matrix)), 2) if np.isfinite(matrix[pair])]
  pairs.sort(key=lambda pair: -matrix[pair])
  return [
    {'classes': [class_names[i] for i in pair], 'cosine': float(matrix[pair])} for pair in pairs[:count]
  ]


def analyse_similarity(
  predictor: Predictor,
  split: Sequence[CachedExample],
  label_set: LabelSet,
  *,
  layer: str,
  num_pictures: int,
  output: pathlib.Path,
) -> dict[str, Any]:
  """Compares the features of all classes over a split, and draws its first images.

  Args:
    predictor: The network.
    split: Images at the network's input size with native label ids.
    label_set: The split's: its label ids as the classes that the network predicts.
    layer: One of `layer_names`.
    num_pictures: How many images to draw.
    output: Folder for the pictures and the arrays.

  Returns:
    JSON data: layer, images, pixels by class, classes, matrix (null for absent classes), most_confused, and
    the names of the files in `output`: pictures, maps (of the same images, see `PROTOCOL`) and means_file.

  Raises:
    InputError: There is no such layer, or no pixel of the ground truth belongs to a class.
  """
  model = predictor.model
  if layer not in layer_names(model):
    raise InputError(f'layer {layer!r}: this network has {", ".join(layer_names(model))}')

  @jax.jit
  def observe(variables, image, labels):
    normalized = predictor.preprocessing.normalize(image.astype(jnp.float32))
    features = layer_features(model, variables, normalized, layer)
    scale = model.logits_scale(image.shape[:2], labels.shape)
    return features, *class_feature_sums(features, labels, scale, label_set.num_classes)

  draw = jax.jit(similarity_maps, static_argnames=('size', 'scale'))
  variables = jax.device_put(predictor.variables, jax.local_devices()[0])
  names = np.array(label_set.class_names)
  total, pixels, pictures = 0, np.zeros(label_set.num_classes, np.int64), []
  examples = progress(evaluation_examples(split), 'comparing features', len(split), 'image')
  for number, (image_id, image, label_ids) in enumerate(examples, start=1):
    labels = label_set.encode(label_ids, image_id)
    features, sums, counts = observe(variables, image, labels)
    total, pixels = total + np.asarray(sums, np.float64), pixels + np.asarray(counts)
    if number <= num_pictures:
      means = sums / jnp.maximum(counts, 1)[:, None]
      scale = model.logits_scale(image.shape[:2], labels.shape)
      maps = np.asarray(draw(features, means, size=labels.shape, scale=scale))
      present = np.flatnonzero(counts)
      pictures.append(picture_name('similarity', number, image_id))
      write_arrays(
        output / f'{pictures[-1]}.npz',
        similarity=maps[present].astype(np.float16),
        classes=names[present],
        means=np.asarray(means)[present],
      )
      title = f'Cosine similarity with the mean feature of each class: {layer}, {shown(image_id)}'
      save_figure(output / f'{pictures[-1]}.png', similarity_figure(image, labels, maps, label_set, title))
  if not pixels.any():
    raise InputError('no pixel of the ground truth belongs to a class; use a split with real labels')
  occurring = np.flatnonzero(pixels)
  means = (total[occurring] / pixels[occurring, None]).astype(np.float32)
  write_arrays(output / 'means.npz', classes=names[occurring], means=means)
  matrix = cosine_matrix(total, pixels)
  confused = most_confused(matrix, label_set.class_names, NUM_CONFUSED)
  pairs = [pair['classes'] for pair in confused]
  save_figure(output / 'matrix.png', matrix_figure(matrix, label_set.class_names, pairs, layer))
  return {
    'layer': layer,
    'images': len(split),
    'pixels': dict(zip(label_set.class_names, pixels.tolist(), strict=True)),
    'classes': list(label_set.class_names),
    'matrix': [[None if np.isnan(value) else value for value in row] for row in matrix.tolist()],
    'most_confused': confused,
    'matrix_picture': 'matrix.png',
    'pictures': [f'{name}.png' for name in pictures],
    'maps': [f'{name}.npz' for name in pictures],
    'means_file': 'means.npz',
    'protocol': PROTOCOL,
  }


def similarity_figure(
  image: UInt8[np.ndarray, 'h w 3'],
  labels: UInt8[np.ndarray, 'lh lw'],
  maps: Float32[np.ndarray, 'k lh lw'],
  label_set: LabelSet,
  title: str,
) -> Figure:
  """Draws image, ground truth, and the heat map of each class that is present, its pixels outlined."""
  present = np.unique(labels[labels < label_set.num_classes]).tolist()
  num_rows = -(-(2 + len(present)) // _COLUMNS)
  panel_height = _PANEL_WIDTH * labels.shape[0] / labels.shape[1]
  figure = Figure((_COLUMNS * _PANEL_WIDTH + 1, num_rows * (panel_height + 0.25) + 0.9), layout='constrained')
  figure.suptitle(title, fontsize=12, parse_math=False)  # an image's name may hold dollar signs
  axes = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel()
  for axis in axes:
    axis.set_axis_off()
  names, colors = label_set.class_names, label_set.colors
  for axis, picture, caption in zip(
    axes, (resize_image(image, labels.shape), colors[labels]), ('image', 'ground truth'), strict=False
  ):
    axis.imshow(picture)
    axis.set_title(caption, fontsize=10)
  for axis, index in zip(axes[2:], present, strict=False):
    mask = labels == index
    heat = axis.imshow(maps[index], **_COLORS)
    if not mask.all():
      axis.contour(mask, levels=[0.5], colors='black', linewidths=0.6)
    caption = f'{names[index]} ({100 * mask.mean():.1f} % of pixels)'
    axis.set_title(caption, fontsize=10, parse_math=False)
  if present:
    figure.colorbar(heat, ax=axes, shrink=0.8, aspect=30, pad=0.01, label='cosine similarity')
  shown = {names[i]: colors[i] for i in present}
  if (labels == IGNORE_LABEL).any():
    shown['ignored'] = colors[IGNORE_LABEL]
  patches = [Patch(color=color / 255) for color in shown.values()]
  style = dict(loc='outside lower center', ncols=min(10, len(shown)), fontsize=9, frameon=False)
  figure.legend(patches, literal(shown), **style)
  return figure


def matrix_figure(
  matrix: np.ndarray, class_names: Sequence[str], confused: Sequence[Sequence[str]], layer: str
) -> Figure:
  """Draws a `cosine_matrix` of a layer with its values; the most confused pairs of classes are framed."""

  def text(value: float) -> str:
    return f'{value:z.2f}'.replace('0.', '.') if np.isfinite(value) else ''

  side = max(5, (0.42 if len(class_names) <= MOST_NUMBERED else 0.15) * len(class_names))
  figure = Figure((side + 2.3, side + 1.2), layout='constrained')
  axes = figure.subplots()
  axes.set_title(f"Cosine similarity of the classes' mean features: {layer}", fontsize=12)
  heat = draw_matrix(axes, matrix, class_names, text, **_COLORS)
  axes.set_facecolor('0.85')  # shows where the matrix has no value
  for index in np.flatnonzero(np.isnan(matrix.diagonal())):
    axes.text(index, index, 'absent', ha='center', va='center', fontsize=7.5)
  for first, second in ([class_names.index(name) for name in pair] for pair in confused):
    for row, column in ((first, second), (second, first)):
      axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor='gold', linewidth=2))
  figure.colorbar(heat, ax=axes, shrink=0.8, aspect=30, pad=0.01, label='cosine similarity')
  if confused:
    figure.supxlabel('framed: the most similar pairs of different classes', fontsize=9)
  return figure
