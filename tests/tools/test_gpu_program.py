"""What a GPU runs, in figures that may only fall. tests/golden/make_gpu_program.py writes those of today."""

import json

import jax
import pytest
from golden.make_gpu_program import GOLDEN, compiled_figures, lowered_figures, missing_for_compilation

RISE = 0.01  # of bytes and counts of hundreds, with XLA's version


def assert_not_risen(figures, golden):
  risen = {
    name: f'{golden[name]} -> {value}' for name, value in figures.items() if value > golden[name] * (1 + RISE)
  }
  assert not risen, f'risen: {risen}; if this has a reason, run tests/golden/make_gpu_program.py'


def test_kernels_and_operations_of_a_small_network():
  assert_not_risen(lowered_figures(), json.loads(GOLDEN.read_text())['lowered'])


@pytest.mark.slow
def test_compiled_programs():
  if reason := missing_for_compilation():
    pytest.skip(reason)
  golden = json.loads(GOLDEN.read_text())['compiled']
  if jax.__version__ not in golden:
    pytest.skip(f'{GOLDEN.name} has no figures for jax {jax.__version__}, only for {", ".join(golden)}')
  for mode, figures in compiled_figures().items():
    assert_not_risen(figures, golden[jax.__version__][mode])
