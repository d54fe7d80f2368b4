"""Published data sets: what describes one, and how it is stored and read through tfds without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core import shuffle

from dense_aspp_jax.datasets.examples import HELD_OUT, TRAIN_AND_VALIDATION, Example, Pair, Split
from dense_aspp_jax.datasets.listing import Listings
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_sets import USUAL_LABEL_SETS
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.progress import progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedDataset:
  """A data set that is prepared once and then read through tfds.

  Attributes:
    name: As in `config.data.dataset`.
    builder: Its tfds builder, an `ExampleBuilder`.
    config: The builder's configuration; None: its first, or none.
    counts: Published number of images by split.
    other_splits: Whether the images may be split otherwise, as long as all are there.
    optional_splits: Splits of `counts` that may be missing.
    image_size: Published height and width.
    terms: Terms of use, a sentence about 'the images'.
    files: What `dense-aspp prepare --source` expects; None: the images are generated.
    list_files: Lists the files of each split in that place.
    download: Downloads the files into a folder and returns their path; None: they need registration.
    generate: Draws so many examples of a split, where there are no files.
  """

  name: str
  builder: type[tfds.core.GeneratorBasedBuilder]
  config: str | None = None
  counts: Mapping[str, int]
  other_splits: bool = False
  optional_splits: tuple[str, ...] = ()
  image_size: tuple[int, int]
  terms: str
  files: str | None = None
  list_files: Callable[[pathlib.Path], Listings] | None = None
  download: Callable[[pathlib.Path], pathlib.Path] | None = None
  generate: Callable[[str, int], Iterable[Example]] | None = None

  @property
  def label_set(self) -> LabelSet:
    """The label set of a configuration that names none; it has all ids that may occur."""
    return USUAL_LABEL_SETS[self.name]

  def make_builder(self, data_dir: str | None) -> tfds.core.GeneratorBasedBuilder:
    """Constructs the builder, whether the data set is prepared or not; None: where tfds keeps its data.

    Raises:
      InputError: No local path in UTF-8, or tfds cannot read the description of what is prepared.
    """
    root = local_path(data_dir or tfds.core.constants.DATA_DIR)
    if str(root).encode(errors='ignore').decode() != str(root):
      raise InputError(
        f'{shown(root)}: not UTF-8, which tfds needs. Use another data directory (--data-dir, or '
        'config.data.data_dir)'
      )
    try:
      return self._builder(data_dir=None if data_dir is None else str(root))
    except Exception as error:  # tfds raises whatever its parsers do
      folder = root / self.builder.name
      raise InputError(
        f'{shown(folder)}: what tfds stored there cannot be read ({" ".join(str(error).split())}). If a '
        'dataset_info.json is damaged, remove the folder that has it and prepare the dataset again'
      ) from error

  def prepared_builder(self, data_dir: str | None) -> tfds.core.GeneratorBasedBuilder | None:
    """The builder if the data set is prepared in `data_dir`, else None.

    Raises:
      InputError: It is prepared in a format without random access.
    """
    builder = self.make_builder(data_dir)
    if not (pathlib.Path(builder.data_dir) / 'dataset_info.json').is_file():  # tfds writes it last
      return None
    stored = builder.info.file_format.value
    if stored != 'array_record':
      raise InputError(
        f'{shown(builder.data_dir)}: prepared in the format {stored}, which has no random access; expected '
        'array_record. Use another data directory (--data-dir, or config.data.data_dir) and prepare there'
      )
    return builder

  def require_builder(self, data_dir: str | None) -> tfds.core.GeneratorBasedBuilder:
    """As `prepared_builder`, but raises InputError where the data set is not prepared."""
    if builder := self.prepared_builder(data_dir):
      return builder
    at = '' if data_dir is None else f' --data-dir {shown(data_dir)}'
    raise InputError(
      f'dataset {self.name!r} is not prepared in {shown(self.make_builder(data_dir).data_dir)}; prepare it '
      f'with: dense-aspp prepare {self.name}{at}'
    )

  def open_split(self, split: str, data_dir: str | None) -> Split:
    """Opens a split of the prepared data set. Raises InputError where that fails."""
    builder = self.require_builder(data_dir)
    splits = builder.info.splits
    if split not in splits:
      raise InputError(
        f'{shown(builder.data_dir)}: no split {split!r}; dataset {self.name!r} was prepared with '
        f'{", ".join(splits)} ({HELD_OUT!r} and {TRAIN_AND_VALIDATION!r} are made of these)'
      )
    if not splits[split].num_examples:
      raise InputError(
        f'{shown(builder.data_dir)}: split {split!r} has no examples; prepare the dataset again'
      )
    name, features = f'{self.name}/{split}', (self.builder.IMAGE, 'segmentation_label')
    fingerprint = _fingerprint(builder, split)
    examples = builder.as_data_source(split, decoders=dict.fromkeys(features, tfds.decode.SkipDecoding()))
    return Split(name, fingerprint, _TfdsPairs(name, examples, self.builder.IMAGE, shown(builder.data_dir)))

  def store(self, splits: Mapping[str, Iterable[Example]], counts: Mapping[str, int], data_dir: str) -> None:
    """Stores examples as array_record, with progress bars; the data set appears whole or not at all.

    Args:
      splits: The examples by split.
      counts: Their number, or more than that.
      data_dir: Where tfds keeps its data.
    """
    with_bars = {
      split: progress(examples, f'Preparing {self.name}/{split}', counts[split], 'image')
      for split, examples in splits.items()
    }
    with _quiet_tfds(), without_tensorflow():
      self._builder(data_dir=data_dir, file_format='array_record', splits=with_bars).download_and_prepare()

  def _builder(self, **options: Any) -> tfds.core.GeneratorBasedBuilder:
    return self.builder(**options, **({'config': self.config} if self.config else {}))


class ExampleBuilder:
  """Makes a tfds builder, which comes next in the bases, store the examples that it is given.

  Images and labels are PNGs of any size; a builder has its own `DESCRIPTION`.
  """

  DESCRIPTION: str
  HOMEPAGE: str | None = None
  IMAGE = 'image'  # name of the feature

  def __init__(self, *, splits: Mapping[str, Iterable[Example]] | None = None, **kwargs):
    """Takes the examples by split, None where they are only read, and what every tfds builder takes."""
    super().__init__(**kwargs)
    self._splits = splits

  def _info(self) -> tfds.core.DatasetInfo:
    features = {
      'image_id': tfds.features.Text(),
      self.IMAGE: tfds.features.Image(shape=(None, None, 3), encoding_format='png'),
      'segmentation_label': tfds.features.Image(shape=(None, None, 1), encoding_format='png'),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION,
      features=tfds.features.FeaturesDict(features),
      homepage=self.HOMEPAGE,
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded or unpacked
    return {split: self._generate_examples(examples) for split, examples in self._splits.items()}

  def _generate_examples(self, examples):
    for image_id, image, label in examples:
      yield image_id, {'image_id': image_id, self.IMAGE: image, 'segmentation_label': label}


@dataclasses.dataclass(frozen=True)
class _TfdsPairs(Sequence[Pair]):
  """The pairs of a tfds data source; images and labels stay encoded, as stored."""

  name: str
  examples: Sequence[Mapping[str, bytes]]
  image: str  # name of the feature
  folder: str

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, index: int) -> Pair:
    try:
      stored = self.examples[index]
    except (OSError, RuntimeError) as error:
      raise InputError(
        f'{self.name}: record {index} in {self.folder} cannot be read ({error}). If the file is damaged or '
        'truncated, remove the folder and prepare the dataset again'
      ) from error
    example = Example(stored['image_id'].decode(), stored[self.image], stored['segmentation_label'])
    return Pair.in_memory(example, self.name)


def _fingerprint(builder: tfds.core.GeneratorBasedBuilder, split: str) -> str:
  """Digest of the dataset's description and of the names and sizes of the split's files."""
  folder = pathlib.Path(builder.data_dir)
  digest = hashlib.sha256(f'{builder.name} {builder.version} {split}'.encode())
  digest.update((folder / 'dataset_info.json').read_bytes())
  for path in sorted(builder.info.splits[split].filepaths):
    try:
      digest.update(f'\n{path.name} {path.stat().length}'.encode())
    except OSError as error:
      raise InputError(
        f'{shown(path)}: missing; remove {shown(folder)} and prepare the dataset again'
      ) from error
  return digest.hexdigest()


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
  """Inside the `with` block tfds prepares data sets of any size without TensorFlow, installed or not.

  tfds sorts a split's records by the hash of their keys. Above 1000 MiB it does so through files on disk,
  for which it uses `tf.io.gfile`, in one module (tensorflow_datasets/core/shuffle.py, 4.9.10). Plain files
  take that place here.
  """
  tensorflow = shuffle.tf
  shuffle.tf = _TENSORFLOW
  try:
    yield
  finally:
    shuffle.tf = tensorflow


class _BucketFile:
  """A file that tfds writes to. It keeps a thousand of them at once, so each is open only during a write."""

  def __init__(self, path: os.PathLike[str] | str):
    self._path = path
    open(path, 'wb').close()

  def write(self, data: bytes) -> None:
    with open(self._path, 'ab') as file:
      file.write(data)

  def flush(self) -> None:
    pass

  close = flush


def _open_bucket(path: os.PathLike[str] | str, mode: str) -> _BucketFile | BinaryIO:
  return _BucketFile(path) if mode == 'wb' else open(path, mode)


_TENSORFLOW = types.SimpleNamespace(
  io=types.SimpleNamespace(
    gfile=types.SimpleNamespace(GFile=_open_bucket, exists=os.path.exists, remove=os.remove)
  ),
  errors=types.SimpleNamespace(ResourceExhaustedError=()),  # never raised
)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
  """Keeps what tfds prints, logs and draws off the screen, but for the writing of records."""
  logger = absl_logging.get_absl_logger()
  level, tqdm = logger.level, tfds.core.utils.tqdm
  logger.setLevel(logging.ERROR)
  tfds.core.utils.tqdm = _writing_progress
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.core.utils.tqdm = tqdm
    logger.setLevel(level)


def _writing_progress(iterable: Iterable[Any], total: int | None = None, **_: Any) -> Iterable[Any]:
  """Stands for tfds's bars: it knows a total only when it sorts and writes what the builder gave."""
  return iterable if total is None else progress(iterable, 'Writing', total, 'record')
