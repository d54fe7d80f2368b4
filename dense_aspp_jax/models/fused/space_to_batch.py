"""Space-to-batch: a convolution of dilation d is an undilated one on d x d images, one of each phase.

Exact for any size: what a size lacks to a multiple of d is padded with positions that a mask leaves out.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def space_to_batch(x: Float[Array, 'b h w c'], factor: int) -> Float[Array, 'n h2 w2 c']:
  """Splits images into their phases, padded with zeros: n = factor^2 x b, h2 = ceil(h / factor).

  The phase leads the batch axis: image i's phase (r, s) is row (r x factor + s) x b + i.
  """
  if factor == 1:
    return x
  batch, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (0, -height % factor), (0, -width % factor), (0, 0)))
  rows, columns = x.shape[1] // factor, x.shape[2] // factor
  x = x.reshape(batch, rows, factor, columns, factor, channels).transpose(2, 4, 0, 1, 3, 5)
  return x.reshape(factor**2 * batch, rows, columns, channels)


def batch_to_space(
  x: Float[Array, 'n h2 w2 c'], factor: int, size: tuple[int, int]
) -> Float[Array, 'b h w c']:
  """Undoes `space_to_batch`; `size` is height and width without padding."""
  if factor == 1:
    return x
  _, rows, columns, channels = x.shape
  x = x.reshape(factor, factor, -1, rows, columns, channels).transpose(2, 3, 0, 4, 1, 5)
  return x.reshape(-1, rows * factor, columns * factor, channels)[:, : size[0], : size[1]]


def padding_mask(batch: int, size: tuple[int, int], factor: int) -> Bool[Array, 'n h2 w2'] | None:
  """Which positions of the phases are the image's; None: all."""
  if size[0] % factor == 0 and size[1] % factor == 0:
    return None
  inside = [np.arange(-(-n // factor)) * factor + np.arange(factor)[:, None] < n for n in size]
  phases = inside[0][:, None, :, None] & inside[1][None, :, None, :]  # [row phase, column phase, h2, w2]
  rows, columns = phases.shape[2:]
  phases = jnp.asarray(phases.reshape(factor**2, 1, rows, columns))
  return jnp.broadcast_to(phases, (factor**2, batch, rows, columns)).reshape(-1, rows, columns)
