import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.evaluation.predictor import Predictor
from dense_aspp_jax.models.segmentation import create_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope='module')
def network():
  model = create_model(
    extractor='densenet_tiny', num_classes=5, dilation_rates=(1, 2), growth_rate=4, bottleneck_width=8
  )
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  return model, variables


@pytest.fixture(scope='module')
def predictor(network):
  return Predictor(*network, Preprocessing((32, 64), MEAN, STD))


def make_images(count, size=(32, 64)):
  return np.random.default_rng(0).integers(0, 256, (count, *size, 3)).astype(np.uint8)


def test_a_prediction_is_the_argmax_of_the_logits_at_the_output_size(network, predictor):
  model, variables = network
  images = make_images(3)
  normalized = (images / 255 - MEAN) / STD
  logits = jax.jit(model.apply)(variables, normalized.astype(np.float32)).main
  logits = np.asarray(model.upsample_logits(logits, images.shape[1:3], (64, 128)))
  predictions = predictor.predict_batch(images, (64, 128))
  assert predictions.dtype == np.uint8
  # Within float rounding of the two programs, the predicted class has the highest logit.
  chosen = np.take_along_axis(logits, predictions[..., None].astype(int), -1)[..., 0]
  np.testing.assert_allclose(chosen, logits.max(-1), atol=1e-4)
  assert np.mean(predictions == logits.argmax(-1)) > 0.99
  assert len(np.unique(predictions)) > 1


def test_no_bit_depends_on_the_batch_or_the_place_in_it(predictor):
  images = make_images(11)  # more than the eight devices, and no multiple
  together = predictor.predict_batch(images, (64, 128))
  reversed_ = predictor.predict_batch(images[::-1], (64, 128))[::-1]
  alone = np.concatenate([predictor.predict_batch(image[None], (64, 128)) for image in images])
  np.testing.assert_array_equal(together, reversed_)
  np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(('size', 'network_size'), [((64, 128), (32, 64)), ((50, 40), (48, 40))])
def test_predict_resizes_to_the_networks_size_and_answers_at_the_images_own(predictor, size, network_size):
  image = make_images(1, size)[0]
  expected = predictor.predict_batch(resize_image(image, network_size)[None], size)[0]
  prediction = predictor.predict(image)
  assert prediction.shape == size
  np.testing.assert_array_equal(prediction, expected)


def test_an_image_of_another_aspect_ratio_is_stretched_where_the_network_was_trained_so(network):
  model, variables = network
  predictor = Predictor(model, variables, Preprocessing((32, 64), MEAN, STD, keep_aspect=False))
  image = make_images(1, (50, 40))[0]
  expected = predictor.predict_batch(resize_image(image, (32, 64))[None], (50, 40))[0]
  np.testing.assert_array_equal(predictor.predict(image), expected)


def test_update_takes_other_variables(network):
  model, variables = network
  predictor = Predictor(model, variables, Preprocessing((32, 64), MEAN, STD))
  images = make_images(1)
  before = predictor.predict_batch(images, (32, 64))
  bias = np.full(5, -1e3, np.float32)
  bias[3] = 1e3
  params = {**variables['params'], 'head': {**variables['params']['head'], 'bias': bias}}
  predictor.update({**variables, 'params': params})
  assert (predictor.predict_batch(images, (32, 64)) == 3).all()
  assert not (before == 3).all()
