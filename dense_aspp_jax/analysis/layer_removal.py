"""Layer removal: what a trained network still recognizes without some layers of DenseASPP.

Slides, "Layers removal": the top 1, 2, ... all atrous layers are taken out of the trained network. No later
layer and no head reads the channels of a removed layer: the rows of their kernels that do are set to zero.
This is exact, because normalization acts on each channel separately, and it keeps the shapes, so that one
compilation serves all settings.
"""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from tabulate import SEPARATING_LINE, tabulate

from dense_aspp_jax.analysis.figures import literal, picture_name, save_figure
from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.resize import resize_image, resize_label
from dense_aspp_jax.evaluation.evaluate import evaluate, predict_split
from dense_aspp_jax.evaluation.metrics import Scores, protocol
from dense_aspp_jax.evaluation.pictures import Rgb, colorize, gallery, save_png, side_by_side
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import progress

PROTOCOL = (
  'One trained network, not retrained. No later layer and no head reads a removed layer of DenseASPP: the '
  'rows of their kernels that read its channels are zero.'
)
_LOWEST_FULL_IOU = 0.05  # half of less would say little
LOST_FIRST_RULE = (
  'classes whose IoU falls below half of that of the full network, ordered by the smallest number of removed '
  'top layers at which it does, then by the share of the full IoU that remains there, lowest first; only '
  f'classes with a full IoU of at least {_LOWEST_FULL_IOU}'
)
SIZE_RULE = (
  'by the share of an image that a class covers, averaged over the images in which it occurs; large: above '
  'the median of all classes that occur, small: the others'
)
_PANEL_WIDTH = 480  # pixels
_COLUMNS = 3
_MARKERS = 'os^Dv'


def remove_layers(variables: Mapping[str, Any], removed: Collection[int]) -> dict[str, Any]:
  """Removes layers of DenseASPP, counted from 1, from the variables of a `SegmentationModel`.

  Returns:
    Variables of the same shapes, in which nothing reads those layers; those given are not changed.
  """
  params = variables['params']
  cascade = dict(params['dense_aspp'])
  num_layers = sum(name.startswith('layer') for name in cascade)
  if not set(removed) <= set(range(1, num_layers + 1)):
    raise ValueError(f'layers {sorted(removed)} to remove; expected some of 1..{num_layers}')
  unread = []  # channels of the removed layers; in the concatenation each follows all that its layer reads
  for number in range(1, num_layers + 1):
    layer = cascade[f'layer{number}']
    reader = 'conv1' if 'conv1' in layer else 'conv2'  # where there is no 1x1 the 3x3 reads
    cascade[f'layer{number}'] = {**layer, reader: _without_rows(layer[reader], unread)}
    if number in removed:
      start = layer[reader]['kernel'].shape[2]
      unread.append(slice(start, start + layer['conv2']['kernel'].shape[3]))
  changed = {'dense_aspp': cascade}
  if decoder := params.get('skip_decoder'):
    changed['skip_decoder'] = {**decoder, 'project_conv': _without_rows(decoder['project_conv'], unread)}
  else:
    changed['head'] = _without_rows(params['head'], unread)
  return {**variables, 'params': {**params, **changed}}


def _without_rows(convolution: Mapping[str, Any], channels: Sequence[slice]) -> dict[str, Any]:
  """The parameters of a convolution that does not read some of its input channels."""
  kernel = jnp.asarray(convolution['kernel'])
  for rows in channels:
    kernel = kernel.at[:, :, rows].set(0)
  return {**convolution, 'kernel': kernel}


def removal_settings(num_layers: int) -> list[tuple[str, tuple[int, ...]]]:
  """What is removed: nothing ('none'), the top 1 to all layers ('top'), each alone ('single')."""
  numbers = range(1, num_layers + 1)
  top = [('top', tuple(range(first, num_layers + 1))) for first in reversed(numbers)]
  return [('none', ()), *top, *(('single', (number,)) for number in numbers)]


