"""The parity report: converted weights against what their source computes with them."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import numpy as np

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.weights import parity, torch_reference
from dense_aspp_jax.weights.convert import ForeignWeights, read_canonical


def check_parity(weights: ForeignWeights, path: pathlib.Path) -> None:
  """Prints the largest relative difference of every stage, for even and odd sizes and both strides.

  The reference is the stored one for exactly these weights, where there is one (64 positions of each
  stage), else the source module with the given file (all positions).

  Args:
    weights: Of an ImageNet classifier.
    path: The file they came from.

  Raises:
    RunError: A stage differs by more than `parity.TOLERANCE`, or there is nothing to compare with.
  """
  classifier = create_classifier(create_extractor(weights.architecture, output_stride=32))
  stored = parity.find_reference(weights.digest)
  if stored:
    print(f'compared with the stored reference {stored[0]}, at 64 positions of each stage')
  else:
    module = _source_module(weights, path)
    print(f'compared with {weights.source}, run here, at all positions')
  worst = 0.0
  for case in parity.CASES:
    ours = parity.stage_activations(classifier, weights.variables, case)
    if stored:
      found = parity.differences(ours, stored[1], case)
    else:
      dilated = copy.deepcopy(module)
      torch_reference.dilate(dilated, case.output_stride)
      stages = torch_reference.stage_modules(
        classifier.extractor, weights.source, [name for name in ours if name != 'logits']
      )
      theirs = torch_reference.torch_activations(dilated, stages, case)
      found = {
        name: parity.relative_difference(ours[name], array, np.abs(array).max())
        for name, array in theirs.items()
      }
    print(f'{case.height}x{case.width}, output stride {case.output_stride}')
    for name, value in found.items():
      print(f'  {name:<20} {value:.1e}{"" if value <= parity.TOLERANCE else "  differs"}')
    worst = max(worst, *found.values())
  if worst > parity.TOLERANCE:
    raise RunError(f'{path}: a stage differs by {worst:.1e} of its largest value; at most {parity.TOLERANCE}')
  print(f'all stages agree within {parity.TOLERANCE} (largest difference {worst:.1e})')


def _source_module(weights: ForeignWeights, path: pathlib.Path) -> Any:
  """The torch module with the weights of `path`; RunError where there is none to be had."""
  try:
    module = torch_reference.source_module(weights.architecture, weights.source)
  except InputError as error:
    raise RunError(f'{path}: there is no stored reference for these weights, and {error}') from error
  torch_reference.load_tensors(module, read_canonical(path))
  return module
