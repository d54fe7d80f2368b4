"""Pairs files of ground truth with files of predictions.

Cityscapes files are paired as the official script pairs them (cityscapesScripts,
evalPixelLevelSemanticLabeling.getPrediction); other folders by equal relative names.
"""

from __future__ import annotations

import bisect
import difflib
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from dense_aspp_jax.datasets.images import LABEL_EXTENSIONS
from dense_aspp_jax.datasets.stored_files import Files, files_of_folder
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.progress import say

LABEL, TRAIN = IDS = ('label', 'train')  # what label maps may hold
_NAMES_SHOWN = 5  # in a message
# Ground truth of Cityscapes by the end of its name, the first choice first, and what it holds.
_CITYSCAPES_KINDS = {
  'gtFine_labelIds': LABEL,
  'gtFine_labelTrainIds': TRAIN,
  'gtCoarse_labelIds': LABEL,
  'gtCoarse_labelTrainIds': TRAIN,
}
_CITYSCAPES_NAME = re.compile(r'([^_]+_[^_]+_[^_]+)_(gt(?:Fine|Coarse))_.+')


class Pairs(NamedTuple):
  """Ground truth with its predictions.

  Attributes:
    pairs: Ground truth and prediction, sorted by ground truth.
    is_cityscapes: Whether the names are those of Cityscapes.
    label_ids: What the ground truth holds by its name: 'label' or 'train' ids.
    left: 'PATH: why' of every file that takes no part, such as a prediction without ground truth.
  """

  pairs: list[tuple[pathlib.Path, pathlib.Path]]
  is_cityscapes: bool
  label_ids: str
  left: list[str]


def find_pairs(labels: pathlib.Path, predictions: pathlib.Path) -> Pairs:
  """Pairs the label maps of two folders.

  If there are files `*_gtFine_labelIds.png` anywhere in `labels`, they are the ground truth, and the
  prediction of `<city>_<seq>_<frame>_gtFine_labelIds.png` is the one file `<city>_<seq>_<frame>*.png`
  anywhere in `predictions`. Without such files `*_gtFine_labelTrainIds.png` are taken, which hold train
  ids, then `*_gtCoarse_labelIds.png` and `*_gtCoarse_labelTrainIds.png`. Without any of them every PNG in
  `labels` is ground truth, and its prediction is the PNG of the same name relative to `predictions`; if no
  name has its equal, all names of one folder may go on with one suffix, such as `_mask`. Other formats of
  label maps are taken where there is no PNG.

  Raises:
    InputError: No ground truth, a file without a prediction or with several, or a name that is none of
      Cityscapes.
  """
  truth, kind = _ground_truth(files_of_folder(labels))
  if not truth.taken:
    raise InputError(
      f'{shown(labels)}: no label maps in it; expected ground truth, such as *_gtFine_labelIds.png'
    )
  guesses = _png_first(files_of_folder(predictions))
  candidates = _by_core(truth, guesses, kind) if kind else _by_relative_name(truth, guesses)
  pairs = _pair(candidates, guesses, predictions)
  paired = {prediction for _, prediction in pairs}
  alone = [file.left('without ground truth') for file in guesses.taken.values() if file.path not in paired]
  label_ids = _CITYSCAPES_KINDS[kind] if kind else LABEL
  return Pairs(pairs, kind is not None, label_ids, [*truth.left, *alone, *guesses.left])


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
    for index in range(bisect.bisect_left(by_name, (core,)), len(by_name)):
      name, prediction = by_name[index]
      if not name.startswith(core):
        break
      if not name[len(core)].isdigit():  # else it is of a frame with a longer number
        fitting.append(prediction)
    candidates[path] = f'{core}*.png', fitting
  return candidates


def _by_relative_name(truth: Files, guesses: Files) -> _Candidates:
  by_name: dict[str, list[pathlib.Path]] = {}
  for name, file in guesses.taken.items():
    by_name.setdefault(_without_suffix(name), []).append(file.path)
  named = sorted((_without_suffix(name), file.path) for name, file in truth.taken.items())
  dropped, added = _renaming([name for name, _ in named], by_name)
  if dropped or added:
    how = f'lack {dropped!r}' if dropped else f'go on with {added!r}'
    say(f'ground truth is paired with predictions whose names {how}')
  expected = [(name.removesuffix(dropped) + added, path) for name, path in named]
  return {path: (f'{shown(name)}.png', by_name.get(name, [])) for name, path in expected}


def _renaming(truth: Sequence[str], guesses: Collection[str]) -> tuple[str, str]:
  """What to drop from the names of all ground truth, and what to add, to get the names of predictions.

  Both are empty if any name is that of a prediction already, and unless there is one suffix that fits all and
  is none of a longer word or number, such as `_mask`.
  """
  if any(name in guesses for name in truth):
    return '', ''
  first = truth[0]
  rules = {(first[cut:], '') for cut in range(1, len(first)) if first[:cut] in guesses}
  rules |= {('', guess[len(first) :]) for guess in guesses if guess.startswith(first)}
  fitting = [
    (dropped, added)
    for dropped, added in rules
    if re.match(r'[\W_].*[A-Za-z]', dropped + added)
    and all(name.endswith(dropped) and name.removesuffix(dropped) + added in guesses for name in truth)
  ]
  return fitting[0] if len(fitting) == 1 else ('', '')


def _without_suffix(name: str) -> str:
  """The name without suffix in one of the two spellings that file systems have in Unicode."""
  return unicodedata.normalize('NFC', pathlib.PurePosixPath(name).with_suffix('').as_posix())


def _pair(
  candidates: _Candidates, guesses: Files, predictions: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  for label_path, (pattern, paths) in candidates.items():
    if len(paths) > 1:
      raise InputError(
        f'{shown(label_path)}: {len(paths)} predictions fit {pattern}: {_some(map(shown, paths))}; '
        f'keep one of them in {shown(predictions)}'
      )
  missing = [pattern for pattern, paths in candidates.values() if not paths]
  if missing:
    near = difflib.get_close_matches(missing[0], guesses.taken, 1)
    nearest = f' (the nearest name is {shown(near[0])})' if near else ''
    raise InputError(
      f'{shown(predictions)}: no prediction for {len(missing)} of {len(candidates)} ground truths, '
      f'expected {_some(missing)}{nearest}; predict the missing '
      'images, or give the labels of those predicted'
    )
  pairs = [(label_path, paths[0]) for label_path, (_, paths) in candidates.items()]
  truth_of: dict[pathlib.Path, pathlib.Path] = {}
  for label_path, prediction in pairs:
    if (other := truth_of.setdefault(prediction, label_path)) != label_path:
      raise InputError(
        f'{shown(prediction)}: would be scored twice, against {shown(other)} and {shown(label_path)}; give '
        'one ground truth of each image'
      )
  return pairs


def _some(names: Iterable[str]) -> str:
  names = list(names)
  return ', '.join(names[:_NAMES_SHOWN]) + (', ...' if len(names) > _NAMES_SHOWN else '')
