"""Whole-image prediction: the one path that evaluate, predict and the analyses share."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import UInt8

from dense_aspp_jax.datasets.augmentation import normalize
from dense_aspp_jax.datasets.cache import network_size
from dense_aspp_jax.datasets.images import resize_image


def predict_image(
  model: nn.Module,
  variables: Mapping[str, Any],
  image: UInt8[jax.Array, 'h w 3'],
  *,
  output_size: tuple[int, int],
  mean: tuple[float, ...],
  std: tuple[float, ...],
) -> UInt8[jax.Array, 'oh ow']:
  """Predicts one image: logits upsampled once to `output_size`, then arg max.

  Args:
    model: The segmentation model.
    variables: Its 'params' and 'batch_stats'.
    image: RGB at the network's input size.
    output_size: Height and width of the prediction.
    mean: RGB in 0..1.
    std: RGB in 0..1.

  Returns:
    Class indices.
  """
  normalized = normalize(image[None].astype(jnp.float32), mean, std)
  logits = model.apply(variables, normalized, train=False, output_size=output_size)
  return jnp.argmax(logits[0], axis=-1).astype(jnp.uint8)


class Predictor:
  """A network ready to predict, on all devices of this process.

  Images are computed one by one, so that a prediction does not depend on the batch it came in: not on
  its size, its order or the number of devices.

  Attributes:
    image_size: Height and width the network was trained at; see `network_size`.
    keep_aspect: See `network_size`.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    keep_aspect: bool = True,
  ):
    self.image_size = tuple(image_size)
    self.keep_aspect = keep_aspect
    self._mesh = Mesh(np.array(jax.local_devices()), ('data',))
    self._variables = jax.device_put(
      jax.tree.map(_local_copy, dict(variables)), NamedSharding(self._mesh, P())
    )
    predict_one = functools.partial(predict_image, model, mean=tuple(mean), std=tuple(std))

    @functools.partial(jax.jit, static_argnames='output_size')
    def predict_batch(variables, images, output_size):
      def predict_local(variables, images):
        return jax.lax.map(lambda image: predict_one(variables, image, output_size=output_size), images)

      shard = jax.shard_map(
        predict_local, mesh=self._mesh, in_specs=(P(), P('data')), out_specs=P('data'), check_vma=False
      )
      return shard(variables, images)

    self._predict_batch = predict_batch

  def update(self, variables: Mapping[str, Any]) -> None:
    """Takes other variables of the same shapes, without compiling again."""
    self._variables = jax.device_put(
      jax.tree.map(_local_copy, dict(variables)), NamedSharding(self._mesh, P())
    )

  def predict_batch(
    self, images: UInt8[np.ndarray, 'b h w 3'], output_size: tuple[int, int]
  ) -> UInt8[np.ndarray, 'b oh ow']:
    """Predicts images that have the network's input size already; class indices at `output_size`."""
    count = len(images)
    missing = -count % self._mesh.size
    padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images
    images = jax.device_put(padded, NamedSharding(self._mesh, P('data')))
    return np.asarray(self._predict_batch(self._variables, images, output_size))[:count]

  def predict(self, image: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 'h w']:
    """Predicts an RGB image of any size at its own size.

    The image is resized to the training resolution (`network_size`: the same number of pixels where
    the aspect ratio differs); each new size costs a compilation.

    Returns:
      Class indices.
    """
    size = image.shape[:2]
    resized = resize_image(image, network_size(size, self.image_size, self.keep_aspect))
    return self.predict_batch(resized[None], size)[0]


def _local_copy(x: Any) -> Any:
  """The value of an array that is replicated over the devices of all processes."""
  return x.addressable_data(0) if isinstance(x, jax.Array) else x
