"""The Mosaic GPU kernel (Hopper) of a dense layer's 3x3 convolution, forward.

It normalizes its input, and writes its output where the dense block wants it: into channels of a buffer. How
it works: see `mosaic_3x3_forward_program`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from dense_aspp_jax.models.fused import mosaic_tiles as tl
from dense_aspp_jax.models.fused.arrays import Kernel, Maps, Mask
from dense_aspp_jax.models.fused.kernel_cost import kernel_cost
from dense_aspp_jax.models.fused.mosaic_3x3_forward_program import (
  CHANNELS,
  PARTS,
  convolution,
  stages_of,
  tile_of,
)
from dense_aspp_jax.models.fused.statistics import Affine, Moments, merged_parts

PROGRAMS = 132  # one for each multiprocessor of an H100 or H200


def supports(z: Maps, kernel: Kernel, features: Maps) -> bool:
  """Whether the kernel takes these shapes and types, on a Hopper GPU."""
  channels = z.shape[3]
  growth = kernel.size // (9 * channels)
  return (
    tl.available()
    and z.dtype == features.dtype == jnp.bfloat16
    and growth in PARTS
    and channels % CHANNELS == 0
    and features.shape[3] % 8 == 0
    and z.shape[2] <= 2 * PARTS[growth]
    and stages_of(channels, growth, z.shape[2]).number >= 2  # for the largest border
  )


def bn_relu_conv_into(
  z: Maps,
  affine: Affine | None,
  kernel: Kernel,
  mask: Mask,
  features: Maps,
  *,
  channel: int,
  dilation: int,
  output_first: bool = False,
  with_moments: bool = True,
) -> tuple[Maps, Moments | None]:
  """See `ops.bn_relu_conv_into`; in place where the buffer is free. `channel` is a multiple of 8."""
  n, height, width, channels = z.shape
  kernel = kernel if output_first else kernel.transpose(3, 0, 1, 2)
  growth = len(kernel)
  positions, itemsize = n * height * width, z.dtype.itemsize
  bytes_accessed = positions * (channels + growth) * itemsize + kernel.size * itemsize
  line, lines = tile_of(width, growth)
  tiles, rows = pl.cdiv(n * height, lines), line * lines
  counted = _counted(mask, z.shape, dilation, tiles, line, lines)
  aside = np.arange(rows) % line + dilation * np.array([[-1], [1]])
  sides = ((aside >= 0) & (aside < width)).astype(np.float32)
  whole = mask is None and line == width and n * height % lines == 0
  with kernel_cost('bn_relu_conv_into', bytes_accessed, 18 * positions * channels * growth):
    features, *moments = convolution(
      jnp.array([channel, dilation, dilation if dilation < width else 0], jnp.int32),
      z.reshape(n * height, width, channels),
      kernel,
      None if affine is None else jnp.stack(affine),
      counted,
      sides,
      features.reshape(n * height, width, -1),
      border=_border(width, dilation),
      boxes=not tl.INTERPRET and any((width % 8, channel % growth, features.shape[3] % growth)),
      whole=whole,
      with_moments=with_moments,
      programs=PROGRAMS,
      interpret=tl.INTERPRET,
    )
  features = features.reshape(n, height, width, -1)
  if not with_moments:
    return features, None
  counts = positions // moments[0].shape[1] if whole else jnp.sum(counted[1].reshape(2 * tiles, -1), 1)
  return features, merged_parts(*moments, counts)


def _border(width: int, dilation: int) -> int:
  """How far aside of a tile its positions look; the same for the usual dilations, and so one kernel."""
  return 1 if dilation == 1 or dilation >= width else max(24, dilation)


def _counted(
  mask: Mask, shape: tuple[int, ...], dilation: int, tiles: int, line: int, lines: int
) -> Float[Array, '3 tiles rows']:
  """For each row of taps, 1 at the positions of each tile for which it is inside of the image and counts."""
  n, height, width, _ = shape
  mask = jnp.ones((n, height, width), bool) if mask is None else mask
  rows = jnp.arange(height) + dilation * jnp.array([[-1], [0], [1]])
  inside = (rows >= 0) & (rows < height)
  counted = mask[:, jnp.clip(rows, 0, height - 1)] & inside[..., None]
  counted = counted.swapaxes(0, 1).reshape(3, n * height, width)
  counted = jnp.pad(counted, ((0, 0), (0, tiles * lines - n * height), (0, line - width)))
  return counted.reshape(3, tiles, lines * line).astype(jnp.float32)
