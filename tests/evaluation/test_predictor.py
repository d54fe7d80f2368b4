import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patch_network import PatchExtractor, patch_model
from PIL import Image
from reference_network import random_variables

import dense_aspp_jax
from dense_aspp_jax.commands.main import main
from dense_aspp_jax.datasets.images import encode_png
from dense_aspp_jax.datasets.preprocessing import Preprocessing
from dense_aspp_jax.datasets.resize import resize_image
from dense_aspp_jax.errors import InputError
from dense_aspp_jax.evaluation import predictor as predictor_module
from dense_aspp_jax.evaluation.predictor import Predictor, over_devices, predict_images
from dense_aspp_jax.models.dense_aspp import DenseASPP
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
  predictions = predictor.predict_resized(images, (64, 128))
  assert predictions.dtype == np.uint8
  # Within float rounding of the two programs, the predicted class has the highest logit.
  chosen = np.take_along_axis(logits, predictions[..., None].astype(int), -1)[..., 0]
  np.testing.assert_allclose(chosen, logits.max(-1), atol=1e-4)
  assert np.mean(predictions == logits.argmax(-1)) > 0.99
  assert len(np.unique(predictions)) > 1


def test_no_bit_depends_on_the_batch_or_the_place_in_it(predictor):
  images = make_images(11)  # more than the eight devices, and no multiple
  together = predictor.predict_resized(images, (64, 128))
  reversed_ = predictor.predict_resized(images[::-1], (64, 128))[::-1]
  alone = np.concatenate([predictor.predict_resized(image[None], (64, 128)) for image in images])
  np.testing.assert_array_equal(together, reversed_)
  np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(('size', 'network_size'), [((64, 128), (32, 64)), ((50, 40), (48, 40))])
def test_predict_resizes_to_the_networks_size_and_answers_at_the_images_own(predictor, size, network_size):
  image = make_images(1, size)[0]
  expected = predictor.predict_resized(resize_image(image, network_size)[None], size)[0]
  prediction = predictor.predict(image)
  assert prediction.shape == size
  np.testing.assert_array_equal(prediction, expected)


def test_an_image_of_another_aspect_ratio_is_stretched_where_the_network_was_trained_so(network):
  model, variables = network
  predictor = Predictor(model, variables, Preprocessing((32, 64), MEAN, STD, keep_aspect=False))
  image = make_images(1, (50, 40))[0]
  expected = predictor.predict_resized(resize_image(image, (32, 64))[None], (50, 40))[0]
  np.testing.assert_array_equal(predictor.predict(image), expected)


def test_update_takes_other_variables(network):
  model, variables = network
  predictor = Predictor(model, variables, Preprocessing((32, 64), MEAN, STD))
  images = make_images(1)
  before = predictor.predict_resized(images, (32, 64))
  bias = np.full(5, -1e3, np.float32)
  bias[3] = 1e3
  params = {**variables['params'], 'head': {**variables['params']['head'], 'bias': bias}}
  predictor.update({**variables, 'params': params})
  assert (predictor.predict_resized(images, (32, 64)) == 3).all()
  assert not (before == 3).all()


def test_on_a_gpu_constants_are_computed_once_for_the_variables(network, predictor, monkeypatch):
  model, variables = network
  other = jax.tree.map(lambda x: x + 0.05, variables)
  images, size = make_images(2), (32, 64)
  expected = predictor.predict_resized(images, size, 'logits')
  plain = Predictor(model, other, predictor.preprocessing).predict_resized(images, size, 'logits')
  monkeypatch.setattr(predictor_module, 'traced_gpu', lambda: 'a GPU')
  on_gpu = Predictor(model, variables, predictor.preprocessing)
  np.testing.assert_allclose(on_gpu.predict_resized(images, size, 'logits'), expected, atol=1e-4)
  assert set(on_gpu.inputs) - set(on_gpu.variables) == {'constants'}
  on_gpu.update(other)
  np.testing.assert_allclose(on_gpu.predict_resized(images, size, 'logits'), plain, atol=1e-4)


def test_two_programs_compute_what_one_would(network, predictor):
  images = make_images(9)
  together = functools.partial(
    predict_images, network[0], output_size=(50, 97), preprocessing=predictor.preprocessing
  )
  one = jax.jit(over_devices(together, predictor.mesh, predictor.together))
  expected = np.asarray(one(predictor.variables, predictor.place(images)))[:9]
  np.testing.assert_array_equal(predictor.predict_resized(images, (50, 97)), expected)


