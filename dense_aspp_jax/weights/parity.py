"""Whether a network computes what its source computes: activations compared stage by stage.

The reference is a file of `references/`, for weights that are released as a Python package, or else the
source module, where torch is installed. A file has, for fixed input images, samples of the output of every
stage of the source module; `tests/golden/make_references.py` makes them, with torch.
"""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.extractors.classifier import ImageNetClassifier, create_classifier
from dense_aspp_jax.weights import torch_reference
from dense_aspp_jax.weights.convert import ForeignWeights

REFERENCES = pathlib.Path(__file__).with_name('references')
TOLERANCE = 1e-4  # largest difference of a stage, relative to its largest value
# The children of an extractor that end a stage. Parts of the stem and single arrays do not.
_STAGE = re.compile(
  r'denseblock\d|transition\d|norm5|stem|stem_norm|block\d+|stage\d_block\d+|downsample\d|last|conv_head'
)
_NUM_SAMPLES = 64

Activations = Mapping[str, np.ndarray]


class Case(NamedTuple):
  """One input to compare with: image height and width, and the extractor's output stride."""

  height: int
  width: int
  output_stride: int

  @property
  def name(self) -> str:
    """The prefix of its entries in a reference file."""
    return f'{self.height}x{self.width}_stride{self.output_stride}'

  @property
  def image(self) -> np.ndarray:
    """A fixed image as the network takes it, float32 `[1, h, w, 3]`."""
    random = np.random.RandomState(1000 * self.height + self.width)
    return random.uniform(-2, 2, (1, self.height, self.width, 3)).astype(np.float32)


CASES = tuple(Case(*size, output_stride) for size in ((64, 96), (65, 97)) for output_stride in (32, 8))


def check_parity(weights: ForeignWeights, path: pathlib.Path) -> None:
  """Prints the largest relative difference of every stage, for even and odd sizes and both strides.

  A stored reference is compared at 64 positions of each stage, a source module at all positions.

  Args:
    weights: Of an ImageNet classifier.
    path: The file they came from.

  Raises:
    InputError: The file has no classification head of ImageNet's classes.
    RunError: A stage differs by more than `TOLERANCE`, or there is nothing to compare with.
  """
  head = weights.variables['params'].get('head')
  if head is None or head['linear']['bias'].shape != (1000,) or weights.left:
    raise InputError(
      f'{path}: not just a classifier of 1000 classes, which --check compares; convert without --check'
    )
  classifier = create_classifier(create_extractor(weights.architecture, output_stride=32))
  stored = find_reference(weights.digest)
  if stored:
    print(f'compared with the stored reference {stored[0]}, at {_NUM_SAMPLES} positions of each stage')
  else:
    try:
      module = torch_reference.source_module(weights.architecture, weights.source)
    except InputError as error:
      raise RunError(f'{path}: there is no stored reference for these weights, and {error}') from error
    torch_reference.load_tensors(module, weights.tensors)
    print(f'compared with {weights.source}, run here, at all positions')
  worst = 0.0
  for case in CASES:
    ours = stage_activations(classifier, weights.variables, case)
    if stored:
      found = differences(ours, stored[1], case)
    else:
      stages = torch_reference.stage_modules(classifier.extractor, weights.source, ours)
      theirs = torch_reference.torch_activations(module, stages, case.image, case.output_stride)
      found = {name: relative_difference(ours[name], x, np.abs(x).max()) for name, x in theirs.items()}
    print(f'{case.height}x{case.width}, output stride {case.output_stride}')
    for name, value in found.items():
      print(f'  {name:<20} {value:.1e}{"" if value <= TOLERANCE else "  differs"}')
    worst = max(worst, *found.values())
  if worst > TOLERANCE:
    raise RunError(f'{path}: a stage differs by {worst:.1e} of its largest value; at most {TOLERANCE}')
  print(f'all stages agree within {TOLERANCE} (largest difference {worst:.1e})')


def stage_activations(
  classifier: ImageNetClassifier, variables: Mapping[str, Any], case: Case
) -> Activations:
  """Computes each stage and the logits: arrays `[1, h, w, c]` and `[1, classes]` by name, in order."""
  extractor = classifier.extractor.clone(output_stride=case.output_stride)
  with jax.default_matmul_precision('highest'):  # a GPU would round to tensor-float-32
    logits, captured = run_capturing(classifier.clone(extractor=extractor), dict(variables), case.image)
  stages = {
    name: jax.tree.leaves(outputs['__call__'])[0]  # a dense block returns its moments too
    for name, outputs in sorted(captured['intermediates']['extractor'].items(), key=_position)
    if _STAGE.fullmatch(name)
  }
  return {name: np.asarray(array) for name, array in {**stages, 'logits': logits}.items()}


def _position(item: tuple[str, Any]) -> tuple[int, ...]:
  """Sorts stages in the order of execution; jit returns them in the order of their names."""
  name = item[0]
  first, *rest = (int(n) for n in re.findall(r'\d+', name) or (0 if name.startswith('stem') else 100,))
  return first, name.startswith(('transition', 'downsample')), *rest


@functools.partial(jax.jit, static_argnums=0)
def run_capturing(classifier: nn.Module, variables: Any, image: jax.Array) -> tuple[jax.Array, Any]:
  """Returns the logits, and what the children of the extractor return."""

  def is_stage(module: nn.Module, method: str) -> bool:
    return method == '__call__' and len(module.path) == 2 and module.path[0] == 'extractor'

  return classifier.apply(variables, image, capture_intermediates=is_stage, mutable=['intermediates'])


def samples(array: np.ndarray) -> np.ndarray:
  """64 of an array's values, at positions that depend on its size alone."""
  flat = np.ravel(array)
  return flat[np.random.RandomState(flat.size).randint(0, flat.size, _NUM_SAMPLES)]


def reference_entries(case: Case, activations: Activations) -> dict[str, np.ndarray]:
  """A case's part of a reference file: shape, largest magnitude and samples of each stage."""
  entries = {}
  for name, array in activations.items():
    entries[f'{case.name}/{name}/shape'] = np.array(array.shape)
    entries[f'{case.name}/{name}/scale'] = np.abs(array).max()
    entries[f'{case.name}/{name}/samples'] = samples(array)
  return entries


def differences(
  activations: Activations, reference: Mapping[str, np.ndarray], case: Case
) -> dict[str, float]:
  """The relative difference of each stage that a reference (of `reference_entries`) has, at its positions."""
  result = {}
  for key, expected in reference.items():
    if key.startswith(f'{case.name}/') and key.endswith('/samples'):
      prefix, name, _ = key.split('/')
      array = activations[name]
      same_shape = array.shape == tuple(reference[f'{prefix}/{name}/shape'])
      found = samples(array) if same_shape else np.array(np.nan)
      result[name] = relative_difference(found, expected, reference[f'{prefix}/{name}/scale'])
  return result


def relative_difference(found: np.ndarray, expected: np.ndarray, scale: float) -> float:
  """The largest difference divided by `scale`; infinite for another shape, or values that are not finite."""
  if found.shape != expected.shape or not scale > 0:
    return float('inf')
  difference = float(np.abs(found - expected).max() / scale)
  return difference if np.isfinite(difference) else float('inf')


def find_reference(digest: str) -> tuple[str, dict[str, np.ndarray]] | None:
  """The stored reference for weights with this digest (`convert.tensors_digest`): its name and arrays."""
  for path in sorted(REFERENCES.glob('*.npz')):
    with np.load(path, allow_pickle=False) as file:
      if str(file['digest']) == digest:
        return path.stem, dict(file)
  return None
