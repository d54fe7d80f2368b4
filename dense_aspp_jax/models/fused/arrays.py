"""What a dense block and its operations take and return."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dense_aspp_jax.models.fused.statistics import Affine, Moments

Maps = Float[Array, 'n h w _']
Kernel = Float[Array, '...']
Mask = Bool[Array, 'n h w'] | None
# Of the gradient g of affine(x), over all positions: sum g, and sum g (x - mean).
Sums = tuple[Float[Array, ' _'], Float[Array, ' _']]

# Row and column of each tap of a 3x3 kernel, from its middle.
TAPS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))


class DenseLayerArrays(NamedTuple):
  """The arrays of one layer: [BN]-ReLU-1x1-BN-ReLU-3x3, or [BN]-ReLU-3x3.

  A BN is its scale and bias in training, which has the batch's statistics, and an `Affine` in inference.
  `inference_arrays` lays the layer out for a device; an affine map may then be one array `[3, c]`.

  Attributes:
    norm1: The first BN; None: there is none.
    kernel1: 1x1 kernel; None: there is no 1x1. A bias in front of a BN changes nothing in training and is
      part of the affine map in inference.
    norm2: The second BN; None without a 1x1.
    kernel2: 3x3 kernel.
    bias2: Bias of the 3x3; None: there is none.
    dropout_mask: Factor of each new channel of each image; None: no dropout. Gets no gradient.
  """

  norm1: tuple[Float[Array, ' cin'], Float[Array, ' cin']] | Affine | None
  kernel1: Float[Array, 'cin ci'] | None
  norm2: tuple[Float[Array, ' ci'], Float[Array, ' ci']] | Affine | None
  kernel2: Float[Array, '3 3 ci k']
  bias2: Float[Array, ' k'] | None = None
  dropout_mask: Float[Array, 'b 1 1 k'] | None = None


class DenseBlockPlan(NamedTuple):
  """The static structure of a block.

  Attributes:
    dilations: Of each layer's 3x3 convolution, in the layout that it runs in.
    phases: The block runs on phases x phases images, see `space_to_batch`; 1: on the images as they are.
    gpu: The form of `gpu_form` that an NVIDIA GPU runs.
    group: So many layers visit the channels in front of them together in the backward pass.
    on_gpu: Whether an NVIDIA GPU is traced for: the arrays of inference are then laid out for it.
  """

  dilations: tuple[int, ...]
  phases: int = 1
  gpu: str = 'xla'
  group: int = 1
  on_gpu: bool = False


class Saved(NamedTuple):
  """What the backward pass needs: the buffer, its moments, the bottlenecks, theirs, and their BNs."""

  features: Float[Array, 'n h2 w2 c2']
  feature_moments: Moments
  bottlenecks: list[Float[Array, 'n h2 w2 ci'] | None]
  bottleneck_moments: list[Moments | None]
  bottleneck_affines: list[Affine | None]


def masked(x: Array, mask: Mask) -> Array:
  """0 where the mask does not hold."""
  return x if mask is None else jnp.where(mask[..., None], x, 0)


def mask_by_phase(layer: DenseLayerArrays, phases: int) -> Array:
  """The layer's dropout mask in the layout of `space_to_batch`."""
  return jnp.tile(layer.dropout_mask, (phases**2, 1, 1, 1))
