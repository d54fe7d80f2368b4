"""The loading of a split before `Data`; goes away with its callers."""

from __future__ import annotations

from typing import Any

from dense_aspp_jax.datasets.cache import CacheSplit, DecodedSplit
from dense_aspp_jax.datasets.open import Data
from dense_aspp_jax.labels import LabelSet


def load_split(
  dataset: str,
  split: str,
  *,
  label_set: LabelSet,
  native_labels: bool,
  cached: bool = True,
  **options: Any,
) -> CacheSplit | DecodedSplit:
  """Opens a split by `Data`; `options` are its other fields."""
  data = Data(dataset=dataset, label_set=label_set.name, train_split=split, **options)
  if native_labels:
    return data.open(split, label_set=label_set, cached=cached)
  return data.open_train(label_set=label_set, cached=cached)
