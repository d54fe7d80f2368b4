"""The segmentation model: extractor, DenseASPP, head, bilinear upsampling; and how it is made."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.decoders import LOW_STRIDE, AuxiliaryHead, Levels, SkipDecoder
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.dtypes import accumulation_dtype
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.layers import channel_dropout, pad_to_multiple, upsample_bilinear

COMPUTE_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}

# The published DenseASPP networks (Yang et al., CVPR 2018; facts from DeepMotionAIResearch/DenseASPP,
# models/DenseASPP.py and cfgs/): what differs from `create_model`'s defaults. 19 classes.
_PAPER = dict(
  num_classes=19,
  fourth_transition=True,
  first_norm=False,
  use_bias=True,
  rectify_features=True,
  dropout_rate=0.1,
)
PAPER_MODELS: dict[str, dict[str, Any]] = {
  'denseaspp121': dict(_PAPER, extractor='densenet121', growth_rate=64, bottleneck_width=128),
  'denseaspp161': dict(_PAPER, extractor='densenet161', growth_rate=128, bottleneck_width=512),
  'denseaspp169': dict(_PAPER, extractor='densenet169', growth_rate=168, bottleneck_width=336),
  'denseaspp201': dict(_PAPER, extractor='densenet201', growth_rate=240, bottleneck_width=480),
}


class SegmentationModel(nn.Module):
  """Maps normalised images of any size to float32 logits.

  Images are padded bottom and right to a multiple of the extractor's stride; the logits, one vector
  per feature-map pixel, are upsampled once (bilinear, align_corners=False) and cropped.

  Attributes:
    extractor: Maps `[b, h, w, 3]` to features; its `stride` is input pixels per feature pixel.
    dense_aspp: The cascade on top.
    num_classes: Channels of the logits.
    dropout_rate: Probability that a channel is dropped in front of the head, in training.
    skip_decoder: Joins the features of stride 4 to the cascade's, in front of the head; or None.
    auxiliary_head: Gives `training_logits` its second logits; or None.
  """

  extractor: nn.Module
  dense_aspp: nn.Module
  num_classes: int
  dropout_rate: float = 0.0
  skip_decoder: nn.Module | None = None
  auxiliary_head: nn.Module | None = None

  @property
  def stride(self) -> int:
    """Input pixels per position of `feature_logits`."""
    return self.extractor.stride if self.skip_decoder is None else LOW_STRIDE

  @property
  def auxiliary_stride(self) -> int:
    """Input pixels per position of the auxiliary head's logits."""
    return min(self.extractor.stride, 16)

  def setup(self):
    """Makes the head."""
    self.dropout = channel_dropout(self.dropout_rate)
    # In float32 whatever the compute type: logits decide the arg max.
    fast = getattr(self.dense_aspp, 'formulation', 'plain') == 'fast'
    self.head = nn.Conv(self.num_classes, (1, 1), conv_general_dilated=_matrix_product if fast else None)

  def __call__(
    self,
    image: Float[Array, 'b h w 3'],
    train: bool = False,
    output_size: tuple[int, int] | None = None,
  ) -> Float[Array, 'b oh ow classes']:
    """Computes logits.

    Args:
      image: RGB with the mean and standard deviation of its preprocessing taken out.
      train: Whether BN uses and updates batch statistics; dropout and stochastic depth, where the network
        has them, draw from the random numbers 'dropout'.
      output_size: Height and width of the logits; by default the image's. Another size (the label's
        native one) is reached by the same single upsampling.

    Returns:
      float32 logits at `output_size`.
    """
    output_size = output_size or image.shape[1:3]
    return upsample_bilinear(
      self.feature_logits(image, train), output_size, self.logits_scale(image.shape[1:3], output_size)
    )

  def feature_logits(
    self, image: Float[Array, 'b h w 3'], train: bool = False
  ) -> Float[Array, 'b fh fw classes']:
    """Computes float32 logits, one vector per `stride`; what follows is bilinear upsampling alone."""
    levels = self._levels(image, train)
    if self.auxiliary_head is not None and self.is_initializing():
      self.auxiliary_head(levels.middle, train)  # makes its variables
    return self._logits(levels, train)

  def training_logits(
    self, image: Float[Array, 'b h w 3']
  ) -> tuple[Float[Array, 'b fh fw classes'], Float[Array, 'b mh mw classes']]:
    """`feature_logits` in training, and those of the auxiliary head, one vector per `auxiliary_stride`."""
    levels = self._levels(image, True)
    return self._logits(levels, True), self.auxiliary_head(levels.middle, True)

  def _levels(self, image: Float[Array, 'b h w 3'], train: bool) -> Levels:
    image = pad_to_multiple(image, self.extractor.stride)
    if self.skip_decoder is None and self.auxiliary_head is None:
      features = self.extractor(image, train)
      return Levels(features, features, features)  # nobody reads the first two
    return self.extractor(image, train, levels=True)

  def _logits(self, levels: Levels, train: bool) -> Float[Array, 'b fh fw classes']:
    features = self.dense_aspp(levels.features, train)
    if self.skip_decoder is not None:
      features = self.skip_decoder(features, levels.low, train)
    features = self.dropout(features, deterministic=not train)

    def head(self: SegmentationModel, features: jax.Array) -> jax.Array:
      return self.head(features.astype(accumulation_dtype(features.dtype)))

    return nn.remat(head)(self, features)  # the backward pass keeps the features in their own type

  def logits_scale(self, image_size: tuple[int, int], output_size: tuple[int, int]) -> tuple[float, float]:
    """Output pixels per position of `feature_logits`, vertically and horizontally."""
    return self.stride * output_size[0] / image_size[0], self.stride * output_size[1] / image_size[1]


