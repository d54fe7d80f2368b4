"""Confusion matrix over a split and the scores computed from it. NumPy, int64, no device.

The Cityscapes scores follow the official definition, evalPixelLevelSemanticLabeling.py of
cityscapesScripts 2.3.0, to the last bit: counts are summed over the whole split before any division.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from tabulate import SEPARATING_LINE, tabulate

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.label_mapping import mapped_from
from dense_aspp_jax.label_sets import CITYSCAPES_19, CITYSCAPES_20
from dense_aspp_jax.labels import IGNORE_LABEL, NUM_CITYSCAPES_IDS, LabelSet

_CITYSCAPES_PROTOCOL = (
  'One confusion matrix over all images of the split, over label ids. mean_iou_19 and iou: official '
  'Cityscapes definition (cityscapesScripts): IoU = TP / (TP + FP + FN), pixels whose ground truth is '
  'ignored count nowhere, predictions of ignored ids are FN, classes neither present nor predicted are null '
  'and not in the mean. mean_iou_20 and iou.void: every other id, in ground truth and prediction, is an '
  'ordinary 20th class. pixel_accuracy: correct pixels / pixels whose ground truth is not ignored.'
)
_PROTOCOL = (
  'One confusion matrix over all images of the split, over classes. mean_iou and iou: '
  'IoU = TP / (TP + FP + FN), pixels whose ground truth is ignored count nowhere, classes neither present '
  'nor predicted are null and not in the mean. pixel_accuracy: correct pixels / pixels whose ground truth is '
  'not ignored.'
)
_MAPPED = (
  ' The label ids are those of label set {!r}, mapped to these classes: a class without counterpart there is '
  'null and not in the mean.'
)


@dataclasses.dataclass(frozen=True)
class Scores:
  """Scores of one split; each is a fraction in 0..1.

  Attributes:
    means: Mean IoU by name, the one that ranks checkpoints first. Cityscapes label sets have
      `mean_iou_19` (official) and `mean_iou_20` (void as an ordinary 20th class; None for 19-class
      models); other sets have `mean_iou`.
    pixel_accuracy: Correct pixels by pixels whose ground truth is not ignored. A prediction of an
      ignored id there is wrong.
    iou: IoU by class name, None for a class neither present nor predicted, and for one that mapped labels
      cannot have. For Cityscapes the 19 are the official ones, and `void`, where the model has it, is that
      of the 20-class count.
  """

  means: dict[str, float | None]
  pixel_accuracy: float
  iou: dict[str, float | None]

  @property
  def mean_iou(self) -> float:
    """The mean that ranks checkpoints: `mean_iou_19` for Cityscapes label sets, else `mean_iou`."""
    return next(iter(self.means.values()))

  def to_json(self) -> dict[str, Any]:
    """`{"mean_iou_19", "mean_iou_20", "pixel_accuracy", "iou"}`, or `mean_iou` for the first two."""
    return {**self.means, 'pixel_accuracy': self.pixel_accuracy, 'iou': self.iou}


class ConfusionMatrix:
  """Counts pixels by ground truth and prediction over a split.

  Evaluating a checkpoint and scoring prediction files both go through here, so both give the same scores.

  Attributes:
    label_set: Meaning of the label ids.
    counts: int64, row = ground truth, column = prediction. For the Cityscapes label sets `[34, 34]`
      over label ids; for others `[C + 1, C + 1]` over class indices, the last one for ignored ids. Where
      other label ids are mapped to the Cityscapes classes, `[35, 35]`, the last one for ignored ids.
  """

  def __init__(self, label_set: LabelSet):
    self.label_set = label_set
    size = label_set.num_classes + 1
    if is_cityscapes(label_set):
      size = NUM_CITYSCAPES_IDS + (mapped_from(label_set) is not None)
    self.counts = np.zeros((size, size), np.int64)

  def add(
    self, label_ids: np.ndarray, prediction_ids: np.ndarray, where: str, prediction_where: str | None = None
  ) -> None:
    """Counts one image.

    Args:
      label_ids: Ground truth, label ids as PNGs store them, uint8 `[h, w]`.
      prediction_ids: Prediction, likewise, by `LabelSet.of_predictions` (`LabelSet.decode` makes them from
        class indices).
      where: Path or name of the ground truth, for messages.
      prediction_where: The same of the prediction.

    Raises:
      InputError: The sizes differ, or an id is unknown to the label set. Nothing was counted then.
    """
    prediction_where = prediction_where or f'prediction for {where}'
    if label_ids.shape != prediction_ids.shape:
      raise InputError(
        f'{prediction_where}: {_size(prediction_ids)} pixels (height x width), but its ground truth {where} '
        f'has {_size(label_ids)}; write predictions at the size of the ground truth'
      )
    labels = self._indices(label_ids, self.label_set, where)
    predictions = self._indices(prediction_ids, self.label_set.of_predictions, prediction_where)
    self.counts += confusion_matrix(labels, predictions, len(self.counts))

  def scores(self) -> Scores:
    """The scores of everything counted; see `score_confusion`."""
    return score_confusion(self.counts, self.label_set)

  def _indices(self, ids: np.ndarray, label_set: LabelSet, where: str) -> np.ndarray:
    are_indices = is_cityscapes(label_set) and mapped_from(label_set) is None
    if are_indices and ids.dtype == np.uint8 and ids.max(initial=0) < NUM_CITYSCAPES_IDS:
      return ids
    labels = label_set.encode(ids, where)
    indices = label_set.decode(labels) if is_cityscapes(label_set) else labels
    return np.where(labels == IGNORE_LABEL, np.uint8(len(self.counts) - 1), indices)


def is_cityscapes(label_set: LabelSet) -> bool:
  """Whether scores follow the official Cityscapes definition, over label ids."""
  return label_set.of_predictions in (CITYSCAPES_19, CITYSCAPES_20)


def scored_classes(label_set: LabelSet) -> range:
  """The class indices of which the ground truth needs at least one pixel; Cityscapes' void is not one."""
  return range((CITYSCAPES_19 if is_cityscapes(label_set) else label_set).num_classes)


