"""Receptive fields: of every path through the cascade by the slides' formulas, and the measured one.

The formulas are the slides' (slide on the receptive field; DenseASPP paper, section 3.2). The effective
field is measured as in Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks", NeurIPS 2016.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dense_aspp_jax.analysis.field_propagation import Field, Span
from dense_aspp_jax.models.segmentation import reference_model
from dense_aspp_jax.progress import progress_bar

PROTOCOL = (
  'field: (d - 1)(K - 1) + K of one atrous layer, R1 + R2 - 1 of two stacked, in feature-map pixels. '
  'image_field: (field - 1) x stride + field of the extractor, in image pixels; the latter is that of its '
  'widest path, global pooling left out. coverage: share of the pixels inside the field, in the feature map, '
  'that the path reads. measured: |gradient| of the logits of the centre feature-map pixel with respect to '
  'the image, summed over classes and RGB, averaged over standard-normal images of the size the network '
  'sees, float32, BN with running statistics; sides: of the squares around the centre that hold a share of '
  'the gradient within the image.'
)
KERNEL_SIZE = 3  # of the atrous convolutions
SHARES = (0.5, 0.9, 0.99)  # of the gradient


def atrous_field(dilation: int, kernel_size: int = KERNEL_SIZE) -> int:
  """Side of the field of one atrous convolution, in pixels of its input: R = (d - 1)(K - 1) + K."""
  return (dilation - 1) * (kernel_size - 1) + kernel_size


def stacked_field(fields: Iterable[int]) -> int:
  """Side of the field of layers one behind another: R = R1 + R2 - 1, and so on."""
  return 1 + sum(field - 1 for field in fields)


def coverage(dilation_rates: Iterable[int]) -> float:
  """Share of the pixels inside the field of stacked 3x3 atrous convolutions that they read, 0..1.

  Along one direction the pixels at the sums of one of {-d, 0, d} for each d; in two the square of that.
  """
  offsets = {0}
  field = 1
  for dilation in dilation_rates:
    offsets = {offset + step for offset in offsets for step in (-dilation, 0, dilation)}
    field = stacked_field([field, atrous_field(dilation)])
  return (len(offsets) / field) ** 2


@dataclasses.dataclass(frozen=True)
class CascadePath:
  """A path through the cascade, from the features through some of its layers.

  Attributes:
    layers: The layers it goes through, counted from 1.
    dilation_rates: Their dilation rates.
    field: Side of its receptive field in feature-map pixels.
    image_field: The same in image pixels, with the extractor's.
    coverage: See `coverage`.
  """

  layers: tuple[int, ...]
  dilation_rates: tuple[int, ...]
  field: int
  image_field: int
  coverage: float


def cascade_paths(dilation_rates: Sequence[int], extractor: Field) -> list[CascadePath]:
  """All paths: each layer reads all before it, so each of the 2^n - 1 sets of layers is one.

  Args:
    dilation_rates: Of the cascade.
    extractor: Receptive field of its features.

  Returns:
    By the number of layers, then in the order of the layers.
  """
  paths = []
  for count in range(1, len(dilation_rates) + 1):
    for layers in itertools.combinations(range(len(dilation_rates)), count):
      rates = tuple(dilation_rates[layer] for layer in layers)
      field = stacked_field(map(atrous_field, rates))
      image_field = (field - 1) * extractor.rows.stride + extractor.size
      paths.append(
        CascadePath(tuple(layer + 1 for layer in layers), rates, field, image_field, coverage(rates))
      )
  return paths


@dataclasses.dataclass(frozen=True)
class EffectiveField:
  """Where in the image the network looks for one pixel of its feature map.

  Attributes:
    gradient: Share of each pixel in the gradient's magnitude, float64 `[h, w]`, sum 1.
    cell: Row and column of the feature-map pixel.
    center: Middle of its theoretical field: y and x in pixels, counted from 0; may lie between pixels.
  """

  gradient: np.ndarray
  cell: tuple[int, int]
  center: tuple[float, float]

  def side(self, share: float) -> float:
    """Side in pixels of the smallest square around `center` that holds a share (0..1) of the gradient."""
    height, width = self.gradient.shape
    rows = np.abs(np.arange(height) - self.center[0])
    columns = np.abs(np.arange(width) - self.center[1])
    distances = np.maximum(rows[:, None], columns).ravel()
    order = np.argsort(distances, kind='stable')
    held = np.cumsum(self.gradient.ravel()[order])
    index = min(int(np.searchsorted(held, share * held[-1])), len(held) - 1)
    return float(2 * distances[order[index]] + 1)


def measure_field(
  model: nn.Module,
  variables: Mapping[str, Any],
  extractor: Field,
  image_size: tuple[int, int],
  *,
  num_images: int,
  seed: int,
) -> EffectiveField:
  """Measures the effective receptive field of the centre of the feature map; see `PROTOCOL`.

  Logits are taken in front of the upsampling, which would add up to one feature-map pixel on each side.

  Args:
    model: The segmentation model.
    variables: Its 'params' and 'batch_stats'.
    extractor: Receptive field of its features.
    image_size: Height and width, multiples of the stride.
    num_images: Images to average over.
    seed: Of the images.
  """
  stride = extractor.rows.stride
  grid = tuple(n // stride for n in image_size)
  cell = tuple(n // 2 for n in grid)
  reference = reference_model(
    model, rematerialize=True
  )  # a kernel has no gradient; full size needs the memory

  # Forward and backward in one compiled function: in two calls every activation would be held between them.
  @jax.jit
  @functools.partial(jax.grad, argnums=1)
  def gradient_of(variables, image, class_index):
    logits = reference.apply(variables, image[None]).main
    return reference.upsample_logits(logits, image_size, grid)[0, cell[0], cell[1], class_index]

  total = np.zeros(image_size)
  with progress_bar(num_images * model.num_classes, 'measuring', 'gradient') as bar:
    for index in range(num_images):
      key = jax.random.fold_in(jax.random.key(seed), index)
      image = jax.random.normal(key, (*image_size, 3))
      for class_index in range(model.num_classes):
        total += np.abs(gradient_of(variables, image, class_index)).sum(axis=-1)
        bar.update()
  center = tuple(middle(span, n) for span, n in zip((extractor.rows, extractor.columns), cell, strict=True))
  return EffectiveField(total / total.sum(), cell, center)


def middle(span: Span, position: int) -> float:
  """Middle of the span of one position, in pixels counted from 0."""
  return position * span.stride + (span.low + span.high) / 2


def format_table(paths: Sequence[CascadePath], extractor: Field) -> str:
  """The paths as plain text, the smallest field first."""
  rows = [('features', 1, extractor.size, '')]
  for path in sorted(paths, key=lambda path: (path.field, path.layers)):
    name = '-'.join(map(str, path.dilation_rates))
    rows.append((name, path.field, path.image_field, f'{100 * path.coverage:.1f}'))
  width = max(len('path'), *(len(row[0]) for row in rows)) + 2
  header = f'{"path":<{width}}{"field":>8}{"in image":>10}{"coverage in %":>15}'
  lines = [f'{name:<{width}}{field:>8}{image:>10}{share:>15}' for name, field, image, share in rows]
  return '\n'.join((header, '-' * len(header), *lines))
