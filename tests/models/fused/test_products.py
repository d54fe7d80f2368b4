"""Convolutions with gradients as matrix products, against XLA's, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dense_aspp_jax.models.fused.products import convolution, sum_of_products
from dense_aspp_jax.models.layers import IMPLEMENTATIONS
from dense_aspp_jax.models.layers import convolution as layer

CASES = {  # channels, features, kernel, stride, dilation, padding
  '1x1_wider': (3, 7, 1, 1, 1, 'VALID'),
  '1x1_narrower': (7, 3, 1, 1, 1, [(0, 0), (0, 0)]),
  '1x1_stride': (4, 3, 1, 2, 1, 'SAME'),
  '1x1_padded': (4, 3, 1, 1, 1, [(1, 0), (0, 2)]),
  '3x3_taps_together': (3, 4, 3, 1, 1, 'SAME'),
  '3x3_tap_by_tap': (9, 4, 3, 1, 1, 'SAME'),
  'stem': (3, 4, 3, 2, 1, 'SAME'),
  'dilated': (8, 2, 3, 1, 3, [(3, 3), (3, 3)]),
}


@pytest.mark.parametrize('case', CASES)
def test_float64_values_and_gradients_are_exact(case):
  channels, features, kernel_size, stride, dilation, padding = CASES[case]
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 7, channels)))
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, channels, features)))
    operands = (stride, stride), padding
    dilations = {'rhs_dilation': (dilation, dilation)}

    def by_xla(x, kernel):
      return lax.conv_general_dilated(
        x, kernel, *operands, **dilations, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )

    expected, backward = jax.vjp(by_xla, x, kernel)
    gradient = jnp.asarray(rng.normal(size=expected.shape))
    found, found_backward = jax.vjp(lambda x, k: convolution(x, k, *operands, **dilations), x, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    for value, reference in zip(jax.jit(found_backward)(gradient), backward(gradient), strict=True):
      np.testing.assert_allclose(value, reference, rtol=1e-12, atol=1e-12)


def test_bfloat16_sums_the_weight_gradient_in_float32():
  x, kernel = jnp.full((1, 32, 32, 1), 1 / 3, jnp.bfloat16), jnp.ones((1, 1, 1, 2), jnp.bfloat16)
  total = jax.jit(jax.grad(lambda k: jnp.sum(convolution(x, k, (1, 1), 'VALID'), dtype=jnp.float32)))
  assert total(kernel).dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(total(kernel), np.float64), 1024 * float(x[0, 0, 0, 0]), rtol=2**-8)


@pytest.mark.parametrize('implementation', IMPLEMENTATIONS)
def test_fused_layers_use_it(implementation):
  module, x = layer(4, 1, implementation=implementation), jnp.zeros((1, 5, 5, 3))
  variables = module.init(jax.random.key(0), x)
  text = jax.jit(module.apply).lower(variables, x).as_text()
  assert ('dot_general' in text) == (implementation == 'fused')


def test_a_transposed_operand_is_not_computed_while_it_is_copied():
  """XLA would fuse the square roots into the copy, in spite of an optimization barrier."""
  step = jax.jit(lambda a, b: sum_of_products(jnp.sqrt(a), b))
  text = step.lower(jnp.ones((64, 3)), jnp.ones((64, 5))).compile().as_text()
  fused = text[: text.index('ENTRY')].split('\n\n')
  assert ' sqrt(' in text
  assert not [body for body in fused if ' sqrt(' in body and (' transpose(' in body or ' copy(' in body)]
