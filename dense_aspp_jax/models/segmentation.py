"""The segmentation model (extractor, DenseASPP, head) and the options it is created from."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.fields import check, check_bool, check_choice, check_integer, check_number, is_integer
from dense_aspp_jax.models.decoders import LOW_STRIDE, AuxiliaryHead, SkipDecoder
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.fused.gpu_form import FORCED
from dense_aspp_jax.models.layers import IMPLEMENTATIONS, Head, channel_dropout, pad_to_multiple
from dense_aspp_jax.models.upsampling import upsample_bilinear

_MOST = 2**16  # channels of a layer, pixels of a dilation: larger values fit no device
COMPUTE_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}

# The published DenseASPP networks (Yang et al., CVPR 2018; facts from DeepMotionAIResearch/DenseASPP,
# models/DenseASPP.py and cfgs/): what differs from the defaults of `Network`. 19 classes.
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


class Logits(NamedTuple):
  """Float32 logits at feature resolution. Under jit, auxiliary logits that are not read cost nothing.

  Attributes:
    main: One vector per `stride` of the model.
    auxiliary: Those of the auxiliary head, one vector per `auxiliary_stride`; None without that head.
  """

  main: Float[Array, 'b fh fw classes']
  auxiliary: Float[Array, 'b mh mw classes'] | None = None


class SegmentationModel(nn.Module):
  """Maps normalized images of any size to logits.

  Images are padded bottom and right to a multiple of the extractor's stride. Full-size logits are these
  logits upsampled once (bilinear, align_corners=False) and cropped, see `upsample_logits`.

  Attributes:
    extractor: An `Extractor`, or another module that maps images to `Features` and has its `stride`.
    dense_aspp: The cascade on top.
    num_classes: Channels of the logits.
    dropout_rate: Probability that a channel is dropped in front of the head, in training.
    skip_decoder: Joins the features of stride 4 to the cascade's, in front of the head; or None.
    auxiliary_head: Gives the auxiliary logits, from the features of stride 16; or None.
    frozen_extractor: Whether the extractor works in training as in evaluation.
  """

  extractor: nn.Module
  dense_aspp: nn.Module
  num_classes: int
  dropout_rate: float = 0.0
  skip_decoder: nn.Module | None = None
  auxiliary_head: nn.Module | None = None
  frozen_extractor: bool = False

  @property
  def stride(self) -> int:
    """Input pixels per position of the logits."""
    return self.extractor.stride if self.skip_decoder is None else LOW_STRIDE

  @property
  def auxiliary_stride(self) -> int:
    """Input pixels per position of the auxiliary logits."""
    return min(self.extractor.stride, 16)

  def setup(self):
    """Declares the head."""
    self.dropout = channel_dropout(self.dropout_rate)
    implementation = getattr(self.dense_aspp, 'implementation', 'reference')
    self.head = Head(self.num_classes, implementation=implementation)

  def __call__(self, image: Float[Array, 'b h w 3'], train: bool = False) -> Logits:
    """Computes logits.

    Args:
      image: RGB, normalized by the mean and standard deviation of its preprocessing.
      train: Whether BN uses and updates batch statistics; dropout and stochastic depth, where the network
        has them, draw from the random numbers 'dropout'.
    """
    image = pad_to_multiple(image, self.extractor.stride)
    features = self.extractor(image, train and not self.frozen_extractor)
    x = self.dense_aspp(features.last, train)
    if self.skip_decoder is not None:
      x = self.skip_decoder(x, features.stride4, train)
    x = self.dropout(x, deterministic=not train)

    main = self.head(x)
    if self.auxiliary_head is None:
      return Logits(main)
    return Logits(main, self.auxiliary_head(features.stride16, train))

  def upsample_logits(
    self,
    logits: Float[Array, 'b fh fw classes'],
    image_size: tuple[int, int],
    output_size: tuple[int, int] | None = None,
  ) -> Float[Array, 'b oh ow classes']:
    """Upsamples main logits to the image size, or in the same single step to another size."""
    output_size = output_size or image_size
    return upsample_bilinear(logits, output_size, self.logits_scale(image_size, output_size))

  def logits_scale(self, image_size: tuple[int, int], output_size: tuple[int, int]) -> tuple[float, float]:
    """Output pixels per position of the main logits, vertically and horizontally."""
    return self.stride * output_size[0] / image_size[0], self.stride * output_size[1] / image_size[1]


def with_fields(module: nn.Module, **fields: Any) -> Any:
  """The same network with other values of fields, in each of its parts that have them."""
  values = {name: getattr(module, name) for name in module.__dataclass_fields__}
  changed = {name: value for name, value in fields.items() if name in values}
  parts = {name: with_fields(part, **fields) for name, part in values.items() if isinstance(part, nn.Module)}
  return module.clone(**changed, **parts)


def reference_model(module: nn.Module, *, rematerialize: bool = False) -> Any:
  """The reference implementation of the same network: same variables, every layer a module of its own."""
  return with_fields(module, implementation='reference', rematerialize=rematerialize)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """The section `config.model`: which DenseASPP network.

  The fields that `DenseNet` and `DenseASPP` have too mean what they mean there.

  Attributes:
    extractor: A key of `EXTRACTORS`.
    last_layer: Where the extractor is cut, see `DenseNet` and `EfficientNetLite`; None: nowhere.
    dropout_rate: In training, of the new channels of each atrous layer and in front of the head.
    skip_head: Whether a `SkipDecoder` stands in front of the head, whose logits then have stride 4.
    auxiliary_head: Whether there is an `AuxiliaryHead` for the loss of training.
    compute_dtype: 'float32' or 'bfloat16', for activations. Parameters, BN statistics and logits are float32.
    implementation: 'fused', or 'reference': the same network with the same variables, layer by layer as it
      is defined; slower, for comparison. On an NVIDIA GPU 'fused' runs dense blocks in the best form there
      is; 'fused_mosaic', 'fused_triton' and 'fused_xla' force one, see `gpu_form`.
    rematerialize: Whether the backward pass recomputes blocks and layers instead of reading saved
      activations: less memory, more time. Dense blocks of the fused implementation always do.
  """

  extractor: str
  num_classes: int
  output_stride: int = 8
  last_layer: str | None = None
  fourth_transition: bool = False
  dilation_rates: tuple[int, ...] = (3, 6, 12, 18, 24)
  growth_rate: int = 64
  bottleneck_width: int = 256
  first_norm: bool = True
  final_norm: bool = False
  use_bias: bool = False
  rectify_features: bool = False
  dropout_rate: float = 0.0
  skip_head: bool = False
  auxiliary_head: bool = False
  compute_dtype: str = 'float32'
  implementation: str = 'fused'
  rematerialize: bool = False

  def __post_init__(self):
    """Checks the values, but for those of the extractor. Raises InputError."""
    check_integer('model.num_classes', self.num_classes, 1, _MOST)
    rates = self.dilation_rates
    holds = isinstance(rates, tuple | list) and all(is_integer(rate, 1, _MOST) for rate in rates)
    check('model.dilation_rates', rates, holds, f'integers, 1 to {_MOST}, or (): no cascade')
    object.__setattr__(self, 'dilation_rates', tuple(rates))
    check_integer('model.growth_rate', self.growth_rate, 1, _MOST)
    check_integer('model.bottleneck_width', self.bottleneck_width, 0, _MOST)
    for field in dataclasses.fields(self):
      if isinstance(field.default, bool):
        check_bool(f'model.{field.name}', getattr(self, field.name))
    check_number('model.dropout_rate', self.dropout_rate, at_least=0, below=1)
    check_choice('model.compute_dtype', self.compute_dtype, tuple(COMPUTE_DTYPES))
    check_choice('model.implementation', self.implementation, (*IMPLEMENTATIONS, *FORCED))

  def create(self, frozen_extractor: bool = False) -> SegmentationModel:
    """Makes the network.

    Args:
      frozen_extractor: Whether training leaves the extractor as it is.

    Raises:
      InputError: A value that the extractor does not take, or that a head does not go with.
    """
    dtype = COMPUTE_DTYPES[self.compute_dtype]
    heads = {'dtype': dtype, 'implementation': self.implementation}
    shared = {**heads, 'rematerialize': self.rematerialize}
    extractor = create_extractor(
      self.extractor,
      output_stride=self.output_stride,
      last_layer=self.last_layer,
      fourth_transition=self.fourth_transition,
      **shared,
    )
    if (self.skip_head or self.auxiliary_head) and self.last_layer in ('denseblock2', 'transition2'):
      raise InputError(
        f'config.model.last_layer = {self.last_layer!r} with config.model.skip_head = {self.skip_head}, '
        f'config.model.auxiliary_head = {self.auxiliary_head}: these need dense block 3; set neither, or '
        'another last_layer'
      )
    return SegmentationModel(
      extractor=extractor,
      dense_aspp=DenseASPP(
        dilation_rates=self.dilation_rates,
        growth_rate=self.growth_rate,
        bottleneck_width=self.bottleneck_width,
        first_norm=self.first_norm,
        final_norm=self.final_norm,
        use_bias=self.use_bias,
        rectify_features=self.rectify_features,
        dropout_rate=self.dropout_rate,
        **shared,
      ),
      num_classes=self.num_classes,
      dropout_rate=self.dropout_rate,
      skip_decoder=SkipDecoder(**heads) if self.skip_head else None,
      auxiliary_head=AuxiliaryHead(self.num_classes, self.dropout_rate, **heads)
      if self.auxiliary_head
      else None,
      frozen_extractor=frozen_extractor,
    )


def create_model(**fields: Any) -> SegmentationModel:
  """Makes the network of a section `config.model`. Raises InputError for a value that is not allowed."""
  return Network(**fields).create()