def analyse_layer_removal(
  predictor: Predictor,
  split: Sequence[CachedExample],
  label_set: LabelSet,
  *,
  batch_size: int,
  num_pictures: int,
  output: pathlib.Path,
) -> dict[str, Any]:
  """Scores a network with its top layers and with each single layer of DenseASPP removed.

  Args:
    predictor: The network; in the end it has its own variables again.
    split: Images at the network's input size with native label ids; read once per setting.
    label_set: The split's: its label ids as the classes that the network predicts.
    batch_size: Images per call; no result depends on it.
    num_pictures: How many of the first images to draw.
    output: Folder for the pictures.

  Returns:
    JSON data: layers, settings with their scores, lost_first, large and small with their rules, images,
    protocol, and the names of the pictures in `output`.
  """
  whole, dilation_rates = predictor.variables, predictor.model.dense_aspp.dilation_rates
  settings = removal_settings(len(dilation_rates))
  top = [removed for kind, removed in settings if kind != 'single']
  drawn = [split[index] for index in range(min(num_pictures, len(split)))]
  scored: dict[tuple[int, ...], Scores] = {}
  predictions = {}
  try:
    # Each once: the last layer alone is also the top layer.
    for removed in progress(
      dict.fromkeys(removed for _, removed in settings), 'removing layers', unit='setting'
    ):
      predictor.update(remove_layers(whole, removed))
      counts = evaluate(predictor, split, label_set, batch_size=batch_size, show_progress=False)
      scored[removed] = counts.scores()
      if removed in top:  # these are drawn
        predictions[removed] = [prediction for _, prediction in predict_split(predictor, drawn, batch_size)]
  finally:
    predictor.update(whole)
  large, small = large_and_small(split, label_set)
  figure = curves_figure([scored[removed] for removed in top], {'large': large, 'small': small})
  save_figure(output / 'curves.png', figure)
  pictures = []
  for index, example in enumerate(drawn):
    pictures.append(f'{picture_name("removal", index + 1, example.image_id)}.png')
    labels = label_set.encode(example.label, example.image_id)
    of_image = [predictions[removed][index] for removed in top]
    save_png(output / pictures[-1], draw_predictions(example.image, labels, of_image, label_set))
  return {
    'layers': [{'name': f'layer{i}', 'dilation': rate} for i, rate in enumerate(dilation_rates, start=1)],
    'settings': [
      {'removed': list(removed), 'kind': kind, 'scores': scored[removed].to_json()}
      for kind, removed in settings
    ],
    'lost_first': lost_first([scored[removed].iou for removed in top]),
    'lost_first_rule': LOST_FIRST_RULE,
    'large': large,
    'small': small,
    'size_rule': SIZE_RULE,
    'images': len(split),
    'curves_picture': 'curves.png',
    'pictures': pictures,
    'protocol': f'{PROTOCOL} {protocol(label_set)}',
  }


def large_and_small(split: Sequence[CachedExample], label_set: LabelSet) -> tuple[list[str], list[str]]:
  """Groups the classes that occur in a split by `SIZE_RULE`: names of the large and of the small ones."""
  shares = []
  for example in evaluation_examples(split):
    labels = label_set.encode(example.label, example.image_id)
    shares.append(np.bincount(labels.ravel(), minlength=256)[: label_set.num_classes] / labels.size)
  occurs = np.count_nonzero(shares, axis=0)
  mean = sum(shares) / np.maximum(occurs, 1)
  median = np.median(mean[occurs > 0])
  names = np.array(label_set.class_names)
  return names[mean > median].tolist(), names[(occurs > 0) & (mean <= median)].tolist()


