"""The section `config.data`: a data set or several, and how the network sees them.

What reads the data is imported when a split is opened: the network can be trained and timed on batches from
elsewhere where tfds and ArrayRecord are missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from dense_aspp_jax import fields
from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, LABELS_FILE, CachedExample
from dense_aspp_jax.datasets.joined import JoinedSplit
from dense_aspp_jax.datasets.own_labels import label_set_for, own_label_set
from dense_aspp_jax.datasets.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_mapping import check_class_map, label_groups, repeated_classes
from dense_aspp_jax.label_sets import load_label_set
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.paths import local_path, user_cache
from dense_aspp_jax.progress import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Data sets and how the network sees them: `Data(**config.data)`; configs/default.py has examples.

  Attributes:
    dataset: A name in `prepare.DATASETS`, or 'folder:PATH'; or a tuple of these. Training takes images of
      all, evaluation those of the first.
    shares: Of several data sets: how many images of each are in a batch.
    class_map: Pairs (class of a data set, class of the run or 'ignore'), for label maps with other classes
      than the run's. 'rider|bicycle': it is one of these, see `label_groups`.
    data_dir: Where prepared data are; None: TFDS_DATA_DIR, else ~/tensorflow_datasets.
    cache_dir: Where caches go; None: data_dir/cache, or the user's cache directory where that cannot be
      written.
    label_set: The name of a label set, or the path of a labels.json; None: `own_label_set` of the first.
    train_split: Such as 'train', 'train+validation' or 'train+train_extra', of each data set.
    validation_split: Such as 'validation' or 'held_out', of the first.
    held_out: Beginnings of the ids of images that are held out of training (`open_split`), of the first.
    image_size, keep_aspect, mean, std: The fields of `Preprocessing`.
    on_device: Whether training keeps its split in the memory of the device.
    num_workers: Reading processes of training; 0: threads.
    skip_bad: How many bad pairs of the training split may be left out, of each data set.
  """

  dataset: str | tuple[str, ...]
  shares: tuple[int, ...] = ()
  class_map: tuple[tuple[str, str], ...] = ()
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
    self._check_datasets()
    for name in ('train_split', 'validation_split'):
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

  def _check_datasets(self) -> None:
    several = isinstance(self.dataset, tuple | list)
    if several:
      object.__setattr__(self, 'dataset', tuple(self.dataset))
    names = self.datasets
    holds = names and all(isinstance(name, str) and name for name in names) and len({*names}) == len(names)
    fields.check(
      'data.dataset', self.dataset, holds, "a name or 'folder:PATH', or a tuple of these, each once"
    )
    holds = isinstance(self.shares, tuple | list) and all(fields.is_integer(n, 1) for n in self.shares)
    count = len(names) if several else 0
    expected = f'{count} integers of at least 1: the images of a batch from each of config.data.dataset'
    expected = expected if several else '(), because config.data.dataset is a single one'
    fields.check('data.shares', self.shares, holds and len(self.shares) == count, expected)
    pairs = self.class_map
    holds = isinstance(pairs, tuple | list) and all(
      isinstance(pair, tuple | list) and len(pair) == 2 and all(v and isinstance(v, str) for v in pair)
      for pair in pairs
    )
    expected = "pairs (class of a data set, class of the run's label set, several such as 'a|b', or 'ignore')"
    fields.check('data.class_map', pairs, holds, expected)
    if repeated := repeated_classes(pairs):
      fields.reject('data.class_map', pairs, f'one pair of each class, but {", ".join(repeated)} has two')
    object.__setattr__(self, 'shares', tuple(self.shares))
    object.__setattr__(self, 'class_map', tuple(map(tuple, pairs)))

  @property
  def datasets(self) -> tuple[str, ...]:
    """The names of all data sets; the first is the one that is scored."""
    return self.dataset if isinstance(self.dataset, tuple) else (self.dataset,)

  @property
  def parts(self) -> tuple[Data, ...]:
    """Each data set as if it were the only one; images are held out of the first alone."""
    if isinstance(self.dataset, str):
      return (self,)
    return tuple(
      dataclasses.replace(self, dataset=(name,), shares=(share,), held_out=() if number else self.held_out)
      for number, (name, share) in enumerate(zip(self.dataset, self.shares, strict=True))
    )

  @property
  def preprocessing(self) -> Preprocessing:
    """Size and normalization of the network's input."""
    return Preprocessing(self.image_size, self.mean, self.std, self.keep_aspect)

  def load_label_set(self) -> LabelSet:
    """The run's label set: what `label_set` names, or the first data set's own.

    Warns where the named one is used for a folder that has another one.

    Raises:
      InputError: It cannot be read, or none is named and a data set has none of its own.
    """
    if self.label_set is None:
      own = [own_label_set(name) for name in self.datasets]
      if None in own:
        name = self.datasets[own.index(None)]
        raise InputError(
          f'config.data.label_set = None, but dataset {name!r} has no {LABELS_FILE} that says what '
          'its labels mean; add the file (docs/own_data.md), or name a label set'
        )
      return own[0]
    named, first = load_label_set(self.label_set), self.datasets[0]
    if first.startswith(FOLDER_PREFIX) and not self._by_class:
      with contextlib.suppress(InputError):  # what is not used may be of another program
        own = own_label_set(first)
        if own is not None and dataclasses.replace(own, name=named.name) != named:
          say(
            f'warning: config.data.label_set = {self.label_set!r} ({named.num_classes} classes) is used, but '
            f'{first.removeprefix(FOLDER_PREFIX)}/{LABELS_FILE} is another label set '
            f'({own.num_classes} classes), which config.data.label_set = None takes'
          )
    return named

  @property
  def _by_class(self) -> bool:
    return isinstance(self.dataset, tuple) or bool(self.class_map)

  def label_sets(self, label_set: LabelSet) -> tuple[LabelSet, ...]:
    """What the label ids of each data set mean in the classes of `label_set`, the run's.

    Raises:
      InputError: A class has no counterpart, or `class_map` names one that there is not.
    """
    found = tuple(label_set_for(name, label_set, self.class_map, self._by_class) for name in self.datasets)
    check_class_map(self.class_map, label_set, found)
    return found

  def label_groups(self, label_set: LabelSet) -> tuple[tuple[int, ...], ...]:
    """Groups of class indices of the run that `class_map` has: a pixel of one is of one of its classes."""
    return label_groups(self.class_map, label_set)

  def open(
    self, split: str, *, label_set: LabelSet | None = None, cached: bool = True
  ) -> Sequence[CachedExample]:
    """Opens a split of the first data set for evaluation: images at the network's size, native label ids.

    The `label_set` of what is returned maps these ids to the run's classes.

    Args:
      split: As for `open_split`.
      label_set: The run's, already loaded; None: that of `load_label_set`.
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

    Returns:
      The split; of several data sets a `JoinedSplit`.

    Raises:
      InputError: A data set cannot be opened, or more pairs cannot be used.
    """
    label_set = label_set or self.load_label_set()
    opened = []
    for part in self.parts:  # all of them, before the first cache is built
      try:
        opened.append(part._decoded(self.train_split, label_set, native_labels=False))
      except InputError as error:
        if isinstance(self.dataset, str):
          raise
        where = f'split {self.train_split!r} of {part.datasets[0]!r}'
        raise InputError(f'{where} (config.data.train_split is of each data set): {error}') from error
    parts = tuple(map(self.cached, opened)) if cached else tuple(opened)
    return parts[0] if isinstance(self.dataset, str) else JoinedSplit(parts, self.shares)

  def moved(self, data_dir: str) -> Data:
    """The first data set in another place: a labelled folder as it is, a prepared one below `data_dir`."""
    from dense_aspp_jax.datasets.folder import splits_of

    there, first = local_path(data_dir), self.parts[0]
    if not first.datasets[0].startswith(FOLDER_PREFIX):
      return dataclasses.replace(first, data_dir=str(there))
    folder = local_path(first.datasets[0].removeprefix(FOLDER_PREFIX))
    if folder.is_dir() and not splits_of(there):
      say(f'{there}: not a labelled folder, the images are read from {folder}')
      return dataclasses.replace(first, data_dir=str(there))
    moved = f'{FOLDER_PREFIX}{there}'
    return dataclasses.replace(first, dataset=moved if isinstance(self.dataset, str) else (moved,))

  def check_place(self, remedy: str) -> None:
    """Raises InputError, with a remedy, if a data set is not where it should be."""
    from dense_aspp_jax.datasets.prepare import find_dataset

    for name in self.datasets:
      if name.startswith(FOLDER_PREFIX):
        folder = local_path(name.removeprefix(FOLDER_PREFIX))
        if not folder.is_dir():
          raise InputError(f'{shown(folder)}: no such folder. If the data were moved, {remedy}')
      elif not (published := find_dataset(name)).generate:
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

    name = self.datasets[0]
    labels = label_set_for(name, label_set or self.load_label_set(), self.class_map, self._by_class)
    if name in DATASETS and DATASETS[name].generate:
      prepare(name, data_dir=self.data_dir)  # at first use
    source = open_split(name, split, self.data_dir, self.held_out)
    return DecodedSplit(source, labels, self.preprocessing, native_labels)
