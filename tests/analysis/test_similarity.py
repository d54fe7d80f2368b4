"""Class means and heat maps against features that are really upsampled, in float64."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_network as reference
from patch_network import MEAN, STD, PatchExtractor, make_split, patch_model
from PIL import Image

from dense_aspp_jax.analysis.similarity import (
  analyse_similarity,
  class_feature_sums,
  cosine_matrix,
  layer_features,
  layer_names,
  matrix_figure,
  most_confused,
  similarity_figure,
  similarity_maps,
)
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.label_sets import CAMVID_11
from dense_aspp_jax.labels import IGNORE_LABEL, LabelClass, LabelSet
from dense_aspp_jax.models.dense_aspp import DenseASPP

SIZE, LABEL_SIZE = (30, 50), (75, 100)  # not multiples of the stride: the features reach past the label
SCALE = (8 * 75 / 30, 8 * 100 / 50)
LAYERS = ('extractor', 'layer1', 'layer2', 'dense_aspp')


@functools.cache
def network():
  model = patch_model(DenseASPP((1, 2), growth_rate=3, bottleneck_width=4), CAMVID_11.num_classes)
  return model, reference.random_variables(model, np.zeros((1, 32, 64, 3), np.float32))


@functools.cache
def features_of(layer):
  model, variables = network()
  image = np.random.default_rng(1).normal(size=(*SIZE, 3)).astype(np.float32)
  return jax.jit(lambda v, x: layer_features(model, v, x, layer))(variables, image)


def upsample(features, size, scale):
  """Bilinear interpolation as torch's, align_corners=False, pixel by pixel."""
  features = np.asarray(features, np.float64)
  out = np.zeros((*size, features.shape[-1]))
  for pixel in np.ndindex(size):
    low, high, fraction = [], [], []
    for axis in range(2):
      at = min(max((pixel[axis] + 0.5) / scale[axis] - 0.5, 0), features.shape[axis] - 1)
      low.append(int(at))
      high.append(min(int(at) + 1, features.shape[axis] - 1))
      fraction.append(at - int(at))
    (top, left), (bottom, right), (y, x) = low, high, fraction
    upper = (1 - x) * features[top, left] + x * features[top, right]
    out[pixel] = (1 - y) * upper + y * ((1 - x) * features[bottom, left] + x * features[bottom, right])
  return out


def cosine(a, b):
  return (a @ b) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b)


def test_layers_are_observed_where_they_are():
  model, variables = network()
  assert layer_names(model) == LAYERS
  extractor, layer1, layer2, dense_aspp = (features_of(layer) for layer in LAYERS)
  assert extractor.shape == (4, 7, 6)
  np.testing.assert_array_equal(dense_aspp, np.concatenate([extractor, layer1, layer2], axis=-1))
  head = variables['params']['head']
  image = np.random.default_rng(1).normal(size=(1, *SIZE, 3)).astype(np.float32)
  logits = jax.jit(model.apply)(variables, image).main[0]
  expected = dense_aspp @ head['kernel'][0, 0] + head['bias']
  np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize('layer', ['extractor', 'dense_aspp'])
def test_sums_and_maps_equal_those_of_upsampled_features(layer):
  features = features_of(layer)
  rng = np.random.default_rng(2)
  labels = rng.integers(0, 4, (15, 20)).repeat(5, 0).repeat(5, 1).astype(np.uint8)
  labels[labels == 3] = IGNORE_LABEL
  labels[0, 0] = 4  # a class of one pixel; class 3 is absent
  sums, counts = jax.jit(class_feature_sums, static_argnums=(2, 3))(features, labels, SCALE, 5)
  upsampled = upsample(features, LABEL_SIZE, SCALE)
  assert counts.tolist() == [int((labels == index).sum()) for index in range(5)]
  assert counts.tolist()[3:] == [0, 1]
  expected = np.stack([upsampled[labels == index].sum(0) for index in range(5)])
  means, expected_means = (x / np.maximum(counts, 1)[:, None] for x in (np.asarray(sums), expected))
  np.testing.assert_allclose(means, expected_means, rtol=1e-5, atol=1e-5)

  maps = jax.jit(similarity_maps, static_argnums=(2, 3))(features, jnp.asarray(means), LABEL_SIZE, SCALE)
  assert maps.dtype == np.float32
  assert maps.shape == (5, *LABEL_SIZE)
  for index in (0, 1, 2, 4):
    np.testing.assert_allclose(maps[index], cosine(upsampled, expected_means[index]), atol=1e-5)
  assert maps[4, 0, 0] == pytest.approx(1, abs=1e-6)
  assert not np.asarray(maps[3]).any()  # nothing to compare with


