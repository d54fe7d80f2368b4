"""Pictures of receptive fields: the scales of the cascade, and the measured field as a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from dense_aspp_jax.analysis.field_propagation import Field
from dense_aspp_jax.analysis.receptive_field import SHARES, CascadePath, EffectiveField

_PERCENT_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_DECADES = 6  # of the gradient, down from its largest value
_SQUARE_STYLES = ('-', '--', ':')  # of the squares that hold SHARES


def scales_figure(paths: Sequence[CascadePath], extractor: Field) -> Figure:
  """Draws each path of the cascade as a mark: its field against the share of it that it reads.

  Args:
    paths: All paths, see `cascade_paths`.
    extractor: Receptive field of the features.
  """
  num_layers = max(len(path.layers) for path in paths)
  stride, offset = extractor.rows.stride, extractor.size
  colors = matplotlib.colormaps['viridis'](np.linspace(0, 0.9, num_layers))
  figure = Figure((10.5, 6), layout='constrained')
  axes = figure.subplots()
  for count in range(1, num_layers + 1):
    group = [path for path in paths if len(path.layers) == count]
    axes.plot(
      [path.field for path in group],
      [100 * path.coverage for path in group],
      'o',
      markersize=9,
      color=colors[count - 1],
      markeredgecolor='white',
      label=f'{count} layer{"s" if count > 1 else ""}',
    )
  for path in (path for path in paths if len(path.layers) in (1, num_layers)):
    axes.annotate(
      '-'.join(map(str, path.dilation_rates)),
      (path.field, 100 * path.coverage),
      xytext=(0, 10),
      textcoords='offset points',
      ha='center',
    )
  axes.set_yscale('log')
  axes.margins(x=0.08, y=0.12)
  ticks = [
    t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if axes.get_ylim()[0] < t < axes.get_ylim()[1]
  ]
  axes.set_yticks(ticks, [f'{tick:g} %' for tick in ticks])
  axes.minorticks_off()
  axes.set_xlim(left=0)
  axes.grid(alpha=0.3)
  axes.set_xlabel('side of the receptive field in feature-map pixels')
  axes.set_ylabel('share of the field that is read')
  top = axes.secondary_xaxis(
    'top', functions=(lambda x: (x - 1) * stride + offset, lambda x: (x - offset) / stride + 1)
  )
  top.set_xlabel(f'in image pixels, with the extractor ({offset} alone)')
  figure.legend(title='path through', loc='outside right center')
  figure.suptitle(f'Scales of the cascade: {len(paths)} paths', fontsize=13)
  return figure


def effective_figure(measured: EffectiveField, extractor: Field, cascade: CascadePath, title: str) -> Figure:
  """Draws the measured field over the image, and beside it all fields to scale.

  Args:
    measured: The measured field.
    extractor: Theoretical field of the features.
    cascade: The path through all layers.
    title: What network it is.
  """
  height, width = measured.gradient.shape
  figure = Figure((13.5, 5.4), layout='constrained')
  left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
  peak = measured.gradient.max()
  norm = LogNorm(max(np.quantile(measured.gradient, 0.001), peak * 10.0**-_DECADES), peak)
  left.set_facecolor(matplotlib.colormaps['magma'](0.0))
  image = left.imshow(measured.gradient, norm=norm, cmap='magma')
  figure.colorbar(image, ax=left, label='share of the gradient', shrink=0.8)
  for style, share in zip(_SQUARE_STYLES, SHARES, strict=True):
    side = measured.side(share)
    _square(left, measured.center, side, f'{share:.0%} of the gradient: {side:g} px', 'cyan', style)
  for name, side, color in (
    ('extractor', extractor.size, 'white'),
    ('with the cascade', cascade.image_field, 'lightgreen'),
  ):
    if side < max(height, width):
      _square(left, measured.center, side, f'{name}, theoretical: {side} px', color, '-.')
  left.set_xlim(-0.5, width - 0.5)
  left.set_ylim(height - 0.5, -0.5)
  left.set_title('measured, within the image')
  left.set_xlabel('image pixels')
  _legend_below(left, facecolor='dimgray', labelcolor='white')

  right.add_patch(
    Rectangle((-0.5, -0.5), width, height, color='lightgray', label=f'image: {width} x {height} px')
  )
  _square(right, measured.center, cascade.image_field, 'with the cascade, theoretical', 'green', '-.')
  _square(right, measured.center, extractor.size, 'extractor, theoretical', 'black', '-.')
  _square(right, measured.center, measured.side(0.99), '99% of the gradient', 'darkcyan', ':')
  right.autoscale_view()
  right.set_aspect('equal')
  right.invert_yaxis()
  right.xaxis.set_major_locator(MaxNLocator(4))
  right.set_title('all to scale')
  right.set_xlabel('image pixels')
  _legend_below(right, frameon=False)
  figure.suptitle(f'Receptive field of the centre: {title}', fontsize=13)
  return figure


def _legend_below(axes: Axes, **style: object) -> None:
  axes.set_anchor('N')  # what the aspect leaves over goes below
  axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=2, **style)


def _square(axes: Axes, center: tuple[float, float], side: float, label: str, color: str, style: str) -> None:
  y, x = center
  axes.add_patch(
    Rectangle((x - side / 2, y - side / 2), side, side, fill=False, ec=color, ls=style, lw=1.8, label=label)
  )
