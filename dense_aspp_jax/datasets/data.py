"""The section `config.data`: a data set, and how the network sees it.

What reads the data is imported when a split is opened: the network can be trained and timed on batches from
elsewhere where tfds and ArrayRecord are missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from dense_aspp_jax import fields
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, LABELS_FILE, CachedExample
from dense_aspp_jax.datasets.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_sets import USUAL_LABEL_SETS, load_label_set
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.paths import local_path, user_cache
from dense_aspp_jax.progress import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """A data set and how the network sees it: `Data(**config.data)`; configs/default.py has examples.

  Attributes:
    dataset: A name in `prepare.DATASETS`, or 'folder:PATH'.
    data_dir: Where prepared data are; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
    cache_dir: Where caches go; None: data_dir/cache, or the user's cache directory where that cannot be
      written.
    label_set: The name of a label set, or the path of a labels.json; None: `own_label_set`.
    train_split: Such as 'train', 'train+validation' or 'train+train_extra'.
    validation_split: Such as 'validation' or 'held_out'.
    held_out: Beginnings of the ids of images that are held out of training (`open_split`).
    image_size, keep_aspect, mean, std: The fields of `Preprocessing`.
    on_device: Whether training keeps its split in the memory of the device.
    num_workers: Reading processes of training; 0: threads.
    skip_bad: How many bad pairs of the training split may be left out.
  """

  dataset: str
  data_dir: str | None = None
  cache_dir: str | None = None
  label_set: str | None = None
  train_split: str = 'train'
  validation_split: str = 'validation'
  held_out: tuple[str, ...] = ()
  image_size: tuple[int, int]
  keep_aspect: bool = True
  mean: tuple[float, float, float] = IMAGENET_MEAN
  std: tuple[float, float, float] = IMAGENET_STD
  on_device: bool = False
  num_workers: int = 0
  skip_bad: int = 0

  def __post_init__(self):
    """Checks the values. Raises InputError."""
    for name in ('dataset', 'train_split', 'validation_split'):
      fields.check_string(f'data.{name}', getattr(self, name))
    if self.label_set is not None:
      fields.check_string('data.label_set', self.label_set, 'the name of a label set or a file')
    for name in ('data_dir', 'cache_dir'):
      if getattr(self, name) is not None:
        fields.check_string(f'data.{name}', getattr(self, name), 'a folder')
    holds = isinstance(self.held_out, tuple | list) and all(v and isinstance(v, str) for v in self.held_out)
    fields.check('data.held_out', self.held_out, holds, 'strings, beginnings of image ids')
    fields.check_bool('data.on_device', self.on_device)
    fields.check_integer('data.num_workers', self.num_workers, 0)
    fields.check_integer('data.skip_bad', self.skip_bad, 0)
    preprocessing = self.preprocessing  # checks the other fields
    for name, value in (('held_out', tuple(self.held_out)), *dataclasses.asdict(preprocessing).items()):
      object.__setattr__(self, name, value)

  @property
  def preprocessing(self) -> Preprocessing:
    """Size and normalization of the network's input."""
    return Preprocessing(self.image_size, self.mean, self.std, self.keep_aspect)

  def load_label_set(self) -> LabelSet:
    """The label set that `label_set` names, or the data set's own; warns where a folder has another one.

    Raises:
      InputError: It cannot be read, or none is named and the data set has none of its own.
    """
    if self.label_set is None:
      own = own_label_set(self.dataset)
      if own is None:
        raise InputError(
          f'config.data.label_set = None, but dataset {self.dataset!r} has no {LABELS_FILE} that says what '
          'its labels mean; add the file (docs/own_data.md), or name a label set'
        )
      return own
    named = load_label_set(self.label_set)
    if self.dataset.startswith(FOLDER_PREFIX):
      with contextlib.suppress(InputError):  # what is not used may be of another program
        own = own_label_set(self.dataset)
        if own is not None and dataclasses.replace(own, name=named.name) != named:
          say(
            f'warning: config.data.label_set = {self.label_set!r} ({named.num_classes} classes) is used, but '
            f'{self.dataset.removeprefix(FOLDER_PREFIX)}/{LABELS_FILE} is another label set '
            f'({own.num_classes} classes), which config.data.label_set = None takes'
          )
    return named

  def open(
    self, split: str, *, label_set: LabelSet | None = None, cached: bool = True
  ) -> Sequence[CachedExample]:
    """Opens a split for evaluation: images at the network's size, label ids at their native size.

    Args:
      split: As for `open_split`.
      label_set: Already loaded; None: that of `load_label_set`.
      cached: Whether to build a cache, if there is none; without it each access decodes, which is enough
        for one pass.

    Raises:
      InputError: The data set cannot be opened, or a pair cannot be used.
    """
    decoded = self._decoded(split, label_set, native_labels=True)
    return self.cached(decoded) if cached else decoded

  def open_train(self, *, label_set: LabelSet | None = None, cached: bool = True) -> Sequence[CachedExample]:
    """Opens `train_split` for training: images and class indices at `image_size`.

    At most `skip_bad` pairs that cannot be used are left out of the cache. See `open` for the arguments.

    Raises:
      InputError: The data set cannot be opened, or more pairs cannot be used.
    """
    decoded = self._decoded(self.train_split, label_set, native_labels=False)
    return self.cached(decoded) if cached else decoded

  def moved(self, data_dir: str) -> Data:
    """The same data set in another place: a labelled folder as it is, a prepared one below `data_dir`."""
    from dense_aspp_jax.datasets.folder import splits_of

    there = local_path(data_dir)
    if not self.dataset.startswith(FOLDER_PREFIX):
      return dataclasses.replace(self, data_dir=str(there))
    folder = local_path(self.dataset.removeprefix(FOLDER_PREFIX))
    if folder.is_dir() and not splits_of(there):
      say(f'{there}: not a labelled folder, the images are read from {folder}')
      return dataclasses.replace(self, data_dir=str(there))
    return dataclasses.replace(self, dataset=f'{FOLDER_PREFIX}{there}')

  def check_place(self, remedy: str) -> None:
    """Raises InputError, with a remedy, if the data set is not where it should be."""
    from dense_aspp_jax.datasets.prepare import find_dataset

    if self.dataset.startswith(FOLDER_PREFIX):
      folder = local_path(self.dataset.removeprefix(FOLDER_PREFIX))
      if not folder.is_dir():
        raise InputError(f'{shown(folder)}: no such folder. If the data were moved, {remedy}')
    else:
      published = find_dataset(self.dataset)
      if not published.generate:
        try:
          published.require_builder(self.data_dir)
        except InputError as error:
          raise InputError(f'{error}. If the data were moved, {remedy}') from error

  def cached(self, split: Sequence[CachedExample]) -> Sequence[CachedExample]:
    """The cache of a split that was opened without one; builds it, if there is none.

    Raises:
      InputError: A pair cannot be used, or there is no place or space for a cache.
    """
    import tensorflow_datasets as tfds

    from dense_aspp_jax.datasets.cache import open_cache

    skip_bad = 0 if split.native_labels else self.skip_bad
    if self.cache_dir is not None:
      return open_cache(split, local_path(self.cache_dir), skip_bad)
    users = user_cache() / 'data'
    try:
      place = local_path(self.data_dir or tfds.core.constants.DATA_DIR) / 'cache'
    except InputError:
      if self.data_dir is not None:
        raise
      place = users  # no home directory, in which tfds keeps its data
    return open_cache(split, place, skip_bad, fallback=users)

  def _decoded(self, split: str, label_set: LabelSet | None, native_labels: bool) -> Sequence[CachedExample]:
    from dense_aspp_jax.datasets.cache import DecodedSplit
    from dense_aspp_jax.datasets.open import open_split
    from dense_aspp_jax.datasets.prepare import DATASETS, prepare

    label_set = label_set or self.load_label_set()
    if self.dataset in DATASETS and DATASETS[self.dataset].generate:
      prepare(self.dataset, data_dir=self.data_dir)  # at first use
    source = open_split(self.dataset, split, self.data_dir, self.held_out)
    return DecodedSplit(source, label_set, self.preprocessing, native_labels)


def own_label_set(dataset: str) -> LabelSet | None:
  """What the labels of a data set mean by itself: a folder's labels.json, or as published; None: not known.

  Raises:
    InputError: No such folder, or the labels.json cannot be read.
  """
  if not dataset.startswith(FOLDER_PREFIX):
    return USUAL_LABEL_SETS.get(dataset)
  folder = local_path(dataset.removeprefix(FOLDER_PREFIX))
  if not folder.is_dir():
    raise InputError(f'{shown(folder)}: no such folder; expected a labelled folder (docs/own_data.md)')
  path = folder / LABELS_FILE
  return load_label_set(str(path)) if path.is_file() else None
