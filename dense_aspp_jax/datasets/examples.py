"""What a data set is made of: splits of pairs of an image and its label map, encoded and decoded."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dense_aspp_jax.datasets.stored_files import StoredFile

SPLITS = ('train', 'validation', 'test')  # those that are stored
HELD_OUT, TRAIN_AND_VALIDATION = 'held_out', 'train+validation'  # made of them by `open_split`
LABELS_FILE = 'labels.json'  # of a labelled folder
FOLDER_PREFIX = 'folder:'  # 'folder:PATH' is the data set of a labelled folder


def dataset_names(dataset: str | Sequence[str]) -> list[str]:
  """The data sets of a `config.data.dataset`, each by its name, a folder by its own without the path."""
  names = [dataset] if isinstance(dataset, str) else dataset
  return [name.removeprefix(FOLDER_PREFIX).rstrip('/').rsplit('/', 1)[-1] for name in names]


class Example(NamedTuple):
  """One stored example."""

  image_id: str  # unique in its split, such as 'frankfurt_000000_000294'
  image: bytes  # encoded, in a format that `decode_image` reads
  label: bytes  # encoded label ids or colours of classes, as `decode_label_ids` reads them


class Pair(NamedTuple):
  """An image and its label map, not decoded yet."""

  image_id: str
  image: StoredFile
  label: StoredFile

  @classmethod
  def in_memory(cls, example: Example, name: str) -> Pair:
    """The pair of an example that was read already; `name` is its split's, for messages."""
    image, label = (
      StoredFile(f'{name} {example.image_id} ({kind})', functools.partial(io.BytesIO, data))
      for kind, data in (('image', example.image), ('label', example.label))
    )
    return cls(example.image_id, image, label)


@dataclasses.dataclass(frozen=True, eq=False)
class Split(Sequence[Pair]):
  """The pairs of a split, at least one, by random access. Worker processes read a pickled copy.

  Attributes:
    name: Such as 'cityscapes/validation', for messages.
    fingerprint: Hex digest that changes when the stored data change.
    pairs: The pairs, which may be read only when they are asked for.
    former_fingerprint: What an earlier version called the same data, for runs that it began; or ''.
  """

  name: str
  fingerprint: str
  pairs: Sequence[Pair]
  former_fingerprint: str = ''

  def __len__(self) -> int:
    return len(self.pairs)

  def __getitem__(self, index: int) -> Pair:
    if not 0 <= index < len(self):
      raise IndexError(f'{self.name}: index {index}; expected 0 <= index < {len(self)}')
    return self.pairs[index]


class CachedExample(NamedTuple):
  """One example as the network and the metric take it.

  Attributes:
    image_id: Unique in its split.
    image: RGB, uint8 `[h, w, 3]`.
    label: uint8. For training class indices and `IGNORE_LABEL`, `[h, w]` as the image; for evaluation
      the stored label ids at their native size.
  """

  image_id: str
  image: np.ndarray
  label: np.ndarray
