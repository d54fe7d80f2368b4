"""What the stored label ids of a data set mean, by themselves and in the classes of a run."""

from __future__ import annotations

import dataclasses

from dense_aspp_jax.datasets.examples import FOLDER_PREFIX, LABELS_FILE
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import shown
from dense_aspp_jax.label_mapping import ClassMap, map_label_set
from dense_aspp_jax.label_sets import LABEL_SETS, LABEL_SETS_OF, USUAL_LABEL_SETS, load_label_set
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.paths import local_path


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


def label_set_for(dataset: str, run: LabelSet, class_map: ClassMap, by_class: bool) -> LabelSet:
  """What the label ids of a data set mean in the classes of a run.

  Args:
    dataset: As `config.data.dataset`, a single one.
    run: The run's label set.
    class_map: See `config.data.class_map`.
    by_class: Whether the run's label set only names the classes. False: its ids are those of the data set,
      unless it is one that was published for other data.

  Returns:
    `run` itself where its ids are those of the data set, else a `MappedLabelSet`.

  Raises:
    InputError: A class has no counterpart, or the labels.json of a folder cannot be read.
  """
  is_folder = dataset.startswith(FOLDER_PREFIX)
  if not by_class and (is_folder or run not in LABEL_SETS.values()):
    return run
  own = own_label_set(dataset) if is_folder else None
  sets = (own,) if own else LABEL_SETS_OF.get(dataset, ())
  if not sets or any(dataclasses.replace(made_for, name=run.name) == run for made_for in sets):
    return run
  return map_label_set(sets, run, class_map, f'dataset {dataset!r}')
