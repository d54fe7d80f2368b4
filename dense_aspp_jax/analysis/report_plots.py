"""The report's plots: training curves, IoU per class, confusion matrix. Matplotlib, drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dense_aspp_jax.analysis.figures import MOST_NUMBERED, draw_matrix, literal
from dense_aspp_jax.labels import LabelSet

_INK, _LINE, _GRID = '#1f2933', '#9aa5b1', '#e3e8ee'
_TRAIN, _VALIDATION, _SECOND = '#0f766e', '#c2410c', '#6d5bd0'
_SHADES = LinearSegmentedColormap.from_list('shades', ['#ffffff', '#9fd3cb', '#0f766e', '#083d3a'])
_PANEL = (4.0, 2.4)  # inches; small, so that text stays readable on a phone
_POINTS_OF_MEAN = 60
MEAN_NAMES = {
  'mean_iou': 'Mean IoU',
  'mean_iou_19': 'Mean IoU, 19 classes',
  'mean_iou_20': 'Mean IoU, with void',
}


def training_figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
  """Draws what a run logged, by step.

  Args:
    lines: Entries of metrics.jsonl: 'step', 'kind' ('train', 'validation' or 'validation_ema') and values by
      name.

  Returns:
    Figure by title: loss, mean IoU, pixel accuracy, learning rate; those of which nothing was logged are left
    out.
  """
  means = dict.fromkeys(name for line in lines for name in line if name.startswith('mean_iou'))
  iou = [
    (name, 'validation', MEAN_NAMES.get(name, name), color)
    for name, color in zip(means, (_VALIDATION, _SECOND), strict=False)
  ]
  iou += [(name, 'validation_ema', f'{label}, averaged weights', _TRAIN) for name, _, label, _ in iou[:1]]
  panels = {
    'Loss': [('loss', 'train', 'training', _TRAIN)],
    'Mean IoU on the validation split': iou,
    'Pixel accuracy': [
      ('pixel_accuracy', 'train', 'training', _TRAIN),
      ('pixel_accuracy', 'validation', 'validation', _VALIDATION),
    ],
    'Learning rate': [('learning_rate', 'train', 'learning rate', _TRAIN)],
  }
  figures = {}
  for title, series in panels.items():
    figure, axes = _figure(title, _PANEL)
    for name, kind, label, color in series:
      values = ((line['step'], line.get(name)) for line in lines if line['kind'] == kind)
      points = [(step, value) for step, value in values if value is not None and math.isfinite(value)]
      if points:
        _draw_series(axes, np.array(points, float).T, label, color, noisy=name != 'learning_rate')
    if not axes.lines:
      continue
    last, top = max(line['step'] for line in lines), axes.dataLim.ymax  # all may be 0
    axes.set(xlabel='step', xlim=(0, 1.03 * last or 1), ylim=(0, 1.05 * top or 1))
    axes.ticklabel_format(axis='y', scilimits=(-2, 3), useMathText=True)
    if 'IoU' in title or 'accuracy' in title:
      axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if len(axes.get_legend_handles_labels()[0]) > 1:
      axes.legend(frameon=False, fontsize=8)
    figures[title] = figure
  return figures


def _draw_series(axes: Axes, points: np.ndarray, label: str, color: str, noisy: bool) -> None:
  """Draws values (`[2, n]`: steps, values); many noisy ones faintly, under their running mean."""
  count = points.shape[1]
  window = count // _POINTS_OF_MEAN if noisy else 1
  if window < 2:
    marker = 'o' if count < 20 else ''
    axes.plot(*points, color=color, linewidth=1.6, marker=marker, markersize=4, label=label)
    return
  axes.plot(*points, color=color, linewidth=0.6, alpha=0.35)
  means = (np.convolve(values, np.full(window, 1 / window), 'valid') for values in points)
  axes.plot(*means, color=color, linewidth=1.8, label=f'{label}, mean of {window}')


def iou_figure(iou: Mapping[str, float | None], mean_iou: float, label_set: LabelSet) -> Figure:
  """Draws a bar for each class with an IoU (0..1), in its colour, best first, and a line at the mean."""
  colors = {c.name: np.array(c.color) / 255 for c in label_set.classes}
  names, values = zip(*sorted_iou(iou), strict=True)
  percent = [100 * value for value in values]
  figure, axes = _figure('IoU per class', (4.0, 1.0 + 0.21 * len(names)))
  bars = axes.barh(
    range(len(names)), percent, color=[colors[n] for n in names], edgecolor=_INK, linewidth=0.4, height=0.72
  )
  behind = {'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.6}  # over the line at the mean
  axes.bar_label(bars, fmt='{:.1f}', padding=3, fontsize=8, color=_INK, bbox=behind)
  axes.axvline(100 * mean_iou, color=_VALIDATION, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0.9)
  text = f' mean {100 * mean_iou:.1f}'
  axes.text(100 * mean_iou, len(names) - 0.5, text, color=_VALIDATION, fontsize=8, va='bottom')
  axes.set_yticks(range(len(names)), literal(names))
  axes.set(xlabel='IoU in %', xlim=(0, 108), ylim=(len(names) - 0.4, -0.6), xticks=range(0, 101, 20))
  axes.grid(False, axis='y')
  axes.tick_params(axis='y', length=0)
  return figure


def sorted_iou(iou: Mapping[str, float | None]) -> list[tuple[str, float]]:
  """Classes that have an IoU, best first; of equal ones the first stays first."""
  return sorted(((name, v) for name, v in iou.items() if v is not None), key=lambda pair: -pair[1])


def confusion_figure(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
  """Draws a confusion matrix: pixels, int64 `[C, C]`, row = ground truth, column = prediction.

  Rows add up to 100 %; that of a class without pixels is empty.
  """
  shares, num_classes = 100 * row_shares(counts), len(class_names)
  size = 1.9 + max(num_classes, 6) * (0.34 if num_classes <= MOST_NUMBERED else 0.15)  # inches
  figure, axes = _figure('', (size, size))
  title = 'Confusion matrix:\npixels of each class (row), in %'  # of the figure: the axes may be narrower
  figure.suptitle(title, x=0.02, ha='left', fontsize=10, fontweight='bold', color=_INK)
  # Below a half they would be written as 0.
  draw_matrix(
    axes, shares, class_names, lambda x: f'{x:.0f}' if x >= 0.5 else '', cmap=_SHADES, vmin=0, vmax=100
  )
  axes.set(xlabel='predicted as', ylabel='ground truth')
  axes.grid(False)
  axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
  axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
  axes.grid(which='minor', color=_GRID, linewidth=0.6)
  axes.tick_params(which='minor', length=0)
  return figure


def row_shares(counts: np.ndarray) -> np.ndarray:
  """Divides each row (int64 `[C, C]`) by its sum; rows without a count stay 0."""
  return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
  figure = Figure(size, layout='constrained', facecolor='white')
  axes = figure.subplots()
  axes.set_title(title, fontsize=10, fontweight='bold', color=_INK, loc='left')
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(_LINE)
  axes.tick_params(labelsize=8, labelcolor=_INK, color=_LINE)
  axes.xaxis.label.set(color=_INK, size=8)
  axes.yaxis.label.set(color=_INK, size=8)
  axes.grid(True, color=_GRID, linewidth=0.8)
  axes.set_axisbelow(True)
  return figure, axes
