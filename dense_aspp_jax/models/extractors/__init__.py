"""All feature extractors by name, and the ImageNet classifiers that they come from."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.dtypes import DType
from dense_aspp_jax.models.extractors import convnext
from dense_aspp_jax.models.extractors.convnext import CONVNEXTS, ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DENSENETS, DenseNet
from dense_aspp_jax.models.extractors.efficientnet_lite import EFFICIENTNET_LITES, EfficientNetLite
from dense_aspp_jax.models.extractors.mobilenet_v3 import MOBILENETS, MobileNetV3

# Name -> the module and the fields that make this member of its family.
EXTRACTORS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  name: (family, fields)
  for family, members in (
    (DenseNet, DENSENETS),
    (MobileNetV3, MOBILENETS),
    (ConvNeXt, CONVNEXTS),
    (EfficientNetLite, EFFICIENTNET_LITES),
  )
  for name, fields in members.items()
}


def create_extractor(
  name: str,
  *,
  output_stride: int = 8,
  last_layer: str | None = None,
  fourth_transition: bool = False,
  dtype: DType = jnp.float32,
  formulation: str = 'fast',
  rematerialize: bool = False,
) -> nn.Module:
  """Makes an extractor: a module that maps `[b, h, w, 3]` to features and knows its `stride`.

  Args:
    name: A key of `EXTRACTORS`.
    output_stride: 8, 16 or 32.
    last_layer: Where it is cut; None: nowhere. See `DenseNet` and `EfficientNetLite`.
    fourth_transition: See `DenseNet`.
    dtype: Compute type.
    formulation: One of `FORMULATIONS`.
    rematerialize: Whether the backward pass computes blocks again instead of reading what was saved.

  Raises:
    InputError: An unknown name, or a value that the family does not take.
  """
  if name not in EXTRACTORS:
    raise InputError(f'model.extractor = {name!r}: expected one of {", ".join(EXTRACTORS)}')
  family, fields = EXTRACTORS[name]
  given = {'last_layer': last_layer, 'fourth_transition': fourth_transition}
  taken = {field: value for field, value in given.items() if field in family.__dataclass_fields__}
  for field in given.keys() - taken.keys():
    if given[field]:
      raise InputError(
        f'model.{field} = {given[field]!r}: {name} has no such choice; leave the field at its default'
      )
  return family(
    **fields,
    **taken,
    output_stride=output_stride,
    dtype=dtype,
    formulation=formulation,
    rematerialize=rematerialize,
  )


class ClassificationHead(nn.Module):
  """What stands between an extractor's features and ImageNet's logits.

  Attributes:
    num_classes: Channels of the logits.
    rectify: Whether the features are rectified first (DenseNet).
    norm: Whether the mean is normalised (ConvNeXt).
    hidden: Channels of a linear layer with hard swish in between; 0: there is none (MobileNetV3 has one).
  """

  num_classes: int
  rectify: bool = False
  norm: bool = False
  hidden: int = 0

  @nn.compact
  def __call__(self, features: Float[Array, 'b h w c']) -> Float[Array, 'b classes']:
    """Computes logits from the mean over all positions."""
    x = jnp.mean(nn.relu(features) if self.rectify else features, axis=(1, 2))
    if self.norm:
      x = nn.LayerNorm(epsilon=convnext.EPSILON, use_fast_variance=False, name='norm')(x)
    if self.hidden:
      x = nn.hard_swish(nn.Dense(self.hidden, name='hidden')(x))
    return nn.Dense(self.num_classes, name='linear')(x)


class ImageNetClassifier(nn.Module):
  """The network that an extractor's weights were trained in, to check them with.

  Attributes:
    extractor: At output stride 32.
    head: On top of it.
  """

  extractor: nn.Module
  head: nn.Module

  def __call__(self, image: Float[Array, 'b h w 3']) -> Float[Array, 'b classes']:
    """Maps normalised images to logits, in evaluation mode."""
    return self.head(self.extractor(image, False))


def create_classifier(extractor: nn.Module, num_classes: int = 1000) -> ImageNetClassifier:
  """Puts the head of its family's source on an extractor."""
  fields: dict[str, Any] = {}
  if isinstance(extractor, DenseNet):
    fields = {'rectify': True}
  elif isinstance(extractor, ConvNeXt):
    fields = {'norm': True}
  elif isinstance(extractor, MobileNetV3):
    fields = {'hidden': extractor.classifier_channels}
  return ImageNetClassifier(extractor, ClassificationHead(num_classes, **fields))