def _matrix_product(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
  """A 1x1 convolution, for nn.Conv; on a CPU XLA takes more than twice as long for it as a convolution."""
  return jax.lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


def plain_model(model: SegmentationModel, *, rematerialize: bool = False) -> SegmentationModel:
  """The same network in its plain formulation: same variables, every layer a module of its own.

  An extractor that is none of `EXTRACTORS` is left as it is.
  """

  def plain(part: nn.Module) -> nn.Module:
    fields = {'formulation': 'plain', 'rematerialize': rematerialize}
    return part.clone(**fields) if hasattr(part, 'formulation') else part

  return model.clone(extractor=plain(model.extractor), dense_aspp=plain(model.dense_aspp))


def create_model(
  *,
  extractor: str,
  num_classes: int,
  output_stride: int = 8,
  last_layer: str | None = None,
  fourth_transition: bool = False,
  dilation_rates: tuple[int, ...] = (3, 6, 12, 18, 24),
  growth_rate: int = 64,
  bottleneck_width: int = 256,
  first_norm: bool = True,
  final_norm: bool = False,
  use_bias: bool = False,
  rectify_features: bool = False,
  dropout_rate: float = 0.0,
  skip_head: bool = False,
  auxiliary_head: bool = False,
  compute_dtype: str = 'float32',
  formulation: str = 'fast',
  rematerialize: bool = False,
) -> SegmentationModel:
  """Makes a DenseASPP network; the arguments are the fields of `config.model`.

  Args:
    extractor: A key of `EXTRACTORS`.
    num_classes: Number of classes.
    output_stride: 8, 16 or 32, see `create_extractor`.
    last_layer: Where the extractor is cut, see `create_extractor`.
    fourth_transition: See `DenseNet`.
    dilation_rates: See `DenseASPP`.
    growth_rate: See `DenseASPP`.
    bottleneck_width: See `DenseASPP`.
    first_norm: See `DenseASPP`.
    final_norm: See `DenseASPP`.
    use_bias: See `DenseASPP`.
    rectify_features: See `DenseASPP`.
    dropout_rate: In training, of the new channels of each atrous layer and in front of the head.
    skip_head: Whether a `SkipDecoder` stands in front of the head, whose logits then have stride 4.
    auxiliary_head: Whether there is an `AuxiliaryHead` for the loss of training.
    compute_dtype: 'float32' or 'bfloat16', for activations. Parameters, BN statistics and logits are float32.
    formulation: 'fast', or 'plain': the same network with the same variables, layer by layer as it is
      defined; slower, for comparison.
    rematerialize: Whether the backward pass computes blocks and layers again instead of reading what the
      forward pass saved: less memory, more time. Dense blocks of the fast formulation do so in any case.

  Raises:
    InputError: A value outside its range, with the field's name.
  """
  if compute_dtype not in COMPUTE_DTYPES:
    raise InputError(f'model.compute_dtype = {compute_dtype!r}: expected one of {", ".join(COMPUTE_DTYPES)}')
  if num_classes < 1:
    raise InputError(f'model.num_classes = {num_classes}: expected at least 1')
  dtype = COMPUTE_DTYPES[compute_dtype]
  backbone = create_extractor(
    extractor,
    output_stride=output_stride,
    last_layer=last_layer,
    fourth_transition=fourth_transition,
    dtype=dtype,
    formulation=formulation,
    rematerialize=rematerialize,
  )
  if (skip_head or auxiliary_head) and not getattr(backbone, 'has_middle', True):
    raise InputError(
      f'model.last_layer = {last_layer!r} with model.skip_head = {skip_head}, model.auxiliary_head = '
      f'{auxiliary_head}: these need dense block 3; set neither, or another last_layer'
    )
  return SegmentationModel(
    extractor=backbone,
    dense_aspp=DenseASPP(
      dilation_rates=tuple(dilation_rates),
      growth_rate=growth_rate,
      bottleneck_width=bottleneck_width,
      first_norm=first_norm,
      final_norm=final_norm,
      use_bias=use_bias,
      rectify_features=rectify_features,
      dropout_rate=dropout_rate,
      dtype=dtype,
      formulation=formulation,
      rematerialize=rematerialize,
    ),
    num_classes=num_classes,
    dropout_rate=dropout_rate,
    skip_decoder=SkipDecoder(dtype=dtype) if skip_head else None,
    auxiliary_head=AuxiliaryHead(num_classes, dropout_rate, dtype) if auxiliary_head else None,
  )
