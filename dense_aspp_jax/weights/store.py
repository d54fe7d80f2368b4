"""Converted extractor weights on disk: an Orbax checkpoint and its description.

DIRECTORY/weights.json   architecture, preprocessing, origin of the weights; written last
DIRECTORY/checkpoint/    Orbax: 'params', 'batch_stats' of the extractor, 'classifier' (its head, if any)
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import flax
import flax.linen as nn

from dense_aspp_jax.checkpoint_io import load_checkpoint, save_checkpoint
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import new_directory, write_json
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.provenance import provenance
from dense_aspp_jax.weights.convert import ForeignWeights

WEIGHTS = 'weights.json'
CHECKPOINT = 'checkpoint'
# DenseNet's fourth transition is new, and so is norm5, whose width it changes: both start at random.
_NEW_WITH_FOURTH_TRANSITION = ('transition4', 'norm5')


def save_extractor_weights(directory: pathlib.Path, weights: ForeignWeights) -> None:
  """Writes the extractor of a converted classifier and its head, atomically.

  Raises:
    InputError: The directory is not empty.
    RunError: It cannot be written.
  """
  items = {name: tree['extractor'] for name, tree in weights.variables.items() if 'extractor' in tree}
  if 'head' in weights.variables['params']:
    items['classifier'] = weights.variables['params']['head']
  weights = dataclasses.replace(weights, provenance=provenance())
  with new_directory(directory) as folder:
    save_checkpoint(folder / CHECKPOINT, items, shown=directory)
    write_json(folder / WEIGHTS, weights.description)


def load_extractor_weights(directory: pathlib.Path) -> ForeignWeights:
  """Reads the extractor that `save_extractor_weights` wrote, checked against its architecture.

  Raises:
    InputError: Not such a directory, damaged, or its arrays are not exactly the architecture's.
  """
  try:
    description = json.loads((directory / WEIGHTS).read_text(encoding='utf-8'))
    preprocessing = {name: tuple(float(v) for v in description[name]) for name in ('mean', 'std')}
    left = tuple(description.get('left', ()))
    weights = ForeignWeights(**{**description, **preprocessing, 'left': left, 'variables': {}})
    extractor = create_extractor(weights.architecture, implementation='reference')  # the same arrays
  except PermissionError as error:
    raise InputError(
      f'{directory / WEIGHTS}: cannot be read ({error.strerror}); check its permissions'
    ) from error
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:  # InputError is a ValueError
    raise InputError(
      f'{directory}: not converted weights ({type(error).__name__}: {error}); expected a directory that '
      '`dense-aspp convert` wrote'
    ) from error
  variables = load_checkpoint((directory / CHECKPOINT).absolute(), dict(abstract_variables(extractor)))
  return dataclasses.replace(weights, variables=variables)


def merge_extractor(
  variables: dict[str, Any], extractor: nn.Module, weights: ForeignWeights
) -> dict[str, Any]:
  """Replaces a segmentation model's initial extractor weights.

  Every array of the model's extractor must be in the weights, with the same shape. Weights after the layer
  where the extractor is cut are not used. Transition 4 and norm5 of a network with `fourth_transition`, which
  no ImageNet classifier has, keep their initial values.

  Args:
    variables: 'params' and 'batch_stats' of a `SegmentationModel`.
    extractor: Its extractor.
    weights: Of an uncut extractor of the same architecture.

  Returns:
    New variables.

  Raises:
    InputError: An array is missing or of another shape.
  """
  new_modules = _NEW_WITH_FOURTH_TRANSITION if getattr(extractor, 'fourth_transition', False) else ()
  given = flax.traverse_util.flatten_dict(weights.variables)
  merged, problems = flax.traverse_util.flatten_dict(variables), []
  for path, array in merged.items():
    collection, part, *rest = path
    if part != 'extractor' or rest[0] in new_modules:
      continue
    found = given.get((collection, *rest))
    if found is None or found.shape != array.shape:
      problems.append(f'{"/".join(path)} {array.shape}: {"missing" if found is None else found.shape}')
    merged[path] = found
  if problems:
    raise InputError(
      f'the weights of {weights.architecture} do not fit the extractor of the configuration: '
      f'{"; ".join(problems[:5])}{"; ..." if len(problems) > 5 else ""}'
    )
  return flax.traverse_util.unflatten_dict(merged)
