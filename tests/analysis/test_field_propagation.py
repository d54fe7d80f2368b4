import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_extractors import SMALL_EXTRACTORS

from dense_aspp_jax.analysis.field_propagation import Field, Span, propagate_field
from dense_aspp_jax.errors import RunError
from dense_aspp_jax.models.dense_aspp import DenseASPP
from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.extractors.densenet import DenseNet


class Network(nn.Module):
  """A function of the image and of a convolution `conv(x, kernel_size, ...)` with one output channel."""

  function: object

  @nn.compact
  def __call__(self, image):
    def conv(x, kernel_size, **fields):
      return nn.Conv(1, kernel_size, use_bias=False, kernel_init=nn.initializers.ones, **fields)(x)

    return self.function(image, conv)


def field_of(function, size=(24, 40)):
  return propagate_field(Network(function), (*size, 3))


def positive_variables(module):
  """Variables with which no activation saturates or cancels, and values stay about as large as they are."""

  def draw(path, x):
    if path[-1].key == 'kernel':
      return rng.uniform(0.5, 1.5, x.shape).astype(np.float32) / np.prod(x.shape[:-1])
    return np.full(x.shape, path[-1].key in ('scale', 'var', 'layer_scale'), np.float32)

  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  return jax.tree_util.tree_map_with_path(draw, shapes)


# A layer is (kernel size, dilation, stride).


def by_hand(layers):
  """R = R + (K - 1) d S, S = S s: the field after a chain of layers."""
  field, stride = 1, 1
  for kernel_size, dilation, layer_stride in layers:
    field += (kernel_size - 1) * dilation * stride
    stride *= layer_stride
  return field, stride


@pytest.mark.parametrize(
  ('output_stride', 'expected'),
  # stem 7, pooling 11, block 1 + 6 x 8 = 59, pooling 63, block 2 + 12 x 16 = 255; then at stride 8 blocks of
  # dilation 2 and 4, + 24 x 32 + 16 x 64; at stride 32 poolings + 8, + 24 x 32, + 16, + 16 x 64.
  [(8, 255 + 768 + 1024), (32, 255 + 8 + 768 + 16 + 1024)],
)
def test_densenet121(output_stride, expected):
  field = propagate_field(create_extractor('densenet121', output_stride=output_stride), (64, 64, 3))
  assert (field.size, field.rows.stride, field.columns.stride) == (expected, output_stride, output_stride)
  assert field.rows == field.columns
  assert not field.is_global


def test_convnext_tiny_at_output_stride_8():
  """Downsampling layers of 2x2 that lost their stride keep the dilation before them."""
  layers = [(4, 1, 4), *[(7, 1, 1)] * 3, (2, 1, 2), *[(7, 1, 1)] * 3]
  layers += [(2, 1, 1), *[(7, 2, 1)] * 9, (2, 2, 1), *[(7, 4, 1)] * 3]
  field = propagate_field(create_extractor('convnext_tiny'), (64, 64, 3))
  assert (field.size, field.rows.stride) == by_hand(layers)


def test_squeeze_and_excitation_reads_everything_and_is_left_out():
  """The widest path of MobileNetV3-Small is that of its depthwise convolutions."""
  layers = [(3, 1, 2), (3, 1, 2), (3, 1, 2), (3, 1, 1), (5, 1, 1), *[(5, 2, 1)] * 2, *[(5, 2, 1)] * 2]
  layers += [(5, 2, 1), *[(5, 4, 1)] * 2]
  field = propagate_field(create_extractor('mobilenet_v3_small'), (64, 64, 3))
  assert (field.size, field.rows.stride) == by_hand(layers)
  assert field.is_global


def test_the_cascade_is_127_wide():
  cascade = DenseASPP(dilation_rates=(3, 6, 12, 18, 24), growth_rate=2, bottleneck_width=2)
  assert propagate_field(cascade, (16, 16, 4)) == Field(Span(-63, 63), Span(-63, 63), False)


@pytest.mark.parametrize('image_size', [(32, 64), (33, 47)])
def test_a_pooling_window_as_large_as_the_map_is_not_global(image_size):
  network = DenseNet(growth_rate=2, block_config=(1, 1, 1, 1), num_init_features=4, output_stride=32)
  field = propagate_field(network, (*image_size, 3))
  larger = propagate_field(network, (image_size[0] + 1024, image_size[1] + 1024, 3))
  assert field == larger
  assert not field.is_global


