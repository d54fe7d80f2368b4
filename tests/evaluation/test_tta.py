"""Averaging at test time against NumPy, on a network that is compiled in no time."""

import jax
import numpy as np
import pytest
from patch_network import MEAN, STD, PatchExtractor, patch_model
from PIL import Image
from reference_network import random_variables

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.evaluation.tta import AveragingPredictor, scaled_size, window_starts
from dense_aspp_jax.models.dense_aspp import DenseASPP

SIZE, OUTPUT_SIZE = (32, 48), (64, 100)


@pytest.fixture(scope='module')
def network():
  model = patch_model(DenseASPP((1, 2), 4, 6), num_classes=5)
  return model, random_variables(model, np.zeros((1, *SIZE, 3), np.float32))


@pytest.fixture(scope='module')
def predictor(network):
  return Predictor(*network, Preprocessing(SIZE, MEAN, STD))


def make_images(count, size=SIZE):
  """Blocks of colour with noise: what is smooth has few near ties."""
  rng = np.random.default_rng(1)
  blocks = rng.integers(0, 200, (count, -(-size[0] // 12), -(-size[1] // 12), 3))
  blocks = blocks.repeat(12, 1).repeat(12, 2)[:, : size[0], : size[1]]
  return (blocks + rng.integers(0, 56, blocks.shape)).astype(np.uint8)


def resize_bilinear(x, size, scale):
  """align_corners=False, along the first two axes."""
  for axis in (0, 1):
    at = (np.arange(size[axis]) + 0.5) / scale[axis] - 0.5
    x = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, x)
  return x


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


class Reference:
  """The probabilities of single views, in NumPy from the logits of the features on."""

  def __init__(self, model, variables):
    self._logits = jax.jit(lambda x: model.apply(variables, x).main)

  def whole(self, image, size):
    normalized = ((image / 255 - MEAN) / STD).astype(np.float32)
    logits = np.asarray(self._logits(normalized[None])[0], np.float64)
    scale = [8 * n / side for n, side in zip(size, image.shape[:2], strict=True)]
    return softmax(resize_bilinear(logits, size, scale))

  def windows(self, image, corners, window):
    total, counts = np.zeros((*image.shape[:2], 5)), np.zeros((*image.shape[:2], 1))
    for y, x in corners:
      here = slice(y, y + window[0]), slice(x, x + window[1])
      total[here] += self.whole(image[here], window)
      counts[here] += 1
    assert counts.min() == 1
    assert counts.max() > 1
    return total / counts


def assert_is_argmax(prediction, probabilities):
  """Within float rounding the predicted class has the highest probability."""
  assert prediction.dtype == np.uint8
  chosen = np.take_along_axis(probabilities, prediction[..., None].astype(int), -1)[..., 0]
  np.testing.assert_allclose(chosen, probabilities.max(-1), atol=1e-5)
  assert np.mean(prediction == probabilities.argmax(-1)) > 0.999
  assert len(np.unique(prediction)) > 2


def test_scales_and_mirrored_images_are_averaged(network, predictor):
  reference, image = Reference(*network), make_images(1)[0]
  averaging = AveragingPredictor(predictor, flip=True, scales=(0.8, 1.0, 1.6))
  expected = 0
  for size in ((24, 40), SIZE, (48, 80)):  # 38.4 and 76.8 columns are no multiples of 8
    scaled = resize_image(image, size)
    expected += reference.whole(scaled, OUTPUT_SIZE)
    expected += reference.whole(scaled[:, ::-1], OUTPUT_SIZE)[:, ::-1]
  prediction = averaging.predict_resized(image[None], OUTPUT_SIZE)[0]
  assert_is_argmax(prediction, expected)
  plain = predictor.predict_resized(image[None], OUTPUT_SIZE)[0]
  assert np.mean(prediction == plain) < 0.95  # so that the averaging shows


def test_one_version_is_the_plain_prediction(predictor):
  images = make_images(3)
  plain = predictor.predict_resized(images, OUTPUT_SIZE)
  for window in (None, SIZE, (64, 64)):  # no image is larger than these
    found = AveragingPredictor(predictor, window=window).predict_resized(images, OUTPUT_SIZE)
    assert np.mean(found == plain) > 0.9995


def test_mirrored_images_have_mirrored_predictions(predictor):
  images = make_images(2)
  averaging = AveragingPredictor(predictor, flip=True, window=(24, 24))
  predictions = averaging.predict_resized(images, OUTPUT_SIZE)
  mirrored = averaging.predict_resized(images[:, :, ::-1], OUTPUT_SIZE)
  np.testing.assert_array_equal(mirrored[:, :, ::-1], predictions)
  plain = AveragingPredictor(predictor, window=(24, 24))
  one, other = (plain.predict_resized(x, OUTPUT_SIZE) for x in (images, images[:, :, ::-1]))
  assert not np.array_equal(other[:, :, ::-1], one)


@pytest.mark.parametrize(
  ('side', 'window', 'starts'),
  [
    (1024, 768, [0, 256]),
    (2048, 768, [0, 512, 1024, 1280]),
    (12, 6, [0, 4, 6]),
    (10, 7, [0, 3]),  # stride 4.67, rounded up to 5
    (15, 6, [0, 4, 8, 9]),
    (14, 6, [0, 4, 8]),  # the third one is flush already
    (7, 7, [0]),
    (5, 7, [0]),
  ],
)
def test_where_windows_begin(side, window, starts):
  assert window_starts(side, window) == starts


def test_windows_of_a_scaled_image_are_averaged_by_their_number(network, predictor):
  reference, image = Reference(*network), make_images(1)[0]
  averaging = AveragingPredictor(predictor, scales=(1.0, 2.0), window=(32, 48))
  corners = [(y, x) for y in (0, 22, 32) for x in (0, 32, 48)]
  windowed = reference.windows(resize_image(image, (64, 96)), corners, (32, 48))
  expected = reference.whole(image, OUTPUT_SIZE) + resize_bilinear(windowed, OUTPUT_SIZE, (1, 100 / 96))
  assert_is_argmax(averaging.predict_resized(image[None], OUTPUT_SIZE)[0], expected)


def test_a_window_cuts_only_the_side_that_is_larger(network, predictor):
  reference, image = Reference(*network), make_images(1)[0]
  averaging = AveragingPredictor(predictor, window=(40, 20))  # no multiple of 8
  windowed = reference.windows(image, [(0, 0), (0, 14), (0, 28)], (32, 20))
  assert_is_argmax(averaging.predict_resized(image[None], SIZE)[0], windowed)


def test_no_bit_depends_on_the_batch(predictor):
  images = make_images(11)
  averaging = AveragingPredictor(predictor, flip=True, scales=(0.5, 1.0), window=(24, 32))
  together = averaging.predict_resized(images, SIZE)
  for index in (0, 10):
    np.testing.assert_array_equal(averaging.predict_resized(images[[index]], SIZE)[0], together[index])


def test_predict_resizes_to_the_networks_size_and_takes_new_variables(network, predictor):
  model, variables = network
  own = Predictor(model, variables, Preprocessing(SIZE, MEAN, STD))
  averaging, image = AveragingPredictor(own, flip=True), make_images(1, (64, 97))[0]
  expected = averaging.predict_resized(resize_image(image, SIZE)[None], (64, 97))[0]
  np.testing.assert_array_equal(averaging.predict(image), expected)
  bias = np.array([0, 0, 0, 1e3, 0], np.float32)
  own.update(
    {**variables, 'params': {**variables['params'], 'head': {**variables['params']['head'], 'bias': bias}}}
  )
  assert (averaging.predict(image) == 3).all()


def test_sizes_at_scales():
  assert scaled_size((361, 483), 1.0) == (361, 483)
  assert scaled_size((361, 483), 0.5) == (184, 240)
  assert scaled_size((360, 480), 1.75) == (632, 840)
  assert scaled_size((16, 16), 0.1) == (8, 8)


def test_what_a_result_says_of_it(predictor):
  averaging = AveragingPredictor(predictor, scales=(0.5, 1), window=(24, 32))
  assert averaging.to_json() == {'flip': False, 'scales': [0.5, 1], 'window': [24, 32]}


@pytest.mark.parametrize('options', [{'flip': True, 'scales': (0.5, 1.0)}, {'window': (24, 24)}])
def test_probabilities_are_the_averages_and_there_are_no_logits(network, predictor, options):
  reference, image = Reference(*network), make_images(1, (70, 105))[0]
  averaging = AveragingPredictor(predictor, **options)
  probabilities = averaging.predict(image, 'probabilities')
  assert (probabilities.shape, probabilities.dtype) == ((70, 105, 5), np.float32)
  np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
  assert np.mean(averaging.predict(image) == probabilities.argmax(-1)) > 0.9999
  if averaging.flip:
    expected, image = 0, resize_image(image, SIZE)
    for size in ((16, 24), SIZE):
      scaled = resize_image(image, size)
      expected += reference.whole(scaled, (70, 105))
      expected += reference.whole(scaled[:, ::-1], (70, 105))[:, ::-1]
    np.testing.assert_allclose(probabilities, expected / 4, atol=1e-5)
  for predict in (averaging.predict, averaging.predict_many):
    with pytest.raises(InputError, match=r'logits.*averaging'):
      predict([image] if predict == averaging.predict_many else image, 'logits')


def test_a_scale_that_makes_images_too_large_is_refused(predictor):
  with pytest.raises(InputError, match='the image at scale 1000: 32000x48000 pixels'):
    AveragingPredictor(predictor, scales=(1000,)).predict(make_images(1)[0])


def test_it_takes_what_a_predictor_takes_and_many(predictor):
  averaging = AveragingPredictor(predictor, flip=True)
  images = list(make_images(10, (70, 105)))
  many = list(averaging.predict_many([*images, images[0] // 2]))
  np.testing.assert_array_equal(many[9], averaging.predict(images[9]))
  np.testing.assert_array_equal(many[10], averaging.predict(images[0] // 2))
  many[0][0] = 1  # an array of the caller's own
  np.testing.assert_array_equal(averaging.predict(Image.fromarray(images[9])), many[9])
  with pytest.raises(InputError, match='float64'):
    averaging.predict(images[0] / 255)
  with pytest.raises(InputError, match='float64'):  # black, once resized
    AveragingPredictor(predictor, scales=(0.75,)).predict_resized(make_images(1) / 255, SIZE)


def test_other_sizes_of_images_do_not_compile_the_network_again(network, one_device):
  own = Predictor(*network, Preprocessing(SIZE, MEAN, STD, keep_aspect=False))
  averaging = AveragingPredictor(own, scales=(1.0, 0.5))
  averaging.predict(make_images(1)[0])
  traced = len(PatchExtractor.traces)
  for size in ((40, 50), (50, 40), (41, 77)):
    assert averaging.predict(make_images(1, size)[0]).shape == size
  assert len(PatchExtractor.traces) == traced


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(scales=()), 'scales'),
    (dict(scales=0.5), 'scales'),
    (dict(scales=(1.0, 0)), 'scales'),
    (dict(scales=(float('nan'),)), 'scales'),
    (dict(scales='12'), 'scales'),
    (dict(scales=(1e300,)), 'scales'),
    (dict(window=24), 'window'),
    (dict(window=(24, 0)), 'window'),
    (dict(window=(24.5, 24)), 'window'),
    (dict(window=(24, 24, 3)), 'window'),
  ],
)
def test_options_out_of_range_are_refused(predictor, options, message):
  with pytest.raises(InputError, match=message):
    AveragingPredictor(predictor, **options)
  AveragingPredictor(predictor, scales=[np.float32(0.5), 1], window=[np.int64(24), 24])
