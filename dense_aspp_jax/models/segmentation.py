"""The segmentation model: extractor, DenseASPP, head, bilinear upsampling; and how it is made."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.densenet import DENSENETS, DenseNet
from dense_aspp_jax.models.layers import pad_to_multiple, upsample_bilinear

COMPUTE_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class SegmentationModel(nn.Module):
  """Maps normalised images of any size to float32 logits.

  Images are padded bottom and right to a multiple of the extractor's stride; the logits, one vector
  per feature-map pixel, are upsampled once (bilinear, align_corners=False) and cropped.

  Attributes:
    extractor: Maps `[b, h, w, 3]` to features; its `stride` is input pixels per feature pixel.
    dense_aspp: The cascade on top.
    num_classes: Channels of the logits.
  """

  extractor: nn.Module
  dense_aspp: nn.Module
  num_classes: int

  def setup(self):
    """Makes the head."""
    # In float32 whatever the compute type: logits decide the arg max.
    self.head = nn.Conv(self.num_classes, (1, 1))

  def __call__(
    self,
    image: Float[Array, 'b h w 3'],
    train: bool = False,
    output_size: tuple[int, int] | None = None,
  ) -> Float[Array, 'b oh ow classes']:
    """Computes logits.

    Args:
      image: RGB with the mean and standard deviation of its preprocessing taken out.
      train: Whether BN uses and updates batch statistics.
      output_size: Height and width of the logits; by default the image's. Another size (the label's
        native one) is reached by the same single upsampling.

    Returns:
      float32 logits at `output_size`.
    """
    size = image.shape[1:3]
    output_size = output_size or size
    features = self.extractor(pad_to_multiple(image, self.extractor.stride), train)
    logits = self.head(self.dense_aspp(features, train).astype(jnp.float32))
    scale = tuple(self.extractor.stride * out / n for out, n in zip(output_size, size, strict=True))
    return upsample_bilinear(logits, output_size, scale)


def create_model(
  *,
  extractor: str,
  num_classes: int,
  output_stride: int = 8,
  last_layer: str = 'norm5',
  dilation_rates: tuple[int, ...] = (3, 6, 12, 18, 24),
  growth_rate: int = 64,
  bottleneck_width: int = 256,
  first_norm: bool = True,
  final_norm: bool = False,
  compute_dtype: str = 'float32',
) -> SegmentationModel:
  """Makes a DenseASPP network; the arguments are the fields of `config.model`.

  Args:
    extractor: A key of `DENSENETS`.
    num_classes: Number of classes.
    output_stride: 8, 16 or 32, see `DenseNet`.
    last_layer: Where the extractor ends, see `DenseNet`.
    dilation_rates: See `DenseASPP`.
    growth_rate: See `DenseASPP`.
    bottleneck_width: See `DenseASPP`.
    first_norm: See `DenseASPP`.
    final_norm: See `DenseASPP`.
    compute_dtype: 'float32' or 'bfloat16', for activations. Parameters, BN statistics and logits are float32.

  Raises:
    InputError: A value outside its range, with the field's name.
  """
  if extractor not in DENSENETS:
    raise InputError(f'model.extractor = {extractor!r}: expected one of {", ".join(DENSENETS)}')
  if compute_dtype not in COMPUTE_DTYPES:
    raise InputError(f'model.compute_dtype = {compute_dtype!r}: expected one of {", ".join(COMPUTE_DTYPES)}')
  if num_classes < 1:
    raise InputError(f'model.num_classes = {num_classes}: expected at least 1')
  dtype = COMPUTE_DTYPES[compute_dtype]
  return SegmentationModel(
    extractor=DenseNet(
      **DENSENETS[extractor], output_stride=output_stride, last_layer=last_layer, dtype=dtype
    ),
    dense_aspp=DenseASPP(
      dilation_rates=tuple(dilation_rates),
      growth_rate=growth_rate,
      bottleneck_width=bottleneck_width,
      first_norm=first_norm,
      final_norm=final_norm,
      dtype=dtype,
    ),
    num_classes=num_classes,
  )
