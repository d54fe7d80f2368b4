"""Depthwise convolution against XLA's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_aspp_jax.models.fused.depthwise import depthwise_convolution
from dense_aspp_jax.models.layers import IMPLEMENTATIONS, convolution

CASES = {  # size, kernel, stride, dilation, padding
  '3x3': ((5, 7), 3, 1, 1, [(1, 1), (1, 1)]),
  'stride': ((6, 9), 3, 2, 1, [(1, 1), (1, 1)]),
  'stride_beyond_the_kernel': ((7, 8), 2, 3, 1, [(1, 0), (0, 2)]),
  'stride_dilated': ((8, 7), 3, 2, 2, [(2, 2), (2, 2)]),
  'wide': ((2, 70), 2, 1, 1, 'SAME'),
  'wide_stride': ((3, 139), 3, 2, 1, 'SAME'),
  'dilated': ((7, 6), 5, 1, 2, [(4, 4), (4, 4)]),
  'kernel_beyond_the_map': ((3, 4), 7, 1, 2, [(6, 6), (6, 6)]),
  'same_even': ((6, 8), 3, 2, 1, 'SAME'),
  'same_odd': ((5, 7), 5, 2, 1, 'SAME'),
  'same_dilated': ((5, 6), 3, 1, 2, 'SAME'),
  'valid': ((6, 5), 2, 1, 1, 'VALID'),
  'uneven': ((6, 5), 2, 1, 2, [(0, 2), (3, 0)]),
}


def by_xla(x, kernel, stride, padding, dilation):
  return lax.conv_general_dilated(
    *(x, kernel, (stride, stride), padding),
    rhs_dilation=(dilation, dilation),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
  )


@pytest.mark.parametrize('case', CASES)
def test_float64_values_and_gradients_are_exact(case):
  size, kernel_size, stride, dilation, padding = CASES[case]
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)))
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 1, 3)))

    def by_taps(x, kernel):
      return depthwise_convolution(x, kernel, (stride,) * 2, padding, rhs_dilation=(dilation,) * 2)

    expected, backward = jax.vjp(lambda x, k: by_xla(x, k, stride, padding, dilation), x, kernel)
    gradient = jnp.asarray(rng.normal(size=expected.shape))
    found, found_backward = jax.vjp(by_taps, x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    for value, reference in zip(jax.jit(found_backward)(gradient), backward(gradient), strict=True):
      np.testing.assert_allclose(value, reference, rtol=1e-12, atol=1e-12)


def test_bfloat16_is_summed_in_float32():
  x = jnp.full((1, 8, 8, 1), 1 / 3, jnp.bfloat16)
  kernel = jnp.asarray(np.linspace(-1, 1.7, 49).reshape(7, 7, 1, 1), jnp.bfloat16)
  found = depthwise_convolution(x, kernel, (1, 1), 'VALID')
  expected = float(x[0, 0, 0, 0]) * np.asarray(kernel, np.float64).sum()
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8)
  gradient = jax.grad(lambda k: depthwise_convolution(x, k, (1, 1), 'VALID').astype(jnp.float32).sum())(
    kernel
  )
  np.testing.assert_allclose(np.asarray(gradient, np.float64), 4 * float(x[0, 0, 0, 0]), rtol=2**-8)


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_fused_depthwise_convolutions_use_it(implementation):
  module = convolution(4, 3, implementation=implementation, depthwise=True)
  x = jnp.zeros((1, 5, 5, 4))
  variables = module.init(jax.random.key(0), x)
  text = str(jax.make_jaxpr(module.apply)(variables, x))
  assert ('conv_general_dilated' in text) == (implementation == 'reference')