def test_a_bfloat16_network_is_compared_in_float32():
  cascade = DenseASPP((1, 2), growth_rate=3, bottleneck_width=4, dtype=jnp.bfloat16)
  model, variables = patch_model(cascade, CAMVID_11.num_classes), network()[1]
  image = np.random.default_rng(1).normal(size=(*SIZE, 3)).astype(np.float32)
  features = jax.jit(lambda v, x: layer_features(model, v, x, 'dense_aspp'))(variables, image)
  assert features.dtype == np.float32
  exact = np.asarray(features_of('dense_aspp'))
  np.testing.assert_allclose(features, exact, atol=0.05 * np.abs(exact).max())
  vector = np.asarray(features)[1, 2]
  maps = similarity_maps(features, jnp.asarray(vector[None]), LABEL_SIZE, SCALE)
  np.testing.assert_allclose(maps[0], cosine(upsample(features, LABEL_SIZE, SCALE), vector), atol=1e-5)


def test_the_cosine_of_a_zero_vector_is_0():
  features = np.zeros((2, 2, 3), np.float32)
  features[1, 1] = (1, 2, 2)
  vectors = np.stack([features[1, 1], -features[1, 1], np.zeros(3, np.float32)])
  maps = similarity_maps(jnp.asarray(features), jnp.asarray(vectors), (8, 8), (4.0, 4.0))
  np.testing.assert_array_equal(maps[:, 0, 0], 0)
  np.testing.assert_allclose(maps[:, 7, 7], [1, -1, 0], atol=1e-6)


def test_rounding_lifts_no_cosine_above_1():
  features = np.random.default_rng(0).normal(size=(8, 8, 33)).astype(np.float32)
  maps = similarity_maps(jnp.asarray(features), jnp.asarray(features.reshape(64, 33)), (8, 8), (1.0, 1.0))
  alike = np.asarray(maps).reshape(64, 64).diagonal()  # without a limit some would be 1.0000001
  np.testing.assert_allclose(alike, 1, atol=1e-6)
  assert alike.max() <= 1


def test_matrix_and_most_confused_pairs_by_hand():
  sums = np.array([[6.0, 0], [0, 0], [3, 3], [0, -1], [0, 0]])
  counts = np.array([2, 0, 1, 5, 4])  # class 1 is absent, the mean of class 4 is zero
  matrix = cosine_matrix(sums, counts)
  half, nan = np.sqrt(0.5), np.nan
  expected = [
    [1, nan, half, 0, 0],
    [nan, nan, nan, nan, nan],
    [half, nan, 1, -half, 0],
    [0, nan, -half, 1, 0],
    [0, nan, 0, 0, 0],
  ]
  np.testing.assert_allclose(matrix, expected, atol=1e-15)
  pairs = most_confused(matrix, 'abcde', 2)
  assert [pair['classes'] for pair in pairs] == [['a', 'c'], ['a', 'd']]
  assert pairs[0]['cosine'] == pytest.approx(half)
  assert len(most_confused(matrix, 'abcde', 99)) == 6


def dense_aspp_features(example):
  _, variables = network()
  image = ((example.image / 255 - MEAN) / STD).astype(np.float32)
  return observe_dense_aspp()(variables, image)


@functools.cache
def observe_dense_aspp():
  return jax.jit(lambda v, x: layer_features(network()[0], v, x, 'dense_aspp'))


