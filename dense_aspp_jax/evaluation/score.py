"""Scores a folder of predictions against a folder of ground truth, both label maps.

Cityscapes files are paired as the official script pairs them (cityscapesScripts,
evalPixelLevelSemanticLabeling.getPrediction); other folders by equal relative names.
"""

from __future__ import annotations

import bisect
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dense_aspp_jax.datasets.image_formats import file_format, open_image
from dense_aspp_jax.datasets.images import LABEL_EXTENSIONS, decode_label, decode_label_ids
from dense_aspp_jax.datasets.stored_files import Files, StoredFile, files_of_folder
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.metrics import ConfusionMatrix, is_cityscapes, score_confusion
from dense_aspp_jax.evaluation.prediction_folder import LABEL_IDS_FOLDER, PREDICTIONS_FILE
from dense_aspp_jax.files import read_json, shown
from dense_aspp_jax.labels import (
  CITYSCAPES_19,
  CITYSCAPES_19_TRAIN_IDS,
  CITYSCAPES_20,
  IGNORE_LABEL,
  LabelSet,
  compact_ranges,
  count_ids,
)
from dense_aspp_jax.progress import progress

LABEL, TRAIN = IDS = ('label', 'train')  # what label maps may hold
_NAMES_SHOWN = 5  # in a message
_NUM_TRAIN_IDS = 20  # of Cityscapes: 19 classes, and void where a network has 20
_MANY_IDS = 10  # in a ground truth of street scenes: with as many below 20, they are no label ids
# Ground truth of Cityscapes by the end of its name, the first choice first, and what it holds.
_CITYSCAPES_KINDS = {
  'gtFine_labelIds': LABEL,
  'gtFine_labelTrainIds': TRAIN,
  'gtCoarse_labelIds': LABEL,
  'gtCoarse_labelTrainIds': TRAIN,
}
_RENAME = (
  'ground truth in train ids is read from *_labelTrainIds.png, or with a label set of these ids, such as '
  'cityscapes19_train_ids'
)
_OPTION = 'give --ids train'
_CITYSCAPES_NAME = re.compile(r'([^_]+_[^_]+_[^_]+)_(gt(?:Fine|Coarse))_.+')


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

  If there are files `*_gtFine_labelIds.png` anywhere in `labels`, they are the ground truth, and the
  prediction of `<city>_<seq>_<frame>_gtFine_labelIds.png` is the one file `<city>_<seq>_<frame>*.png`
  anywhere in `predictions`. Without such files `*_gtFine_labelTrainIds.png` are taken, which hold train
  ids, then `*_gtCoarse_labelIds.png` and `*_gtCoarse_labelTrainIds.png`. Without any of them every PNG in
  `labels` is ground truth, and its prediction is the PNG of the same name relative to `predictions`.
  Other formats of label maps are taken where there is no PNG.

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
  if (predictions / LABEL_IDS_FOLDER).is_dir():
    predictions = predictions / LABEL_IDS_FOLDER
  truth, kind = _ground_truth(files_of_folder(labels))
  if not truth.taken:
    raise InputError(
      f'{shown(labels)}: no label maps in it; expected ground truth, such as *_gtFine_labelIds.png'
    )
  guesses = _png_first(files_of_folder(predictions))
  pairs = _pair(_by_core(truth, guesses, kind) if kind else _by_relative_name(truth, guesses), predictions)

  if label_set is None:
    label_set = _read_label_set(predictions)
  if label_set is None and kind:
    label_set = CITYSCAPES_20
  if kind and label_set == CITYSCAPES_19_TRAIN_IDS:  # the same classes, which ground truth says its own way
    label_set, ids = CITYSCAPES_19, TRAIN
  if label_set is None:
    raise InputError(
      f'{shown(predictions)}: no {PREDICTIONS_FILE} of `dense-aspp predict` beside it and {shown(labels)} is '
      'not in the Cityscapes layout, so the meaning of the ids is unknown; name it with --label-set'
    )
  paired = {prediction for _, prediction in pairs}
  alone = [file.left('without ground truth') for file in guesses.taken.values() if file.path not in paired]
  left = [*truth.left, *alone, *guesses.left]
  return ScoreInput(pairs, label_set, _CITYSCAPES_KINDS[kind] if kind else LABEL, ids, left)


