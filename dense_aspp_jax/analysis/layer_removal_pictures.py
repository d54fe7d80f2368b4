"""Pictures of layer removal: predictions by number of removed layers, and the curves of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dense_aspp_jax.analysis.figures import literal
from dense_aspp_jax.datasets.resize import resize_image, resize_label
from dense_aspp_jax.evaluation.metrics import Scores
from dense_aspp_jax.evaluation.pictures import colorize, gallery, side_by_side
from dense_aspp_jax.labels import LabelSet

_PANEL_WIDTH = 480  # pixels
_COLUMNS = 3
_MARKERS = 'os^Dv'


def draw_predictions(
  image: np.ndarray, labels: np.ndarray, predictions: Sequence[np.ndarray], label_set: LabelSet
) -> np.ndarray:
  """Draws image, ground truth, and the prediction for each number of removed top layers, as the slides do.

  Args:
    image: RGB, uint8 `[h, w, 3]`.
    labels: Class indices, uint8, any size.
    predictions: Class indices, uint8, any size, with 0, 1, ... all layers removed.
    label_set: Has the colours and names.

  Returns:
    RGB, uint8 `[height, width, 3]`.
  """
  size = round(_PANEL_WIDTH * image.shape[0] / image.shape[1]), _PANEL_WIDTH
  num_layers = len(predictions) - 1
  maps = {'ground truth': labels}
  for count, prediction in enumerate(predictions):
    caption = (
      f'top {count} of {num_layers} layers removed' if count else f'prediction, all {num_layers} layers'
    )
    maps['all layers removed' if count == num_layers else caption] = prediction
  panels = {'image': resize_image(image, size)}
  panels |= {caption: colorize(resize_label(m, size), label_set) for caption, m in maps.items()}
  items = list(panels.items())
  rows = [items[start : start + _COLUMNS] for start in range(0, len(items), _COLUMNS)]
  return gallery([side_by_side([p for _, p in row], [c for c, _ in row]) for row in rows], label_set)


def curves_figure(top: Sequence[Scores], groups: Mapping[str, Sequence[str]]) -> Figure:
  """Draws the IoU of each class against the number of removed top layers, a panel per group.

  Args:
    top: Scores with 0, 1, ... all layers removed.
    groups: Names of classes by name of the group.
  """
  colors = matplotlib.color_sequences['tab10']
  figure = Figure((13.5, 6.2), layout='constrained')
  figure.suptitle('IoU with the top layers of DenseASPP removed', fontsize=13)
  for axes, (group, names) in zip(figure.subplots(1, len(groups), sharey=True), groups.items(), strict=True):
    for index, (name, label) in enumerate(zip(names, literal(names), strict=True)):
      axes.plot(
        [100 * (scores.iou[name] or 0) for scores in top],
        color=colors[index % len(colors)],
        linestyle=('-', '--', ':')[index // len(colors) % 3],
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=5,
        label=label,
      )
    axes.plot([100 * scores.mean_iou for scores in top], color='black', linewidth=2.5, label='mean IoU')
    axes.set_title(f'{group} objects')
    axes.set_xlabel('top layers removed')
    axes.set_ylabel('IoU in %')
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(top)), ['none', *range(1, len(top) - 1), 'all'])
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    # Given explicitly: by itself a legend leaves out names that begin with '_'.
    axes.legend(
      axes.lines,
      [*literal(names), 'mean IoU'],
      fontsize=9,
      frameon=False,
      loc='upper center',
      bbox_to_anchor=(0.5, -0.12),
      ncols=4,
    )
  return figure
