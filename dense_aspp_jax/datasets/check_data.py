"""Reads every pair of a data set, as it was prepared or from its files, and reports all that is wrong."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, SPLITS, Pair
from dense_aspp_jax.datasets.folder import list_folder, splits_of
from dense_aspp_jax.datasets.listing import Listing, Listings
from dense_aspp_jax.datasets.own_labels import own_label_set
from dense_aspp_jax.datasets.pairs import BadPairs, check_pair, map_good
from dense_aspp_jax.datasets.prepare import DATASETS, find_dataset, other_counts, other_sizes
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_sets import load_label_set
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.progress import progress

TRAINED_ON = ('train', 'validation')  # what `train` reads unless its configuration names other splits


class SplitReport(NamedTuple):
  """What was found in a split.

  Attributes:
    bad: What is wrong with each bad pair, a line for each problem.
    sizes: Number of good pairs by (height, width).
    class_pixels: Pixels of good pairs by class index, int64 `[256]`; those at `IGNORE_LABEL` are ignored.
  """

  bad: list[str]
  sizes: Counter[tuple[int, int]]
  class_pixels: np.ndarray


def list_splits(
  dataset: str, source: str | None = None, data_dir: str | None = None, split: str | None = None
) -> Listings:
  """Finds the splits of a data set.

  Args:
    dataset: 'folder:PATH' or the name of a data set.
    source: Files of Cityscapes or CamVid, as for `prepare`; None: what was prepared.
    data_dir: Where prepared data sets are; None: where tfds keeps them.
    split: The only split wanted; None: all there are, and of a folder those that training needs.

  Raises:
    InputError: No such data set or split, not prepared, or an archive that cannot be read.
  """

  def wanted(there: Iterable[str], where: str) -> list[str]:
    if split is not None and split not in there:
      raise InputError(f'{where}: no split {split!r}; expected one of {", ".join(there)}')
    return list(there) if split is None else [split]

  if source is not None:
    with_files = [name for name, published in DATASETS.items() if published.files]
    if dataset not in with_files:
      raise InputError(f'dataset {dataset!r} has no source; --source is for {" and ".join(with_files)}')
    files = DATASETS[dataset].list_files(local_path(source))
    names = wanted(files.splits, source)
    found = {name: files.splits[name]._replace(where=f'{dataset}/{name}') for name in names}
    return files._replace(splits=found)
  if dataset.startswith(FOLDER_PREFIX):
    folder = local_path(dataset.removeprefix(FOLDER_PREFIX))
    there = splits_of(folder)
    if split or not there:
      name = split or SPLITS[0]
      return Listings({name: list_folder(folder, name)}, [], [])  # raises where it is not there
    splits = {name: _list_split(folder, name) for name in SPLITS if name in (*there, *TRAINED_ON)}
    return Listings(splits, [], [])
  published = find_dataset(dataset)
  names = wanted(published.require_builder(data_dir).info.splits, dataset)
  opened = [published.open_split(name, data_dir) for name in names]
  found = {name: Listing(split.name, split, [], []) for name, split in zip(names, opened, strict=True)}
  return Listings(found, [], [])


def find_label_set(dataset: str, name: str | None) -> LabelSet:
  """The label set `name`; None: labels.json of the folder, or all ids of a known data set.

  Raises:
    InputError: No such label set, or none is known.
  """
  if name is not None:
    return load_label_set(name)
  own = own_label_set(dataset)
  if own is None:
    raise InputError(f'dataset {dataset!r}: no label set known for it; name one with --label-set')
  return own


def check_split(split: Listing, label_set: LabelSet, published: bool) -> SplitReport:
  """Checks all pairs of a split, with a progress bar, and goes on past bad ones; see `check_pair`."""
  bad = BadPairs(split.where, math.inf)

  def statistics(pair: Pair) -> tuple[tuple[int, int], np.ndarray]:
    labels = check_pair(pair, label_set, published).labels
    return labels.shape, np.bincount(labels.ravel(), minlength=256)

  sizes: Counter[tuple[int, int]] = Counter()
  pixels = np.zeros(256, np.int64)
  pairs = progress(split.pairs, f'checking {split.where}', unit='pair')
  for size, counts in map_good(statistics, pairs, bad):
    sizes[size] += 1
    pixels += counts
  return SplitReport(bad.messages, sizes, pixels)


def other_than_published(
  dataset: str, counts: Mapping[str, int], sizes: Counter[tuple[int, int]], split: str | None
) -> list[str]:
  """How files differ from the published data set, as `prepare` finds it.

  Args:
    dataset: The name of the data set.
    counts: Number of images by split.
    sizes: Number of images by (height, width).
    split: The only split that was read; None: all.
  """
  published = find_dataset(dataset)
  if split is not None:
    published = dataclasses.replace(published, counts={split: published.counts[split]}, optional_splits=())
  return [finding for finding in (other_counts(published, counts), other_sizes(published, sizes)) if finding]


def _list_split(folder: pathlib.Path, split: str) -> Listing:
  """A split without its folders has that as its problem, unless training does not need it."""
  try:
    return list_folder(folder, split)
  except InputError as error:
    where = shown(folder / split)
    needed = split in TRAINED_ON
    return Listing(where, [], [str(error)] * needed, [f'{where}: incomplete split'] * (not needed))
