import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.analysis.field_propagation import Field, Span, propagate_field
from dense_aspp_jax.analysis.receptive_field import (
  CascadePath,
  EffectiveField,
  atrous_field,
  cascade_paths,
  coverage,
  effective_figure,
  format_table,
  measure_field,
  scales_figure,
)
from dense_aspp_jax.models.layers import Features
from dense_aspp_jax.models.segmentation import SegmentationModel, create_model

SLIDES = (3, 6, 12, 18, 24)


def test_the_slides_numbers():
  assert [atrous_field([d]) for d in SLIDES] == [7, 13, 25, 37, 49]
  assert atrous_field(SLIDES) == 127
  assert atrous_field([3, 6]) == 7 + 13 - 1


def test_every_path_once():
  extractor = Field(Span(-3, 4, 8), Span(-3, 4, 8), False)
  paths = {path.layers: path for path in cascade_paths(SLIDES, extractor)}
  assert len(paths) == 31
  assert list(paths)[:7] == [(1,), (2,), (3,), (4,), (5,), (1, 2), (1, 3)]
  assert paths[2, 4, 5].dilation_rates == (6, 18, 24)
  assert paths[2, 4, 5].field == 13 + 37 + 49 - 2
  assert paths[1, 2, 3, 4, 5].field == 127
  assert paths[1, 2, 3, 4, 5].image_field == (127 - 1) * 8 + 8  # the extractor's own is 8
  assert paths[1,].coverage == (3 / 7) ** 2


@pytest.mark.parametrize(
  'dilation_rates', [(1,), (3,), (1, 2), (2, 4), (1, 2, 3), (3, 6), (6, 12), (2, 3, 7), (3, 6, 12)]
)
def test_coverage_by_enumeration(dilation_rates):
  """All sums of one tap of each layer, marked on a map as large as the field."""
  field = 1 + 2 * sum(dilation_rates)
  read = np.zeros((field, field), bool)
  taps = [[(y * d, x * d) for y in (-1, 0, 1) for x in (-1, 0, 1)] for d in dilation_rates]
  for path in itertools.product(*taps):
    y, x = np.sum(path, axis=0) + field // 2
    read[y, x] = True
  assert coverage(dilation_rates) == pytest.approx(read.mean(), abs=1e-12)


def test_the_table_has_the_smallest_field_first():
  extractor = Field(Span(-5, 5, 4), Span(-5, 5, 4), False)
  lines = format_table(cascade_paths((3, 1), extractor), extractor).splitlines()
  assert [line.split() for line in lines[2:]] == [
    ['features', '1', '11'],
    ['1', '3', '19', '100.0'],
    ['3', '7', '35', '18.4'],
    ['3-1', '9', '43', '100.0'],
  ]


def test_the_table_says_where_global_pooling_is_left_out():
  local, pooled = (Field(Span(), Span(), is_global) for is_global in (False, True))
  table = format_table(cascade_paths((1,), local), local)
  assert format_table(cascade_paths((1,), pooled), pooled).startswith(f'{table}\nglobal: ')


# The measured field.


class Linear(nn.Module):
  """A chain of convolutions of ones: (kernel size, stride, dilation) each."""

  layers: tuple[tuple[int, int, int], ...]
  stride: int = 1
  is_extractor: bool = False

  @nn.compact
  def __call__(self, x, train=False):
    for kernel_size, stride, dilation in self.layers:
      pad = dilation * (kernel_size - 1) // 2
      x = nn.Conv(
        1,
        (kernel_size, kernel_size),
        stride,
        padding=[(pad, pad)] * 2,
        kernel_dilation=dilation,
        use_bias=False,
        kernel_init=nn.initializers.ones,
      )(x)
    return Features(x, None, x) if self.is_extractor else x


def taps(layers):
  """How often each pixel is read, along one direction, by a chain of layers of ones."""
  kernel, spread = np.ones(1), 1
  for kernel_size, stride, dilation in layers:
    comb = np.zeros((kernel_size - 1) * dilation * spread + 1)
    comb[:: dilation * spread] = 1
    kernel, spread = np.convolve(kernel, comb), spread * stride
  return kernel


def test_the_field_of_a_linear_network_is_the_theoretical_one():
  extractor_layers, cascade_layers = ((3, 2, 1), (5, 2, 1)), ((3, 1, 1), (3, 1, 2))
  model = SegmentationModel(
    Linear(extractor_layers, 4, is_extractor=True), Linear(cascade_layers), num_classes=2
  )
  variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 80, 3)))
  field = propagate_field(model.extractor, (64, 80, 3))
  measured = measure_field(model, variables, field, (64, 80), num_images=2, seed=0)
  kernel = taps((*extractor_layers, *cascade_layers))
  path = cascade_paths((1, 2), field)[-1]
  assert path.image_field == len(kernel) == 1 + 2 + 8 + 8 + 16
  assert measured.cell == (8, 10)
  assert measured.center == (32, 40)  # paddings are symmetric
  assert measured.side(1) == path.image_field
  expected = np.zeros((64, 80))
  half = len(kernel) // 2
  expected[32 - half : 32 + half + 1, 40 - half : 40 + half + 1] = np.outer(kernel, kernel)
  np.testing.assert_array_equal(measured.gradient > 0, expected > 0)
  np.testing.assert_allclose(measured.gradient, expected / expected.sum(), rtol=1e-5)