def test_predict_takes_what_becomes_rgb_without_doubt(predictor, tmp_path):
  image = make_images(1)[0]
  (tmp_path / 'a.png').write_bytes(encode_png(image))
  expected = predictor.predict(image)
  alpha = np.dstack([image, image[..., 0]])
  given = [tmp_path / 'a.png', str(tmp_path / 'a.png'), Image.fromarray(image), Image.fromarray(alpha), alpha]
  given += [jnp.asarray(image), image.astype(np.uint16) * 256]
  for prediction in (*map(predictor.predict, given), *predictor.predict_many(given)):
    np.testing.assert_array_equal(prediction, expected)


def test_a_path_a_pil_image_and_the_command_agree(tiny_run, tmp_path):
  run, exif = dense_aspp_jax.load_run(tiny_run), Image.Exif()
  exif[0x0112] = 8  # turned
  rgb = make_images(1, (40, 50))[0]
  pictures = {'rgb': rgb, 'grey': rgb[..., 0], 'alpha': np.dstack([rgb, rgb[..., :1]])}
  pictures['16 bit'] = rgb[..., 0].astype(np.uint16) * 256 + 77
  for name, picture in pictures.items():
    Image.fromarray(picture).save(tmp_path / f'{name}.png', exif=exif)
  assert main(['predict', f'--workdir={tiny_run}', f'--output={tmp_path / "out"}', str(tmp_path)]) == 0
  for name in pictures:
    path = tmp_path / f'{name}.png'
    expected = np.asarray(Image.open(tmp_path / 'out' / 'label_ids' / f'{name}.png'))
    assert expected.shape == (50, 40)
    for given in (path, Image.open(path)):
      np.testing.assert_array_equal(run.label_set.decode(run.predictor.predict(given)), expected)


@pytest.mark.parametrize(
  'image', [np.zeros((32, 64, 3)), np.zeros((1, 32, 64, 3), np.uint8), np.zeros((3, 32, 64), np.uint8), None]
)
def test_predict_refuses_everything_else(predictor, image):
  with pytest.raises(InputError, match='image'):
    predictor.predict(image)


def test_outputs_are_classes_logits_and_probabilities_that_agree(network, predictor):
  image = make_images(1, (50, 97))[0]
  classes, logits, probabilities = (
    predictor.predict(image, outputs) for outputs in ('classes', 'logits', 'probabilities')
  )
  assert (classes.shape, classes.dtype) == ((50, 97), np.uint8)
  assert logits.shape == probabilities.shape == (50, 97, 5)
  assert logits.dtype == probabilities.dtype == np.float32
  np.testing.assert_array_equal(logits.argmax(-1), classes)
  of_class = np.take_along_axis(probabilities, classes[..., None].astype(int), -1)[..., 0]
  np.testing.assert_array_equal(of_class, probabilities.max(-1))
  exponentials = np.exp(logits.astype(np.float64))
  np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(-1, keepdims=True), atol=1e-6)
  model, variables = network
  resized = resize_image(image, predictor.preprocessing.input_size((50, 97)))
  network_logits = jax.jit(model.apply)(variables, predictor.preprocessing.normalize(resized[None])).main
  expected = model.upsample_logits(network_logits, resized.shape[:2], (50, 97))
  np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-4)
  with pytest.raises(InputError, match=r"'softmax'.*'classes' or 'probabilities' or 'logits'"):
    predictor.predict(image, 'softmax')


@pytest.mark.parametrize('outputs', ['classes', 'probabilities', 'logits'])
def test_many_images_are_predicted_as_one_by_one_in_order(patch_predictor, outputs):
  sizes = [(40, 50)] * 11 + [(50, 40)] + [(40, 50)] * 2 + [(33, 70), (33, 71)]
  images = [make_images(number + 1, size)[-1] for number, size in enumerate(sizes)]
  found = list(patch_predictor.predict_many((image for image in images), outputs))
  assert len(found) == len(images)
  for image, prediction in zip(images, found, strict=True):
    np.testing.assert_array_equal(prediction, patch_predictor.predict(image, outputs))
    prediction[0, 0] = 1  # an array of the caller's own
    assert prediction.base is None or prediction.base.size == prediction.size
  batch = np.stack(images[:3])
  np.testing.assert_array_equal(
    next(patch_predictor.predict_many(batch, outputs)),
    found[0] * 0 + patch_predictor.predict(batch[0], outputs),
  )


