"""Parameters and multiply-adds of a network, counted without running it."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dense_aspp_jax.models.segmentation import SegmentationModel, reference_model

PARTS = ('extractor', 'dense_aspp', 'skip_decoder', 'head', 'auxiliary_head')


def abstract_variables(model: nn.Module) -> Any:
  """Shapes and types of a model's variables; nothing is computed."""
  return _abstract_variables(reference_model(model))  # the same variables, in fewer operations


@functools.lru_cache(maxsize=64)
def _abstract_variables(model: nn.Module) -> Any:
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def count_parameters(model: SegmentationModel, image_size: tuple[int, int]) -> dict[str, int | float]:
  """Counts trained parameters (running statistics not included) and multiply-adds.

  Args:
    model: A segmentation model.
    image_size: Height and width for the multiply-adds.

  Returns:
    Those of each of `PARTS` (0 where the network has none), 'dense_aspp_and_head' (what the slides count),
    'total', and 'gmac': 1e9 multiply-adds of all convolutions and linear layers for one image in evaluation.
  """
  params = abstract_variables(model)['params']
  counts = {part: sum(x.size for x in jax.tree.leaves(params.get(part, {}))) for part in PARTS}
  total = sum(counts.values())
  counts['dense_aspp_and_head'] = counts['dense_aspp'] + counts['head']
  counts['total'] = total
  return {**counts, 'gmac': multiply_adds(model, image_size) / 1e9}


@functools.lru_cache(maxsize=16)
def multiply_adds(model: SegmentationModel, image_size: tuple[int, int]) -> int:
  """Multiply-adds of all convolutions and linear layers for one image, as the network is defined."""
  model = reference_model(model)
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  forward = jax.make_jaxpr(lambda variables, image: model.apply(variables, image))
  return _count_multiply_adds(forward(abstract_variables(model), image).jaxpr)


def _count_multiply_adds(jaxpr: Any) -> int:
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'conv_general_dilated':
      kernel, output = equation.invars[1].aval, equation.outvars[0].aval
      out_channels = kernel.shape[equation.params['dimension_numbers'].rhs_spec[0]]
      total += math.prod(output.shape) * math.prod(kernel.shape) // out_channels
    elif equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      contracted_size = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
      total += math.prod(equation.outvars[0].aval.shape) * contracted_size
    for value in equation.params.values():  # functions called, such as those under jit
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += _count_multiply_adds(inner)
  return total
