"""The Mosaic GPU kernel of the backward pass of 1x1 convolutions, interpreted, against the XLA form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.models.fused import mosaic_1x1_backward, mosaic_tiles, ops
from dense_aspp_jax.models.fused.statistics import Affine

pytestmark = pytest.mark.skipif(not mosaic_tiles.available(), reason='needs the interpreter of jax 0.11')


class Group(NamedTuple):
  """Layers that read the channels `start` to `start + channels` of a block's buffer."""

  layers: int
  bottleneck: int
  start: int
  channels: int
  programs: int  # few, so that one has several tiles also of these small maps
  block: int = 256
  maps: tuple[int, int, int] = (2, 20, 17)  # the last tile is cut


GROUPS = {
  'one layer': Group(1, 128, 0, 64, programs=1),
  'two layers': Group(2, 192, 64, 96, programs=2),
  'three layers, narrow': Group(3, 64, 128, 128, programs=3),
  'four layers, a program without work': Group(4, 128, 0, 112, programs=5),
  'a start and a block that no tile divides': Group(1, 128, 48, 80, programs=3, block=224),
  'more than fit at once': Group(3, 256, 0, 64, programs=2, maps=(1, 8, 24)),
}


class Arrays(NamedTuple):
  features: jax.Array
  affines: list[Affine]
  kernels: list[jax.Array]
  output_gradients: list[jax.Array]
  gradient: jax.Array


def draw(group):
  rng = np.random.default_rng(0)

  def normal(*shape, dtype=jnp.bfloat16):
    return jnp.asarray(rng.normal(size=shape), dtype)

  layers = range(group.layers)
  return Arrays(
    normal(*group.maps, group.block),
    [Affine(*normal(3, group.channels, dtype=jnp.float32)) for _ in layers],
    [normal(group.channels, group.bottleneck) / 8 for _ in layers],
    [normal(*group.maps, group.bottleneck) for _ in layers],
    normal(*group.maps, group.block).at[..., 1::2].set(-0.0),
  )


def interpret(monkeypatch, group):
  monkeypatch.setattr(mosaic_1x1_backward, 'PROGRAMS', group.programs)
  monkeypatch.setattr(mosaic_tiles, 'INTERPRET', mosaic_tiles.InterpretGPUParams(detect_races=True))


def assert_close(actual, expected, tolerance):
  actual, expected = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
  np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('name', GROUPS)
def test_backward_product(name, monkeypatch):
  group = GROUPS[name]
  arrays = draw(group)
  interpret(monkeypatch, group)
  gradient, kernels, sums = mosaic_1x1_backward.bn_relu_dot_backward(*arrays, start=group.start)

  exact = jax.tree.map(lambda x: x.astype(jnp.float32), arrays)
  expected = ops.bn_relu_dot_backward.__wrapped__(*exact, start=group.start)
  assert_close(gradient, expected[0], 1e-2)
  for layer in range(group.layers):
    assert_close(kernels[layer], expected[1][layer], 5e-3)  # of activations in bfloat16
    for total, expected_total in zip(sums[layer], expected[2][layer], strict=True):
      assert_close(total, expected_total, 1e-5)

  outside = np.r_[: group.start, group.start + group.channels : group.block]
  bits = [np.asarray(x)[..., outside].view(np.uint16) for x in (gradient, arrays.gradient)]
  np.testing.assert_array_equal(*bits)


def test_groups_of_a_block_share_a_kernel():
  def kernels(start, channels):
    arrays = draw(Group(2, 128, start, channels, programs=1))
    backward = mosaic_1x1_backward.bn_relu_dot_backward
    jaxpr = jax.make_jaxpr(lambda *arrays: backward(*arrays, start=start))(*arrays)
    return [id(e.params['jaxpr']) for e in jaxpr.eqns if 'custom_vmap_call' in str(e.params.get('jaxpr'))]

  assert len(kernels(0, 64)) == 1
  assert kernels(0, 64) == kernels(64, 112)
