"""The comparison of the kernels' operations with XLA's that decides whether a GPU runs them."""

import jax
import jax.numpy as jnp
import pytest
from jaxprs import described_gpu

from dense_aspp_jax.models.fused import kernel_check
from dense_aspp_jax.models.fused.gpu_form import forms
from dense_aspp_jax.models.fused.kernel_calls import Layer, calls

TINY = {'tiny': Layer((2, 6, 8), 64, 32, 16, 16, masked=True)}


def wrong_in(operation, change):
  """Stands for `calls`, with one operation of every form but XLA's changed."""

  def changed(layer, form):
    for call in calls(layer, 'xla'):
      if call.operation == operation and form != 'xla':
        function = jax.jit(lambda *x, call=call: jax.tree.map(change, call.function(*x)))
        call = call._replace(function=function)
      yield call

  return changed


def test_equal_forms_pass():
  assert kernel_check.failure('xla', 'cpu', TINY) is None


@pytest.mark.parametrize('operation', [call.operation for call in calls(TINY['tiny'], 'xla')])
@pytest.mark.parametrize(
  'change',
  [
    lambda x: x * 1.05 if x.dtype != bool else x,
    lambda x: x.at[(0,) * x.ndim].set(jnp.nan),
    lambda x: x.at[(-1,) * (x.ndim - 1)].set(jnp.max(jnp.abs(x))),
  ],
  ids=['too large', 'not a number', 'one position'],
)
def test_an_operation_that_goes_wrong_is_named(monkeypatch, operation, change):
  monkeypatch.setattr(kernel_check, 'calls', wrong_in(operation, change))
  reason = kernel_check.failure('mosaic', 'cpu', TINY)
  assert reason.startswith(f'tiny {operation} differs by ')
  assert ';' not in reason


def test_a_rare_sign_of_relus_input_is_no_failure(monkeypatch):
  layers = {'large': Layer((8, 64, 64), 64, 32, 16, 16)}
  monkeypatch.setattr(
    kernel_check, 'calls', wrong_in('bn_relu_dot_backward', lambda x: x.at[(0,) * x.ndim].add(x.ndim == 4))
  )
  assert kernel_check.failure('mosaic', 'cpu', layers) is None


# cuDNN and XLA compute these beside Triton's kernels.
WITHOUT_KERNEL = {
  'mosaic': {'block': set(), 'cascade with a mask': set()},
  'triton': {
    'block': {'bn_relu_conv_into'},
    'cascade with a mask': {'bn_relu_conv_into', 'bn_relu_conv_backward'},
  },
}


@pytest.mark.parametrize('name', kernel_check.CHECKED)
@pytest.mark.parametrize('form', forms()[:-1])
def test_what_is_compared_runs_by_kernels(form, name):
  without_kernel = set()
  for call in calls(kernel_check.CHECKED[name], form):
    with described_gpu():
      text = call.function.trace(*call.arguments).lower(lowering_platforms=('cuda',)).as_text()
    if 'custom_call' not in text:
      without_kernel.add(call.operation)
    else:
      assert {'triton': 'xla.gpu.triton', 'mosaic': '@mosaic_gpu'}[form] in text, call.operation
  assert without_kernel == WITHOUT_KERNEL[form][name]
