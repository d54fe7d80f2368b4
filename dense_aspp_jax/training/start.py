"""What a new run starts from: converted weights of an extractor, or the weights of another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dense_aspp_jax.datasets.data import Data
from dense_aspp_jax.datasets.examples import dataset_names
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.segmentation import Network
from dense_aspp_jax.paths import local_path
from dense_aspp_jax.pretrained import shown_model
from dense_aspp_jax.training import workdir as workdirs
from dense_aspp_jax.training.config import Config, config_hash, model_record, tuples
from dense_aspp_jax.training.run import load_model
from dense_aspp_jax.weights.convert import tensors_digest
from dense_aspp_jax.weights.store import load_extractor_weights, merge_extractor

# Other than in the weights' run these may be: no other array depends on them.
_FREE_FIELDS = ('num_classes', 'auxiliary_head', 'output_stride')
_Variables = dict[str, Any]


class Start(NamedTuple):
  """Weights to start from.

  Attributes:
    merge: Puts them into the initial variables of the network; raises InputError where they do not fit.
    origin: What provenance.json says of them, as plain JSON data.
    text: What the user is told of them.
  """

  merge: Callable[[_Variables], _Variables]
  origin: dict[str, Any]
  text: str


def load_start(config: Config, model_fields: Mapping[str, Any]) -> Start | None:
  """Loads what a configuration's section `init` names; None: the run starts from random weights.

  Args:
    config: Of the new run.
    model_fields: Its section `model`.

  Raises:
    InputError: The weights cannot be used, are those of another network, or need another normalization; or
      an extractor with random weights would be frozen.
  """
  if config.init.extractor_weights is not None:
    return _from_extractor_weights(config, config.init.extractor_weights, model_fields['extractor'])
  if config.init.run is not None:
    return _from_run(config, config.init.run, model_fields)
  if config.optimizer.freezes_extractor:
    raise InputError(
      'config.optimizer.extractor_learning_rate_factor = 0 freezes the extractor, but its weights would be '
      'random; set config.init.extractor_weights or config.init.run, or another factor'
    )
  return None


def pretraining(config: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> list[str]:
  """The data that a run's network saw before its own.

  Args:
    config: Of the run, as plain data.
    starts: The entries of its provenance.json.
  """
  if origin := next((start['init_run'] for start in starts if start.get('init_run')), None):
    before = origin['dataset']
    return [*origin['pretraining'], *([before] if isinstance(before, str) else before)]
  return ['ImageNet'] if config.get('init', {}).get('extractor_weights') is not None else []


def _from_extractor_weights(config: Config, path: str, extractor: str) -> Start:
  weights = load_extractor_weights(local_path(path))
  where = f'config.init.extractor_weights = {path!r}'
  if weights.architecture != extractor:
    raise InputError(
      f'{where} are weights of {weights.architecture}, but config.model.extractor = {extractor!r}; '
      'choose one of them for both'
    )
  _check_normalization(where, config.data, weights.mean, weights.std)
  return Start(
    lambda variables: merge_extractor(variables, config.model.extractor, weights),
    {'extractor_weights': weights.description},
    f'extractor weights: {weights.description["source"]}, {weights.description["file"]}',
  )


def _from_run(config: Config, name: str, model_fields: Mapping[str, Any]) -> Start:
  where = f'config.init.run = {name!r}'
  try:
    run = load_model(name)
  except InputError as error:
    raise InputError(f'{where}: {error}') from error
  theirs, ours = (_network_record(fields) for fields in (run.config['model'], model_fields))
  different = [
    f'config.model.{field}: {theirs[field]!r} there, {ours[field]!r} here'
    for field in ours
    if theirs[field] != ours[field] and field not in _FREE_FIELDS
  ]
  if different:
    raise InputError(f'{where}: weights of another network ({"; ".join(different)}). Set the same values')
  preprocessing = run.predictor.preprocessing
  _check_normalization(where, config.data, preprocessing.mean, preprocessing.std)
  same_classes = run.label_set.class_names == config.label_set.class_names
  arrays = flatten_dict({name: tree for name, tree in run.variables.items() if tree})
  arrays = {path: np.asarray(array) for path, array in arrays.items()}  # of the host: `run` leaves the device
  heads = ['head'] if config.model.auxiliary_head is None else ['head', 'auxiliary_head']
  drawn = [part for part in heads if not same_classes or part not in run.variables['params']]
  starts = run.starts
  try:
    experiment = config_hash(run.config, run.label_set, starts) if 'init' in run.config else None
    before = pretraining(run.config, starts)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    path = run.workdir / workdirs.PROVENANCE
    raise InputError(f'{where}: {path}: not what a training writes about its starts ({error})') from error
  names = dataset_names(run.config['data']['dataset'])
  origin = {
    'run': run.workdir.resolve().name,
    'config_hash': experiment,
    'step': run.step,
    'weights': run.weights,
    'label_set': run.label_set.name,
    'sha256': tensors_digest({'/'.join(path): array for path, array in arrays.items()}),
    'drawn': drawn,
    'dataset': names[0] if len(names) == 1 else names,
    'pretraining': before,
  }
  text = f'weights of {shown_model(run.workdir)}, step {run.step}, {run.weights}'
  if not same_classes:
    theirs, ours = run.label_set, config.label_set
    text += (
      f'; {" and ".join(drawn).replace("_", " ")} drawn anew: {theirs.num_classes} classes there '
      f'({theirs.name}), {ours.num_classes} here ({ours.name})'
    )
  elif drawn:
    text += f'; {" and ".join(drawn).replace("_", " ")} drawn: that run has none'
  return Start(lambda variables: _merge(variables, arrays, drawn), {'init_run': origin}, text)


def _merge(variables: _Variables, arrays: Mapping[tuple[str, ...], Any], drawn: Sequence[str]) -> _Variables:
  """The initial variables with all arrays of a run but those of the parts that are drawn."""
  initial = flatten_dict(variables)
  return unflatten_dict({path: x if path[1] in drawn else arrays[path] for path, x in initial.items()})


def _network_record(model_fields: Mapping[str, Any]) -> dict[str, Any]:
  """What decides a network's arrays, with the defaults of fields that an older run does not have."""
  return model_record(dataclasses.asdict(Network(**tuples(dict(model_fields)))))


def _check_normalization(where: str, data: Data, mean: Sequence[float], std: Sequence[float]) -> None:
  for name, wanted in (('mean', mean), ('std', std)):
    if not np.allclose(getattr(data, name), wanted, rtol=0, atol=1e-4):
      raise InputError(
        f'{where}: the weights need config.data.{name} = {tuple(wanted)}, but it is {getattr(data, name)}'
      )
