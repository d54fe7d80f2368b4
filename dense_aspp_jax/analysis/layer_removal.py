"""Layer removal: what a trained network still sees without some layers of DenseASPP.

Slides, "Layers removal": the top 1, 2, ... all atrous layers are taken out of the trained network. Removed
means that no later layer and no head reads a layer's channels: the rows of their kernels that do are set to
zero. That is exact, for normalisation acts on each channel alone; and the shapes stay, so one compilation
serves all.
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
from dense_aspp_jax.evaluation.pictures import colorize, gallery, save_png, side_by_side
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.progress import progress

PROTOCOL = (
  'One trained network, not trained again. A removed layer of DenseASPP is read by no later layer and not by '
  'the head: the rows of their kernels that read its channels are zero.'
)
_LOWEST_FULL_IOU = 0.05  # half of less says little
LOST_FIRST_RULE = (
  'classes whose IoU falls below half of that of the full network, by the smallest number of removed top '
  'layers at which it does, then by the share of the full IoU that is kept there, least first; only classes '
  f'with a full IoU of at least {_LOWEST_FULL_IOU}'
)
SIZE_RULE = (
  'by the share of the pixels of an image that a class covers, mean over the images in which it occurs; '
  'large: above the median of all classes that occur, small: the others'
)
_PANEL_WIDTH = 480  # pixels
_COLUMNS = 3
_MARKERS = 'os^Dv'


def remove_layers(variables: Mapping[str, Any], removed: Collection[int]) -> dict[str, Any]:
  """Keeps all that comes later from reading some layers of DenseASPP.

  Args:
    variables: Variables of a `SegmentationModel`.
    removed: Numbers of the layers, from 1.

  Returns:
    Variables of the same shapes; those given are not changed.
  """
  params = variables['params']
  cascade = dict(params['dense_aspp'])
  num_layers = sum(name.startswith('layer') for name in cascade)
  if not set(removed) <= set(range(1, num_layers + 1)):
    raise ValueError(f'layers {sorted(removed)} to remove; expected some of 1..{num_layers}')
  channels = {}  # of each layer: in the concatenation they follow all that the layer reads
  for number in range(1, num_layers + 1):
    layer = cascade[f'layer{number}']
    reader = 'conv1' if 'conv1' in layer else 'conv2'  # where there is no 1x1 the 3x3 reads
    start = layer[reader]['kernel'].shape[2]
    channels[number] = slice(start, start + layer['conv2']['kernel'].shape[3])
    unread = [channels[i] for i in removed if i < number]
    cascade[f'layer{number}'] = {**layer, reader: _without_rows(layer[reader], unread)}
  unread = [channels[i] for i in removed]
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
  top = [tuple(range(num_layers - count + 1, num_layers + 1)) for count in range(1, num_layers + 1)]
  return [('none', ()), *(('top', t) for t in top), *(('single', (i,)) for i in range(1, num_layers + 1))]


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
    label_set: What the network's class indices mean.
    batch_size: Images per call; no result depends on it.
    num_pictures: How many of the first images to draw.
    output: Folder for the pictures.

  Returns:
    JSON data: layers, settings with their scores, lost_first, large and small with their rules, images,
    protocol, and the names of the pictures in `output`.
  """
  whole, dilation_rates = predictor.variables, predictor.model.dense_aspp.dilation_rates
  drawn = [split[index] for index in range(min(num_pictures, len(split)))]
  predictions: list[list[np.ndarray]] = []  # by number of removed top layers, then by image
  scored: dict[tuple[int, ...], Scores] = {}
  settings = removal_settings(len(dilation_rates))
  try:
    for kind, removed in progress(settings, 'removing layers', unit='setting'):
      if removed in scored:
        continue  # the last layer alone is the top layer
      predictor.update(remove_layers(whole, removed))
      counts = evaluate(predictor, split, label_set, batch_size=batch_size, show_progress=False)
      scored[removed] = counts.scores()
      if kind != 'single':
        predictions.append([prediction for _, prediction in predict_split(predictor, drawn, batch_size)])
  finally:
    predictor.update(whole)
  top = [scored[removed] for kind, removed in settings if kind != 'single']
  large, small = large_and_small(mean_shares(split, label_set))
  save_figure(output / 'curves.png', curves_figure(top, {'large': large, 'small': small}))
  pictures = []
  for number, (example, *of_image) in enumerate(zip(drawn, *predictions, strict=True), start=1):
    pictures.append(f'{picture_name("removal", number, example.image_id)}.png')
    labels = label_set.encode(example.label, example.image_id)
    save_png(output / pictures[-1], draw_predictions(example.image, labels, of_image, label_set))
  return {
    'layers': [{'name': f'layer{i}', 'dilation': rate} for i, rate in enumerate(dilation_rates, start=1)],
    'settings': [
      {'removed': list(removed), 'kind': kind, 'scores': scored[removed].to_json()}
      for kind, removed in settings
    ],
    'lost_first': lost_first([scores.iou for scores in top]),
    'lost_first_rule': LOST_FIRST_RULE,
    'large': large,
    'small': small,
    'size_rule': SIZE_RULE,
    'images': len(split),
    'curves_picture': 'curves.png',
    'pictures': pictures,
    'protocol': f'{PROTOCOL} {protocol(label_set)}',
  }


def mean_shares(split: Sequence[CachedExample], label_set: LabelSet) -> dict[str, float]:
  """Share of an image's pixels that a class covers, mean over the images in which it occurs.

  Args:
    split: Images with native label ids.
    label_set: What the ids mean.

  Returns:
    Share, 0..1, by name, of the classes that occur.
  """
  total, occurs = np.zeros(label_set.num_classes), np.zeros(label_set.num_classes, np.int64)
  for example in evaluation_examples(split):
    labels = label_set.encode(example.label, example.image_id)
    share = np.bincount(labels.ravel(), minlength=256)[: label_set.num_classes] / labels.size
    total += share
    occurs += share > 0
  return {label_set.class_names[i]: float(total[i] / occurs[i]) for i in np.flatnonzero(occurs)}


def large_and_small(shares: Mapping[str, float]) -> tuple[list[str], list[str]]:
  """Groups classes by `SIZE_RULE`.

  Args:
    shares: From `mean_shares`.

  Returns:
    Names of the large and of the small ones, each in the order of `shares`.
  """
  median = np.median(list(shares.values()))
  large = [name for name, share in shares.items() if share > median]
  return large, [name for name in shares if name not in large]


def lost_first(top_iou: Sequence[Mapping[str, float | None]]) -> list[dict[str, Any]]:
  """Finds the classes that lose half of their IoU, in the order of `LOST_FIRST_RULE`.

  Args:
    top_iou: IoU by class with 0, 1, ... all top layers removed.

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
  """Scores in % as plain text, a column per setting: full, top layers removed, single ones removed.

  Args:
    settings: Each with 'kind', 'removed' and 'scores', see `analyse_layer_removal`.
  """
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
