"""How a score was taken, and what keeps it from being compared with one of the standard protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

ONE_MATRIX = 'one confusion matrix over the split, at native label size'
LAST, BEST = 'last', 'best'
_NOT_SEGMENTATION = {'ImageNet'}  # pretraining that is a column of its own, not another protocol
_PRETRAINED = {
  'unstated': 'pretrained, on what is not stated',
  'mixed': 'pretrained on several data sets',
  'video': 'takes unlabelled video',
}


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How a score was taken. Plain JSON data; None (a published score): the source does not say.

  Attributes:
    dataset: As `config.data.dataset`, of several the one that is scored; of a folder its name alone.
    split: The split that was scored.
    images: Images in it.
    train_split: What the network was trained on.
    held_out: Prefixes of the images that were left out of training.
    train_images: Images it was trained on.
    trained_on: The data set of these images, if it is not the one that is scored.
    also_trained_on: Other data sets in its batches: {'dataset', 'images'} of each.
    image_size: Height and width the network sees when it is scored.
    mapped_from: The label set of the data set, if its classes were mapped to those of `label_set`.
    void_ignored: Whether there are pixels that count nowhere.
    metric: How pixels are counted.
    test_time: {'flip', 'scales', 'window'} of test-time averaging; scales None: several. None: a single
      prediction of each image.
    bn: The statistics that batch normalization took: 'running', 'recalibrated' or 'batch'.
    bn_batch_size: Images of each batch of 'batch'.
    checkpoint: 'last', 'best', or 'step N'.
    selected_on: The split that 'best' was chosen on.
    pretraining: Data that the network saw before. 'unstated': the source names none; 'mixed': several.
  """

  dataset: str
  split: str | None = None
  images: int | None = None
  train_split: str | None = None
  held_out: list[str] = dataclasses.field(default_factory=list)
  train_images: int | None = None
  trained_on: str | None = None
  also_trained_on: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  image_size: list[int] | None = None
  label_set: str | None = None
  classes: int | None = None
  mapped_from: str | None = None
  void_ignored: bool | None = None
  metric: str | None = None
  test_time: dict[str, Any] | None = None
  bn: str | None = None
  bn_batch_size: int | None = None
  checkpoint: str | None = None
  selected_on: str | None = None
  pretraining: list[str] | None = None

  @property
  def standard(self) -> Protocol | None:
    """The standard protocol of the data set, also for a copy of it in a folder; None if there is none."""
    same = (s for s in STANDARDS.values() if self.label_set == s.label_set)
    return STANDARDS.get(self.dataset) or next(same, None)

  @property
  def differences(self) -> list[str] | None:
    """The "not comparable because" of a table, empty if nothing differs; None if there is no standard.

    If a published source says nothing of batch normalization, the checkpoint, averaging or the counting of
    pixels, these count as standard; an unknown split, training split or input size counts as a difference.
    """
    standard = self.standard
    if standard is None:
      return None
    return [*self._of_data(standard), *self._of_training(standard), *self._of_scoring(standard)]

  def _of_data(self, standard: Protocol) -> Iterator[str]:
    if self.dataset != standard.dataset:
      yield f'data: {self.dataset.replace(":", " ")}, not {standard.dataset}'
    if self.split != standard.split:
      yield self.split_words
    elif self.images not in (None, standard.images):
      yield f'scored on {self.images} images, not {standard.images}'
    if self.classes not in (None, standard.classes):
      yield f'{self.classes} classes'
    if self.mapped_from is not None:
      yield f'classes mapped from {self.mapped_from}'
    if self.void_ignored is False:
      yield 'void counted'
    if self.image_size != standard.image_size:
      yield self.size_words if self.image_size else 'input size unknown'

  def _of_training(self, standard: Protocol) -> Iterator[str]:
    if self.train_images is None:
      yield 'training split unknown'
    elif self.trained_on or (self.train_images, self.train_split) != (
      standard.train_images,
      standard.train_split,
    ):
      yield f'trained on {self.training_words}'
    if self.also_trained_on:
      yield f'trained also on {self.also_words}'
    if self.pretraining is None:
      yield 'pretraining unknown'
    elif others := [p for p in self.pretraining if p not in _NOT_SEGMENTATION]:
      special = (words for name, words in _PRETRAINED.items() if name in others)
      yield next(special, f'pretrained on {" and ".join(others)}')

  def _of_scoring(self, standard: Protocol) -> Iterator[str]:
    if not self.trained_on and self.split in (self.train_split or '').split('+'):
      yield 'scored on images it was trained on'
    if self.test_time is not None:
      yield self.averaging_words
    if self.bn not in (None, standard.bn):
      yield self.bn_words
    if self.checkpoint == BEST:
      yield f'checkpoint chosen on the {self.selected_on} split'
    elif self.checkpoint not in (None, standard.checkpoint):
      yield f'checkpoint of {self.checkpoint}, not the last'

  @property
  def size_words(self) -> str:
    """The input size, such as '360x480' (height x width)."""
    return '?' if self.image_size is None else 'x'.join(map(str, self.image_size))

  @property
  def split_words(self) -> str:
    """The split that was scored."""
    if self.split is None:
      return 'split unknown'
    if self.split == 'held_out':
      return f'training images held out ({", ".join(self.held_out)})'
    return 'training split' if self.split == 'train' else f'{self.split} split'

  @property
  def training_words(self) -> str:
    """What the network was trained on, such as '367 images (train)'."""
    if self.train_images is None:
      return '?'
    without = f' without {", ".join(self.held_out)}' if self.held_out else ''
    of = f' of {self.trained_on.replace(":", " ")}' if self.trained_on else ''
    return f'{self.train_images} images{of} ({self.train_split.replace("+", " + ")}{without})'

  @property
  def also_words(self) -> str:
    """The other data sets that it was trained on, such as '512 images of street_scenes'; or ''."""
    return ' and '.join(
      f'{other["images"]} images of {other["dataset"].replace(":", " ")}' for other in self.also_trained_on
    )

  @property
  def averaging_words(self) -> str:
    """What was averaged at test time, such as 'flip and scales 0.75, 1, 1.25'."""
    if self.test_time is None:
      return 'single scale'
    scales, window = self.test_time['scales'], self.test_time['window']
    parts = ['flip'] if self.test_time['flip'] else []
    if scales is None:
      parts.append('several scales')
    elif list(scales) != [1]:
      parts.append(f'scale{"s" if len(scales) > 1 else ""} {", ".join(f"{s:g}" for s in scales)}')
    if window is not None:
      parts.append(f'sliding window of {"x".join(map(str, window))}')
    return ' and '.join(parts)

  @property
  def bn_words(self) -> str:
    """The statistics that batch normalization took."""
    if self.bn == 'batch':
      return 'test-time batch statistics' + (f' of {self.bn_batch_size}' if self.bn_batch_size else '')
    known = {'running': 'running statistics', 'recalibrated': 'statistics re-estimated after training'}
    return known.get(self.bn, '?')

  @property
  def pretraining_words(self) -> str:
    """What the network was pretrained on."""
    if self.pretraining is None:
      return '?'
    return ' + '.join('yes' if p == 'unstated' else p for p in self.pretraining) or 'none'


# By data set; a copy in a folder is known by its label set. Pretraining on ImageNet is no difference.
STANDARDS = {
  'camvid': Protocol(
    dataset='camvid',
    split='test',
    images=233,
    train_split='train',
    train_images=367,
    image_size=[360, 480],
    label_set='camvid11',
    classes=11,
    void_ignored=True,
    metric=ONE_MATRIX,
    bn='running',
    checkpoint=LAST,
    pretraining=[],
  )
}
