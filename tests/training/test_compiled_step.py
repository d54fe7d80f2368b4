"""The default training step is the fast one: what is in the program that is compiled."""

import collections
import contextlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jaxprs import described_gpu
from ml_collections import ConfigDict
from reference_losses import cross_entropy

from configs import default
from dense_aspp_jax.models.layers import IMPLEMENTATIONS
from dense_aspp_jax.models.upsampling import upsample_bilinear
from dense_aspp_jax.training.config import parse_config
from dense_aspp_jax.training.train_state import create_state
from dense_aspp_jax.training.train_step import make_train_step

SIZE, BATCH = (64, 128), 4  # with one image the small network's parameters are most of the memory
NUM_CLASSES = default.get_config().model.num_classes
NUM_ATROUS = 5  # layers of DenseASPP, each with one atrous convolution
# The structure of the default network, with few channels and layers.
SMALL = dict(extractor='densenet_small', growth_rate=8, bottleneck_width=16)


def lower(platform: str, **model_fields) -> jax.stages.Lowered:
  config = ConfigDict(default.get_config())
  with config.unlocked():
    config.model.update(model_fields)
  config.data.image_size = SIZE
  checked = parse_config(config)
  optimizer, step = make_train_step(checked, 10, Mesh(np.array(jax.devices()[:1]), ('data',)))
  state = jax.eval_shape(lambda: create_state(checked.model, optimizer, 0))
  batch = {
    'image': jax.ShapeDtypeStruct((BATCH, *SIZE, 3), jnp.uint8),
    'label': jax.ShapeDtypeStruct((BATCH, *SIZE), jnp.uint8),
  }
  with described_gpu() if platform == 'cuda' else contextlib.nullcontext():
    return step.trace(state, batch).lower(lowering_platforms=(platform,))


def dilations(stablehlo: str) -> collections.Counter:
  """How many convolutions there are of each dilation of the kernel, weight gradients not among them.

  A weight gradient by XLA has the dilation as its stride: 'stride = [12, 12]'.
  """
  return collections.Counter(
    int(match) for match in re.findall(r'stablehlo.convolution.*?rhs_dilate = \[(\d+), \d+\]', stablehlo)
  )


def test_the_step_for_a_gpu_has_dilated_convolutions_in_the_cascade_only_and_forward_only():
  fast = dilations(lower('cuda', **SMALL).as_text())
  plain = dilations(lower('cuda', **SMALL, implementation='reference').as_text())
  dilated = {rate: count for rate, count in fast.items() if rate > 1}
  assert dilated == dict.fromkeys(default.get_config().model.dilation_rates, 1)
  assert sum(plain[rate] for rate in (2, 4)) >= 7  # dense blocks 3 and 4, forward alone


def test_the_step_for_a_gpu_runs_the_kernels():
  text = lower('cuda', extractor='densenet_tiny', growth_rate=32, bottleneck_width=128).as_text()
  calls = collections.Counter(re.findall(r'xla.gpu.triton[^\n]*?name = "(\w+)"', text))
  layers = 4 + NUM_ATROUS  # those of the dense blocks are too narrow for the 3x3 kernel
  assert calls == {'bn_relu_dot': layers, 'bn_relu_dot_backward': layers, 'bn_relu_conv_backward': NUM_ATROUS}


def arrays(hlo: str) -> list[tuple[str, tuple[int, ...]]]:
  """Type and shape of every array that the compiled program holds: what is inside fusions is none."""
  text = '\n'.join(
    block
    for block in hlo.split('\n\n')
    if not re.match(r'(%?fused|%?wrapped|%?region|%?parallel)', block.strip())
  )
  found = re.findall(r'= (?:\()?(\w+)\[([\d,]*)\]', text)
  return [(kind, tuple(int(n) for n in shape.split(',') if n)) for kind, shape in found]


@pytest.fixture(scope='module')
def compiled():
  return {form: lower('cpu', **SMALL, implementation=form).compile() for form in IMPLEMENTATIONS}


def test_the_compiled_step_has_no_dilated_convolution(compiled):
  """Of a 3x3 kernel; the weight gradient of the stem's stride is one of another size."""
  found = {form: re.findall(r'size=3x3[^}]* rhs_dilate=', step.as_text()) for form, step in compiled.items()}
  assert len(found['reference']) >= 7 + NUM_ATROUS
  assert not found['fused']


def full_size_arrays(compiled) -> int:
  """Arrays of float32, vectors aside, as large as the logits of all classes at the image's size."""
  full = BATCH * math.prod(SIZE) * NUM_CLASSES
  return sum(
    kind == 'f32' and len(shape) > 1 and math.prod(shape) >= full
    for kind, shape in arrays(compiled.as_text())
  )


def test_the_compiled_step_holds_no_full_size_float32_array_with_a_class_axis(compiled):
  labels, weights = jnp.zeros((BATCH, *SIZE), jnp.uint8), jnp.ones((BATCH, *SIZE))

  def plain_loss(logits):
    return cross_entropy(upsample_bilinear(logits, SIZE, (8.0, 8.0)), labels, weights)

  logits = jnp.zeros((BATCH, SIZE[0] // 8, SIZE[1] // 8, NUM_CLASSES))
  assert full_size_arrays(jax.jit(jax.grad(plain_loss)).lower(logits).compile()) >= 2
  assert full_size_arrays(compiled['fused']) == 0


def test_the_compiled_step_needs_less_memory(compiled):
  fused, reference = (compiled[form].memory_analysis().temp_size_in_bytes for form in IMPLEMENTATIONS)
  assert fused < 0.8 * reference
