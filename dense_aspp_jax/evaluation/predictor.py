"""Whole-image prediction: the one path that evaluate, predict and the analyses share."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import UInt8

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.models.upsampling import upsampled_argmax


def predict_images(
  model: SegmentationModel,
  variables: Mapping[str, Any],
  images: UInt8[jax.Array, 'b h w 3'],
  *,
  output_size: tuple[int, int],
  preprocessing: Preprocessing,
) -> UInt8[jax.Array, 'b oh ow']:
  """Class indices of RGB images at the network's input size: logits upsampled once, then arg max."""
  logits = model.apply(variables, preprocessing.normalize(images)).main
  return upsampled_argmax(logits, output_size, model.logits_scale(images.shape[1:3], output_size))


class BatchPredictor(abc.ABC):
  """What predicts the batches of an evaluation.

  Attributes:
    preprocessing: Size and normalization of the network's input.
    takes_padding: Whether black images may fill a batch up, so that one compilation serves a whole split.
  """

  preprocessing: Preprocessing
  takes_padding = False

  @abc.abstractmethod
  def predict_batch(
    self, images: UInt8[np.ndarray, 'b h w 3'], output_size: tuple[int, int]
  ) -> UInt8[np.ndarray, 'b oh ow']:
    """Predicts RGB images that have the network's input size already; class indices at `output_size`."""

  def predict(self, image: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 'h w']:
    """Predicts an RGB image of any size: class indices at its own size.

    The image is resized to `Preprocessing.input_size`; each new size costs a compilation.
    """
    size = image.shape[:2]
    resized = resize_image(image, self.preprocessing.input_size(size))
    return self.predict_batch(resized[None], size)[0]


class Predictor(BatchPredictor):
  """A network ready to predict, on all devices of this process.

  Each device computes images in groups of one size, so that a prediction does not depend on the batch it
  came in: not on its size, its order or the number of devices.

  Attributes:
    model: The network.
    mesh: The devices of this process, along one axis.
    step: `step(variables, images, output_size)` under jit; images as `place` gives them.
    variables: On all devices.
  """

  takes_padding = True

  def __init__(self, model: SegmentationModel, variables: Mapping[str, Any], preprocessing: Preprocessing):
    self.model = model
    self.preprocessing = preprocessing
    self.mesh = Mesh(np.array(jax.local_devices()), ('data',))
    self.update(variables)
    # Images that a device computes at once: one fills the cores of a CPU, a GPU or TPU takes several.
    together = 1 if jax.default_backend() == 'cpu' else 8
    self._call_size = together * self.mesh.size
    predict = functools.partial(predict_images, model, preprocessing=preprocessing)
    self.step = step_on_devices(predict, self.mesh, together)

  def update(self, variables: Mapping[str, Any]) -> None:
    """Takes other variables of the same shapes, without compiling again."""

    def local(x: Any) -> Any:  # of an array that is replicated over the devices of all processes
      return x.addressable_data(0) if isinstance(x, jax.Array) else x

    self.variables = jax.device_put(jax.tree.map(local, dict(variables)), NamedSharding(self.mesh, P()))

  def predict_batch(
    self, images: UInt8[np.ndarray, 'b h w 3'], output_size: tuple[int, int]
  ) -> UInt8[np.ndarray, 'b oh ow']:
    """Spreads the images over the devices; see `BatchPredictor`."""
    return np.asarray(self.step(self.variables, self.place(images), output_size))[: len(images)]

  def place(self, images: UInt8[np.ndarray, 'b h w 3']) -> UInt8[jax.Array, 'padded h w 3']:
    """Spreads images over the devices, filled up with black ones to what the devices compute at once."""
    return place_on_devices(images, self.mesh, self._call_size)


def step_on_devices(predict: Callable[..., jax.Array], mesh: Mesh, together: int) -> Callable[..., jax.Array]:
  """Makes `step(variables, images, output_size)` under jit, images spread over devices.

  Args:
    predict: `predict(variables, images, output_size=...)`, class indices of `together` images.
    mesh: Of one axis, 'data'.
    together: Images that a device computes at once, one group after another.

  Returns:
    The step. Its images are an array, or a tuple of arrays of equal length, as `place_on_devices` gives them.
  """

  @functools.partial(jax.jit, static_argnames='output_size')
  def predict_batch(variables, images, output_size):
    def predict_local(variables, images):
      groups = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), images)
      predictions = jax.lax.map(lambda group: predict(variables, group, output_size=output_size), groups)
      return predictions.reshape(-1, *output_size)

    shard = jax.shard_map(
      predict_local, mesh=mesh, in_specs=(P(), P('data')), out_specs=P('data'), check_vma=False
    )
    return shard(variables, images)

  return predict_batch


def place_on_devices(
  images: UInt8[np.ndarray, 'b h w 3'], mesh: Mesh, multiple: int
) -> UInt8[jax.Array, 'padded h w 3']:
  """Spreads images over devices, filled up with black ones to a multiple of `multiple`."""
  missing = -len(images) % multiple
  if missing:
    images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
  return jax.device_put(images, NamedSharding(mesh, P('data')))