@pytest.fixture(scope='module')
def analysis(tmp_path_factory):
  """Four images of two sizes, ids 0..8 and 11 (ignored): classes 9 and 10 are absent."""
  output = tmp_path_factory.mktemp('similarity')
  split = make_split([(32, 48), (30, 50), (32, 48), (30, 50)], 10, label_scale=(2, 3))
  for example in split:
    example.label[example.label == 9] = 11
  PatchExtractor.traces.clear()
  predictor = Predictor(*network(), Preprocessing((32, 48), MEAN, STD))
  result = analyse_similarity(predictor, split, CAMVID_11, layer='dense_aspp', num_pictures=2, output=output)
  return result, split, output, list(PatchExtractor.traces)


def test_the_matrix_is_that_of_all_pixels_of_the_split(analysis):
  result, split, _, _ = analysis
  model, variables = network()
  observe = jax.jit(lambda v, x: layer_features(model, v, x, 'dense_aspp'))
  upsampled = [
    upsample(observe(variables, ((e.image / 255 - MEAN) / STD).astype(np.float32)), e.label.shape, (16, 24))
    for e in split
  ]
  labels = np.concatenate([e.label.ravel() for e in split])
  pixels = np.concatenate([u.reshape(-1, u.shape[-1]) for u in upsampled])
  means = [pixels[labels == index].mean(0) for index in range(9)]
  matrix = np.array([[cosine(a, b) for b in means] for a in means])
  found = np.array(result['matrix'], float)
  np.testing.assert_allclose(found[:9, :9], matrix, atol=1e-5)
  assert np.isnan(found[9:]).all()
  assert np.isnan(found[:, 9:]).all()
  names = CAMVID_11.class_names
  assert result['pixels'] == {name: int((labels == index).sum()) for index, name in enumerate(names)}
  first = np.unravel_index(np.argmax(np.triu(matrix, 1) - np.tri(9) * 2), matrix.shape)
  assert result['most_confused'][0]['classes'] == [names[i] for i in first]
  assert len(result['most_confused']) == 5


