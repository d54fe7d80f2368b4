"""Whole-image prediction: the one path that evaluate, predict and the analyses share."""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Num, UInt8
from PIL import Image

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.inputs import check_batch, rgb_pixels
from dense_aspp_jax.evaluation.outputs import CLASSES, Upsampling, check_outputs
from dense_aspp_jax.evaluation.programs import Programs
from dense_aspp_jax.models.constants import with_constants
from dense_aspp_jax.models.fused.gpu_form import traced_gpu
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.models.upsampling import upsampled_argmax

# Compiled networks that are kept, one for each input size: with data.keep_aspect, for each aspect ratio.
NETWORKS_KEPT = 32
_EXPECTED_MANY = 'expected an iterable of images, or a batch [n, h, w, 3]'


def image_logits(
  model: SegmentationModel,
  variables: Mapping[str, Any],
  images: UInt8[jax.Array, 'b h w 3'],
  *,
  preprocessing: Preprocessing,
) -> Float[jax.Array, 'b fh fw classes']:
  """Main logits of RGB images at the network's input size."""
  return model.apply(variables, preprocessing.normalize(images)).main


def predict_images(
  model: SegmentationModel,
  variables: Mapping[str, Any],
  images: UInt8[jax.Array, 'b h w 3'],
  *,
  output_size: tuple[int, int],
  preprocessing: Preprocessing,
) -> UInt8[jax.Array, 'b oh ow']:
  """What `Predictor` computes, as one function: logits upsampled once, then arg max."""
  logits = image_logits(model, variables, images, preprocessing=preprocessing)
  return upsampled_argmax(logits, output_size, model.logits_scale(images.shape[1:3], output_size))


class BatchPredictor(abc.ABC):
  """What predicts images of any size, and the batches of an evaluation.

  What `predict` and `predict_many` take as an image, and anything else is an `InputError`:

  | image | becomes RGB, uint8 `[h, w, 3]` |
  |---|---|
  | uint8 `[h, w, 3]` | as it is: channels last, in the order red, green, blue; 0 is black, 255 white |
  | uint8 `[h, w]`, `[h, w, 1]` | grey: three equal channels |
  | uint8 `[h, w, 4]` | RGB and alpha: alpha is dropped, the colour below it kept |
  | uint16 of these shapes | the upper 8 bits, `value >> 8` |
  | anything with `__array__` | as its NumPy array: JAX arrays, tensors on the CPU |
  | PIL image | upright by its EXIF orientation; any mode but I and F; alpha as above |
  | path, `str` or `PathLike` | the file as `dense-aspp predict` reads it |

  The sides have 1 to 65,535 pixels, the image up to 89,478,485.

  What they return, always at the image's own size (upright, where it was turned):

  | outputs | returned |
  |---|---|
  | 'classes' | uint8 `[h, w]`: class indices, the first of equal ones |
  | 'probabilities' | float32 `[h, w, classes]`: 0 to 1, the sum is 1 |
  | 'logits' | float32 `[h, w, classes]`: before the softmax |

  Classes are in the order of the label set, `Run.label_set.classes`. The arg max of the logits is 'classes'.
  The class has the largest probability; where several round to the same, the arg max may name an earlier one.

  Any number of threads may predict at once; the results are the same. The network is compiled once for each
  size that it sees, `Preprocessing.input_size`.

  Attributes:
    preprocessing: Size and normalization of the network's input.
    takes_padding: Whether black images may fill a batch up, so that one compilation serves a whole split.
    call_size: Images that the devices compute at once.
  """

  preprocessing: Preprocessing
  takes_padding = False
  call_size = 1

  @abc.abstractmethod
  def predict_resized(
    self, images: np.ndarray, output_size: tuple[int, int], outputs: str = CLASSES
  ) -> Num[np.ndarray, 'b oh ow *classes']:
    """Predicts RGB images that have the network's input size already, as an evaluation has them.

    Args:
      images: uint8 `[b, h, w, 3]`; not resized, whatever their size.
      output_size: Height and width of what is returned.
      outputs: As for `predict`.

    Raises:
      InputError: Images of another type or shape.
    """

  def check_outputs(self, outputs: str) -> None:
    """Raises InputError where there are no such outputs."""
    check_outputs(outputs)

  def predict(self, image: Any, outputs: str = CLASSES) -> Num[np.ndarray, 'h w *classes']:
    """Predicts an image of any size, see the tables of the class.

    Args:
      image: Pixels, a PIL image or a path.
      outputs: 'classes', 'probabilities' or 'logits'.

    Returns:
      An array of its own, at the image's size.

    Raises:
      InputError: No such image, or no such outputs.
    """
    self.check_outputs(outputs)
    return next(self._predict_equal([rgb_pixels(image)], outputs))

  def predict_many(self, images: Any, outputs: str = CLASSES) -> Iterator[Num[np.ndarray, 'h w *classes']]:
    """Predicts images one after another: the same results as `predict`, bit for bit, in the same order.

    Images that follow each other and have the same size go through the network together, `call_size` of
    them; no more are held in memory.

    Args:
      images: Any iterable of what `predict` takes, or a batch `[n, h, w, 3]`.
      outputs: As for `predict`.

    Yields:
      What `predict` returns.

    Raises:
      InputError: At once for outputs and images that are none; for a single image when its turn comes, the
        results of those before it having been given.
    """
    self.check_outputs(outputs)
    if isinstance(images, str | bytes | Mapping | Image.Image) or not isinstance(images, Iterable):
      raise InputError(f'images: a {type(images).__name__}; {_EXPECTED_MANY}')
    if len(shape := getattr(images, 'shape', (0,) * 4)) != 4:
      raise InputError(f'images: an array of shape {tuple(shape)}; {_EXPECTED_MANY}')
    return self._predict_many(iter(images), outputs)

  def _predict_many(self, images: Iterator[Any], outputs: str) -> Iterator[np.ndarray]:
    equal: list[np.ndarray] = []
    pixels: np.ndarray | None = None
    end: Exception | None = None
    for number in itertools.count():
      try:
        pixels = rgb_pixels(next(images), f'image {number}')
      except Exception as error:  # no more, or one that is no image, or whatever the caller's iterable raises
        end = error
      if equal and (end or pixels.shape != equal[0].shape):
        yield from self._predict_equal(equal, outputs)
        equal = []
      if end:
        break
      equal.append(pixels if self.call_size == 1 else pixels.copy())  # the caller may reuse its buffer
      if len(equal) == self.call_size:
        yield from self._predict_equal(equal, outputs)
        equal = []
    if not isinstance(end, StopIteration):
      raise end

  def _predict_equal(self, images: Sequence[np.ndarray], outputs: str) -> Iterator[np.ndarray]:
    size = images[0].shape[:2]
    network_size = self.preprocessing.input_size(size)
    resized = np.stack([resize_image(image, network_size) for image in images])
    results = self.predict_resized(resized, size, outputs)
    yield from results if len(results) == 1 else map(np.array, results)  # so that none keeps all alive


