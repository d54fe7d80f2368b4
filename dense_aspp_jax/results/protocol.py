"""How a score was taken, and what makes it another thing than a score of the standard protocol."""

from __future__ import annotations

import dataclasses
from typing import Any

ONE_MATRIX = 'one confusion matrix over the split, at native label size'
LAST, BEST = 'last', 'best'
_TRAINED_ON = {'train': 'train', 'train+validation': 'train + validation'}
_NOT_SEGMENTATION = {'ImageNet'}  # pretraining that is a column of its own, not another protocol


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How a score was taken. Plain JSON data; None (a published score): the source does not say.

  Attributes:
    dataset: As `config.data.dataset`; of a folder its name alone.
    split: The split that was scored.
    images: Images in it.
    train_split: What the network was trained on.
    held_out: Prefixes of the images that were left out of training.
    train_images: Images it was trained on.
    image_size: Height and width the network sees when it is scored.
    label_set: Name of the label set.
    classes: Classes of the network.
    void_ignored: Whether there are pixels that count nowhere.
    metric: How pixels are counted.
    test_time: {'flip', 'scales', 'window'} of test-time averaging; scales None: several. None: a single
      prediction of each image.
    bn: 'running', 'recalibrated' or 'batch': the statistics batch normalisation took.
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
  image_size: list[int] | None = None
  label_set: str | None = None
  classes: int | None = None
  void_ignored: bool | None = None
  metric: str | None = None
  test_time: dict[str, Any] | None = None
  bn: str | None = None
  bn_batch_size: int | None = None
  checkpoint: str | None = None
  selected_on: str | None = None
  pretraining: list[str] | None = None


# By data set. Its label set tells a copy of it in a folder. Pretraining on ImageNet is no other protocol.
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


def standard_of(protocol: Protocol) -> Protocol | None:
  """The standard protocol of the data set, None if there is none."""
  same = (s for s in STANDARDS.values() if protocol.label_set == s.label_set)
  return STANDARDS.get(protocol.dataset) or next(same, None)


def differences(protocol: Protocol) -> list[str] | None:
  """What a score differs in from one of the standard protocol, in words.

  What a published source does not say of batch normalisation, of the checkpoint, of averaging and of how
  pixels are counted is taken for standard; a training split, a split or an input size that it does not say
  is a difference.

  Returns:
    The "not comparable because" of a table, empty if nothing differs; None if the data set has no standard.
  """
  standard = standard_of(protocol)
  if standard is None:
    return None
  return [
    *_of_data(protocol, standard),
    *_of_training(protocol, standard),
    *_of_scoring(protocol, standard),
  ]


def _of_data(protocol: Protocol, standard: Protocol) -> list[str]:
  found = []
  if protocol.dataset != standard.dataset:
    found.append(f'data: {protocol.dataset.replace(":", " ")}, not {standard.dataset}')
  if protocol.split != standard.split:
    found.append(split_words(protocol))
  elif protocol.images not in (None, standard.images):
    found.append(f'scored on {protocol.images} images, not {standard.images}')
  if protocol.classes not in (None, standard.classes):
    found.append(f'{protocol.classes} classes')
  if protocol.void_ignored is False:
    found.append('void counted')
  if protocol.image_size is None:
    found.append('input size unknown')
  elif protocol.image_size != standard.image_size:
    found.append(size_words(protocol.image_size))
  return found


def _of_training(protocol: Protocol, standard: Protocol) -> list[str]:
  found = []
  if protocol.train_images is None:
    found.append('training split unknown')
  elif protocol.train_images != standard.train_images or protocol.train_split != standard.train_split:
    found.append(f'trained on {training_words(protocol)}')
  if protocol.pretraining is None:
    found.append('pretraining unknown')
    return found
  others = [p for p in protocol.pretraining if p not in _NOT_SEGMENTATION]
  if 'unstated' in others:
    found.append('pretrained, on what is not stated')
  elif 'mixed' in others:
    found.append('pretrained on several data sets')
  elif 'video' in others:
    found.append('takes unlabelled video')
  elif others:
    found.append(f'pretrained on {" and ".join(others)}')
  return found


def _of_scoring(protocol: Protocol, standard: Protocol) -> list[str]:
  found = []
  if protocol.split in (protocol.train_split or '').split('+'):
    found.append('scored on images it was trained on')
  if protocol.test_time is not None:
    found.append(averaging_words(protocol.test_time))
  if protocol.bn not in (None, standard.bn):
    found.append(bn_words(protocol))
  if protocol.checkpoint == BEST:
    found.append(f'checkpoint chosen on the {protocol.selected_on} split')
  elif protocol.checkpoint not in (None, standard.checkpoint):
    found.append(f'checkpoint of {protocol.checkpoint}, not the last')
  return found


def size_words(image_size: list[int] | None) -> str:
  """A height and width."""
  return '?' if image_size is None else 'x'.join(str(n) for n in image_size)


def split_words(protocol: Protocol) -> str:
  """The split that was scored."""
  if protocol.split is None:
    return 'split unknown'
  if protocol.split == 'held_out':
    return f'training images held out ({", ".join(protocol.held_out)})'
  return {'train': 'training split'}.get(protocol.split, f'{protocol.split} split')


def training_words(protocol: Protocol) -> str:
  """What the network was trained on, such as '367 images (train)'."""
  if protocol.train_images is None:
    return '?'
  split = _TRAINED_ON.get(protocol.train_split, protocol.train_split)
  without = f' without {", ".join(protocol.held_out)}' if protocol.held_out else ''
  return f'{protocol.train_images} images ({split}{without})'


def averaging_words(test_time: dict[str, Any] | None) -> str:
  """What was averaged at test time, such as 'flip and scales 0.75, 1, 1.25'."""
  if test_time is None:
    return 'single scale'
  scales, window = test_time['scales'], test_time['window']
  parts = ['flip'] if test_time['flip'] else []
  if scales is None:
    parts.append('several scales')
  elif list(scales) != [1]:
    parts.append(f'scale{"s" if len(scales) > 1 else ""} {", ".join(f"{s:g}" for s in scales)}')
  if window is not None:
    parts.append(f'sliding window of {size_words(window)}')
  return ' and '.join(parts)


def bn_words(protocol: Protocol) -> str:
  """Which statistics batch normalisation took."""
  if protocol.bn == 'batch':
    of = f' of {protocol.bn_batch_size}' if protocol.bn_batch_size else ''
    return f'test-time batch statistics{of}'
  return {'running': 'running statistics', 'recalibrated': 'statistics re-estimated after training'}.get(
    protocol.bn, '?'
  )


def pretraining_words(protocol: Protocol) -> str:
  """What the network was pretrained on."""
  if protocol.pretraining is None:
    return '?'
  words = ['yes' if p == 'unstated' else p for p in protocol.pretraining]
  return ' + '.join(words) or 'none'