def protocol(label_set: LabelSet) -> str:
  """The definition of the scores in words, for a report."""
  own = mapped_from(label_set)
  return (_CITYSCAPES_PROTOCOL if is_cityscapes(label_set) else _PROTOCOL) + (
    _MAPPED.format(own) if own else ''
  )


def confusion_matrix(
  label: UInt8[np.ndarray, '*b h w'], prediction: UInt8[np.ndarray, '*b h w'], size: int
) -> Int64[np.ndarray, 'size size']:
  """Counts the pairs of values of two maps: row = ground truth, column = prediction.

  Args:
    label: Ground truth, values 0..size-1.
    prediction: Prediction, likewise.
    size: Number of values, at most 256.

  Raises:
    ValueError: The shapes differ, or a value is `size` or more.
  """
  if label.shape != prediction.shape:
    raise ValueError(
      f'label of shape {label.shape}, prediction of shape {prediction.shape}; expected equal ones'
    )
  for name, values in (('label', label), ('prediction', prediction)):
    if values.max(initial=0) >= size:
      raise ValueError(f'{name} holds {values.max()}; expected values below {size}')
  pairs = label.astype(np.uint16) * np.uint16(size) + prediction  # at most 256 * 256 - 1
  return np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size).astype(np.int64, copy=False)


