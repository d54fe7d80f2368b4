"""Scores a folder of predictions against a folder of ground truth, both label maps."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dense_aspp_jax.datasets.image_formats import file_format, open_image
from dense_aspp_jax.datasets.images import decode_label, decode_label_ids
from dense_aspp_jax.datasets.stored_files import StoredFile
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.label_pairs import IDS, LABEL, TRAIN, find_pairs
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix, is_cityscapes, score_confusion
from dense_aspp_jax.evaluation.prediction_folder import FOLDERS, LABEL_IDS_FOLDER, PREDICTIONS_FILE
from dense_aspp_jax.files import read_json, shown
from dense_aspp_jax.label_sets import CITYSCAPES_19, CITYSCAPES_19_TRAIN_IDS, CITYSCAPES_20
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet, compact_ranges, count_ids
from dense_aspp_jax.progress import progress

_NUM_TRAIN_IDS = 20  # of Cityscapes: 19 classes, and void where a network has 20
_MANY_IDS = 10  # in a ground truth of street scenes: with as many below 20, they are no label ids
_RENAME = (
  'ground truth in train ids is read from *_labelTrainIds.png, or with a label set of these ids, such as '
  'cityscapes19_train_ids'
)
_OPTION = 'give --ids train'


class ScoreInput(NamedTuple):
  """What is scored against what.

  Attributes:
    pairs: Ground truth and prediction, sorted by ground truth.
    label_set: Meaning of the label ids.
    label_ids: What the ground truth holds: 'label' or 'train' ids.
    prediction_ids: The same of the predictions.
    left: 'PATH: why' of every file that takes no part, such as a prediction without ground truth.
  """

  pairs: list[tuple[pathlib.Path, pathlib.Path]]
  label_set: LabelSet
  label_ids: str = LABEL
  prediction_ids: str = LABEL
  left: Sequence[str] = ()


def find_score_input(
  labels: pathlib.Path,
  predictions: pathlib.Path,
  label_set: LabelSet | None = None,
  ids: str = LABEL,
) -> ScoreInput:
  """Pairs the files of two folders and finds out what their ids mean.

  See `label_pairs.find_pairs` for the names.

  Args:
    labels: Folder of ground truth.
    predictions: Folder of predictions; that of `dense-aspp predict` or its `label_ids` folder.
    label_set: By default the one in the `predictions.json` of `dense-aspp predict`, else `cityscapes20`
      for Cityscapes files.
    ids: What the predictions hold: 'label' ids, or 'train' ids, which are class indices 0..C-1, and 255 for
      what is ignored.

  Raises:
    InputError: No folder, no ground truth, a file without a prediction or with several, a name that is
      none of Cityscapes, or an unknown label set.
  """
  if ids not in IDS:
    raise InputError(f'ids {ids!r}: expected {" or ".join(IDS)}')
  for folder in (labels, predictions):
    if not folder.is_dir():
      raise InputError(f'{shown(folder)}: not a folder; expected a folder of label maps')
  here = predictions.absolute()  # '.' has neither name nor parent
  to_look_at = here.name in FOLDERS[1:] and (here.parent / PREDICTIONS_FILE).is_file()
  if to_look_at and not (label_set and label_set.label_colors):
    raise InputError(f'{shown(predictions)}: pictures to look at; give {shown(here.parent)}')
  if (predictions / LABEL_IDS_FOLDER).is_dir():
    predictions = predictions / LABEL_IDS_FOLDER
  found = find_pairs(labels, predictions)
  if label_set is None:
    label_set = _read_label_set(predictions)
  if label_set is None and found.is_cityscapes:
    label_set = CITYSCAPES_20
  if found.is_cityscapes and label_set == CITYSCAPES_19_TRAIN_IDS:  # what the ground truth holds is known
    label_set, ids = CITYSCAPES_19, TRAIN
  if label_set is None:
    raise InputError(
      f'{shown(predictions)}: no {PREDICTIONS_FILE} of `dense-aspp predict` beside it and {shown(labels)} is '
      'not in the Cityscapes layout, so the meaning of the ids is unknown; name it with --label-set'
    )
  return ScoreInput(found.pairs, label_set, found.label_ids, ids, found.left)


def score_files(score_input: ScoreInput) -> ConfusionMatrix:
  """Counts all pairs of a `find_score_input`, with a progress bar.

  Raises:
    InputError: A file that is no label map, sizes that differ or unknown ids, with the path.
  """
  label_set = score_input.label_set
  confusion = ConfusionMatrix(label_set)
  for label_path, prediction_path in progress(score_input.pairs, 'score', unit='image'):
    label_file, prediction_file = StoredFile.on_disk(label_path), StoredFile.on_disk(prediction_path)
    confusion.add(
      _ground_truth_ids(label_file, score_input.label_ids, label_set),
      _prediction_ids(prediction_file, score_input.prediction_ids, label_set),
      label_file.where,
      prediction_file.where,
    )
  return confusion


def train_ids_hint(score_input: ScoreInput, confusion: ConfusionMatrix) -> str | None:
  """One line where label ids of Cityscapes look like train ids, which are valid label ids too; else None.

  Predictions do where reading them as train ids scores higher, and a ground truth where it has many ids and
  all of them are train ids.
  """
  label_set, counts = score_input.label_set, confusion.counts
  if not is_cityscapes(label_set):
    return None
  present, predicted = (np.flatnonzero(counts.sum(axis)) for axis in (1, 0))
  if score_input.label_ids == LABEL and present.max() < _NUM_TRAIN_IDS and len(present) >= _MANY_IDS:
    return f'the ground truth has only ids {compact_ranges(present)}. If these are train ids: {_RENAME}'
  if score_input.prediction_ids == TRAIN or predicted.max() >= label_set.num_classes:
    return None
  as_train_ids = np.zeros_like(counts)
  np.add.at(as_train_ids.T, label_set.decode(predicted.astype(np.uint8)), counts.T[predicted])
  score, other = (score_confusion(c, label_set).mean_iou for c in (counts, as_train_ids))
  if other <= score:
    return None
  return (
    f'the predictions have only ids {compact_ranges(predicted)}. Read as train ids they score {other:.2%} '
    f'instead of {score:.2%}. If they are train ids: {_OPTION}'
  )


def _read_label_set(predictions: pathlib.Path) -> LabelSet | None:
  """The label set that `predict` wrote beside its folder of label ids; None where there is none."""
  predictions = predictions.absolute()  # '.' has neither name nor parent
  path = predictions.parent / PREDICTIONS_FILE
  if predictions.name != LABEL_IDS_FOLDER or not path.is_file():
    return None
  data = read_json(path, 'name the label set with --label-set')
  if not isinstance(data, dict) or 'label_set' not in data:
    raise InputError(f'{shown(path)}: has no label_set; name it with --label-set')
  return LabelSet.from_json(data['label_set'], shown(path))


def _ground_truth_ids(file: StoredFile, kind: str, label_set: LabelSet) -> np.ndarray:
  if kind == TRAIN:
    remedy = 'If these are label ids, name the files *_labelIds.png'
    return _of_train_ids(file.read(), label_set, file.where, remedy)
  return decode_label_ids(file.read(), label_set, file.where)


def _prediction_ids(file: StoredFile, kind: str, label_set: LabelSet) -> np.ndarray:
  """Label ids of a prediction; where the set has `label_colors`, a picture in these colours is read too."""
  data = file.read()
  is_picture = file_format(data) is not None  # and no array
  if (
    label_set.label_colors and is_picture and open_image(data, file.where).image.mode in ('RGB', 'RGBA', 'P')
  ):
    return decode_label_ids(data, label_set, file.where)
  if kind == TRAIN:
    return _of_train_ids(data, label_set, file.where, 'If these are label ids, leave out --ids')
  ids = decode_label(data, file.where, minus_one=IGNORE_LABEL in label_set.ignore_ids)
  if _are_train_ids(ids, label_set).all():
    label_set.encode(ids, file.where, f'If these are train ids: {_OPTION}')  # says so if some are unknown
  return ids


def _of_train_ids(data: bytes, label_set: LabelSet, where: str, remedy: str) -> np.ndarray:
  """Label ids of what a file of train ids holds. Raises InputError for unknown train ids."""
  ids = decode_label(data, where, minus_one=True)
  known = _are_train_ids(ids, label_set)
  if not known.all():
    expected = f'0..{label_set.num_classes - 1}{f" and {IGNORE_LABEL}" if _has_ignored(label_set) else ""}'
    raise InputError(f'{where}: unknown train ids {count_ids(ids[~known])}; expected {expected}. {remedy}')
  return label_set.decode(ids)


def _are_train_ids(ids: np.ndarray, label_set: LabelSet) -> np.ndarray:
  """Where ids are class indices, or `IGNORE_LABEL` if the set ignores anything."""
  return (ids < label_set.num_classes) | (_has_ignored(label_set) & (ids == IGNORE_LABEL))


def _has_ignored(label_set: LabelSet) -> bool:
  return bool(label_set.ignore_ids) or is_cityscapes(label_set)
