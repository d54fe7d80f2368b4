"""The parity report: converted weights against what their source computes with them."""

from __future__ import annotations

import copy
import pathlib

from dense_aspp_jax.errors import InputError, RunError
from dense_aspp_jax.models.extractors import create_classifier, create_extractor
from dense_aspp_jax.weights import parity, torch_reference
from dense_aspp_jax.weights.convert import ForeignWeights, read_canonical


def check_parity(weights: ForeignWeights, path: pathlib.Path) -> None:
  """Prints the largest relative difference of every stage, for even and odd sizes and both strides.

  The reference is the stored one for exactly these weights, where there is one, else the source module
  with the given file.

  Args:
    weights: Of an ImageNet classifier.
    path: The file they came from.

  Raises:
    RunError: A stage differs by more than `parity.TOLERANCE`, or there is nothing to compare with.
  """
  classifier = create_classifier(create_extractor(weights.architecture, output_stride=32))
  stored = parity.find_reference(weights.digest)
  if stored is None:
    try:
      module = torch_reference.source_module(weights.architecture, weights.source)
    except InputError as error:
      raise RunError(f'{path}: there is no stored reference for these weights, and {error}') from error
    torch_reference.load_tensors(module, read_canonical(path))
  print(f'compared with {"stored reference " + stored[0] if stored else weights.source + ", run here"}')
  worst = 0.0
  for case in parity.CASES:
    ours = parity.stage_activations(classifier, weights.variables, case)
    if stored is None:
      dilated = copy.deepcopy(module)
      torch_reference.dilate(dilated, case.output_stride)
      stages = torch_reference.stage_modules(
        classifier.extractor, weights.source, [name for name in ours if name != 'logits']
      )
      reference = parity.reference_entries(case, torch_reference.torch_activations(dilated, stages, case))
    else:
      reference = stored[1]
    found = parity.differences(ours, reference, case)
    print(f'{case.height}x{case.width}, output stride {case.output_stride}')
    for name, value in found.items():
      print(f'  {name:<20} {value:.1e}{"" if value <= parity.TOLERANCE else "  differs"}')
    worst = max(worst, *found.values())
  if not worst <= parity.TOLERANCE:
    raise RunError(f'{path}: a stage differs by {worst:.1e} of its largest value; at most {parity.TOLERANCE}')
  print(f'all stages agree within {parity.TOLERANCE} (largest difference {worst:.1e})')
