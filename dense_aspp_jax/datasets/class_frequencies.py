"""How often the classes occur in a split: whether it can be learned or scored, and weights of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dense_aspp_jax.datasets.examples import CachedExample
from dense_aspp_jax.datasets.threads import map_in_threads
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.labels import IGNORE_LABEL, LabelSet
from dense_aspp_jax.progress import progress

_NAMES_SHOWN = 10


def require_pixels(where: str, class_pixels: np.ndarray, label_set: LabelSet, counted: Sequence[int]) -> None:
  """Checks that a split has anything to learn from or to score.

  Args:
    where: The split, for the message.
    class_pixels: Pixels by class index, `[256]`.
    label_set: What the class indices mean.
    counted: The class indices that loss or score count.

  Raises:
    InputError: No pixel is of one of these classes.
  """
  if class_pixels[list(counted)].any():
    return
  others = [name for name, n in zip(label_set.class_names, class_pixels, strict=False) if n]
  found = f'of class {_listed(others)}, which does not count' if others else 'ignored'
  raise InputError(
    f'{where}: every pixel is {found}, so that nothing can be learned from it or scored on it. Choose labels '
    f'that are published, or correct the label maps or the label set {label_set.name!r} (its ignore_ids)'
  )


def class_warnings(
  class_pixels: np.ndarray,
  label_set: LabelSet,
  counted: Sequence[int],
  scored_pixels: np.ndarray | None = None,
) -> list[str]:
  """What a training split cannot teach: classes without a pixel, or all but one class.

  Args:
    class_pixels: Its pixels by class index, `[256]`.
    label_set: What the class indices mean.
    counted: The class indices that the loss counts.
    scored_pixels: As `class_pixels`, of the split that is scored; None: not known.

  Returns:
    A sentence for each finding.
  """
  names = label_set.class_names
  present, absent = ([i for i in counted if bool(class_pixels[i]) == there] for there in (True, False))
  found = []
  if absent:
    scored = [names[i] for i in absent if scored_pixels is not None and scored_pixels[i]]
    also = f', though pixels of {_listed(scored)} are scored' if scored else ''
    found.append(
      f'no training pixel is of class {_listed([names[i] for i in absent])}, which cannot be learned{also}'
    )
  if len(present) == 1:
    ignored = 100 * (1 - class_pixels[present[0]] / class_pixels.sum())
    others = f' or ignored ({ignored:.2f} %)' if ignored else ''
    found.append(
      f'all training pixels are of class {names[present[0]]}{others}: '
      'a network that predicts it everywhere has a mean IoU of 100 %. If what is ignored is a class, as in '
      'masks of 0 and 255, give it a class with that id instead of listing it in ignore_ids'
    )
  return found


def _listed(names: Sequence[str]) -> str:
  return ', '.join(names[:_NAMES_SHOWN]) + (
    f' and {len(names) - _NAMES_SHOWN} more' * (len(names) > _NAMES_SHOWN)
  )


def count_classes(
  split: Sequence[CachedExample], num_classes: int, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
  """Counts the pixels of each class in each image, with a progress bar.

  Args:
    split: Examples whose labels are class indices, as training has them.
    num_classes: Number of classes C.
    ignore_label: A class index whose pixels are not counted; `IGNORE_LABEL` never is.

  Returns:
    Numbers of pixels, int64 `[len(split), C]`.
  """

  def pixels_of(index: int) -> np.ndarray:
    return np.bincount(split[index].label.ravel(), minlength=256)[:num_classes]

  rows = map_in_threads(pixels_of, range(len(split)))
  pixels = np.stack(list(progress(rows, 'counting the classes', len(split), 'image')))
  if ignore_label < num_classes:
    pixels[:, ignore_label] = 0
  return pixels


def class_weights(pixels: np.ndarray, rule: str) -> tuple[float, ...]:
  """The weight of each class in the loss.

  Args:
    pixels: From `count_classes`, of a split that `require_pixels` accepted.
    rule: A name in `CLASS_WEIGHTINGS`.

  Returns:
    One weight a class; 0 for a class without any pixel.
  """
  present = pixels.any(axis=0)
  weights = np.zeros(len(present))
  weights[present] = CLASS_WEIGHTINGS[rule](pixels[:, present])
  return tuple(weights.tolist())


def _enet(pixels: np.ndarray) -> np.ndarray:
  """1 / ln(1.02 + p), p the class's share of all counted pixels: Paszke et al., ENet, 2016."""
  return 1 / np.log(1.02 + pixels.sum(0) / pixels.sum())


def _median_frequency(pixels: np.ndarray) -> np.ndarray:
  """Median of the frequencies / frequency, each that in the images where the class occurs.

  Eigen and Fergus, ICCV 2015; used by SegNet. The median is over the classes that occur.
  """
  frequency = pixels.sum(0) / (pixels.sum(1) @ (pixels > 0))
  return np.median(frequency) / frequency


# Name of a rule in config.loss.class_weighting -> weights of classes that all have pixels.
CLASS_WEIGHTINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'enet': _enet,
  'median_frequency': _median_frequency,
}
