"""From a data set's name to examples the network can take."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from dense_aspp_jax.datasets.cache import CacheSplit, DecodedSplit, open_cache
from dense_aspp_jax.datasets.prepare import prepare
from dense_aspp_jax.datasets.source import open_split
from dense_aspp_jax.labels import LabelSet


def load_split(
  dataset: str,
  split: str,
  *,
  data_dir: str | None,
  label_set: LabelSet,
  image_size: tuple[int, int],
  native_labels: bool,
  keep_aspect: bool = True,
  cached: bool = True,
  skip_bad: int = 0,
  held_out: Sequence[str] = (),
) -> CacheSplit | DecodedSplit:
  """Opens a split at the network's input size; builds its cache in `data_dir`/cache at first use.

  The generated street scenes are prepared at first use too.

  Args:
    dataset: See `open_split`.
    split: See `open_split`.
    data_dir: Where the prepared data are and the cache goes; None: where tfds keeps its data.
    label_set: See `open_cache`.
    image_size: See `open_cache`.
    native_labels: False for training, True for evaluation; see `open_cache`.
    keep_aspect: See `network_size`.
    cached: Whether to build the cache; without it each access decodes, which is enough for one pass.
    skip_bad: See `open_cache`.
    held_out: See `open_split`.
  """
  import tensorflow_datasets as tfds  # not at the top: slow to import

  if dataset == 'street_scenes':  # generated: nobody needs to fetch anything first
    prepare(dataset, data_dir=data_dir)
  cache_dir = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser() / 'cache'
  source = open_split(dataset, split, data_dir, held_out)
  if not cached:
    return DecodedSplit(source, label_set, tuple(image_size), native_labels, keep_aspect)
  return open_cache(
    source,
    label_set,
    tuple(image_size),
    native_labels,
    cache_dir,
    keep_aspect=keep_aspect,
    skip_bad=skip_bad,
  )
