"""A trained network as one file, for use and to give away: a model file.

A .safetensors file. Its tensors are named as in the network, 'params/...' and 'batch_stats/...': kernels in
float16, and what has one axis (scales, offsets and statistics of BN, biases) in float32, for variances leave
float16's range. All the rest is JSON, under one key of the file's metadata: configuration, label set, what it
was trained on, scores. Nothing in it is executed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from dense_aspp_jax import fields
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.files import SIGNATURE_BYTES, shown, what_it_is, write_file
from dense_aspp_jax.labels import LabelSet
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.segmentation import Network
from dense_aspp_jax.training.config import canonical, migrate, tuples
from dense_aspp_jax.training.stored_config import check_stored
from dense_aspp_jax.weights.convert import tensors_digest

SUFFIX = '.safetensors'
KERNEL_DTYPES = ('float16', 'float32')
_KEY = 'dense_aspp_jax'  # of the metadata
_FORMAT = 1
_REMEDY = 'get the file again, or make it again with `dense-aspp pack`'
_SHOWN = 3  # tensors, in a message


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelRecord:
  """What a model file says of its weights. Plain JSON data, but for the label set.

  Attributes:
    config: Of the run, without paths of the machine it was trained on.
    label_set: What the class indices mean.
    checkpoint: Which one it was: 'best', 'latest' or a step.
    step: Updates made before.
    weights: 'raw', or 'ema' for their moving averages.
    bn: The statistics that BN takes: 'running', those of training, or 'recalibrated'.
    starts: The entries of the run's provenance.json.
    data: Its data.json: which images.
    scores: Of this checkpoint, these weights and statistics, as `results.runs.Row` has them.
    terms: What may be done with the data, in sentences, by data set.
  """

  config: dict[str, Any]
  label_set: LabelSet
  checkpoint: str
  step: int
  weights: str
  bn: str
  starts: list[dict[str, Any]]
  data: dict[str, Any]
  scores: list[dict[str, Any]]
  terms: dict[str, str]


def write_model_file(
  path: pathlib.Path, variables: Mapping[str, Any], record: ModelRecord, dtype: str = 'float16'
) -> None:
  """Writes a model file, atomically; the same content gives the same bytes.

  Args:
    path: The file; replaced where it exists.
    variables: 'params' and 'batch_stats' of the network.
    record: What is known of them.
    dtype: Of arrays with several axes, one of `KERNEL_DTYPES`.

  Raises:
    InputError: A weight is not finite in that type.
    RunError: It cannot be written.
  """
  tensors = {}
  for name, array in _named(variables).items():
    array = np.asarray(array, np.float32)
    with np.errstate(over='ignore'):
      tensors[name] = np.ascontiguousarray(array, dtype if array.ndim > 1 else np.float32)
    if not np.isfinite(tensors[name]).all():
      raise InputError(
        f'{name}: values up to {np.abs(array).max():g} are not finite as {tensors[name].dtype}; '
        'choose --dtype float32, or another checkpoint where they are not finite in it either'
      )
  content = dataclasses.asdict(record) | {'label_set': record.label_set.to_json()}
  content |= {'format': _FORMAT, 'sha256': tensors_digest(tensors)}
  write_file(path, safetensors.numpy.save(tensors, {_KEY: canonical(content)}))


def read_model_file(path: pathlib.Path) -> tuple[ModelRecord, dict[str, Any]]:
  """Reads a model file; everything that is in it is checked.

  Returns:
    What it says of its weights, and 'params' and 'batch_stats' in float32, on the host.

  Raises:
    InputError: It cannot be read, is another kind of file, damaged, or its tensors are not exactly those of
      the network that its configuration describes.
  """
  content, tensors = _read(path)
  try:
    record = _parse(content)
    network = Network(**record.config['model']).create()
    if record.label_set.num_classes != network.num_classes:
      raise InputError(
        f'{record.label_set.num_classes} classes, but config.model.num_classes = {network.num_classes}'
      )
  except (InputError, TypeError) as error:
    raise InputError(f'{shown(path)}: {error}; {_REMEDY}') from error
  expected = _named(abstract_variables(network))
  problems = [f'{name}: unknown' for name in sorted(tensors.keys() - expected.keys())]
  for name, array in expected.items():
    found = tensors.get(name)
    if found is None:
      problems.append(f'{name}: missing')
    elif found.shape != array.shape or found.dtype.name not in KERNEL_DTYPES:
      problems.append(f'{name}: {found.dtype} {found.shape}, not {array.dtype} {array.shape}')
    elif not np.isfinite(found).all():
      problems.append(f'{name}: not finite')
  if not problems and content.get('sha256') != tensors_digest(tensors):
    problems = ['the weights have changed since it was written (SHA-256)']
  if problems:
    more = f'; and {len(problems) - _SHOWN} more' if len(problems) > _SHOWN else ''
    raise InputError(f'{shown(path)}: damaged ({"; ".join(problems[:_SHOWN])}{more}); {_REMEDY}')
  arrays = {tuple(name.split('/')): np.asarray(array, np.float32) for name, array in tensors.items()}
  return record, unflatten_dict(arrays)


def _named(variables: Mapping[str, Any]) -> dict[str, Any]:
  return flatten_dict({name: dict(tree) for name, tree in variables.items() if tree}, sep='/')


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The JSON data and the tensors of a file."""
  try:
    with path.open('rb') as file:
      beginning = file.read(SIGNATURE_BYTES)
  except OSError as error:
    raise InputError(f'{shown(path)}: cannot be read ({error.strerror})') from error
  if beginning[8:9] != b'{':
    found = what_it_is(beginning, 'give a file that `dense-aspp pack` wrote')
    raise InputError(f'{shown(path)}: not a model file ({found})')
  try:
    with safetensors.safe_open(path, 'np') as file:
      text = (file.metadata() or {}).get(_KEY)
      tensors = {name: file.get_tensor(name) for name in file.keys()} if text else {}  # noqa: SIM118 (no dict)
  except Exception as error:  # damage can raise anything
    reason = ' '.join(str(error).split())[:200]
    raise InputError(f'{shown(path)}: damaged ({type(error).__name__}: {reason}); {_REMEDY}') from error
  if text is None:
    raise InputError(
      f'{shown(path)}: a .safetensors file of another program: it does not say which network it is for. '
      'Foreign weights of an extractor are read by `dense-aspp convert`'
    )
  try:
    content = json.loads(text)
    if not isinstance(content, dict):
      raise ValueError(f'{str(content)[:40]!r} is no object')
  except (ValueError, RecursionError) as error:
    raise InputError(f'{shown(path)}: damaged ({error}); {_REMEDY}') from error
  if content.get('format') != _FORMAT:
    raise InputError(
      f'{shown(path)}: a model file of format {str(content.get("format"))[:20]}; this version of '
      f'dense_aspp_jax reads format {_FORMAT}. Update it, or get a file of this format'
    )
  return content, tensors


def _parse(content: Mapping[str, Any]) -> ModelRecord:
  names = [field.name for field in dataclasses.fields(ModelRecord)]
  if missing := [name for name in names if name not in content]:
    raise InputError(f'missing {", ".join(missing)}')
  found = {name: content[name] for name in names}
  config = migrate(found['config']) if isinstance(found['config'], dict) else found['config']
  found['config'] = tuples(config)
  check_stored(found['config'])
  found['label_set'] = LabelSet.from_json(found['label_set'], 'label_set')
  record = ModelRecord(**found)
  fields.check_types(record)
  fields.check_integer('step', record.step, 0)
  return record