@pytest.fixture(scope='module')
def network():
  model = create_model(
    extractor='densenet_tiny', num_classes=3, dilation_rates=(1, 2), growth_rate=4, bottleneck_width=8
  )
  return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 64, 3)))


def test_gradients_are_summed_over_classes_and_colours_and_averaged_over_images(network):
  model, variables = network
  field = propagate_field(model.extractor, (32, 64, 3))
  measured = measure_field(model, variables, field, (32, 64), num_images=2, seed=5)

  @jax.jit
  @jax.jacrev
  def jacobian(image):
    x = model.extractor.apply({k: v['extractor'] for k, v in variables.items()}, image[None]).last
    x = model.dense_aspp.apply({k: v['dense_aspp'] for k, v in variables.items()}, x)
    head = variables['params']['head']
    return (x @ head['kernel'][0, 0] + head['bias'])[0, 2, 4]

  expected = 0
  for index in range(2):
    image = jax.random.normal(jax.random.fold_in(jax.random.key(5), index), (32, 64, 3))
    expected += np.abs(jacobian(image)).sum(axis=(0, -1))
  np.testing.assert_allclose(measured.gradient, expected / expected.sum(), rtol=1e-3, atol=1e-7)
  assert measured.cell == (2, 4)
  # densenet_tiny sees 65 pixels before and 69 behind the first one of a feature-map pixel.
  assert measured.center == (2 * 8 + 2, 4 * 8 + 2)


def test_sides_of_the_squares_that_hold_a_share():
  gradient = np.zeros((9, 9))
  gradient[4, 4], gradient[3, 5], gradient[4, 1] = 0.5, 0.4, 0.1
  field = EffectiveField(gradient, (0, 0), (4, 4))
  assert [field.side(share) for share in (0.3, 0.5, 0.6, 0.9, 0.99, 1)] == [1, 1, 3, 3, 7, 7]
  between = EffectiveField(np.full((2, 2), 0.25), (0, 0), (0.5, 0.5))
  assert between.side(0.5) == 2  # a centre between pixels


# The pictures.


def test_each_path_is_a_mark():
  extractor = Field(Span(-5, 5, 4), Span(-5, 5, 4), False)
  paths = cascade_paths(SLIDES, extractor)
  axes = scales_figure(paths, extractor).axes[0]
  marks = {tuple(point) for line in axes.lines for point in line.get_xydata()}
  assert marks == {(path.field, 100 * path.coverage) for path in paths}
  assert [line.get_label() for line in axes.lines] == ['1 layer', *(f'{n} layers' for n in range(2, 6))]
  assert [text.get_text() for text in axes.texts] == ['3', '6', '12', '18', '24', '3-6-12-18-24']
  figure = scales_figure(paths, extractor)
  figure.draw_without_rendering()
  (top,) = figure.axes[0].child_axes
  low, high = figure.axes[0].get_xlim()
  assert top.get_xlim() == pytest.approx(((low - 1) * 4 + 11, (high - 1) * 4 + 11))


@pytest.mark.parametrize('dilation_rates', [(1,), (1, 1), SLIDES])
def test_no_share_above_100_percent_is_marked(dilation_rates):
  extractor = Field(Span(-5, 5, 4), Span(-5, 5, 4), False)
  figure = scales_figure(cascade_paths(dilation_rates, extractor), extractor)
  figure.draw_without_rendering()
  axes = figure.axes[0]
  low, high = axes.get_ylim()
  assert max(tick for tick in axes.get_yticks() if low <= tick <= high) <= 100


def test_squares_stand_where_the_fields_are():
  gradient = np.zeros((40, 60))
  gradient[20, 30] = 0.96
  gradient[20, 25] = gradient[20, 35] = 0.02
  measured = EffectiveField(gradient, (2, 3), (20.5, 30.5))
  extractor = Field(Span(-10, 10, 8), Span(-10, 10, 8), False)
  cascade = CascadePath((1,), (3,), 7, 69, 0.2)
  left, right, _ = effective_figure(measured, extractor, cascade, 'a network').axes

  def squares(axes):
    return {p.get_label(): (p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in axes.patches}

  assert squares(left) == {
    '50% of the gradient: 2 px': (29.5, 19.5, 2, 2),
    '90% of the gradient: 2 px': (29.5, 19.5, 2, 2),
    '99% of the gradient: 12 px': (24.5, 14.5, 12, 12),
    'extractor, theoretical: 21 px': (20, 10, 21, 21),  # the cascade's is larger than the image
  }
  assert squares(right) == {
    'image: 40x60 px': (-0.5, -0.5, 60, 40),
    'with the cascade, theoretical': (-4, -14, 69, 69),
    'extractor, theoretical': (20, 10, 21, 21),
    '99% of the gradient': (24.5, 14.5, 12, 12),
  }


def test_the_scale_s_ticks_do_not_collide():
  gradient = np.full((512, 1024), 1e-9)
  gradient[256, 512] = 1
  extractor = Field(Span(-1019, 1027, 8), Span(-1019, 1027, 8), False)
  cascade = cascade_paths(SLIDES, extractor)[-1]
  figure = effective_figure(EffectiveField(gradient, (32, 64), (260, 516)), extractor, cascade, 'a network')
  figure.draw_without_rendering()
  right = figure.axes[1]
  low, high = right.get_xlim()
  labels = [t.get_window_extent() for t in right.get_xticklabels() if low <= t.get_position()[0] <= high]
  assert len(labels) >= 3
  assert all(a.x1 + 5 < b.x0 for a, b in itertools.pairwise(labels))
