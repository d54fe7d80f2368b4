"""The fused first half of an inverted residual block in float64, against its convolutions one by one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_aspp_jax.models.fused.inverted_residual import ConvNormArrays, expanded_depthwise
from dense_aspp_jax.models.fused.statistics import Affine
from dense_aspp_jax.models.fused.window import Window

CASES = {  # size, expanded channels, kernel, window; the first two are computed in two chunks
  'dilated': ((40, 33), 144, 5, Window((1, 1), ((4, 4), (4, 4)), (2, 2))),
  'stride_2_same': ((49, 40), 136, 3, Window.of((49, 40), (3, 3), (2, 2), 'SAME', (1, 1))),
  'one_chunk': ((9, 7), 16, 3, Window((1, 1), ((1, 1), (1, 1)), (1, 1))),
  'no_expansion': ((9, 7), 8, 3, Window((1, 1), ((1, 1), (1, 1)), (1, 1))),
}


@pytest.mark.parametrize('case', CASES)
def test_float64_is_exact(case):
  size, expanded, kernel_size, window = CASES[case]
  rng = np.random.default_rng(0)
  convolve = functools.partial(lax.conv_general_dilated, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  with jax.enable_x64(True):

    def conv_norm(*shape):
      affine = Affine(*(jnp.asarray(rng.normal(size=shape[-1])) for _ in range(3)))
      return ConvNormArrays(jnp.asarray(rng.normal(size=shape)), affine)

    x = jnp.asarray(rng.normal(size=(1, *size, 8)))
    expand = conv_norm(1, 1, 8, expanded) if case != 'no_expansion' else None
    depthwise = conv_norm(kernel_size, kernel_size, 1, expanded)
    found = jax.jit(expanded_depthwise, static_argnums=(3, 4))(x, expand, depthwise, window, nn.relu6)
    y = x if expand is None else nn.relu6(expand.norm(convolve(x, expand.kernel, (1, 1), 'VALID')))
    y = convolve(
      *(y, depthwise.kernel, window.strides, window.padding),
      rhs_dilation=window.dilation,
      feature_group_count=expanded,
    )
    expected = nn.relu6(depthwise.norm(y))
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
