"""The feature extractors, by name."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from dense_aspp_jax.fields import check, check_bool, check_choice, reject
from dense_aspp_jax.models.extractors.convnext import CONVNEXTS, ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DENSENETS, DenseNet
from dense_aspp_jax.models.extractors.efficientnet_lite import EFFICIENTNET_LITES, EfficientNetLite
from dense_aspp_jax.models.extractors.mobilenet_v3 import MOBILENETS, MobileNetV3
from dense_aspp_jax.models.layers import IMPLEMENTATIONS

# Name -> class, and the fields that make this member of its family.
EXTRACTORS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  'densenet121': (DenseNet, DENSENETS['densenet121']),
  'densenet161': (DenseNet, DENSENETS['densenet161']),
  'densenet169': (DenseNet, DENSENETS['densenet169']),
  'densenet201': (DenseNet, DENSENETS['densenet201']),
  'densenet_small': (DenseNet, DENSENETS['densenet_small']),
  'densenet_tiny': (DenseNet, DENSENETS['densenet_tiny']),
  'mobilenet_v3_large': (MobileNetV3, MOBILENETS['mobilenet_v3_large']),
  'mobilenet_v3_small': (MobileNetV3, MOBILENETS['mobilenet_v3_small']),
  'convnext_tiny': (ConvNeXt, CONVNEXTS['convnext_tiny']),
  'convnext_small': (ConvNeXt, CONVNEXTS['convnext_small']),
  'convnext_base': (ConvNeXt, CONVNEXTS['convnext_base']),
  'efficientnet_lite0': (EfficientNetLite, EFFICIENTNET_LITES['efficientnet_lite0']),
  'efficientnet_lite1': (EfficientNetLite, EFFICIENTNET_LITES['efficientnet_lite1']),
  'efficientnet_lite2': (EfficientNetLite, EFFICIENTNET_LITES['efficientnet_lite2']),
}


def create_extractor(
  name: str,
  *,
  output_stride: int = 8,
  last_layer: str | None = None,
  fourth_transition: bool = False,
  dtype: DTypeLike = jnp.float32,
  implementation: str = 'fused',
  rematerialize: bool = False,
) -> nn.Module:
  """Makes an extractor: a module that maps `[b, h, w, 3]` to `Features` and knows its `stride`.

  Args:
    name: A key of `EXTRACTORS`.
    output_stride: 8, 16 or 32.
    last_layer: Where it is cut; None: nowhere. See `DenseNet` and `EfficientNetLite`.
    fourth_transition: See `DenseNet`.
    dtype: Compute type.
    implementation: One of `IMPLEMENTATIONS`.
    rematerialize: Whether the backward pass recomputes blocks instead of reading saved activations.

  Raises:
    InputError: A value outside its range, or one that the family does not have.
  """
  check_choice('model.extractor', name, tuple(EXTRACTORS))
  check('model.output_stride', output_stride, output_stride in (8, 16, 32), '8, 16 or 32')
  check_bool('model.fourth_transition', fourth_transition)
  check_choice('model.implementation', implementation, IMPLEMENTATIONS)
  check_bool('model.rematerialize', rematerialize)
  family, fields = EXTRACTORS[name]
  fields = dict(fields)
  for field, value, default in (
    ('last_layer', last_layer, None),
    ('fourth_transition', fourth_transition, False),
  ):
    if field in family.__dataclass_fields__:
      fields[field] = value
    elif value != default:
      reject(f'model.{field}', value, f'{default}, the only choice for {name}')
  return family(
    **fields,
    output_stride=output_stride,
    dtype=dtype,
    implementation=implementation,
    rematerialize=rematerialize,
  )
