"""Pictures of feature similarity: heat maps of one image, and the matrix of all classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from dense_aspp_jax.analysis.figures import literal
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.evaluation.pictures import colorize
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet

_COLOR_MAP = 'RdBu_r'  # white is 0, red alike, blue opposed
_COLUMNS = 4
_MOST_NUMBERED = 40  # classes; the values of more cannot be read
_PANEL_WIDTH = 3.2  # inches, at 100 pixels each


def similarity_figure(
  image: np.ndarray, labels: np.ndarray, maps: np.ndarray, label_set: LabelSet, title: str
) -> Figure:
  """Draws image, ground truth, and the heat map of each class that is present, its pixels outlined.

  Args:
    image: RGB, uint8 `[h, w, 3]`.
    labels: Class indices, uint8 `[H, W]`.
    maps: Cosine similarities by class index, `[k, H, W]`.
    label_set: Has the names and colours.
    title: Stands above everything.
  """
  present = np.unique(labels[labels < label_set.num_classes]).tolist()
  num_rows = -(-(2 + len(present)) // _COLUMNS)
  panel_height = _PANEL_WIDTH * labels.shape[0] / labels.shape[1]
  figure = Figure((_COLUMNS * _PANEL_WIDTH + 1, num_rows * (panel_height + 0.25) + 0.9), layout='constrained')
  figure.suptitle(title, fontsize=12, parse_math=False)  # an image's name may hold dollar signs
  axes = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel()
  for axis in axes:
    axis.set_axis_off()
  axes[0].imshow(resize_image(image, labels.shape))
  axes[0].set_title('image', fontsize=10)
  axes[1].imshow(colorize(labels, label_set))
  axes[1].set_title('ground truth', fontsize=10)
  for axis, index in zip(axes[2:], present, strict=False):
    mask = labels == index
    heat = axis.imshow(maps[index], cmap=_COLOR_MAP, vmin=-1, vmax=1)
    if not mask.all():
      axis.contour(mask, levels=[0.5], colors='black', linewidths=0.6)
    share = f'{100 * mask.mean():.1f} % of pixels'
    axis.set_title(f'{label_set.class_names[index]} ({share})', fontsize=10, parse_math=False)
  if present:
    bar = figure.colorbar(heat, ax=axes.tolist(), shrink=0.8, aspect=30, pad=0.01)
    bar.set_label('cosine similarity')
  colors = {label_set.class_names[i]: label_set.colors[i] for i in present}
  if (labels == IGNORE_LABEL).any():
    colors['ignored'] = label_set.colors[IGNORE_LABEL]
  figure.legend(
    handles=[Patch(color=color / 255) for color in colors.values()],
    labels=literal(list(colors)),
    loc='outside lower center',
    ncols=min(10, len(colors)),
    fontsize=9,
    frameon=False,
  )
  return figure


def matrix_figure(
  matrix: np.ndarray, class_names: Sequence[str], confused: Sequence[Sequence[str]], layer: str
) -> Figure:
  """Draws the class-by-class matrix with its values; the most confused pairs are framed.

  Args:
    matrix: Cosines, `[k, k]`; NaN for absent classes.
    class_names: Names by class index.
    confused: Pairs of class names.
    layer: Name of the layer, for the title.
  """
  num_classes = len(class_names)
  side = max(5, 0.42 * num_classes)
  figure = Figure((side + 2.3, side + 1.2), layout='constrained')
  axes = figure.subplots()
  axes.set_facecolor('0.85')  # shows where the matrix has no value
  heat = axes.imshow(matrix, cmap=_COLOR_MAP, vmin=-1, vmax=1)
  axes.set_title(f"Cosine similarity of the classes' mean features: {layer}", fontsize=12)
  axes.set_xticks(
    range(num_classes), literal(class_names), rotation=45, ha='right', rotation_mode='anchor', fontsize=9
  )
  axes.set_yticks(range(num_classes), literal(class_names), fontsize=9)
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  for (row, column), value in np.ndenumerate(matrix) if num_classes <= _MOST_NUMBERED else ():
    text = 'absent' if row == column else ''
    if np.isfinite(value):
      text = f'{value:z.2f}'.replace('0.', '.')
    color = 'white' if abs(value) > 0.6 else 'black'
    axes.text(column, row, text, ha='center', va='center', fontsize=7.5, color=color)
  for pair in confused:
    first, second = (class_names.index(name) for name in pair)
    for row, column in ((first, second), (second, first)):
      axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor='gold', linewidth=2))
  figure.colorbar(heat, ax=axes, shrink=0.8, aspect=30, pad=0.01, label='cosine similarity')
  if confused:
    figure.supxlabel('framed: the most similar pairs of different classes', fontsize=9)
  return figure
