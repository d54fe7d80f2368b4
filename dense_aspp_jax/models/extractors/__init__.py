"""The feature extractors, by name."""

from __future__ import annotations

from typing import Any

from dense_aspp_jax.fields import check_choice, reject
from dense_aspp_jax.models.extractors.convnext import CONVNEXTS
from dense_aspp_jax.models.extractors.densenet import DENSENETS
from dense_aspp_jax.models.extractors.efficientnet_lite import EFFICIENTNET_LITES
from dense_aspp_jax.models.extractors.extractor import Extractor
from dense_aspp_jax.models.extractors.mobilenet_v3 import MOBILENETS

EXTRACTORS: dict[str, Extractor] = {**DENSENETS, **MOBILENETS, **CONVNEXTS, **EFFICIENTNET_LITES}


def create_extractor(
  name: str, *, last_layer: str | None = None, fourth_transition: bool = False, **fields: Any
) -> Extractor:
  """Makes an extractor.

  Args:
    name: A key of `EXTRACTORS`.
    last_layer: Where it is cut; None: nowhere. See `DenseNet` and `EfficientNetLite`.
    fourth_transition: See `DenseNet`.
    fields: Of `Extractor`.

  Raises:
    InputError: A value outside its range, or one that the family does not have.
  """
  check_choice('model.extractor', name, tuple(EXTRACTORS))
  extractor = EXTRACTORS[name]
  for field, value, default in (
    ('last_layer', last_layer, None),
    ('fourth_transition', fourth_transition, False),
  ):
    if hasattr(extractor, field):
      fields[field] = value
    elif value != default:
      reject(f'model.{field}', value, f'{default}, the only choice for {name}')
  return extractor.clone(**fields)
