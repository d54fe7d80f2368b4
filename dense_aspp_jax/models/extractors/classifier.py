"""The ImageNet classifiers that the extractors come from."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.models.extractors import convnext
from dense_aspp_jax.models.extractors.convnext import ConvNeXt
from dense_aspp_jax.models.extractors.densenet import DenseNet
from dense_aspp_jax.models.extractors.extractor import Extractor
from dense_aspp_jax.models.extractors.mobilenet_v3 import MobileNetV3


class ClassificationHead(nn.Module):
  """From an extractor's features to ImageNet's logits.

  Attributes:
    num_classes: Channels of the logits.
    rectify: Whether the features are rectified first (DenseNet).
    norm: Whether the mean is normalized (ConvNeXt).
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
  """The network that an extractor's weights were trained in, to check them with; at output stride 32."""

  extractor: Extractor
  head: nn.Module

  def __call__(self, image: Float[Array, 'b h w 3']) -> Float[Array, 'b classes']:
    """Maps normalized images to logits, in evaluation mode."""
    return self.head(self.extractor(image, False).last)


def create_classifier(extractor: Extractor, num_classes: int = 1000) -> ImageNetClassifier:
  """Puts the head of its family's source on an extractor."""
  fields: dict[str, Any] = {}
  if isinstance(extractor, DenseNet):
    fields = {'rectify': True}
  elif isinstance(extractor, ConvNeXt):
    fields = {'norm': True}
  elif isinstance(extractor, MobileNetV3):
    fields = {'hidden': extractor.classifier_channels}
  return ImageNetClassifier(extractor, ClassificationHead(num_classes, **fields))
