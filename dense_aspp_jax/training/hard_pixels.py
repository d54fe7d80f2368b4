"""Online hard example mining (OHEM): the loss counts the pixels that the network finds hard."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_BITS = 31  # of a non-negative int32


def hard_pixel_weights(
  losses: Float[Array, 'b h w'], weights: Float[Array, 'b h w'], *, threshold: float, min_kept: float
) -> Float[Array, 'b h w']:
  """The weights with those of the easy pixels set to 0.

  Kept are the pixels whose true class has a probability below `threshold`, and in any case the
  ceil(`min_kept` x counted pixels) pixels of the largest losses, over the whole batch; all pixels whose loss
  equals the smallest of those are kept too. Shrivastava et al., CVPR 2016, section 4.

  Differs from the paper: pixels in place of regions, and a threshold beside the number, as in the pixel
  samplers of segmentation toolkits.

  Args:
    losses: float32. Cross entropy in nats, without class weight; see `upsampled_pixel_losses`. It gets no
      gradient. NaN counts as 0.
    weights: From `pixel_weights`; pixels of weight 0 are not counted.
    threshold: Probability, 0..1.
    min_kept: Share of the counted pixels, 0..1.
  """
  losses = lax.stop_gradient(losses)
  losses = jnp.where(losses > 0, losses, 0.0)  # rounding may leave -1e-7, and -0 has the sign's bit
  counted = weights > 0
  number = jnp.ceil(min_kept * jnp.sum(counted, dtype=jnp.int32).astype(jnp.float32))
  # The bits of non-negative float32 are in their order.
  order = lax.bitcast_convert_type(losses, jnp.int32)
  hard = (jnp.exp(-losses) < threshold) | (order >= _kth_largest(order, counted, number))
  return jnp.where(hard, weights, 0.0)


def _kth_largest(values: jax.Array, counted: jax.Array, k: jax.Array) -> jax.Array:
  """The k-th largest of the counted values, int32 >= 0, exactly; the largest int32 for k = 0.

  Found bit by bit, from the highest. Each bit is one count over the batch, which stays where it is; a sort
  would gather a batch that is spread over devices.
  """

  def set_bit(index: jax.Array, found: jax.Array) -> jax.Array:
    candidate = found | (1 << (_BITS - 1 - index))
    enough = jnp.sum(counted & (values >= candidate), dtype=jnp.int32) >= k
    return jnp.where(enough, candidate, found)

  return lax.fori_loop(0, _BITS, set_bit, jnp.int32(0))
