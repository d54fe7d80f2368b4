"""The network of tests that are not about it: four narrow dense blocks and two atrous layers, float32."""

import jax
import numpy as np

TINY = dict(
  extractor='densenet_tiny',
  dilation_rates=(1, 2),
  growth_rate=4,
  bottleneck_width=8,
  compute_dtype='float32',
)
# Cut short, where only that a network is trained matters: a step is traced and compiled by every process.
SHALLOW = TINY | dict(last_layer='denseblock2', dilation_rates=(1,), bottleneck_width=0, first_norm=False)
OVERRIDES = [f'--config.model.{name}={value}' for name, value in TINY.items()]


def draw_variables(shapes, seed=0):
  """Random parameters and BN statistics of these shapes; variances are positive."""
  rng = np.random.default_rng(seed)
  return {
    'params': jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes['params']),
    'batch_stats': jax.tree.map(
      lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), shapes['batch_stats']
    ),
  }