def lost_first(top_iou: Sequence[Mapping[str, float | None]]) -> list[dict[str, Any]]:
  """Finds the classes that lose half of their IoU with 0, 1, ... all layers removed, by `LOST_FIRST_RULE`.

  Returns:
    `[{'class': name, 'layers_removed': count, 'kept': share}, ...]`: the share, 0..0.5, of the full IoU that
    is left where it falls below half.
  """
  lost = []
  for name, full in top_iou[0].items():
    if full is None or full < _LOWEST_FULL_IOU:
      continue
    kept = [(iou[name] or 0) / full for iou in top_iou]
    count = next((count for count, share in enumerate(kept) if share < 0.5), None)
    if count is not None:
      lost.append({'class': name, 'layers_removed': count, 'kept': kept[count]})
  return sorted(lost, key=lambda entry: (entry['layers_removed'], entry['kept']))


def format_removal_table(settings: Sequence[Mapping[str, Any]]) -> str:
  """The scores in % of the settings of `analyse_layer_removal` as plain text, a column per setting."""
  heads = {'none': 'full', 'top': 'top {0}', 'single': 'no {1}'}
  columns = [heads[s['kind']].format(len(s['removed']), *s['removed']) for s in settings]
  summaries = [{k: v for k, v in s['scores'].items() if k != 'iou'} for s in settings]

  def rows(scores: Sequence[Mapping[str, float | None]]) -> list[list[str]]:
    return [
      [name, *('-' if s[name] is None else f'{100 * s[name]:.1f}' for s in scores)] for name in scores[0]
    ]

  table = [*rows([s['scores']['iou'] for s in settings]), SEPARATING_LINE, *rows(summaries)]
  align = ('left', *('right' for _ in columns))
  text = tabulate(table, ('IoU in %', *columns), colalign=align, disable_numparse=True)
  return f'{text}\ntop N: the last N layers removed; no N: layer N alone removed'


def draw_predictions(
  image: Rgb, labels: np.ndarray, predictions: Sequence[np.ndarray], label_set: LabelSet
) -> Rgb:
  """Draws image, ground truth, and the predictions with 0, 1, ... all layers removed, as the slides do.

  Labels and predictions are class indices, uint8, of any size.
  """
  size = round(_PANEL_WIDTH * image.shape[0] / image.shape[1]), _PANEL_WIDTH
  num_layers = len(predictions) - 1
  captions = ['image', 'ground truth', f'prediction, all {num_layers} layers']
  captions += [f'top {count} of {num_layers} layers removed' for count in range(1, num_layers)]
  captions.append('all layers removed')
  maps = (colorize(resize_label(m, size), label_set) for m in (labels, *predictions))
  panels = [resize_image(image, size), *maps]
  starts = range(0, len(panels), _COLUMNS)
  rows = [side_by_side(panels[i : i + _COLUMNS], captions[i : i + _COLUMNS]) for i in starts]
  return gallery(rows, label_set)


def curves_figure(top: Sequence[Scores], groups: Mapping[str, Sequence[str]]) -> Figure:
  """Draws the IoU of each class by the number of removed top layers, a panel per group of classes."""
  colors = matplotlib.color_sequences['tab10']
  figure = Figure((13.5, 6.2), layout='constrained')
  figure.suptitle('IoU with the top layers of DenseASPP removed', fontsize=13)
  for axes, (group, names) in zip(figure.subplots(1, len(groups), sharey=True), groups.items(), strict=True):
    for index, name in enumerate(names):
      axes.plot(
        [100 * (scores.iou[name] or 0) for scores in top],
        color=colors[index % len(colors)],
        linestyle=('-', '--', ':')[index // len(colors) % 3],
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=5,
      )
    axes.plot([100 * scores.mean_iou for scores in top], color='black', linewidth=2.5)
    axes.set(title=f'{group} objects', xlabel='top layers removed', ylabel='IoU in %')
    axes.set_ylim(bottom=0)
    axes.set_xticks(range(len(top)), ['none', *range(1, len(top) - 1), 'all'])
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    place = dict(loc='upper center', bbox_to_anchor=(0.5, -0.12), ncols=4)
    # Given here: labels of lines that begin with '_' would be left out.
    axes.legend(axes.lines, [*literal(names), 'mean IoU'], fontsize=9, frameon=False, **place)
  return figure