@pytest.mark.parametrize('name', ['small_convnext', 'small_efficientnet_lite', 'densenet'])
def test_the_field_is_where_the_gradient_is(name):
  if name == 'densenet':
    module = DenseNet(growth_rate=2, block_config=(1, 1, 1, 1), num_init_features=4)
  else:
    module = SMALL_EXTRACTORS[name].clone(output_stride=8)
  span = propagate_field(module, (64, 64, 3)).rows
  cell = -(span.low // 8)  # the first one whose field begins within the image
  first, last = 8 * cell + span.low, 8 * cell + span.high
  size = 8 * (last // 8 + 1)
  variables = positive_variables(module)

  @jax.jit
  @jax.grad
  def gradient(image):
    return module.apply(variables, image).last[0, cell, cell].sum()

  image = jax.random.uniform(jax.random.key(0), (1, size, size, 3), minval=0.5)
  rows, columns = np.nonzero(np.any(gradient(image)[0], axis=-1))
  assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (first, last)


def _dilated_max(x):
  ones = (1, 1, 1, 1)
  return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, ones, ones, 'VALID', base_dilation=(1, 2, 1, 1))


@jax.custom_vjp
def _with_vjp(x):
  return 2 * x


_with_vjp.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


@pytest.mark.parametrize(
  ('function', 'rows', 'columns'),
  [
    (lambda x, conv: conv(x, (3, 5), padding=((1, 1), (0, 4))), Span(-1, 1), Span(0, 4)),
    (lambda x, conv: conv(x, (3, 3), strides=2), Span(0, 2, 2), Span(0, 2, 2)),  # 'SAME', even size
    (lambda x, conv: conv(conv(x, (2, 2), strides=2), (3, 3)), Span(-2, 3, 2), Span(-2, 3, 2)),
    (lambda x, conv: conv(x, (3, 3)) + conv(x, (1, 9)), Span(-1, 1), Span(-4, 4)),
    (lambda x, conv: jnp.concatenate([x, conv(x, (5, 1))], axis=-1), Span(-2, 2), Span()),
    (lambda x, conv: nn.max_pool(x, (2, 3), (2, 1)), Span(0, 1, 2), Span(0, 2)),
    (lambda x, conv: nn.avg_pool(x, (2, 2), (2, 2)), Span(0, 1, 2), Span(0, 1, 2)),
    (lambda x, conv: nn.Dense(4)(nn.LayerNorm()(conv(x, (3, 1)))), Span(-1, 1), Span()),
    (lambda x, conv: nn.gelu(nn.relu6(jax.nn.hard_swish(x)), approximate=False), Span(), Span()),
    (lambda x, conv: _with_vjp(conv(x, (1, 3))), Span(), Span(-1, 1)),
  ],
)
def test_operations(function, rows, columns):
  assert field_of(function) == Field(rows, columns, False)


@pytest.mark.parametrize(
  'mean',
  [
    lambda x: x.mean(axis=(1, 2), keepdims=True),
    lambda x: nn.avg_pool(x, x.shape[1:3]),
    lambda x: jnp.einsum('bhwc,hw->bc', x, jnp.ones(x.shape[1:3]))[:, None, None],
  ],
)
def test_global_pooling(mean):
  field = field_of(lambda x, conv: conv(x, (3, 3)) * nn.hard_sigmoid(conv(mean(x), (1, 1))))
  assert field == Field(Span(-1, 1), Span(-1, 1), True)


@pytest.mark.parametrize(
  ('function', 'name'),
  [
    (lambda x, conv: jnp.cumsum(x, axis=1), 'cumsum'),
    (lambda x, conv: jnp.sort(x, axis=1), 'sort'),
    (lambda x, conv: x[:, ::-1], 'rev'),
    (lambda x, conv: x[:, jnp.arange(4)], 'gather'),
    (lambda x, conv: jnp.concatenate([x, x], axis=1), 'concatenate'),
    (lambda x, conv: x.reshape(1, -1, 2 * x.shape[2], 3), 'reshape'),
    (lambda x, conv: jax.lax.reduce_precision(x, 5, 10), 'reduce_precision'),  # of equal shapes
    (lambda x, conv: jax.lax.fori_loop(0, 2, lambda i, x: jnp.roll(x, 1, 1), x), 'scan'),
    (lambda x, conv: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: jnp.roll(x, 1, 1), x), 'while'),
    (lambda x, conv: jax.lax.cond(True, lambda x: jnp.roll(x, 1, 1), jnp.tanh, x), 'cond'),
    (lambda x, conv: jax.lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))), 'pad'),
    (lambda x, conv: _dilated_max(x), 'reduce_window_max'),
    (lambda x, conv: nn.ConvTranspose(1, (2, 2), (2, 2))(x), 'conv_general_dilated'),
    (
      lambda x, conv: conv(x, (x.shape[1] // 2 + 1, 1), padding='VALID') + conv(x, (2, 1), strides=(2, 1)),
      'add',
    ),
  ],
)
def test_operations_that_are_not_known_are_named(function, name):
  with pytest.raises(RunError, match=f"'{name}' on"):
    field_of(function)
