"""The report of a run: one HTML file with all its pictures, readable without a network."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from dense_aspp_jax.analysis.report_content import Analysis, ReportContent
from dense_aspp_jax.analysis.report_pictures import (
  Picture,
  analysis_photo,
  analysis_plot,
  error_colors,
  example_panels,
  overlay_picture,
  plot,
)
from dense_aspp_jax.analysis.report_plots import (
  MEAN_NAMES,
  confusion_figure,
  iou_figure,
  row_shares,
  sorted_iou,
  training_figures,
)
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix, Scores, is_cityscapes
from dense_aspp_jax.labels import CITYSCAPES_19, LabelSet

_KINDS = {'none': 'The whole network', 'top': 'Without the top layers', 'single': 'Without a single layer'}


def render_report(content: ReportContent) -> str:
  """Writes the report as one HTML page that loads nothing from outside.

  Raises:
    InputError: No pixel of the ground truth belongs to a class that is scored.
  """
  label_set = content.confusion.label_set
  scores = content.confusion.scores()
  counts = class_counts(content.confusion)
  ranked = sorted_iou({name: scores.iou[name] for name in ranked_classes(counts, label_set)})
  labelled = [e for e in content.examples if e.pixel_accuracy(label_set) is not None]
  environment = jinja2.Environment(
    loader=jinja2.FunctionLoader(_package_text),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(percent=_percent, change=_change, listing=_listing, fields=fields, time=_time)
  return environment.get_template('report.html.jinja').render(
    content=content,
    scores=scores,
    means={MEAN_NAMES.get(name, name): value for name, value in scores.means.items() if value is not None},
    best=ranked[0],
    worst=ranked[-1],
    label_set=label_set,
    error_colors=error_colors(content.examples),
    hero=overlay_picture(labelled[0], label_set) if labelled else None,
    examples=[
      (example.image_id, example.pixel_accuracy(label_set), example_panels(example, label_set))
      for example in content.examples
    ],
    converted=next((start['converted']['file'] for start in content.starts if 'converted' in start), None),
    curves=_curves(content.metrics),
    classes=class_rows(scores, counts, label_set),
    iou_plot=plot(
      iou_figure(scores.iou, scores.mean_iou, label_set),
      f'Bars of the IoU of each class, from {ranked[0][0]} to {ranked[-1][0]}; the table has the values',
    ),
    confusion_plot=plot(
      confusion_figure(counts, label_set.class_names),
      'Confusion matrix: which share of the pixels of each class was predicted as which class',
    ),
    similarity=_similarity(content.similarity, [name for name, _ in ranked]),
    removal=_removal(content.layer_removal),
  )


def class_counts(confusion: ConfusionMatrix) -> np.ndarray:
  """The counts by class index, int64 `[C, C]`, row = ground truth; ignored ids are left out."""
  label_set, indices = confusion.label_set, np.arange(len(confusion.counts), dtype=np.uint8)
  classes = label_set.encode(indices, 'label ids') if is_cityscapes(label_set) else indices
  is_class = (classes[:, None] == np.arange(label_set.num_classes)).astype(np.int64)
  return is_class.T @ confusion.counts @ is_class


def ranked_classes(counts: np.ndarray, label_set: LabelSet) -> list[str]:
  """Names of the classes that sentences compare: those of the mean IoU that have ground truth, never void.

  Args:
    counts: From `class_counts`.
    label_set: Names them.
  """
  names = CITYSCAPES_19.class_names if is_cityscapes(label_set) else label_set.class_names
  return [name for name, row in zip(names, counts, strict=False) if row.any()]


def class_rows(scores: Scores, counts: np.ndarray, label_set: LabelSet) -> list[dict[str, Any]]:
  """What the table says of each class, best IoU first, classes without one last.

  Args:
    scores: Of the split.
    counts: From `class_counts`.
    label_set: Has the colours.

  Returns:
    'name', 'color', 'iou'; 'share' of all pixels; 'found', the share of its pixels predicted as it, and
    'taken_for', the class (name and share) that most of the others went to. Fractions, None without pixels.
  """
  names, shares = label_set.class_names, row_shares(counts)
  rows = []
  for name in [name for name, _ in sorted_iou(scores.iou)] + [n for n, v in scores.iou.items() if v is None]:
    index = names.index(name)
    wrong = np.where(np.arange(len(names)) == index, 0, shares[index])
    other = int(wrong.argmax())
    rows.append(
      {
        'name': name,
        'color': label_set.classes[index].color,
        'iou': scores.iou[name],
        'share': counts[index].sum() / counts.sum(),
        'found': float(shares[index, index]) if counts[index].any() else None,
        'taken_for': (names[other], float(wrong[other])) if wrong[other] else None,
      }
    )
  return rows


def fields(tree: Mapping[str, Any], prefix: str = '') -> list[tuple[str, str]]:
  """The values of nested data as text by their full names, as `--config.NAME=VALUE` has them."""
  rows = []
  for name, value in tree.items():
    if isinstance(value, Mapping):
      rows += fields(value, f'{prefix}{name}.')
    else:
      text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
      rows.append((f'{prefix}{name}', text))
  return rows


def _curves(metrics: Sequence[Mapping[str, Any]]) -> list[Picture]:
  curves = []
  for title, figure in training_figures(metrics).items():
    points = [tuple(point) for point in figure.axes[0].lines[0].get_xydata().tolist()]
    ends = dict.fromkeys((points[0], points[-1]))  # one, where there is but one point
    alt = f'{title} by step: ' + ', '.join(f'{value:.3g} at step {step:.0f}' for step, value in ends)
    curves.append(plot(figure, alt))
  return curves


def _similarity(analysis: Analysis, ranked: Sequence[str]) -> dict[str, Any]:
  name = analysis.data['matrix_picture']
  return {
    'closest': next((p for p in analysis.data['most_confused'] if set(p['classes']) <= set(ranked)), None),
    'matrix': analysis_plot(
      analysis.pictures[name], 'Cosine similarity of the mean features of each two classes'
    ),
    'pictures': _photos(
      analysis, 'Image, ground truth and, for each class, where the features are like its mean'
    ),
  }


def _removal(analysis: Analysis) -> dict[str, Any]:
  data = analysis.data
  dilations = [layer['dilation'] for layer in data['layers']]
  whole = next(s['scores'] for s in data['settings'] if s['kind'] == 'none')
  mean = next(name for name in whole if name.startswith('mean_iou'))
  top = [s['scores']['iou'] for s in data['settings'] if s['kind'] in ('none', 'top')]
  return {
    'iou': {name: [iou[name] for iou in top] for name in whole['iou']},
    'groups': {
      title: [
        {
          'removed': setting['removed'],
          'dilations': [dilations[number - 1] for number in setting['removed']],
          'mean_iou': setting['scores'][mean],
          'change': setting['scores'][mean] - whole[mean],
          'pixel_accuracy': setting['scores']['pixel_accuracy'],
        }
        for setting in data['settings']
        if setting['kind'] == kind
      ]
      for kind, title in _KINDS.items()
    },
    'curves': analysis_plot(
      analysis.pictures[data['curves_picture']],
      'IoU of each class by the number of layers removed from the top',
    ),
    'pictures': _photos(analysis, 'Image, ground truth and the prediction with more and more layers removed'),
  }


def _photos(analysis: Analysis, alt: str) -> list[tuple[str, Picture]]:
  """The pictures of an analysis, each with its image id as its file's name has it (KIND_NUMBER_ID.png)."""
  return [
    (
      re.sub(r'^[a-z]+_\d+_|\.png$', '', name),
      analysis_photo(analysis.pictures[name], f'{alt}: {name}'),
    )
    for name in analysis.data['pictures']
  ]


def _package_text(name: str) -> str:
  return importlib.resources.files('dense_aspp_jax.analysis').joinpath(name).read_text(encoding='utf-8')


def _percent(value: float | None, digits: int = 1) -> str:
  return '\u2013' if value is None else f'{100 * value:.{digits}f}\u00a0%'


def _change(value: float) -> str:
  """A difference of two shares, in percentage points, with its sign."""
  points = round(100 * value, 1)
  return f'{points:+.1f}'.replace('-', '\u2212') if points else '0.0'


def _time(iso: str) -> str:
  """The time of a `provenance()`, to the minute."""
  return f'{iso[:16].replace("T", " ")} UTC'


def _listing(names: Sequence[str]) -> str:
  """`['a', 'b', 'c']` as 'a, b and c'."""
  return ' and '.join(filter(None, (', '.join(names[:-1]), *names[-1:])))
