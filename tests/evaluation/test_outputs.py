import jax
import numpy as np
import pytest
from patch_network import patch_model

from dense_aspp_jax.evaluation.outputs import Upsampling, padded_side
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.upsampling import upsampled_argmax


def test_padded_sides_are_few_and_at_most_a_quarter_larger():
  sides = np.arange(1, 5000)
  padded = np.array([padded_side(int(side)) for side in sides])
  assert (padded >= sides).all()
  assert (padded <= 1.25 * sides).all()
  assert np.unique(padded[99:1000]).tolist() == [
    112,
    128,
    160,
    192,
    224,
    256,
    320,
    384,
    448,
    512,
    640,
    768,
    896,
    1024,
  ]
  assert [padded_side(side) for side in (360, 480, 1024, 2048)] == [384, 512, 1024, 2048]


@pytest.mark.parametrize('size', [(32, 48), (64, 96), (37, 61), (101, 50), (1, 3), (127, 129)])
def test_padding_changes_no_bit(size):
  model = patch_model(DenseASPP((1,), 4, 6), num_classes=7)
  logits = jax.random.normal(jax.random.key(0), (2, 4, 6, 7))
  upsampling = Upsampling(model)
  exact = jax.jit(upsampled_argmax, static_argnums=(1, 2))
  expected = exact(logits, size, model.logits_scale((32, 48), size))
  classes = upsampling(logits, (32, 48), size)
  np.testing.assert_array_equal(classes, expected)
  values = upsampling(logits, (32, 48), size, 'logits', count=1)
  assert values.shape == (1, *size, 7)
  np.testing.assert_array_equal(values.argmax(-1), expected[:1])
  upsampled = model.upsample_logits(logits, (32, 48), size)
  np.testing.assert_allclose(values, upsampled[:1], rtol=1e-5, atol=1e-5)