def test_many_images_are_read_as_they_are_needed(patch_predictor):
  read = []

  def images():
    for number in range(1000):
      read.append(number)
      yield make_images(1)[0]

  next(patch_predictor.predict_many(images()))
  assert len(read) <= patch_predictor.call_size


def test_a_buffer_that_is_used_again_changes_no_result(patch_predictor):
  images = make_images(2 * patch_predictor.call_size + 1)

  def frames():
    buffer = np.empty_like(images[0])
    for image in images:
      buffer[:] = image
      yield buffer

  for image, found in zip(images, patch_predictor.predict_many(frames()), strict=True):
    np.testing.assert_array_equal(found, patch_predictor.predict(image))


def test_an_image_that_cannot_be_read_ends_many_after_those_before_it(patch_predictor):
  image = make_images(1)[0]
  found = patch_predictor.predict_many([image, image, 'missing.png', image])
  for _ in range(2):
    np.testing.assert_array_equal(next(found), patch_predictor.predict(image))
  with pytest.raises(InputError, match=r'missing\.png'):
    next(found)
  with pytest.raises(InputError, match='image 1: '):
    list(patch_predictor.predict_many([image, image / 255]))


@pytest.mark.parametrize(
  'images', ['photos', b'photos', {'a': 1}, 7, None, make_images(1)[0], Image.new('RGB', (8, 8))]
)
def test_many_images_are_an_iterable_and_that_is_checked_at_once(predictor, images):
  with pytest.raises(InputError, match='expected an iterable of images'):
    predictor.predict_many(images)
  with pytest.raises(InputError, match='outputs'):
    predictor.predict_many([], 'masks')
  assert list(predictor.predict_many([])) == []


@pytest.fixture(scope='module')
def patch_network():
  model = patch_model(DenseASPP((1, 2), 4, 6), num_classes=5)
  return model, random_variables(model, np.zeros((1, 32, 64, 3), np.float32))


@pytest.fixture(scope='module')
def patch_predictor(patch_network):
  return Predictor(*patch_network, Preprocessing((32, 64), MEAN, STD))


def test_two_hundred_sizes_cost_one_compilation_of_the_network(patch_network, one_device):
  predictor = Predictor(*patch_network, Preprocessing((32, 64), MEAN, STD, keep_aspect=False))
  rng = np.random.default_rng(0)
  sizes = list({tuple(size) for size in rng.integers(90, 190, (220, 2)).tolist()})[:200]
  assert len(sizes) == 200
  compiled = []

  def count(event, seconds, **_):
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(count)
  try:
    PatchExtractor.traces.clear()
    for size in sizes:
      assert predictor.predict(np.zeros((*size, 3), np.uint8)).shape == size
    # Sides of 90 to 189 are padded to 96, 112, 128, 160 or 192.
    assert 5 < len(compiled) <= 1 + 25
    assert set(PatchExtractor.traces) == {(1, 32, 64, 3)}
    traced, before = len(PatchExtractor.traces), len(compiled)
    for size in sizes[:20]:
      predictor.predict(np.zeros((*size, 3), np.uint8))
    assert (len(PatchExtractor.traces), len(compiled)) == (traced, before)
  finally:
    jax.monitoring.unregister_event_duration_listener(count)


def test_eight_threads_predict_the_same_bits(patch_network):
  predictor = Predictor(*patch_network, Preprocessing((32, 64), MEAN, STD))
  sizes = [(40, 50), (64, 128), (70, 51)] * 8
  images = [make_images(number + 1, size)[-1] for number, size in enumerate(sizes)]
  with concurrent.futures.ThreadPoolExecutor(8) as threads:  # nothing is compiled yet
    found = list(threads.map(predictor.predict, images))
    values = list(threads.map(functools.partial(predictor.predict, outputs='probabilities'), images[:8]))
  for image, prediction in zip(images, found, strict=True):
    np.testing.assert_array_equal(prediction, predictor.predict(image))
  for image, probabilities in zip(images, values, strict=False):
    np.testing.assert_array_equal(probabilities, predictor.predict(image, 'probabilities'))


def test_the_batches_of_an_evaluation_are_checked(predictor):
  for images in (make_images(1) / np.float32(255), make_images(1)[0], make_images(1)[..., :1]):
    with pytest.raises(InputError, match='expected uint8'):
      predictor.predict_resized(images, (32, 64))
  with pytest.raises(InputError, match=r"outputs 'scores'"):
    predictor.predict_resized(make_images(1), (32, 64), 'scores')
