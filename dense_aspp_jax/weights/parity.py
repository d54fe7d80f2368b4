"""Whether a network computes what its source computes: activations compared stage by stage.

A reference is an .npz file in `references/`: for fixed input images, samples of what every stage of the
source module gave with certain weights. `tests/golden/make_references.py` makes them, with torch.
"""

from __future__ import annotations

import functools
import importlib.resources
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from dense_aspp_jax.models.extractors.classifier import ImageNetClassifier, create_classifier

TOLERANCE = 1e-4  # largest difference of a stage, relative to its largest value
# Where a stage ends: these children of an extractor. The stem's parts and single arrays are none.
_STAGE = re.compile(
  r'denseblock\d|transition\d|norm5|stem|stem_norm|block\d+|stage\d_block\d+|downsample\d|last|conv_head'
)
_NUM_SAMPLES = 64


class Case(NamedTuple):
  """One input to compare with: image height and width, and the extractor's output stride."""

  height: int
  width: int
  output_stride: int

  @property
  def name(self) -> str:
    """As it stands in a reference file."""
    return f'{self.height}x{self.width}_stride{self.output_stride}'

  @property
  def image(self) -> np.ndarray:
    """A fixed image as the network takes it, float32 `[1, h, w, 3]`."""
    random = np.random.RandomState(1000 * self.height + self.width)
    return random.uniform(-2, 2, (1, self.height, self.width, 3)).astype(np.float32)


CASES = tuple(Case(*size, output_stride) for size in ((64, 96), (65, 97)) for output_stride in (32, 8))

Activations = Mapping[str, np.ndarray]


def stage_activations(
  classifier: ImageNetClassifier, variables: Mapping[str, Any], case: Case
) -> Activations:
  """What each stage and the logits are, NumPy arrays `[1, h, w, c]` and `[1, classes]` by name, in order."""
  classifier = create_classifier(
    classifier.extractor.clone(output_stride=case.output_stride), classifier.head.num_classes
  )
  with jax.default_matmul_precision('highest'):  # a GPU would round to tensor-float-32
    logits, captured = _capture(classifier, dict(variables), case.image)
  stages = {
    name: jax.tree.leaves(outputs['__call__'])[0]  # a dense block gives its moments too
    for name, outputs in sorted(captured['intermediates']['extractor'].items(), key=_position)
    if _STAGE.fullmatch(name)
  }
  return {name: np.asarray(array) for name, array in {**stages, 'logits': logits}.items()}


def _position(item: tuple[str, Any]) -> tuple[int, ...]:
  """Sorts stages as they follow each other; jit gives them back in the order of their names."""
  name = item[0]
  first, *rest = (int(n) for n in re.findall(r'\d+', name) or (0 if name.startswith('stem') else 100,))
  return first, name.startswith(('transition', 'downsample')), *rest


@functools.partial(jax.jit, static_argnums=0)
def _capture(classifier: nn.Module, variables: Any, image: jax.Array) -> tuple[jax.Array, Any]:
  def is_stage(module: nn.Module, method: str) -> bool:
    return method == '__call__' and len(module.path) == 2 and module.path[0] == 'extractor'

  return classifier.apply(variables, image, capture_intermediates=is_stage, mutable=['intermediates'])


def samples(array: np.ndarray) -> np.ndarray:
  """64 of an array's values, at positions that depend on its size alone."""
  flat = np.ravel(array)
  return flat[np.random.RandomState(flat.size).randint(0, flat.size, _NUM_SAMPLES)]


def reference_entries(case: Case, activations: Activations) -> dict[str, np.ndarray]:
  """What a reference file keeps of a case: per stage its shape, largest magnitude and samples."""
  entries = {}
  for name, array in activations.items():
    entries[f'{case.name}/{name}/shape'] = np.array(array.shape)
    entries[f'{case.name}/{name}/scale'] = np.abs(array).max()
    entries[f'{case.name}/{name}/samples'] = samples(array)
  return entries


def differences(
  activations: Activations, reference: Mapping[str, np.ndarray], case: Case
) -> dict[str, float]:
  """The largest difference of each stage that a stored reference has, at the positions it has.

  Args:
    activations: From `stage_activations`.
    reference: From `reference_entries`.
    case: Which of its cases.

  Returns:
    By stage, relative to the stage's largest value; see `relative_difference`.
  """
  result = {}
  for key in reference:
    if key.startswith(f'{case.name}/') and key.endswith('/samples'):
      name = key.split('/')[1]
      array, prefix = activations[name], f'{case.name}/{name}'
      same_shape = array.shape == tuple(reference[f'{prefix}/shape'])
      found = samples(array) if same_shape else np.array(np.nan)
      result[name] = relative_difference(found, reference[key], reference[f'{prefix}/scale'])
  return result


def relative_difference(found: np.ndarray, expected: np.ndarray, scale: float) -> float:
  """The largest difference divided by `scale`; infinite for another shape, or values that are not finite."""
  if found.shape != expected.shape or not scale > 0:
    return float('inf')
  difference = float(np.abs(found - expected).max() / scale)
  return difference if np.isfinite(difference) else float('inf')


def find_reference(digest: str) -> tuple[str, dict[str, np.ndarray]] | None:
  """The stored reference for weights with this digest (`convert.tensors_digest`): its name and arrays."""
  for name, arrays in _references():
    if str(arrays['digest']) == digest:
      return name, arrays
  return None


def _references() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
  folder = importlib.resources.files('dense_aspp_jax.weights') / 'references'
  for entry in sorted(folder.iterdir(), key=lambda e: e.name):
    if entry.name.endswith('.npz'):
      with np.load(io.BytesIO(entry.read_bytes()), allow_pickle=False) as file:
        yield entry.name.removesuffix('.npz'), dict(file)
