"""Receptive fields: in theory, of every path through the cascade, and in effect, as measured.

The formulas are those of the slides (slide on the receptive field; DenseASPP paper, section 3.2). The
effective field is measured as by Luo et al., "Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks", NeurIPS 2016.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator
from tabulate import tabulate

from dense_aspp_jax.analysis.field_propagation import Field
from dense_aspp_jax.models.segmentation import SegmentationModel, reference_model
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
SHARES = {0.5: '-', 0.9: '--', 0.99: ':'}  # of the gradient, each with the line of its square
_DECADES = 6  # of the gradient that are drawn, down from its largest value
_KERNEL_SIZE = 3  # of the atrous convolutions


def atrous_field(dilation_rates: Iterable[int]) -> int:
  """Side of the field of stacked atrous convolutions, in pixels of their input.

  R = (d - 1)(K - 1) + K for one of dilation d, and R = R1 + R2 - 1 for two stacked.
  """
  fields = ((dilation - 1) * (_KERNEL_SIZE - 1) + _KERNEL_SIZE for dilation in dilation_rates)
  return 1 + sum(field - 1 for field in fields)


def coverage(dilation_rates: Sequence[int]) -> float:
  """Share of the pixels inside the field of stacked 3x3 atrous convolutions that they read, 0..1.

  Along one direction they read the sums of one of {-d, 0, d} for each d; in two the share is squared.
  """
  offsets = {0}
  for dilation in dilation_rates:
    offsets = {offset + step for offset in offsets for step in (-dilation, 0, dilation)}
  return (len(offsets) / atrous_field(dilation_rates)) ** 2


class CascadePath(NamedTuple):
  """A path through the cascade, from the features through some of its layers."""

  layers: tuple[int, ...]  # those it goes through, counted from 1
  dilation_rates: tuple[int, ...]  # of these layers
  field: int  # side of its receptive field in feature-map pixels
  image_field: int  # the same in image pixels, including the extractor's field
  coverage: float  # see `coverage`


def cascade_paths(dilation_rates: Sequence[int], extractor: Field) -> list[CascadePath]:
  """All paths, by the number of layers, then in the order of the layers.

  Each layer reads all before it, so each of the 2^n - 1 sets of layers is a path.
  """
  numbers = range(1, len(dilation_rates) + 1)
  paths = []
  for layers in itertools.chain.from_iterable(itertools.combinations(numbers, count) for count in numbers):
    rates = tuple(dilation_rates[number - 1] for number in layers)
    field = atrous_field(rates)
    image_field = (field - 1) * extractor.rows.stride + extractor.size
    paths.append(CascadePath(layers, rates, field, image_field, coverage(rates)))
  return paths


def format_table(paths: Sequence[CascadePath], extractor: Field) -> str:
  """The paths as plain text, the smallest field first."""
  rows = [('features', 1, extractor.size, '')]
  for path in sorted(paths, key=lambda path: (path.field, path.layers)):
    name = '-'.join(map(str, path.dilation_rates))
    rows.append((name, path.field, path.image_field, f'{100 * path.coverage:.1f}'))
  headers = ('path', 'field', 'in image', 'coverage in %')
  table = tabulate(rows, headers, colalign=('left', 'right', 'right', 'right'), disable_numparse=True)
  note = 'global: the extractor also reads means over the whole image (squeeze and excitation)'
  return f'{table}\n{note}' if extractor.is_global else table


class EffectiveField(NamedTuple):
  """How much each image pixel affects one pixel of the feature map."""

  gradient: np.ndarray  # share of each pixel in the gradient's magnitude, float64 [h, w], sum 1
  cell: tuple[int, int]  # row and column of the feature-map pixel
  center: tuple[float, float]  # middle of its theoretical field, y and x from 0; may lie between pixels

  def side(self, share: float) -> float:
    """Side in pixels of the smallest square around `center` that holds a share (0..1) of the gradient."""
    rows, columns = (np.abs(np.arange(n) - c) for n, c in zip(self.gradient.shape, self.center, strict=True))
    distances = np.maximum(rows[:, None], columns).ravel()
    order = np.argsort(distances, kind='stable')
    held = np.cumsum(self.gradient.ravel()[order])
    index = min(int(np.searchsorted(held, share * held[-1])), len(held) - 1)
    return float(2 * distances[order[index]] + 1)


def measure_field(
  model: SegmentationModel,
  variables: Mapping[str, Any],
  extractor: Field,
  image_size: tuple[int, int],
  *,
  num_images: int,
  seed: int,
) -> EffectiveField:
  """Measures the effective receptive field of the centre of the feature map; see `PROTOCOL`.

  The logits are those before upsampling, which would add up to one feature-map pixel on each side.

  Args:
    model: The segmentation model.
    variables: Its 'params' and 'batch_stats'.
    extractor: Receptive field of its features.
    image_size: Height and width, multiples of the stride.
    num_images: Images to average over.
    seed: Of these random images.
  """
  spans = (extractor.rows, extractor.columns)
  grid = tuple(n // span.stride for n, span in zip(image_size, spans, strict=True))
  cell = tuple(n // 2 for n in grid)
  center = tuple(i * span.stride + (span.low + span.high) / 2 for i, span in zip(cell, spans, strict=True))
  # The fused kernels have no gradient; at full size the activations have to be recomputed.
  reference = reference_model(model, rematerialize=True)

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
  return EffectiveField(total / total.sum(), cell, center)


def scales_figure(paths: Sequence[CascadePath], extractor: Field) -> Figure:
  """Draws all `cascade_paths` as marks: the field of each against the share of it that is read."""
  num_layers = len(paths[-1].layers)
  stride, offset = extractor.rows.stride, extractor.size
  colors = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, num_layers))
  figure = Figure((10.5, 6), layout='constrained')
  axes = figure.subplots()
  for count, color in enumerate(colors, start=1):
    fields, shares = zip(*((p.field, 100 * p.coverage) for p in paths if len(p.layers) == count), strict=True)
    label = f'{count} layer{"s" if count > 1 else ""}'
    axes.plot(fields, shares, 'o', markersize=9, color=color, markeredgecolor='white', label=label)
  for path in (path for path in paths if len(path.layers) in (1, num_layers)):
    axes.annotate(
      '-'.join(map(str, path.dilation_rates)),
      (path.field, 100 * path.coverage),
      xytext=(0, 10),
      textcoords='offset points',
      ha='center',
    )
  axes.set_yscale('log')
  axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
  axes.yaxis.set_major_formatter('{x:g} %')
  axes.minorticks_off()
  axes.margins(x=0.08, y=0.12)
  axes.set_xlim(left=0)
  axes.set_ylim(top=min(axes.get_ylim()[1], 150))  # no tick above 100 %
  axes.grid(alpha=0.3)
  axes.set(xlabel='side of the receptive field in feature-map pixels', ylabel='share of it that is read')
  in_image = (lambda x: (x - 1) * stride + offset, lambda x: (x - offset) / stride + 1)
  top = axes.secondary_xaxis('top', functions=in_image)
  top.set_xlabel(f'in image pixels, with the extractor ({offset} alone)')
  figure.legend(title='path through', loc='outside right center')
  figure.suptitle(f'Scales of the cascade: {len(paths)} paths', fontsize=13)
  return figure


def effective_figure(
  measured: EffectiveField, extractor: Field, cascade: CascadePath | None, title: str
) -> Figure:
  """Draws the measured field within the image, and beside it all fields to scale.

  Args:
    measured: The measured field.
    extractor: Theoretical field of the features.
    cascade: The path through all layers; None: there is none.
    title: Names the network.
  """
  height, width = measured.gradient.shape
  figure = Figure((13.5, 5.4), layout='constrained')
  figure.suptitle(f'Receptive field of the centre: {title}', fontsize=13)
  left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))

  def square(axes: Axes, side: float, label: str, color: str, style: str) -> None:
    y, x = measured.center
    corner = x - side / 2, y - side / 2
    axes.add_patch(Rectangle(corner, side, side, fill=False, ec=color, ls=style, lw=1.8, label=label))

  peak = measured.gradient.max()
  norm = LogNorm(max(np.quantile(measured.gradient, 0.001), peak * 10.0**-_DECADES), peak)
  image = left.imshow(measured.gradient, norm=norm, cmap='magma')
  left.set_facecolor(image.cmap(0.0))
  figure.colorbar(image, ax=left, label='share of the gradient', shrink=0.73, anchor=(0, 1))
  for share, style in SHARES.items():
    side = measured.side(share)
    square(left, side, f'{share:.0%} of the gradient: {side:g} px', 'cyan', style)
  fields = [('extractor', extractor.size, 'white')]
  fields += [('with the cascade', cascade.image_field, 'lightgreen')] if cascade else []
  for name, side, color in fields:
    if side < max(height, width):
      square(left, side, f'{name}, theoretical: {side} px', color, '-.')
  left.set(title='measured, within the image', xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))

  label = f'image: {height}x{width} px'
  right.add_patch(Rectangle((-0.5, -0.5), width, height, color='lightgray', label=label))
  if cascade:
    square(right, cascade.image_field, 'with the cascade, theoretical', 'green', '-.')
  square(right, extractor.size, 'extractor, theoretical', 'black', '-.')
  square(right, measured.side(0.99), '99% of the gradient', 'darkcyan', ':')
  right.autoscale_view()
  right.invert_yaxis()
  right.xaxis.set_major_locator(MaxNLocator(4))
  right.set(title='all to scale', aspect='equal')

  for axes, style in ((left, {'facecolor': 'dimgray', 'labelcolor': 'white'}), (right, {'frameon': False})):
    axes.set_xlabel('image pixels')
    axes.set_anchor('N')  # what the aspect leaves over goes below
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=2, **style)
  return figure