@pytest.mark.parametrize('number', [0, 1])
def test_the_heat_maps_kept_are_those_of_the_image(analysis, number):
  result, split, output, _ = analysis
  example = split[number]
  features = dense_aspp_features(example)
  upsampled = upsample(features, example.label.shape, (16, 24))
  present = [index for index in range(11) if (example.label == index).any()]
  means = [upsampled[example.label == index].mean(0) for index in present]
  with np.load(output / result['maps'][number]) as arrays:
    assert arrays['classes'].tolist() == [CAMVID_11.class_names[index] for index in present]
    assert (arrays['similarity'].dtype, arrays['means'].dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(arrays['means'], means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(arrays['similarity'], [cosine(upsampled, m) for m in means], atol=1e-3)


def test_the_means_kept_are_those_of_the_split(analysis):
  result, split, output, _ = analysis
  pixels = np.concatenate(
    [upsample(dense_aspp_features(e), e.label.shape, (16, 24)).reshape(e.label.size, -1) for e in split]
  )
  labels = np.concatenate([e.label.ravel() for e in split])
  with np.load(output / result['means_file']) as arrays:
    assert arrays['classes'].tolist() == list(CAMVID_11.class_names[:9])
    expected = [pixels[labels == index].mean(0) for index in range(9)]
    np.testing.assert_allclose(arrays['means'], expected, rtol=1e-4, atol=1e-5)


def test_what_is_written_and_reported(analysis):
  result, _, output, traces = analysis
  assert json.loads(json.dumps(result, allow_nan=False)) == result
  assert (result['layer'], result['images'], result['classes']) == ('dense_aspp', 4, [*CAMVID_11.class_names])
  assert result['pictures'] == ['similarity_1_town_0.png', 'similarity_2_town_1.png']
  assert result['maps'] == ['similarity_1_town_0.npz', 'similarity_2_town_1.npz']
  files = ['matrix.png', 'means.npz', *result['pictures'], *result['maps']]
  assert sorted(p.name for p in output.iterdir()) == sorted(files)
  with Image.open(output / 'matrix.png') as picture:
    assert picture.mode == 'RGB'
  assert sorted(traces) == [(1, 32, 48, 3), (1, 32, 56, 3)]  # one program a size


@pytest.mark.parametrize(
  ('layer', 'label', 'message'),
  [
    ('layer3', 0, "'layer3'.*extractor, layer1, layer2, dense_aspp"),
    ('extractor', 11, 'ground truth'),
  ],
)
def test_errors(tmp_path, layer, label, message):
  (example,) = make_split([(32, 48)], 1)
  example.label[:] = label
  predictor = Predictor(*network(), Preprocessing((32, 48), MEAN, STD))
  with pytest.raises(InputError, match=message):
    analyse_similarity(predictor, [example], CAMVID_11, layer=layer, num_pictures=0, output=tmp_path)
  assert not list(tmp_path.iterdir())


def test_the_picture_of_an_image_has_a_heat_map_for_each_class_present():
  labels = np.array([[0, 0, 3, IGNORE_LABEL]] * 2, np.uint8)
  maps = np.linspace(-1, 1, 11, dtype=np.float32)[:, None, None] * np.ones((11, 2, 4), np.float32)
  figure = similarity_figure(np.zeros((2, 4, 3), np.uint8), labels, maps, CAMVID_11, 'a $title$')
  image, truth, sky, road, *rest = figure.axes
  assert [a.get_title() for a in (image, truth)] == ['image', 'ground truth']
  assert [a.get_title() for a in (sky, road)] == ['sky (50.0 % of pixels)', 'road (25.0 % of pixels)']
  np.testing.assert_array_equal(truth.images[0].get_array(), CAMVID_11.colors[labels])
  for axes, index in ((sky, 0), (road, 3)):
    np.testing.assert_array_equal(axes.images[0].get_array(), maps[index])
    assert axes.images[0].get_clim() == (-1, 1)
  assert rest[-1].get_ylabel() == 'cosine similarity'
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ['sky', 'road', 'ignored']


def test_the_matrix_picture_has_names_values_and_frames():
  matrix = np.array([[1, -0.254, np.nan], [-0.254, 1, np.nan], [np.nan, np.nan, np.nan]])
  axes = matrix_figure(matrix, ['sky', 'road', 'car'], [['sky', 'road']], 'layer1').axes[0]
  assert [label.get_text() for label in axes.get_yticklabels()] == ['sky', 'road', 'car']
  assert [label.get_text() for label in axes.get_xticklabels()] == ['sky', 'road', 'car']
  texts = {text.get_position(): text.get_text() for text in axes.texts}
  assert texts[0, 0] == '1.00'
  assert texts[1, 0] == texts[0, 1] == '-.25'
  assert texts[2, 2] == 'absent'
  assert texts[2, 0] == ''
  assert sorted(patch.get_xy() for patch in axes.patches) == [(-0.5, 0.5), (0.5, -0.5)]


def test_the_image_is_drawn_at_the_size_of_the_label_and_every_class_named():
  classes = (LabelClass('_sky', (0,), (1, 2, 3)), LabelClass('road', (1,), (4, 5, 6)))
  labels = np.array([[0, 0, 1, 1]] * 2, np.uint8)
  maps = np.zeros((2, 2, 4), np.float32)
  figure = similarity_figure(np.zeros((1, 2, 3), np.uint8), labels, maps, LabelSet('two', classes), '')
  assert figure.axes[0].images[0].get_array().shape == (2, 4, 3)
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ['_sky', 'road']


@pytest.mark.parametrize(('num_classes', 'num_texts'), [(40, 1600), (41, 0)])
def test_a_matrix_of_many_classes_has_no_numbers(num_classes, num_texts):
  names = [str(index) for index in range(num_classes)]
  axes = matrix_figure(np.eye(num_classes), names, [], 'layer1').axes[0]
  assert len(axes.texts) == num_texts


def test_a_matrix_of_the_most_classes_is_a_picture_that_can_be_read():
  figure = matrix_figure(np.eye(255), [str(index) for index in range(255)], [], 'layer1')
  assert np.prod(figure.get_size_inches() * figure.dpi) < 5000**2  # was 118 million: refused by the report
