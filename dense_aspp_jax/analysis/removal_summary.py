"""What removing layers says about the classes: which are lost first, large and small ones, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dense_aspp_jax.datasets.evaluation_batches import evaluation_examples
from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.labels import LabelSet

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
  iou = {name: [s['scores']['iou'][name] for s in settings] for name in settings[0]['scores']['iou']}
  summary = {name: [s['scores'][name] for s in settings] for name in settings[0]['scores'] if name != 'iou'}
  width = max(map(len, (*iou, *summary))) + 2

  def row(name: str, values: Sequence[float | None]) -> str:
    return f'{name:<{width}}' + ''.join(('-' if v is None else f'{100 * v:.1f}').rjust(7) for v in values)

  line = '-' * (width + 7 * len(columns))
  return '\n'.join(
    (
      f'{"IoU in %":<{width}}' + ''.join(column.rjust(7) for column in columns),
      line,
      *(row(name, values) for name, values in iou.items()),
      line,
      *(row(name, values) for name, values in summary.items()),
      line,
      'top N: the last N layers removed; no N: layer N alone removed',
    )
  )