def score_confusion(counts: Int64[np.ndarray, 'n n'], label_set: LabelSet) -> Scores:
  """Computes the scores from the `counts` of a `ConfusionMatrix` with the same label set.

  Raises:
    InputError: No pixel of the ground truth belongs to a class that is scored.
  """
  without = [
    i for i, label_class in enumerate(label_set.classes) if not label_class.ids
  ]  # where it is mapped
  if not is_cityscapes(label_set):
    return class_scores(counts, range(label_set.num_classes), label_set.class_names, without)
  ids = [c.ids[0] for c in CITYSCAPES_19.classes]
  official = class_scores(counts, ids, CITYSCAPES_19.class_names, [ids[i] for i in without if i < len(ids)])
  means, iou = {'mean_iou_19': official.mean_iou, 'mean_iou_20': None}, dict(official.iou)
  if label_set.of_predictions == CITYSCAPES_20:
    of_20 = class_scores(class_counts(counts, label_set), range(20), CITYSCAPES_20.class_names, without)
    means['mean_iou_20'] = of_20.mean_iou
    void = CITYSCAPES_20.class_names[-1]
    iou[void] = of_20.iou[void]
  return Scores(means, official.pixel_accuracy, iou)


def class_counts(counts: Int64[np.ndarray, 'n n'], label_set: LabelSet) -> Int64[np.ndarray, 'c c']:
  """The `counts` of a `ConfusionMatrix` by class index; ignored ids are left out."""
  if is_cityscapes(label_set):
    counts = counts[:NUM_CITYSCAPES_IDS, :NUM_CITYSCAPES_IDS]
  indices = np.arange(len(counts), dtype=np.uint8)
  classes = label_set.of_predictions.encode(indices, 'label ids') if is_cityscapes(label_set) else indices
  is_class = (classes[:, None] == np.arange(label_set.num_classes)).astype(np.int64)
  return is_class.T @ counts @ is_class


def class_scores(
  counts: Int64[np.ndarray, 'n n'], scored: Sequence[int], names: Sequence[str], without: Sequence[int] = ()
) -> Scores:
  """The scores of the classes at the indices `scored`; other indices are ignored ground truth.

  Args:
    counts: Of a `ConfusionMatrix`.
    scored: Indices of the classes.
    names: Their names.
    without: Those of them that the ground truth cannot have: their IoU is None, predicted or not.

  Raises:
    InputError: No pixel of the ground truth belongs to one of them.
  """
  scored = list(scored)
  num_valid = int(counts[scored].sum())
  if not num_valid:
    raise InputError(
      f'all {int(counts.sum())} pixels of the ground truth are void, nothing can be scored (the public '
      'labels of the Cityscapes test split are such); use a split with real labels'
    )
  iou = [None if c in without else value for c, value in zip(scored, _iou(counts, scored), strict=True)]
  accuracy = int(counts[scored, scored].sum()) / num_valid
  return Scores({'mean_iou': _mean(iou)}, accuracy, dict(zip(names, iou, strict=True)))


def format_table(scores: Scores) -> str:
  """The scores as plain text: a row per class, then the means and the pixel accuracy, in %; `-` for null."""
  summary = {**scores.means, 'pixel_accuracy': scores.pixel_accuracy}

  def cells(values: dict[str, float | None]) -> list[tuple[str, str]]:
    return [(name, '-' if value is None else f'{100 * value:.2f}') for name, value in values.items()]

  rows = [*cells(scores.iou), SEPARATING_LINE, *cells(summary)]
  return tabulate(rows, ('class', 'IoU in %'), colalign=('left', 'right'), disable_numparse=True)


def _iou(counts: np.ndarray, scored: list[int]) -> list[float | None]:
  """IoU of each index in `scored`; rows of other indices are ignored ground truth and count nowhere."""
  true_positives = [int(counts[c, c]) for c in scored]
  present = [int(counts[c].sum()) for c in scored]
  predicted = [int(counts[scored, c].sum()) for c in scored]
  unions = [p + q - tp for p, q, tp in zip(present, predicted, true_positives, strict=True)]
  return [tp / union if union else None for tp, union in zip(true_positives, unions, strict=True)]


def _mean(iou: list[float | None]) -> float:
  """Mean of the entries that are not None, summed as the official script does."""
  values = [value for value in iou if value is not None]
  total = 0.0
  for value in values:  # not sum(): from Python 3.12 on it compensates rounding, and the last bit differs
    total += value
  return total / len(values)


def _size(array: np.ndarray) -> str:
  return 'x'.join(str(n) for n in array.shape)