def score_files(score_input: ScoreInput) -> ConfusionMatrix:
  """Counts all pairs of a `find_score_input`, with a progress bar.

  Raises:
    InputError: A file that is no label map, sizes that differ or unknown ids, with the path.
  """
  label_set = score_input.label_set
  confusion = ConfusionMatrix(label_set)
  for label_path, prediction_path in progress(score_input.pairs, 'score', unit='image'):
    label_file, prediction_file = StoredFile.on_disk(label_path), StoredFile.on_disk(prediction_path)
    data = label_file.read()
    if score_input.label_ids == TRAIN:
      label_ids = decode_label(data, label_file.where, minus_one=True)
    else:
      label_ids = decode_label_ids(data, label_set, label_file.where)
    confusion.add(
      _label_ids(label_ids, score_input.label_ids, label_set, label_file.where, _RENAME),
      _prediction_ids(prediction_file.read(), score_input.prediction_ids, label_set, prediction_file.where),
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


def _ground_truth(files: Files) -> tuple[Files, str | None]:
  """What of a folder is ground truth, and which of `_CITYSCAPES_KINDS` it is, if any."""
  for kind in _CITYSCAPES_KINDS:
    of_kind = {n: f for n, f in files.taken.items() if pathlib.PurePosixPath(n).stem.endswith(f'_{kind}')}
    truth = _png_first(Files(of_kind, []))
    if truth.taken:
      cores = {_core(file.path) for file in truth.taken.values()}
      # Not the other files of the same images, which Cityscapes has: colours, instances, polygons.
      others = [f.left() for n, f in files.taken.items() if n not in of_kind and _core(f.path) not in cores]
      return Files(truth.taken, files.left + truth.left + others), kind
  return _png_first(files), None


def _png_first(files: Files) -> Files:
  """The label maps of a folder: PNGs, or, where there are none, those in other formats."""
  pngs = files.with_suffixes(['.png'])
  return pngs if pngs.taken else files.with_suffixes(LABEL_EXTENSIONS)


def _core(path: pathlib.Path) -> str | None:
  """`<city>_<seq>_<frame>` of a file in the Cityscapes layout."""
  name = _CITYSCAPES_NAME.fullmatch(path.name)
  return name and name[1]


# By ground truth: the pattern of its prediction's name, and the predictions that fit, which should be one.
_Candidates = dict[pathlib.Path, tuple[str, list[pathlib.Path]]]


def _by_core(truth: Files, guesses: Files, kind: str) -> _Candidates:
  by_name = sorted((file.path.name, file.path) for file in guesses.taken.values())
  candidates = {}
  for path in sorted(file.path for file in truth.taken.values()):
    core = _core(path)
    if not core:
      raise InputError(f'{shown(path)}: not a Cityscapes name; expected <city>_<seq>_<frame>_{kind}.png')
    fitting = []
    for name, prediction in by_name[bisect.bisect_left(by_name, (core,)) :]:
      if not name.startswith(core):
        break
      if not name[len(core)].isdigit():  # else it is of another frame
        fitting.append(prediction)
    candidates[path] = f'{core}*.png', fitting
  return candidates


def _by_relative_name(truth: Files, guesses: Files) -> _Candidates:
  by_name: dict[str, list[pathlib.Path]] = {}
  for name, file in guesses.taken.items():
    by_name.setdefault(_without_suffix(name), []).append(file.path)
  named = [(_without_suffix(name), file.path) for name, file in truth.taken.items()]
  return {path: (f'{shown(name)}.png', by_name.get(name, [])) for name, path in sorted(named)}


def _without_suffix(name: str) -> str:
  """The name without suffix in one of the two spellings that file systems have in Unicode."""
  return unicodedata.normalize('NFC', pathlib.PurePosixPath(name).with_suffix('').as_posix())


def _pair(candidates: _Candidates, predictions: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
  for label_path, (pattern, paths) in candidates.items():
    if len(paths) > 1:
      raise InputError(
        f'{shown(label_path)}: {len(paths)} predictions fit {pattern}: {_some(map(shown, paths))}; '
        f'keep one of them in {shown(predictions)}'
      )
  missing = [pattern for pattern, paths in candidates.values() if not paths]
  if missing:
    raise InputError(
      f'{shown(predictions)}: no prediction for {len(missing)} of {len(candidates)} ground truths, '
      f'expected {_some(missing)}; predict the missing images, or give the labels of those predicted'
    )
  return [(label_path, paths[0]) for label_path, (_, paths) in candidates.items()]


def _some(names: Iterable[str]) -> str:
  names = list(names)
  return ', '.join(names[:_NAMES_SHOWN]) + (', ...' if len(names) > _NAMES_SHOWN else '')


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


def _prediction_ids(data: bytes, kind: str, label_set: LabelSet, where: str) -> np.ndarray:
  """Label ids of a prediction; where the set has `label_colors`, a picture in these colours is read too."""
  is_picture = file_format(data) is not None  # and no array
  if label_set.label_colors and is_picture and open_image(data, where).image.mode in ('RGB', 'RGBA'):
    return decode_label_ids(data, label_set, where)
  minus_one = kind == TRAIN or IGNORE_LABEL in label_set.ignore_ids
  return _label_ids(decode_label(data, where, minus_one), kind, label_set, where, _OPTION)


def _label_ids(ids: np.ndarray, kind: str, label_set: LabelSet, where: str, remedy: str) -> np.ndarray:
  """Label ids of what a file holds.

  Raises:
    InputError: Unknown train ids, or train ids where label ids were expected, as far as that shows.
  """
  has_ignored = bool(label_set.ignore_ids) or is_cityscapes(label_set)
  of_classes = ids[ids != IGNORE_LABEL] if has_ignored else ids
  if kind == TRAIN:
    unknown = of_classes[of_classes >= label_set.num_classes]
    if unknown.size:
      raise InputError(
        f'{where}: unknown train ids {count_ids(unknown)}; expected 0..{label_set.num_classes - 1}'
        f'{f" and {IGNORE_LABEL}" if has_ignored else ""}. If they are label ids, leave out --ids'
      )
    return label_set.decode(ids)
  if of_classes.max(initial=0) < (_NUM_TRAIN_IDS if is_cityscapes(label_set) else label_set.num_classes):
    try:
      label_set.encode(ids, where)
    except InputError as error:
      raise InputError(f'{error}. If these are train ids: {remedy}') from error
  return ids