class Predictor(BatchPredictor):
  """A network ready to predict, on all devices of this process.

  Each device computes images in groups of one size, so that a prediction does not depend on the batch it
  came in: not on its size, its order or the number of devices.

  Of the sizes that the network saw last, `NETWORKS_KEPT` stay compiled.

  Attributes:
    model: The network.
    mesh: The devices of this process, along one axis.
    together: Images that a device computes at once.
    variables: On all devices.
    inputs: What the compiled network reads: these variables, and on a GPU its constants too.
  """

  takes_padding = True

  def __init__(self, model: SegmentationModel, variables: Mapping[str, Any], preprocessing: Preprocessing):
    self.model = model
    self.preprocessing = preprocessing
    self.mesh = Mesh(np.array(jax.local_devices()), ('data',))
    # Compiled once; a CPU gains less from constants than compiling them costs.
    self._prepare = jax.jit(functools.partial(with_constants, model)) if traced_gpu() else dict
    self.update(variables)
    # One image fills the cores of a CPU, a GPU or TPU takes several.
    self.together = 1 if jax.default_backend() == 'cpu' else 8
    self.call_size = self.together * self.mesh.size
    spread = functools.partial(over_devices, mesh=self.mesh, together=self.together)
    self._logits = spread(functools.partial(image_logits, model, preprocessing=preprocessing))
    self._networks = Programs(NETWORKS_KEPT)
    self._upsample = Upsampling(model, spread)

  def update(self, variables: Mapping[str, Any]) -> None:
    """Takes other variables of the same shapes, without compiling again."""

    def local(x: Any) -> Any:  # of an array that is replicated over the devices of all processes
      return x.addressable_data(0) if isinstance(x, jax.Array) else x

    self.variables = jax.device_put(jax.tree.map(local, dict(variables)), NamedSharding(self.mesh, P()))
    self.inputs = self._prepare(self.variables)

  def predict_resized(
    self, images: np.ndarray, output_size: tuple[int, int], outputs: str = CLASSES
  ) -> Num[np.ndarray, 'b oh ow *classes']:
    """Spreads the images over the devices; see `BatchPredictor`."""
    placed, size = self.place(images), images.shape[1:3]
    logits = self._networks.run(placed.shape, self._logits, self.inputs, placed)
    return self._upsample(logits, size, tuple(output_size), outputs, len(images))

  def place(self, images: np.ndarray) -> UInt8[jax.Array, 'padded h w 3']:
    """Spreads images over the devices, filled up with black ones to what the devices compute at once."""
    return place_on_devices(images, self.mesh, self.call_size)


def over_devices(function: Callable[[Any, Any], Any], mesh: Mesh, together: int) -> Callable[[Any, Any], Any]:
  """Spreads `function(shared, images)` over devices, each computing one group of images after another.

  Args:
    function: Of `together` images: arrays, or tuples of them, with images first.
    mesh: Of one axis, 'data'.
    together: Images that a device computes at once.

  Returns:
    The function of a multiple of `together` images on each device, as `place_on_devices` gives them.
  """

  def of_device(shared, images):
    groups = jax.tree.map(lambda x: x.reshape(-1, together, *x.shape[1:]), images)
    results = jax.lax.map(lambda group: function(shared, group), groups)
    return results.reshape(-1, *results.shape[2:])

  return jax.shard_map(of_device, mesh=mesh, in_specs=(P(), P('data')), out_specs=P('data'), check_vma=False)


def place_on_devices(images: np.ndarray, mesh: Mesh, multiple: int) -> UInt8[jax.Array, 'padded h w 3']:
  """Spreads images over devices, filled up with black ones to a multiple of `multiple`.

  Raises:
    InputError: Other than uint8 `[b, h, w, 3]`.
  """
  check_batch(images)
  missing = -len(images) % multiple
  if missing:
    images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
  return jax.device_put(images, NamedSharding(mesh, P('data')))
