"""A kernel's declared cost in the compiled program."""

import jax
import jax.numpy as jnp

from dense_aspp_jax.models.fused.kernel_cost import kernel_cost


def test_the_compiled_program_names_the_cost():
  @jax.jit
  def function(x):
    with kernel_cost('product', 1200, 34):
      return x @ x

  text = function.lower(jnp.ones((4, 4))).compile().as_text()
  assert 'product[bytes=1200,flops=34]' in text
