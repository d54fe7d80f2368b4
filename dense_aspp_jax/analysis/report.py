"""The report of a run: one HTML file with all its pictures, readable without a network."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from flax.traverse_util import flatten_dict

from dense_aspp_jax.analysis.report_pictures import (
  IGNORED_COLOR,
  WRONG_COLOR,
  Example,
  Picture,
  analysis_photo,
  analysis_plot,
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
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix, Scores, class_counts, is_cityscapes
from dense_aspp_jax.fields import is_integer
from dense_aspp_jax.files import read_json
from dense_aspp_jax.label_sets import CITYSCAPES_19
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet

REMEDY = 'remove it to do without'


class Analysis(NamedTuple):
  """What an analysis found."""

  data: Mapping[str, Any]  # as its JSON file
  pictures: Mapping[str, bytes]  # PNG files by name, those that `data` names

  @classmethod
  def with_pictures(cls, data: Mapping[str, Any], folder: pathlib.Path) -> Analysis:
    """Reads the pictures that `data` names from a folder."""
    plots = [data[key] for key in ('matrix_picture', 'curves_picture') if key in data]
    return cls(data, {name: (folder / name).read_bytes() for name in [*plots, *data['pictures']]})


def read_analysis(folder: pathlib.Path, subject: Mapping[str, Any]) -> Analysis | None:
  """Reads what a command stored of an analysis, NAME.json and pictures in the folder NAME.

  Args:
    folder: The folder.
    subject: What it must be an analysis of, by key of the JSON data: 'checkpoint', 'step', 'split', ...; a
      missing key counts as None.

  Returns:
    None if there is no such analysis, or it is incomplete.

  Raises:
    InputError: The JSON file cannot be read.
  """
  path = folder / f'{folder.name}.json'
  data = read_json(path, REMEDY, default={})
  if not isinstance(data, dict):
    raise InputError(f'{path}: not what an analysis writes; {REMEDY}')
  if any(data.get(key) != value for key, value in subject.items()):
    return None
  try:
    return Analysis.with_pictures(data, folder)
  except FileNotFoundError:
    return None
  except (KeyError, TypeError, OSError) as error:
    reason = f'{type(error).__name__}: {error}'
    raise InputError(f'{path}: not what an analysis writes ({reason}); {REMEDY}') from error


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """The entries of a metrics.jsonl, none without the file; skips lines that are none, as of a killed run."""
  entries = []
  for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else ():
    with contextlib.suppress(ValueError, RecursionError):
      entry = json.loads(line)
      if isinstance(entry, dict) and is_integer(entry.get('step')) and isinstance(entry.get('kind'), str):
        entries.append(entry)
  return entries


def render_report(
  run: Mapping[str, Any],
  confusion: ConfusionMatrix,
  examples: Sequence[Example],
  similarity: Analysis,
  layer_removal: Analysis | None,
  *,
  split: str,
  images: int,
  parameters: Mapping[str, int | float],
  metrics: Sequence[Mapping[str, Any]],
  starts: Sequence[Mapping[str, Any]],
) -> str:
  """Writes the report as one HTML page that loads nothing from outside.

  Args:
    run: From `Run.describe`; its 'dataset' is what was scored, or several, the first of which was.
    confusion: Counts over the whole split.
    examples: Images for the gallery.
    similarity: Feature similarity of the classes.
    layer_removal: Scores without layers of DenseASPP; None: it has none.
    split: The split that was scored.
    images: Images in it.
    parameters: As `count_parameters` gives them.
    metrics: From `read_metrics`.
    starts: Provenance of each time the run was started, each with its 'step'.

  Raises:
    InputError: No pixel of the ground truth belongs to a class that is scored.
  """
  label_set = confusion.label_set
  scores = confusion.scores()
  counts = class_counts(confusion.counts, label_set)
  names = CITYSCAPES_19.class_names if is_cityscapes(label_set) else label_set.class_names
  # The classes that sentences compare have ground truth and are not void.
  ranked = sorted_iou({name: scores.iou[name] for name, n in zip(names, counts, strict=False) if n.any()})
  trained_on, scored = run['config']['data']['dataset'], run['dataset']
  ignored = any((e.label == IGNORE_LABEL).any() for e in examples)
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('dense_aspp_jax', 'analysis'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(percent=_percent, change=_change, fields=_fields, time=_time)
  return environment.get_template('report.html.jinja').render(
    name=pathlib.Path(run['workdir']).absolute().name,
    run=run,
    config=run['config'],
    datasets=[trained_on] if isinstance(trained_on, str) else trained_on,
    scored=scored if isinstance(scored, str) else scored[0],
    split=split,
    num_images=images,
    parameters=parameters,
    starts=starts,
    warnings=starts[-1].get('warnings', []) if starts else [],
    scores=scores,
    means={MEAN_NAMES.get(name, name): value for name, value in scores.means.items() if value is not None},
    best=ranked[0],
    worst=ranked[-1],
    label_set=label_set,
    error_colors={'wrong': WRONG_COLOR} | ({'ignored': IGNORED_COLOR} if ignored else {}),
    hero=next((e.overlay(label_set) for e in examples if e.pixel_accuracy(label_set) is not None), None),
    examples=examples,
    converted=next((start['converted']['file'] for start in starts if 'converted' in start), None),
    curves=_curves(metrics),
    classes=_class_rows(scores, counts, label_set),
    iou_plot=plot(
      iou_figure(scores.iou, scores.mean_iou, label_set),
      f'Bars of the IoU of each class, from {ranked[0][0]} to {ranked[-1][0]}; the table has the values',
    ),
    confusion_plot=plot(
      confusion_figure(counts, label_set.class_names),
      'Confusion matrix: which share of the pixels of each class was predicted as which class',
    ),
    similarity=_similarity(similarity, [name for name, _ in ranked]),
    removal=layer_removal and _removal(layer_removal),
  )


def _class_rows(scores: Scores, counts: np.ndarray, label_set: LabelSet) -> list[dict[str, Any]]:
  """The table of classes, best IoU first, those without one last; fractions, None without pixels.

  'share' is that of all pixels, 'recall' that of the class's pixels predicted as it, 'confused' the class
  (name and share) that most of the others went to.
  """
  names, shares = label_set.class_names, row_shares(counts)
  rows = []
  for name, iou in sorted(scores.iou.items(), key=lambda item: (item[1] is None, -(item[1] or 0))):
    index = names.index(name)
    wrong = np.where(np.arange(len(names)) == index, 0, shares[index])
    other = int(wrong.argmax())
    rows.append(
      {
        'name': name,
        'color': label_set.classes[index].color,
        'iou': iou,
        'share': counts[index].sum() / counts.sum(),
        'recall': shares[index, index] if counts[index].any() else None,
        'confused': (names[other], wrong[other]) if wrong[other] else None,
      }
    )
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
  data, pairs = analysis.data, analysis.data['most_confused']
  matrix_alt = 'Cosine similarity of the mean features of each two classes'
  return {
    **data,
    'closest': next((pair for pair in pairs if set(pair['classes']) <= set(ranked)), None),
    'matrix': analysis_plot(analysis.pictures[data['matrix_picture']], matrix_alt),
    'pictures': _photos(analysis, 'Image, ground truth and, for each class, the similarity with its mean'),
  }


def _removal(analysis: Analysis) -> dict[str, Any]:
  data = analysis.data
  top = [setting['scores'] for setting in data['settings'] if setting['kind'] != 'single']
  curves_alt = 'IoU of each class by the number of layers removed from the top'
  return {
    **data,
    'top': top,  # the first is the whole network
    'mean': next(name for name in top[0] if name.startswith('mean_iou')),
    'curves': analysis_plot(analysis.pictures[data['curves_picture']], curves_alt),
    'pictures': _photos(analysis, 'Image, ground truth and the prediction as more layers are removed'),
  }


def _photos(analysis: Analysis, alt: str) -> list[tuple[str, Picture]]:
  """The pictures of an analysis, each with its image id, taken from its name (KIND_NUMBER_ID.png)."""
  return [
    (re.sub(r'^[a-z]+_\d+_|\.png$', '', name), analysis_photo(analysis.pictures[name], f'{alt}: {name}'))
    for name in analysis.data['pictures']
  ]


def _fields(tree: dict[str, Any]) -> list[tuple[str, str]]:
  """The values of nested data as text by their full names, as in `--config.NAME=VALUE`."""
  return [
    (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    for name, value in flatten_dict(tree, sep='.').items()
  ]


def _percent(value: float | None, digits: int = 1) -> str:
  return '\u2013' if value is None else f'{100 * value:.{digits}f}\u00a0%'


def _change(value: float) -> str:
  """A difference of two shares, in percentage points, with its sign."""
  points = round(100 * value, 1)
  return f'{points:+.1f}'.replace('-', '\u2212') if points else '0.0'


def _time(iso: str) -> str:
  """The time of a `provenance()`, to the minute."""
  return f'{iso[:16].replace("T", " ")} UTC'
