"""The network of tests that are not about it: four narrow dense blocks and two atrous layers, float32."""

import jax
import numpy as np

from configs import default

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


def tiny_config(folder=None, model=TINY, **overrides):
  """The configuration of a tiny network at 32x64.

  Args:
    folder: Labelled folder of Cityscapes classes that it is trained on, two steps of 8 images an epoch.
    model: Its fields.
    **overrides: Values of further fields by their full names, such as 'optimizer.learning_rate'.
  """
  config = default.get_config()
  if folder is not None:
    config.data.update(dataset=f'folder:{folder}', data_dir=str(folder.parent / 'data'))
    config.training.update(batch_size=8, num_epochs=1.0)
  config.model.update(model)
  config.data.image_size = (32, 64)
  with config.unlocked():
    config.update_from_flattened_dict(overrides)
  return config


def draw_variables(shapes, seed=0):
  """Random parameters and BN statistics of these shapes; variances are positive."""
  rng = np.random.default_rng(seed)
  return {
    'params': jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes['params']),
    'batch_stats': jax.tree.map(
      lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), shapes['batch_stats']
    ),
  }
