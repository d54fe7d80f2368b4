"""The networks' operations in NumPy, on one image `[h, w, c]`, for the tests of models."""

import functools

import jax
import numpy as np


def convolution(x, kernel, stride=1, dilation=1):
  """torch.nn.Conv2d(padding=dilation * (k - 1) // 2, bias=False); `kernel` is `[k, k, in, out]`."""
  size = kernel.shape[0]
  padding, extent = dilation * (size - 1) // 2, dilation * (size - 1) + 1
  height, width = ((n + 2 * padding - extent) // stride + 1 for n in x.shape[:2])
  x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
  out = np.zeros((height, width, kernel.shape[3]))
  for i in range(size):
    for j in range(size):
      rows, columns = x[i * dilation :][: height * stride : stride], slice(j * dilation, None)
      out += rows[:, columns][:, : width * stride : stride] @ kernel[i, j]
  return out


def norm(x, params, stats):
  """torch.nn.BatchNorm2d in evaluation."""
  return (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5) * params['scale'] + params['bias']


def norm_relu(x, params, stats):
  return np.maximum(norm(x, params, stats), 0)


def random_variables(model, *inputs, **options):
  """Variables of a model, called so, with no parameter or statistic at its initial value."""
  rng = np.random.default_rng(0)

  def draw(path, x):
    if path[-1].key == 'kernel':
      return (rng.normal(size=x.shape) * np.sqrt(2 / np.prod(x.shape[:3]))).astype(np.float32)
    low = 0.5 if path[-1].key in ('scale', 'var') else -0.5
    return rng.uniform(low, low + 1, x.shape).astype(np.float32)

  init = functools.partial(model.init, **options)
  return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init, jax.random.key(0), *inputs))
