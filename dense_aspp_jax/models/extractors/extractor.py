"""What all feature extractors have in common."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dense_aspp_jax.fields import check
from dense_aspp_jax.models.layers import Features


class Extractor(nn.Module, kw_only=True):
  """Maps images of any size to `Features`.

  Strides beyond the output stride become dilation, see `strides_and_dilations`: no parameter depends on it.
  Parameters and statistics are float32.

  Attributes:
    output_stride: 8, 16 or 32; 32 is the network as defined for ImageNet.
    implementation: One of `IMPLEMENTATIONS`.
    rematerialize: Whether the backward pass recomputes blocks instead of reading saved activations. Dense
      blocks of the fused implementation always do.
  """

  output_stride: int = 8
  dtype: DTypeLike = jnp.float32
  implementation: str = 'fused'
  rematerialize: bool = False

  def __post_init__(self):
    check('model.output_stride', self.output_stride, self.output_stride in (8, 16, 32), '8, 16 or 32')
    super().__post_init__()

  @property
  def stride(self) -> int:
    """Input pixels per pixel of the last features."""
    return self.output_stride

  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Features:
    """Maps images to features.

    Args:
      image: RGB, normalized by the mean and standard deviation that the weights were trained with.
      train: Whether BN uses and updates batch statistics (collection 'batch_stats') and blocks are left out
        at random (random numbers 'dropout'), in families that have them.
    """
    raise NotImplementedError
