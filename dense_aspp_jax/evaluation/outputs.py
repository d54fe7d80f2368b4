"""From the logits of a network to what is asked for, at the size of the image.

Compiled apart from the network: sizes of images are padded to few, and a program serves all sizes that are
padded to the same. Every output is computed by itself, so padding changes no bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.programs import Programs
from dense_aspp_jax.models.segmentation import SegmentationModel
from dense_aspp_jax.models.upsampling import Taps, bilinear_taps, first_maximum, upsampled_classes

CLASSES, PROBABILITIES, LOGITS = OUTPUTS = ('classes', 'probabilities', 'logits')
PROGRAMS_KEPT = 64
_STEPS = 4  # padded sides from a power of two to the next


def check_outputs(outputs: str, allowed: tuple[str, ...] = OUTPUTS, why: str = '') -> None:
  """Raises InputError unless `outputs` is one of those allowed."""
  if outputs not in allowed:
    raise InputError(f'outputs {outputs!r}: expected {" or ".join(map(repr, allowed))}{why}')


def padded_side(side: int) -> int:
  """The number of pixels that a side is computed with: the next of 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ..."""
  step = max(1, 2 ** (side.bit_length() - 1) // _STEPS)
  return -(-side // step) * step


class Upsampling:
  """Upsamples the logits of a network to the size of the image: class indices, probabilities or logits."""

  def __init__(self, model: SegmentationModel, spread: Callable[[Callable], Callable] = lambda f: f):
    """Takes the network that the logits are of.

    Args:
      model: The network.
      spread: Makes of `f(taps, logits)` a function of logits that are spread over devices.
    """
    self._model, self._programs = model, Programs(PROGRAMS_KEPT)
    self._classes = spread(_classes)

  def __call__(
    self,
    logits: Float[Array, 'b fh fw classes'],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    outputs: str = CLASSES,
    count: int | None = None,
  ) -> Num[np.ndarray, 'b oh ow *classes']:
    """Computes the outputs of the first `count` images (None: of all).

    Args:
      logits: Main logits of images, on the devices where they were computed.
      image_size: Height and width at which the network saw the images.
      output_size: Height and width of what is returned.
      outputs: 'classes': uint8 `[b, oh, ow]`; 'probabilities' or 'logits': float32 `[b, oh, ow, classes]`.
      count: Images that are no padding.

    Raises:
      InputError: No such outputs.
    """
    check_outputs(outputs)
    padded = tuple(map(padded_side, output_size))
    scale = self._model.logits_scale(image_size, output_size)
    taps = tuple(map(bilinear_taps, logits.shape[1:3], output_size, scale, padded))
    of_image = np.s_[: output_size[0], : output_size[1]]
    if outputs == CLASSES:
      key = logits.shape, padded, CLASSES
      classes = self._programs.run(key, self._classes, taps, logits)
      return np.array(np.asarray(classes)[:count, *of_image])
    key = logits.shape[1:], padded, outputs
    logits = np.asarray(logits)[:count]  # small before they are upsampled: what is padding is left here
    result = np.empty((len(logits), *output_size, logits.shape[-1]), np.float32)
    compute = functools.partial(_values, outputs=outputs)
    for index in range(len(logits)):
      values = self._programs.run(key, compute, taps, logits[index : index + 1])
      result[index] = np.asarray(values)[0][of_image]
    return result


def _classes(taps: tuple[Taps, Taps], logits: Array) -> Array:
  return first_maximum(upsampled_classes(logits, *taps))[1]


def _values(taps: tuple[Taps, Taps], logits: Array, *, outputs: str) -> Array:
  # Computed before and apart from what reads them: fused, a CPU would compute each several times.
  values = jax.lax.optimization_barrier(jnp.stack(upsampled_classes(logits, *taps)))
  values = jnp.moveaxis(values, 0, -1)
  return jax.nn.softmax(values) if outputs == PROBABILITIES else values
