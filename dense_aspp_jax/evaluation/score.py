"""Scores a folder of prediction PNGs against a folder of ground-truth PNGs, both of label ids.

Cityscapes files are paired as the official script pairs them (cityscapesScripts,
evalPixelLevelSemanticLabeling.getPrediction); other folders by equal relative names.
"""

from __future__ import annotations

import pathlib
import re
import unicodedata
from typing import NamedTuple

from dense_aspp_jax.datasets.images import decode_label, decode_label_ids
from dense_aspp_jax.datasets.stored_files import StoredFile, files_of_folder
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix
from dense_aspp_jax.files import read_json
from dense_aspp_jax.labels import CITYSCAPES_20, LabelSet
from dense_aspp_jax.progress import progress

LABEL_IDS_FOLDER = 'label_ids'  # where `predict` puts the PNGs that can be scored
PREDICTIONS_FILE = 'predictions.json'  # written by `predict` beside that folder
_NAMES_SHOWN = 5  # in a message
_CITYSCAPES_SUFFIX = '_gtFine_labelIds.png'
_CITYSCAPES_NAME = re.compile(rf'([^_]+_[^_]+_[^_]+){re.escape(_CITYSCAPES_SUFFIX)}')


class ScoreInput(NamedTuple):
  """What is scored against what."""

  pairs: list[tuple[pathlib.Path, pathlib.Path]]  # ground truth and prediction, sorted by ground truth
  label_set: LabelSet


def find_score_input(
  labels: pathlib.Path, predictions: pathlib.Path, label_set: LabelSet | None = None
) -> ScoreInput:
  """Pairs the files of two folders and finds out what their ids mean.

  If there are files `*_gtFine_labelIds.png` anywhere in `labels`, they are the ground truth, and the
  prediction of `<city>_<seq>_<frame>_gtFine_labelIds.png` is the one file `<city>_<seq>_<frame>*.png`
  anywhere in `predictions`. Otherwise every PNG in `labels` is ground truth, and its prediction is the
  PNG of the same name relative to `predictions`. Predictions without ground truth are left out.

  Args:
    labels: Folder of ground truth.
    predictions: Folder of predictions; that of `dense-aspp predict` or its `label_ids` folder.
    label_set: By default the one in the `predictions.json` of `dense-aspp predict`, else `cityscapes20`
      for Cityscapes files.

  Raises:
    InputError: No folder, no ground truth, a file without a prediction or with several, a name that is
      none of Cityscapes, or an unknown label set.
  """
  for folder in (labels, predictions):
    if not folder.is_dir():
      raise InputError(f'{folder}: not a folder; expected a folder of label-id PNGs')
  if (predictions / LABEL_IDS_FOLDER).is_dir():
    predictions = predictions / LABEL_IDS_FOLDER
  label_paths, prediction_paths = _png_files(labels), _png_files(predictions)
  if not label_paths:
    raise InputError(f'{labels}: no PNG files in it; expected ground truth, such as *{_CITYSCAPES_SUFFIX}')
  cityscapes_paths = [path for path in label_paths if path.name.endswith(_CITYSCAPES_SUFFIX)]
  # By ground truth: the pattern of its prediction's name, and the predictions that fit, which should be one.
  candidates: dict[pathlib.Path, tuple[str, list[pathlib.Path]]] = {}
  if cityscapes_paths:
    for path in cityscapes_paths:
      name = _CITYSCAPES_NAME.fullmatch(path.name)
      if not name:
        raise InputError(f'{path}: not a Cityscapes name; expected <city>_<seq>_<frame>{_CITYSCAPES_SUFFIX}')
      fitting = [p for p in prediction_paths if p.name.startswith(name[1]) and p.name.endswith('.png')]
      candidates[path] = f'{name[1]}*.png', fitting
  else:
    by_name: dict[str, list[pathlib.Path]] = {}
    for path in prediction_paths:
      by_name.setdefault(_relative_name(path, predictions), []).append(path)
    for path in label_paths:
      name = _relative_name(path, labels)
      candidates[path] = f'{name}.png', by_name.get(name, [])
  pairs = _pair(candidates, predictions)

  if label_set is None:
    label_set = _read_label_set(predictions)
  if label_set is None and cityscapes_paths:
    label_set = CITYSCAPES_20
  if label_set is None:
    raise InputError(
      f'{predictions}: no {PREDICTIONS_FILE} of `dense-aspp predict` beside it and {labels} is not in the '
      'Cityscapes layout, so the meaning of the ids is unknown; name it with --label-set'
    )
  return ScoreInput(pairs, label_set)


def score_files(score_input: ScoreInput) -> ConfusionMatrix:
  """Counts all pairs of a `find_score_input`, with a progress bar.

  Raises:
    InputError: A file that is not a single-channel PNG, sizes that differ or unknown ids, with the path.
  """
  confusion = ConfusionMatrix(score_input.label_set)
  for label_path, prediction_path in progress(score_input.pairs, 'score', unit='image'):
    label, prediction = (StoredFile.on_disk(path).read() for path in (label_path, prediction_path))
    label_ids = decode_label_ids(label, score_input.label_set, str(label_path))
    prediction_ids = decode_label(prediction, str(prediction_path))
    confusion.add(label_ids, prediction_ids, str(label_path), str(prediction_path))
  return confusion


def _png_files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(file.path for file in files_of_folder(folder).with_suffixes(['.png']).taken.values())


def _relative_name(path: pathlib.Path, root: pathlib.Path) -> str:
  """The name without suffix in one of the two spellings that file systems have in Unicode."""
  return unicodedata.normalize('NFC', path.relative_to(root).with_suffix('').as_posix())


def _pair(
  candidates: dict[pathlib.Path, tuple[str, list[pathlib.Path]]], predictions: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  for label_path, (pattern, paths) in candidates.items():
    if len(paths) > 1:
      raise InputError(
        f'{label_path}: {len(paths)} predictions fit {pattern}: {_some([str(path) for path in paths])}; '
        f'keep one of them in {predictions}'
      )
  missing = [pattern for pattern, paths in candidates.values() if not paths]
  if missing:
    raise InputError(
      f'{predictions}: no prediction for {len(missing)} of {len(candidates)} ground truths, '
      f'expected {_some(missing)}; predict the missing images, or give the labels of those predicted'
    )
  return [(label_path, paths[0]) for label_path, (_, paths) in candidates.items()]


def _some(names: list[str]) -> str:
  return ', '.join(names[:_NAMES_SHOWN]) + (', ...' if len(names) > _NAMES_SHOWN else '')


def _read_label_set(predictions: pathlib.Path) -> LabelSet | None:
  """The label set that `predict` wrote beside its folder of label ids; None where there is none."""
  predictions = predictions.absolute()  # '.' has neither name nor parent
  path = predictions.parent / PREDICTIONS_FILE
  if predictions.name != LABEL_IDS_FOLDER or not path.is_file():
    return None
  data = read_json(path, 'name the label set with --label-set')
  if not isinstance(data, dict) or 'label_set' not in data:
    raise InputError(f'{path}: has no label_set; name it with --label-set')
  return LabelSet.from_json(data['label_set'], str(path))
